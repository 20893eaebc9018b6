#include "addon/runner.h"

#include <new>
#include <system_error>

#include "addon/convert.h"

namespace nanochat {

namespace {

using Call = std::function<void(Napi::Env)>;

void end_with_environment(void* argument) {
  std::unique_ptr<std::shared_ptr<Runner>> runner(static_cast<std::shared_ptr<Runner>*>(argument));
  (*runner)->close_now(true);
}

}  // namespace

std::shared_ptr<Runner> Runner::create(Napi::Env env, int threads) {
  auto runner = std::make_shared<Runner>();
  runner->env_ = env;
  runner->threads_ = threads;
  const Napi::String name = Napi::String::New(env, "nanochat inference");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, call_js, &runner->to_js_) != napi_ok) {
    throw Napi::Error::New(env, "napi_create_threadsafe_function failed");
  }
  napi_unref_threadsafe_function(env, runner->to_js_);
  // note: registered after the thread-safe function, so it runs before that one's own clean-up
  runner->cleanup_argument_ = new std::shared_ptr<Runner>(runner);
  napi_add_env_cleanup_hook(env, end_with_environment, runner->cleanup_argument_);
  Runner* raw = runner.get();  // note: the thread ends before the runner does, in close_now or in close
  try {
    runner->thread_ = std::thread([raw] { raw->loop(); });
  } catch (const std::system_error&) {
    runner->close_now(false);
    throw_status(env, Status::error("ERR_OUT_OF_MEMORY", "The system has no thread to give for the model. Raise the limit on processes, or end some."));
  }
  return runner;
}

void Runner::enqueue(std::shared_ptr<Job> job) {
  if (pending_++ == 0 && to_js_) napi_ref_threadsafe_function(env_, to_js_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(job));
  }
  has_news_.notify_one();
}

void Runner::cancel_all() {
  for (const auto& job : queue_) job->cancelled = true;
  if (current_) current_->cancelled = true;
}

void Runner::close(std::function<void(Napi::Env)> closed) {
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, to_js_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
    closed_ = std::move(closed);
    stop_ = true;
    cancel_all();
  }
  has_news_.notify_one();
}

void Runner::close_now(bool environment_ends) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
    stop_ = true;
    cancel_all();
  }
  has_news_.notify_one();
  if (thread_.joinable()) thread_.join();
  if (!environment_ends && cleanup_argument_) {
    napi_remove_env_cleanup_hook(env_, end_with_environment, cleanup_argument_);
    delete cleanup_argument_;
  }
  cleanup_argument_ = nullptr;
  if (!environment_ends && to_js_) napi_release_threadsafe_function(to_js_, napi_tsfn_release);
  to_js_ = nullptr;
}

void Runner::report_external_memory(Napi::BasicEnv env) {
  const int64_t bytes = model_ ? model_->memory_bytes() + model_->cache_bytes() : 0;
  if (bytes != reported_bytes_) Napi::MemoryManagement::AdjustExternalMemory(env, bytes - reported_bytes_);
  reported_bytes_ = bytes;
}

void Runner::post(std::function<void(Napi::Env)> call) {
  Call* data = new Call(std::move(call));
  if (napi_call_threadsafe_function(to_js_, data, napi_tsfn_nonblocking) != napi_ok) delete data;
}

void Runner::call_js(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<Call> call(static_cast<Call*>(data));
  if (!env) return;
  try {
    (*call)(Napi::Env(env));
  } catch (const Napi::Error&) {
    // Settling a promise fails only when the environment is being terminated: nobody is left to tell.
  }
}

void Runner::loop() {
  pool_ = std::make_unique<ThreadPool>(threads_);
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      current_.reset();
      has_news_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      job = std::move(queue_.front());
      queue_.pop_front();
      current_ = job;
    }
    try {
      if (closing_) job->status = Status::error("ERR_DISPOSED", "The model has been disposed.");
      else if (job->cancelled) job->status = Status::error("ERR_ABORTED", "The job was aborted.");
      else job->status = job->work();
    } catch (const std::bad_alloc&) {
      job->status = Status::error("ERR_OUT_OF_MEMORY", "Not enough memory. Use a smaller model, a dtype of fewer bits or shorter prompts.");
    }
    if (closing_ && !job->status.ok()) job->status = Status::error("ERR_DISPOSED", "The model has been disposed.");
    const auto self = weak_from_this();
    post([self, job](Napi::Env env) {
      const auto runner = self.lock();
      job->settle(env, job->status);
      job->work = nullptr;  // note: its cancel() may live on, and must not keep sequences alive with it
      job->settle = nullptr;
      if (!runner) return;
      if (--runner->pending_ == 0 && runner->to_js_) napi_unref_threadsafe_function(env, runner->to_js_);
      if (!runner->closing_) runner->report_external_memory(env);
    });
  }
  model_.reset();
  pool_.reset();
  if (!closed_) return;
  const auto self = shared_from_this();
  post([self](Napi::Env env) {
    self->close_now(false);
    self->report_external_memory(env);
    self->closed_(env);
    self->closed_ = nullptr;
  });
}

}  // namespace nanochat
