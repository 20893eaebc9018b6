#include "cpu/thread_pool.h"

#include <new>
#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace nanochat {

namespace {

constexpr int kSpins = 4000;  // about 50 us, 200 on processors whose pause is long

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
  __asm__ __volatile__("yield");
#endif
}

// Spins until `is_true`, at most kSpins times.
template <class F> bool spin_until(const F& is_true) {
  for (int i = 0; i < kSpins; i++) {
    if (is_true()) return true;
    pause();
  }
  return is_true();
}

uint64_t tasks(uint64_t first, uint64_t end) { return first << 32 | end; }
uint32_t first_of(uint64_t left) { return static_cast<uint32_t>(left >> 32); }
uint32_t end_of(uint64_t left) { return static_cast<uint32_t>(left); }

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(static_cast<size_t>(threads)) {
  try {
    workers_.reserve(shares_.size());
    for (size_t i = 1; i < shares_.size(); i++) workers_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error&) {
    // The system has no more threads to give: those that started do the work.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  region_begins_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::run_region(int64_t count, Call call, const void* context) {
  call_ = call;
  context_ = context;
  count_ = static_cast<uint32_t>(count);
  done_.store(0, std::memory_order_relaxed);
  const uint64_t all = count_, n = workers_.size() + 1;
  for (uint64_t t = 0; t < n; t++) shares_[t].left.store(tasks(all * t / n, all * (t + 1) / n), std::memory_order_release);
  region_++;
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    region_begins_.notify_all();
  }
  work(0);
  wait_for_the_others();
  if (!out_of_memory_.load(std::memory_order_relaxed)) return;
  out_of_memory_ = false;
  throw std::bad_alloc();
}

void ThreadPool::wait_for_the_others() {
  const auto all_done = [this] { return done_.load(std::memory_order_acquire) == count_; };
  if (spin_until(all_done)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_ = true;
  region_ends_.wait(lock, [this] { return done_.load() == count_; });
  caller_sleeps_ = false;
}

void ThreadPool::run_task(int64_t task) {
  try {
    call_(context_, task);
  } catch (const std::bad_alloc&) {
    out_of_memory_ = true;
  }
}

void ThreadPool::work(size_t thread) {
  const size_t n = workers_.size() + 1;
  uint32_t taken = take_from(thread, true);
  for (size_t i = 1; i < n; i++) taken += take_from((thread + i) % n, false);
  if (taken == 0) return;
  const uint32_t count = count_;
  if (done_.fetch_add(taken) + taken == count && caller_sleeps_.load()) {
    std::lock_guard<std::mutex> lock(mutex_);
    region_ends_.notify_all();
  }
}

// Runs tasks of a share until none is left and says how many: the first ones of the thread's own, the last ones of another's.
uint32_t ThreadPool::take_from(size_t share, bool is_own) {
  std::atomic<uint64_t>& left = shares_[share].left;
  uint32_t taken = 0;
  uint64_t now = left.load();
  while (first_of(now) < end_of(now)) {
    const uint64_t rest = is_own ? tasks(first_of(now) + 1, end_of(now)) : tasks(first_of(now), end_of(now) - 1);
    if (!left.compare_exchange_weak(now, rest)) continue;
    run_task(is_own ? first_of(now) : end_of(rest));
    taken++;
    now = left.load();
  }
  return taken;
}

void ThreadPool::worker(size_t thread) {
  uint32_t seen = 0;
  const auto has_news = [&] { return region_.load() != seen || stop_.load(); };
  for (;;) {
    if (!spin_until(has_news)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_++;
      region_begins_.wait(lock, has_news);
      sleeping_--;
    }
    if (stop_) return;
    seen = region_.load();
    work(thread);
  }
}

}  // namespace nanochat
