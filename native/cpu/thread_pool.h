// Runs the tasks of one parallel region at a time on a fixed set of threads, the caller among them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace nanochat {

// Waiting threads spin briefly, because the next region of a pass follows within microseconds, and then sleep, because
// a spinning thread that waits for a descheduled one takes its processor.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(0) .. f(count - 1), each once, on any thread, and returns when all are done. Each thread goes through a
  // share of consecutive tasks, then takes others' last ones, so a slow thread delays one task and not a share. A task
  // may throw std::bad_alloc and nothing else; where several threads work the others run all the same, then run() throws it.
  template <class F> void run(int64_t count, const F& f) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; i++) f(i);
      return;
    }
    run_region(count, [](const void* context, int64_t task) { (*static_cast<const F*>(context))(task); }, &f);
  }

 private:
  using Call = void (*)(const void* context, int64_t task);
  void run_region(int64_t count, Call call, const void* context);
  void work(size_t thread);
  uint32_t take_from(size_t share, bool is_own);
  void run_task(int64_t task);
  void wait_for_the_others();
  void worker(size_t thread);

  // A thread's tasks that nobody has taken yet: the first in the upper half, the end in the lower. Who takes a task by
  // compare-and-swap knows that the fields below belong to its region until the task counts as done.
  struct alignas(128) Share {  // note: lines of 64 bytes that processors fetch in pairs
    std::atomic<uint64_t> left{0};
  };
  std::vector<Share> shares_;
  std::atomic<uint32_t> region_{0};  // grows when one begins
  std::atomic<uint32_t> done_{0};
  Call call_ = nullptr;
  const void* context_ = nullptr;
  uint32_t count_ = 0;

  std::mutex mutex_;
  std::condition_variable region_begins_, region_ends_;
  std::atomic<int> sleeping_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> out_of_memory_{false};
  std::vector<std::thread> workers_;
};

}  // namespace nanochat
