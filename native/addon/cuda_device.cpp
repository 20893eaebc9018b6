#include "addon/cuda_device.h"

#include <functional>
#include <unordered_set>

#include "addon/convert.h"
#include "addon/cuda_backend.h"
#include "addon/cuda_library.h"
#include "cuda/memory.h"

namespace nanochat {

namespace {

// Asking a driver takes long enough not to be done on the JavaScript thread.
template <class T> class Worker final : public Napi::AsyncWorker {
 public:
  using Work = std::function<Status(T*)>;
  using Value = std::function<Napi::Value(Napi::Env, const T&)>;

  static Napi::Promise start(Napi::Env env, Work work, Value value) {
    auto* worker = new Worker(env, std::move(work), std::move(value));
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 private:
  Worker(Napi::Env env, Work work, Value value)
      : Napi::AsyncWorker(env, "nanochat cuda device"), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), value_(std::move(value)) {}

  void Execute() override { status_ = work_(&result_); }
  void OnOK() override {
    if (status_.ok()) deferred_.Resolve(value_(Env(), result_));
    else deferred_.Reject(make_error(Env(), status_).Value());
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Value value_;
  Status status_;
  T result_{};
};

template <class T, class Call> Status ask(Call call, int device, T* out) {
  const CudaLibrary& library = cuda_library();
  if (!library.status.ok()) return library.status;
  nc_cuda_status status = {};
  return (library.api->*call)(device, out, &status) == 0 ? Status{} : cuda_status(status);
}

int read_device(const Napi::CallbackInfo& info) { return static_cast<int>(expect_integer(info[0], "device", 0, 1 << 16)); }

Napi::Number number(Napi::Env env, int64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

}  // namespace

Napi::Value cuda_devices(const Napi::CallbackInfo& info) {
  const auto work = [](const CudaLibrary** library) {
    *library = &cuda_library();
    return Status{};
  };
  return Worker<const CudaLibrary*>::start(info.Env(), work, [](Napi::Env env, const CudaLibrary* library) {
    Napi::Array devices = Napi::Array::New(env, library->devices.size());
    for (size_t i = 0; i < library->devices.size(); i++) {
      Napi::Object device = Napi::Object::New(env);
      device.Set("name", library->devices[i].name);
      device.Set("bytes", number(env, library->devices[i].bytes));
      devices.Set(static_cast<uint32_t>(i), device);
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("devices", devices);
    result.Set("reason", library->status.ok() ? env.Null() : Napi::String::New(env, library->status.message));
    result.Set("isBroken", library->is_broken);
    return result;
  });
}

Napi::Value cuda_free_memory(const Napi::CallbackInfo& info) {
  const auto work = [device = read_device(info)](int64_t* bytes) { return ask(&nc_cuda_api::free_memory, device, bytes); };
  return Worker<int64_t>::start(info.Env(), work, [](Napi::Env env, int64_t bytes) { return number(env, bytes); });
}

Napi::Value cuda_probe(const Napi::CallbackInfo& info) {
  const auto work = [device = read_device(info)](nc_cuda_limits* limits) { return ask(&nc_cuda_api::measure, device, limits); };
  return Worker<nc_cuda_limits>::start(info.Env(), work, [](Napi::Env env, const nc_cuda_limits& limits) {
    Napi::Object result = Napi::Object::New(env);
    result.Set("readBytesPerSecond", limits.read_bytes);
    result.Set("float32FlopsPerSecond", limits.float32_flops);
    result.Set("bfloat16FlopsPerSecond", limits.bfloat16_flops);
    return result;
  });
}

Napi::Value cuda_needs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const ModelConfig config = config_of(env, read_spec(info[0]));
  const ComputeType type = expect_compute_type(info[1]);
  if (type != ComputeType::float32 && type != ComputeType::bfloat16) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected float32 or bfloat16 for dtype."));
  if (!info[2].IsArray()) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected an array for narrow."));
  if (cuda::padded_head_dim(config.head_dim) == 0) return env.Null();
  const Napi::Array names = info[2].As<Napi::Array>();
  std::unordered_set<std::string> narrow;
  for (uint32_t i = 0; i < names.Length(); i++) narrow.insert(expect_string(names.Get(i), "narrow"));
  const int64_t item = type == ComputeType::float32 ? 4 : 2;
  Napi::Object result = Napi::Object::New(env);
  result.Set("weightBytes", number(env, cuda::weight_bytes(config, item, [&](const std::string& name, int64_t) { return narrow.count(name) > 0; })));
  result.Set("kvBytesPerToken", number(env, cuda::kv_bytes_per_token(config, item)));
  result.Set("workingBytes", number(env, cuda::working_bytes(config, item, std::min(cuda::kLargestPass, config.max_positions()), cuda::kManyProcessors)));
  return result;
}

}  // namespace nanochat
