// A model's own thread. JavaScript enqueues jobs; the thread runs them in order; each is settled on the JavaScript thread.
#pragma once
#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "addon/backend.h"
#include "cpu/thread_pool.h"

namespace nanochat {

class Runner;

struct Job {
  std::atomic<bool> cancelled{false};
  std::function<Status()> work;                             // inference thread
  std::function<void(Napi::Env, const Status&)> settle;     // JavaScript thread; not called when the environment is gone
  Status status;
};

class Runner : public std::enable_shared_from_this<Runner> {
 public:
  static std::shared_ptr<Runner> create(Napi::Env env, int threads);

  // JavaScript thread.
  void enqueue(std::shared_ptr<Job> job);
  // Cancels everything, frees the model on its thread, then calls `closed`. Later jobs fail with ERR_DISPOSED.
  void close(std::function<void(Napi::Env)> closed);
  // The same at once, without settling anything: for finalizers and the end of the environment.
  void close_now(bool environment_ends);
  bool is_closing() const { return closing_; }
  void report_external_memory(Napi::BasicEnv env);

  // Inference thread, or while no job runs; the model's pointer changes while it is loaded and at the end only.
  ThreadPool& pool() { return *pool_; }
  std::unique_ptr<BackendModel>& model() { return model_; }
  // Runs `call` on the JavaScript thread soon.
  void post(std::function<void(Napi::Env)> call);

 private:
  void loop();
  void cancel_all();
  static void call_js(napi_env env, napi_value callback, void* context, void* data);

  std::mutex mutex_;
  std::condition_variable has_news_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> current_;
  bool stop_ = false;
  std::atomic<bool> closing_{false};
  std::function<void(Napi::Env)> closed_;
  int pending_ = 0;  // jobs not yet settled; JavaScript thread

  napi_env env_ = nullptr;
  napi_threadsafe_function to_js_ = nullptr;
  std::shared_ptr<Runner>* cleanup_argument_ = nullptr;
  int64_t reported_bytes_ = 0;

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<BackendModel> model_;
  int threads_ = 1;
  std::thread thread_;
};

}  // namespace nanochat
