#include "addon/probe.h"

#include <new>
#include <string>

#include "addon/convert.h"
#include "cpu/probe.h"

namespace nanochat {

namespace {

class ProbeWorker final : public Napi::AsyncWorker {
 public:
  ProbeWorker(Napi::Env env, const Kernels* kernels, std::vector<int> threads, int64_t read_bytes)
      : Napi::AsyncWorker(env, "nanochat probe"), deferred_(Napi::Promise::Deferred::New(env)), kernels_(kernels), threads_(std::move(threads)), read_bytes_(read_bytes) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  void Execute() override {
    try {
      limits_ = measure_limits(*kernels_, threads_, read_bytes_);
    } catch (const std::bad_alloc&) {
      SetError("Not enough memory to measure the machine: it takes " + std::to_string(read_bytes_ >> 20) + " MB.");
    }
  }

  void OnOK() override {
    const Napi::Env env = Env();
    Napi::Array result = Napi::Array::New(env, limits_.size());
    for (size_t i = 0; i < limits_.size(); i++) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("threads", limits_[i].threads);
      entry.Set("readBytesPerSecond", limits_[i].read_bytes_per_s);
      entry.Set("readMedianBytesPerSecond", limits_[i].read_median_bytes_per_s);
      entry.Set("float32FlopsPerSecond", limits_[i].f32_flops_per_s);
      entry.Set("bfloat16FlopsPerSecond", limits_[i].b16_flops_per_s);
      entry.Set("int8OpsPerSecond", limits_[i].i8_ops_per_s);
      result.Set(static_cast<uint32_t>(i), entry);
    }
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(make_error(Env(), Status::error("ERR_OUT_OF_MEMORY", error.Message())).Value()); }

  Napi::Promise::Deferred deferred_;
  const Kernels* kernels_;
  std::vector<int> threads_;
  int64_t read_bytes_;
  std::vector<MachineLimits> limits_;
};

}  // namespace

Napi::Value probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsArray()) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected an array for threads."));
  const Napi::Array counts = info[0].As<Napi::Array>();
  if (counts.Length() > 64) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected at most 64 numbers for threads."));
  std::vector<int> threads;
  for (uint32_t i = 0; i < counts.Length(); i++) threads.push_back(static_cast<int>(expect_integer(counts.Get(i), "threads", 1, 1024)));
  const Kernels* kernels = info[1].IsUndefined() ? find_kernels(nullptr) : &expect_kernels(info[1]);
  if (!kernels->probe.read) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected an instruction set of this machine for isa."));
  const int64_t read_bytes = info[2].IsUndefined() ? kLeastReadBytes : expect_integer(info[2], "readBytes", kLeastReadBytes, kMostReadBytes);
  auto* worker = new ProbeWorker(env, kernels, std::move(threads), read_bytes);
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace nanochat
