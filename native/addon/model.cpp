#include "addon/model.h"

#include <chrono>
#include <cstring>
#include <unordered_set>

#include "addon/convert.h"
#include "addon/cuda_backend.h"
#include "addon/runner.h"
#include "addon/samplers.h"
#include "cpu/machine.h"
#include "cpu/packed_file.h"

namespace nanochat {

namespace {

constexpr int64_t kMostTokensPerPass = 1 << 20;

// What the JavaScript thread knows of a sequence. While `busy`, the inference thread has `sequence` to itself.
struct SequenceState {
  SequenceState(std::shared_ptr<Runner> owner, std::unique_ptr<BackendSequence> s) : runner(std::move(owner)), sequence(std::move(s)), length(sequence->length()) {}
  std::shared_ptr<Runner> runner;
  std::unique_ptr<BackendSequence> sequence;
  int64_t length;
  bool busy = false;
};

struct Constructors {
  Napi::FunctionReference model, sequence;
};

void expect_usable(Napi::Env env, bool disposed, const char* what) {
  if (disposed) throw_status(env, Status::error("ERR_DISPOSED", std::string("The ") + what + " has been disposed."));
}

[[noreturn]] void throw_invalid(Napi::Env env, const std::string& message) { throw_status(env, Status::error("ERR_INVALID_ARG", message)); }

// note: an object's prototype says nothing of what it wraps, so each kind carries a tag of its own.
constexpr napi_type_tag kModelTag = {0x5f3d2a9c81e64b07, 0x8c1b64f0d97e2a35}, kSequenceTag = {0x2e97c4d10b5a4f68, 0xa6d0385be14c7f92};
constexpr napi_type_tag kNewModelTag = {0x71a0f8e35c2d4b96, 0x93f5e27a0d8b614c}, kNewSequenceTag = {0xd4b81c6e9f3a4725, 0xbe270f95a4c8d361};

template <class T> T* unwrap_tagged(const Napi::Object& object, const napi_type_tag& tag, const char* what) {
  if (!object.IsObject() || !object.CheckTypeTag(&tag)) throw_invalid(object.Env(), std::string("Expected ") + what + ".");
  return Napi::ObjectWrap<T>::Unwrap(object);
}

// What a constructor was given by create(): a script can call it too, with an external of another kind.
template <class T> std::shared_ptr<T> expect_made(const Napi::CallbackInfo& info, const napi_type_tag& tag, const char* message) {
  if (info.Length() != 1 || !info[0].IsExternal() || !info[0].As<Napi::External<std::shared_ptr<T>>>().CheckTypeTag(&tag)) throw_invalid(info.Env(), message);
  return *info[0].As<Napi::External<std::shared_ptr<T>>>().Data();
}

template <class T> Napi::Value construct(const Napi::FunctionReference& constructor, Napi::Env env, std::shared_ptr<T> state, const napi_type_tag& tag) {
  const auto external = Napi::External<std::shared_ptr<T>>::New(env, &state);
  external.TypeTag(&tag);
  return constructor.New({external});
}

template <class A> A expect_array(const Napi::Value& value, const char* name, napi_typedarray_type type, const char* type_name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) throw_invalid(value.Env(), std::string("Expected ") + type_name + " for " + name + ".");
  return value.As<A>();
}

constexpr int64_t kFreelyTaken = 64 << 20;  // bytes; below, asking the system costs more than it tells

// note: where the system promises more memory than it has, a failed allocation comes as a kill
Status check_memory(int64_t bytes, const std::string& what, const std::string& advice) {
  if (bytes <= kFreelyTaken) return {};
  const int64_t available = available_memory_bytes();
  if (bytes <= available) return {};
  const auto megabytes = [](int64_t n) { return std::to_string(n >> 20) + " MB"; };
  return Status::error("ERR_OUT_OF_MEMORY", "The " + what + " needs " + megabytes(bytes) + " and " + megabytes(available) + " are available. " + advice + " or a machine with more memory.");
}

// { promise, cancel }: enqueues the job; `value` makes the promise's value once the work is done.
Napi::Object start_job(Napi::Env env, const std::shared_ptr<Runner>& runner, std::shared_ptr<Job> job, std::function<Napi::Value(Napi::Env)> value,
                       std::function<void(Napi::Env, const Status&)> always) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  job->settle = [deferred, value = std::move(value), always = std::move(always)](Napi::Env e, const Status& status) {
    try {
      if (status.ok()) deferred.Resolve(value(e));
      else deferred.Reject(make_error(e, status).Value());
    } catch (const Napi::Error& error) {
      deferred.Reject(error.Value());
    }
    always(e, status);
  };
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("promise", deferred.Promise());
  handle.Set("cancel", Napi::Function::New(env, [job](const Napi::CallbackInfo&) { job->cancelled = true; }, "cancel"));
  runner->enqueue(std::move(job));
  return handle;
}

class NativeSequence : public Napi::ObjectWrap<NativeSequence> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeSequence", {
      InstanceAccessor<&NativeSequence::length>("length"),
      InstanceMethod<&NativeSequence::fork>("fork"),
      InstanceMethod<&NativeSequence::truncate>("truncate"),
      InstanceMethod<&NativeSequence::dispose>("dispose"),
    });
  }

  static Napi::Value create(Napi::Env env, std::shared_ptr<SequenceState> state) {
    return construct(env.GetInstanceData<Constructors>()->sequence, env, std::move(state), kNewSequenceTag);
  }

  explicit NativeSequence(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeSequence>(info) {
    state_ = expect_made<SequenceState>(info, kNewSequenceTag, "A sequence is made by newSequence().");
    info.This().As<Napi::Object>().TypeTag(&kSequenceTag);
  }

  // Instead of ObjectWrap's, also for the receivers of methods.
  static NativeSequence* Unwrap(Napi::Object object) { return unwrap_tagged<NativeSequence>(object, kSequenceTag, "sequences of newSequence()"); }

  const std::shared_ptr<SequenceState>& state() const { return state_; }

 private:
  SequenceState& expect_idle(Napi::Env env) {
    expect_usable(env, !state_ || state_->runner->is_closing(), "sequence or its model");
    if (state_->busy) throw_invalid(env, "The sequence is in a pass; wait for it to end.");
    return *state_;
  }

  Napi::Value length(const Napi::CallbackInfo& info) {
    expect_usable(info.Env(), !state_, "sequence");
    return Napi::Number::New(info.Env(), static_cast<double>(state_->length));
  }

  Napi::Value fork(const Napi::CallbackInfo& info) {
    SequenceState& state = expect_idle(info.Env());
    return create(info.Env(), std::make_shared<SequenceState>(state.runner, state.sequence->fork()));
  }

  void truncate(const Napi::CallbackInfo& info) {
    SequenceState& state = expect_idle(info.Env());
    state.length = expect_integer(info[0], "length", 0, state.length);
    state.sequence->truncate(state.length);
  }

  void dispose(const Napi::CallbackInfo&) { state_.reset(); }  // note: a pass in flight holds its own reference

  std::shared_ptr<SequenceState> state_;
};

// A pass on its way through the inference thread. Its references are dropped on the JavaScript thread only.
struct Pass {
  std::vector<std::shared_ptr<SequenceState>> sequences;
  std::vector<int32_t> tokens;
  std::vector<BackendRow> rows;
  std::vector<float> logits;
  Napi::ObjectReference model, out;

  // When the environment ends first, the references end with it and must not be touched.
  void forget_references() {
    model.SuppressDestruct();
    out.SuppressDestruct();
  }
};

// Calls onProgress(phase, bytes, total) on the JavaScript thread, at most about thirty times a second and at the end.
class Progress {
 public:
  static std::shared_ptr<Progress> create(Runner* runner, const Napi::Value& on_progress) {
    auto progress = std::make_shared<Progress>();
    progress->runner_ = runner;
    if (on_progress.IsFunction()) progress->callback_ = Napi::Persistent(on_progress.As<Napi::Function>());
    progress->callback_.SuppressDestruct();
    progress->self_ = progress;
    return progress;
  }

  // Inference thread.
  void report(const char* phase, int64_t bytes, int64_t total) {
    const auto now = Clock::now();
    if (bytes < total && now - last_ < std::chrono::milliseconds(30)) return;
    last_ = now;
    runner_->post([self = self_.lock(), phase, bytes, total](Napi::Env e) {
      if (!self->callback_.IsEmpty()) self->callback_.Call({Napi::String::New(e, phase), Napi::Number::New(e, static_cast<double>(bytes)), Napi::Number::New(e, static_cast<double>(total))});
    });
  }

  // JavaScript thread.
  void end() { callback_.Reset(); }

 private:
  using Clock = std::chrono::steady_clock;
  Runner* runner_ = nullptr;
  std::weak_ptr<Progress> self_;
  Napi::FunctionReference callback_;
  Clock::time_point last_;
};

class NativeModel : public Napi::ObjectWrap<NativeModel> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeModel", {
      InstanceAccessor<&NativeModel::memory_bytes>("memoryBytes"),
      InstanceAccessor<&NativeModel::matrix_bytes>("matrixBytes"),
      InstanceAccessor<&NativeModel::num_params>("numParams"),
      InstanceAccessor<&NativeModel::threads>("threads"),
      InstanceAccessor<&NativeModel::isa>("isa"),
      InstanceAccessor<&NativeModel::kv_bytes_per_token>("kvBytesPerToken"),
      InstanceMethod<&NativeModel::new_sequence>("newSequence"),
      InstanceMethod<&NativeModel::forward>("forward"),
      InstanceMethod<&NativeModel::save>("save"),
      InstanceMethod<&NativeModel::decode>("decode"),
      InstanceMethod<&NativeModel::dispose>("dispose"),
    });
  }

  static Napi::Value create(Napi::Env env, std::shared_ptr<Runner> runner) {
    return construct(env.GetInstanceData<Constructors>()->model, env, std::move(runner), kNewModelTag);
  }

  explicit NativeModel(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeModel>(info) {
    runner_ = expect_made<Runner>(info, kNewModelTag, "A model is made by load() or seeded().");
    const BackendModel& model = *runner_->model();
    config_ = model.config();
    memory_bytes_ = model.memory_bytes();
    matrix_bytes_ = model.matrix_bytes();
    isa_ = model.isa();
    threads_ = runner_->pool().threads();
    kv_bytes_per_token_ = model.kv_bytes_per_token();
    info.This().As<Napi::Object>().TypeTag(&kModelTag);
  }

  static NativeModel* Unwrap(Napi::Object object) { return unwrap_tagged<NativeModel>(object, kModelTag, "a model of load() or seeded()"); }

  void Finalize(Napi::BasicEnv env) override {
    runner_->close_now(false);
    runner_->report_external_memory(env);
  }

 private:
  Napi::Value memory_bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(memory_bytes_)); }
  Napi::Value matrix_bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(matrix_bytes_)); }
  Napi::Value threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), threads_); }
  Napi::Value isa(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), isa_); }
  Napi::Value kv_bytes_per_token(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(kv_bytes_per_token_)); }

  Napi::Value num_params(const Napi::CallbackInfo& info) {
    double count = 0;
    for (const TensorShape& tensor : tensor_table(config_)) {
      double elements = 1;
      for (int64_t dimension : tensor.shape) elements *= static_cast<double>(dimension);
      count += elements;
    }
    return Napi::Number::New(info.Env(), count);
  }

  Napi::Value new_sequence(const Napi::CallbackInfo& info) {
    expect_usable(info.Env(), runner_->is_closing(), "model");
    return NativeSequence::create(info.Env(), std::make_shared<SequenceState>(runner_, runner_->model()->new_sequence()));
  }

  // The sequences, tokens and counts with which forward and decode begin. `steps`: passes, of which all but the first take
  // one token a row.
  std::shared_ptr<Pass> read_pass(const Napi::CallbackInfo& info, int64_t steps) {
    const Napi::Env env = info.Env();
    auto pass = std::make_shared<Pass>();
    pass->sequences = expect_sequences(env, info[0]);  // note: first, because getters of a strange array could detach the others, or dispose the model
    expect_usable(env, runner_->is_closing(), "model");
    const auto tokens = expect_array<Napi::Int32Array>(info[1], "tokens", napi_int32_array, "an Int32Array");
    const auto counts = expect_array<Napi::Int32Array>(info[2], "counts", napi_int32_array, "an Int32Array");
    const size_t rows = pass->sequences.size();
    if (rows == 0 || counts.ElementLength() != rows) throw_invalid(env, "Expected as many counts as sequences, at least one.");
    if (tokens.ElementLength() > static_cast<size_t>(kMostTokensPerPass)) throw_invalid(env, "Expected at most 1048576 tokens in a pass.");

    pass->tokens.assign(tokens.Data(), tokens.Data() + tokens.ElementLength());
    for (int32_t id : pass->tokens) {
      if (id < 0 || id >= config_.vocab_size) throw_invalid(env, "Expected token ids from 0 to " + std::to_string(config_.vocab_size - 1) + " but received " + std::to_string(id) + ".");
    }
    int64_t begin = 0;
    for (size_t r = 0; r < rows; r++) {
      const int64_t count = counts[r];
      if (count < 1 || count > static_cast<int64_t>(pass->tokens.size()) - begin) throw_invalid(env, "Expected counts of at least 1 that add up to the number of tokens.");
      const auto& state = pass->sequences[r];
      const int64_t length = state->length + count + steps - 1;
      if (length > config_.max_positions()) {
        throw_status(env, Status::error("ERR_CONTEXT_OVERFLOW", "The sequence would have " + std::to_string(length) + " positions and the model allows " + std::to_string(config_.max_positions()) + "."));
      }
      pass->rows.push_back({state->sequence.get(), pass->tokens.data() + begin, count, WantedLogits::last});
      begin += count;
    }
    if (begin != static_cast<int64_t>(pass->tokens.size())) throw_invalid(env, "Expected counts of at least 1 that add up to the number of tokens.");
    return pass;
  }

  // Takes the sequences for the pass and enqueues it; `value` is called when it went well.
  Napi::Object start_pass(const Napi::CallbackInfo& info, const std::shared_ptr<Pass>& pass, std::shared_ptr<Job> job, std::function<Napi::Value(Napi::Env)> value) {
    for (const auto& state : pass->sequences) state->busy = true;
    pass->model = Napi::Persistent(info.This().As<Napi::Object>());
    pass->forget_references();
    const auto always = [pass](Napi::Env, const Status&) {
      for (const auto& state : pass->sequences) {
        state->busy = false;
        state->length = state->sequence->length();
      }
      pass->model.Reset();
      pass->out.Reset();
    };
    return start_job(info.Env(), runner_, std::move(job), std::move(value), always);
  }

  // forward(sequences, tokens, counts, logits, out)
  Napi::Value forward(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto pass = read_pass(info, 1);
    const auto wanted = expect_array<Napi::Uint8Array>(info[3], "logits", napi_uint8_array, "a Uint8Array");
    const auto out = expect_array<Napi::Float32Array>(info[4], "out", napi_float32_array, "a Float32Array");
    if (wanted.ElementLength() != pass->rows.size()) throw_invalid(env, "Expected as many logits as sequences.");
    int64_t logits_rows = 0;
    for (size_t r = 0; r < pass->rows.size(); r++) {
      const uint8_t kind = wanted[r];  // note: read once, shared memory may change meanwhile
      if (kind > 2) throw_invalid(env, "Expected 0, 1 or 2 for logits.");
      pass->rows[r].logits = static_cast<WantedLogits>(kind);
      logits_rows += kind == 0 ? 0 : kind == 1 ? 1 : pass->rows[r].count;
    }
    const size_t logits_size = static_cast<size_t>(logits_rows) * static_cast<size_t>(config_.vocab_size);
    if (out.ElementLength() < logits_size) throw_invalid(env, "Expected out to have room for " + std::to_string(logits_size) + " logits.");

    pass->out = Napi::Persistent(out.As<Napi::Object>());
    auto job = std::make_shared<Job>();
    Runner* runner = runner_.get();
    job->work = [pass, runner, logits_size, job = job.get()] {
      const Status status = check_memory(runner->model()->pass_bytes(pass->rows) + 2 * static_cast<int64_t>(logits_size * sizeof(float)), "pass", "Use fewer rows or shorter prompts");
      if (!status.ok()) return status;
      pass->logits.resize(logits_size);
      return runner->model()->forward(pass->rows, pass->logits.data(), job->cancelled);
    };
    const auto value = [pass](Napi::Env e) -> Napi::Value {
      auto target = pass->out.Value().As<Napi::Float32Array>();
      if (target.ElementLength() < pass->logits.size()) throw_invalid(e, "The array for the logits was detached during the pass.");
      if (!pass->logits.empty()) std::memcpy(target.Data(), pass->logits.data(), pass->logits.size() * sizeof(float));
      return e.Undefined();
    };
    return start_pass(info, pass, std::move(job), value);
  }

  // decode(sequences, tokens, counts, samplers, pauseIds, maxSteps, budgetMs)
  Napi::Value decode(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    DecodeLimits limits;
    limits.max_steps = expect_integer(info[5], "maxSteps", 1, 1 << 20);
    limits.budget_ms = expect_number(info[6], "budgetMs", 0, 1e9);
    auto samplers = std::make_shared<std::vector<Sampler>>(read_samplers(info[3], config_.vocab_size));
    const auto pass = read_pass(info, limits.max_steps);
    if (samplers->size() != pass->rows.size()) throw_invalid(env, "Expected as many samplers as sequences.");
    const auto pause_ids = expect_array<Napi::Int32Array>(info[4], "pauseIds", napi_int32_array, "an Int32Array");
    if (pause_ids.ElementLength() > static_cast<size_t>(kMostTokensPerPass)) throw_invalid(env, "Expected at most 1048576 ids for pauseIds.");
    limits.pause_ids.assign(pause_ids.Data(), pause_ids.Data() + pause_ids.ElementLength());
    auto job = std::make_shared<Job>();
    auto ids = std::make_shared<std::vector<int32_t>>();
    Runner* runner = runner_.get();
    job->work = [pass, runner, samplers, limits, ids, job = job.get()] {
      const Status status = check_memory(runner->model()->decode_bytes(pass->rows, limits.max_steps), "pass", "Use fewer rows");
      return status.ok() ? runner->model()->decode(pass->rows, *samplers, limits, job->cancelled, ids.get()) : status;
    };
    const auto value = [ids](Napi::Env e) -> Napi::Value {
      auto result = Napi::Int32Array::New(e, ids->size());
      std::copy(ids->begin(), ids->end(), result.Data());
      return result;
    };
    return start_pass(info, pass, std::move(job), value);
  }

  // save(path, metadata, onProgress)
  Napi::Value save(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    expect_usable(env, runner_->is_closing(), "model");
    auto job = std::make_shared<Job>();
    const auto progress = Progress::create(runner_.get(), info[2]);
    auto self = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info.This().As<Napi::Object>()));
    self->SuppressDestruct();
    job->work = [runner = runner_.get(), path = expect_string(info[0], "path"), metadata = expect_string(info[1], "metadata"), progress, job = job.get()]() -> Status {
      const CpuModel* model = runner->model()->cpu_model();
      if (!model) return Status::error("ERR_DEVICE_UNAVAILABLE", "A packed file is made on the CPU. Load the checkpoint with device 'cpu'.");
      const auto report = [&](int64_t bytes, int64_t total) { progress->report("write", bytes, total); };
      return write_packed(packed_tensors(model->config(), model->weights().layers.front().c_qkv.type, &model->weights()), metadata, path, job->cancelled, report);
    };
    const auto always = [progress, self](Napi::Env, const Status&) {
      progress->end();
      self->Reset();
    };
    return start_job(env, runner_, std::move(job), [](Napi::Env e) { return e.Undefined(); }, always);
  }

  std::vector<std::shared_ptr<SequenceState>> expect_sequences(Napi::Env env, const Napi::Value& value) {
    if (!value.IsArray()) throw_invalid(env, "Expected an array for sequences.");
    const Napi::Array array = value.As<Napi::Array>();
    std::vector<std::shared_ptr<SequenceState>> sequences;
    std::unordered_set<const SequenceState*> seen;
    for (uint32_t i = 0; i < array.Length(); i++) {
      sequences.push_back(expect_sequence(env, array.Get(i)));
      if (!seen.insert(sequences.back().get()).second) throw_invalid(env, "Expected each sequence once in a pass.");
    }
    // note: last, because a getter of the array can start a pass with a sequence before it
    for (const auto& state : sequences) {
      if (state->busy) throw_invalid(env, "The sequence is in a pass; wait for it to end.");
    }
    return sequences;
  }

  std::shared_ptr<SequenceState> expect_sequence(Napi::Env env, const Napi::Value& value) {
    const auto state = NativeSequence::Unwrap(value.As<Napi::Object>())->state();
    expect_usable(env, !state, "sequence");
    if (state->runner != runner_) throw_invalid(env, "Expected a sequence of this model.");
    return state;
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!disposed_) {
      const auto deferred = Napi::Promise::Deferred::New(env);
      disposed_ = std::make_unique<Napi::ObjectReference>(Napi::Persistent(deferred.Promise().As<Napi::Object>()));
      if (runner_->is_closing()) deferred.Resolve(env.Undefined());
      else runner_->close([deferred](Napi::Env e) { deferred.Resolve(e.Undefined()); });
    }
    return disposed_->Value();
  }

  std::shared_ptr<Runner> runner_;
  std::unique_ptr<Napi::ObjectReference> disposed_;  // the promise of dispose()
  ModelConfig config_;
  int64_t memory_bytes_ = 0, matrix_bytes_ = 0, kv_bytes_per_token_ = 0;
  int threads_ = 1;
  const char* isa_ = "";
};

struct LoadOptions {
  ComputeType type = ComputeType::bfloat16;
  int threads = 0;
  const Kernels* kernels = nullptr;
  int cuda_device = -1;  // -1: the CPU
  Napi::Value on_progress;
};

void read_options(const Napi::Value& value, LoadOptions* options) {
  const Napi::Object o = expect_object(value, "options");
  options->type = expect_compute_type(o.Get("dtype"));
  options->threads = static_cast<int>(expect_integer(o.Get("threads"), "threads", 0, 1024));
  if (options->threads == 0) options->threads = physical_cores();
  const Napi::Value isa = o.Get("isa");
  options->kernels = isa.IsUndefined() ? find_kernels(nullptr) : &expect_kernels(isa);
  const Napi::Value cuda_device = o.Get("cudaDevice");
  if (!cuda_device.IsUndefined()) options->cuda_device = static_cast<int>(expect_integer(cuda_device, "cudaDevice", 0, 1 << 16));
  const bool is_for_cuda = options->type == ComputeType::float32 || options->type == ComputeType::bfloat16;
  if (options->cuda_device >= 0 && !is_for_cuda) throw_invalid(value.Env(), "Expected dtype float32 or bfloat16 with cudaDevice.");
  options->on_progress = o.Get("onProgress");
}

using MakeSource = std::function<Status(std::unique_ptr<TensorSource>*)>;

Napi::Value start_load(Napi::Env env, const ModelSpec& spec, const LoadOptions& options, MakeSource make_source) {
  const ModelConfig config = config_of(env, spec);
  const auto runner = Runner::create(env, options.threads);
  const auto progress = Progress::create(runner.get(), options.on_progress);

  auto job = std::make_shared<Job>();
  Runner* raw = runner.get();
  job->work = [raw, config, progress, make_source, type = options.type, kernels = options.kernels, device = options.cuda_device, cancelled = &job->cancelled]() -> Status {
    std::unique_ptr<TensorSource> source;
    Status status = make_source(&source);
    if (status.ok() && device < 0) status = check_memory(weight_bytes(config, type, *source), "model", "Use a dtype of fewer bits, a smaller model");
    if (!status.ok()) return status;
    if (device >= 0 && source->is_packed()) return Status::error("ERR_DEVICE_UNAVAILABLE", "A packed file is for the CPU. Use device 'cpu', or the checkpoint it was made from.");
    const char* phase = device >= 0 ? "upload" : source->is_packed() ? "read" : "convert";
    const auto report = [&](int64_t bytes, int64_t total) { progress->report(phase, bytes, total); };
    const LoadContext context{&raw->pool(), cancelled, report};
    if (device >= 0) return load_cuda_model(device, config, type == ComputeType::bfloat16, *source, context, &raw->model());
    std::unique_ptr<CpuModel> model;
    status = load_cpu_model(config, type, *source, kernels, context, &model);
    if (status.ok()) raw->model() = cpu_backend(std::move(model), &raw->pool());
    return status;
  };
  const auto value = [runner](Napi::Env e) -> Napi::Value {
    runner->report_external_memory(e);
    return NativeModel::create(e, runner);
  };
  const auto always = [runner, progress](Napi::Env, const Status& result) {
    progress->end();
    if (!result.ok()) runner->close([](Napi::Env) {});
  };
  return start_job(env, runner, std::move(job), value, always);
}

StoredType read_type(const Napi::Value& value) {
  const std::string name = expect_string(value, "dtype");
  if (name == "float32") return StoredType::f32;
  if (name == "bfloat16") return StoredType::b16;
  if (name == "float16") return StoredType::f16;
  if (name == "uint8") return StoredType::packed;
  throw_invalid(value.Env(), "Expected float32, bfloat16, float16 or uint8 for a tensor's dtype.");
}

TensorEntry read_tensor(const Napi::Value& value) {
  const Napi::Object o = expect_object(value, "tensors");
  TensorEntry entry;
  entry.name = expect_string(o.Get("name"), "name");
  entry.type = read_type(o.Get("dtype"));
  if (!o.Get("shape").IsArray()) throw_invalid(value.Env(), "Expected an array for shape.");
  const Napi::Array shape = o.Get("shape").As<Napi::Array>();
  for (uint32_t d = 0; d < shape.Length(); d++) entry.shape.push_back(expect_integer(shape.Get(d), "shape", 1, int64_t{1} << 40));
  entry.file = static_cast<int>(expect_integer(o.Get("file"), "file", 0, 1 << 20));
  entry.offset = expect_integer(o.Get("offset"), "offset", 0, int64_t{1} << 52);
  return entry;
}

}  // namespace

Napi::Value load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const ModelSpec spec = read_spec(info[0]);
  if (!info[1].IsArray() || !info[2].IsArray()) throw_invalid(env, "Expected arrays for tensors and files.");
  std::vector<TensorEntry> entries;
  const Napi::Array tensors = info[1].As<Napi::Array>(), paths = info[2].As<Napi::Array>();
  for (uint32_t i = 0; i < tensors.Length(); i++) entries.push_back(read_tensor(tensors.Get(i)));
  std::vector<std::string> files;
  for (uint32_t i = 0; i < paths.Length(); i++) files.push_back(expect_string(paths.Get(i), "files"));
  LoadOptions options;
  read_options(info[3], &options);
  const bool is_packed = info[3].As<Napi::Object>().Get("packed").ToBoolean();
  if (is_packed && files.size() != 1) throw_invalid(env, "Expected one file with a packed model.");
  return start_load(env, spec, options, [entries, files, is_packed](std::unique_ptr<TensorSource>* source) {
    Status status = TensorSource::open(entries, files, source);
    if (status.ok() && is_packed) (*source)->set_packed();
    return status;
  });
}

Napi::Value seeded(const Napi::CallbackInfo& info) {
  const ModelSpec spec = read_spec(info[0]);
  const uint32_t seed = static_cast<uint32_t>(expect_integer(info[1], "seed", 0, UINT32_MAX));
  LoadOptions options;
  read_options(info[2], &options);
  return start_load(info.Env(), spec, options, [seed](std::unique_ptr<TensorSource>* source) {
    *source = TensorSource::seeded(seed);
    return Status{};
  });
}

Napi::Value machine_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const char* names[8];
  const int count = list_kernels(names);
  Napi::Array isas = Napi::Array::New(env, static_cast<size_t>(count));
  for (int i = 0; i < count; i++) isas.Set(static_cast<uint32_t>(i), names[i]);
  Napi::Object result = Napi::Object::New(env);
  result.Set("isa", find_kernels(nullptr)->isa);
  result.Set("isas", isas);
  result.Set("physicalCores", physical_cores());
  return result;
}

Napi::Value available_memory(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(available_memory_bytes())); }

void init_model(Napi::Env env) {
  auto* constructors = new Constructors();
  constructors->model = Napi::Persistent(NativeModel::define(env));
  constructors->sequence = Napi::Persistent(NativeSequence::define(env));
  env.SetInstanceData(constructors);
}

}  // namespace nanochat
