#include "cpu/thread_pool.h"

#include <new>
#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace nanochat {

namespace {

constexpr int kSpins = 4000;  // about 50 us

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

uint64_t region_of(uint64_t ticket) { return ticket >> 32; }
uint32_t tasks_left(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { worker(); });
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
  const uint64_t region = (region_of(ticket_.load()) + 1) & 0xffffffffu;
  ticket_.store(region << 32 | count_);
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    region_begins_.notify_all();
  }
  work(region);
  wait_for_the_others();
  if (out_of_memory_.exchange(false)) throw std::bad_alloc();
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

void ThreadPool::work(uint64_t region) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (region_of(ticket) == region && tasks_left(ticket) > 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    const uint32_t count = count_;
    run_task(count - tasks_left(ticket));
    if (done_.fetch_add(1) + 1 == count && caller_sleeps_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      region_ends_.notify_all();
    }
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker() {
  uint64_t seen = 0;
  const auto has_news = [&] { return region_of(ticket_.load()) != seen || stop_.load(); };
  for (;;) {
    if (!spin_until(has_news)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_++;
      region_begins_.wait(lock, has_news);
      sleeping_--;
    }
    if (stop_) return;
    seen = region_of(ticket_.load());
    work(seen);
  }
}

}  // namespace nanochat
