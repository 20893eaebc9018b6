#include "model/mapped_range.h"

#if !defined(_WIN32)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

namespace nanochat {

// note: the handler walks the list without a lock, so entries are used again but never freed
struct MappedRange {
  std::atomic<uintptr_t> begin{0}, end{0};  // 0, 0: free
  std::atomic<bool> damaged{false};
  MappedRange* next = nullptr;
};

namespace {

std::atomic<MappedRange*> ranges{nullptr};
std::mutex mutex;
int guarded = 0;
struct sigaction previous;
uintptr_t page_size = 4096;

bool replace_by_zeros(MappedRange* range, uintptr_t at, uintptr_t end) {
  const uintptr_t from = at / page_size * page_size;
  void* data = mmap(reinterpret_cast<void*>(from), end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (data == MAP_FAILED) return false;
  range->damaged = true;
  return true;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (MappedRange* range = ranges; range; range = range->next) {
    // note: another thread may free or fill the entry meanwhile; a range that holds `at` is in use, so it is whole when its end stays the same
    const uintptr_t end = range->end, begin = range->begin;
    if (begin != 0 && at >= begin && at < end && range->end == end && replace_by_zeros(range, at, end)) {
      errno = error;
      return;
    }
  }
  if (previous.sa_flags & SA_SIGINFO) previous.sa_sigaction(signal, info, context);
  else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) previous.sa_handler(signal);
  else sigaction(SIGBUS, &previous, nullptr);  // the access is tried again and ends as it would have
}

void install() {
  page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous);
}

void uninstall() {
  struct sigaction current;
  sigaction(SIGBUS, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_bus_error) sigaction(SIGBUS, &previous, nullptr);
}

}  // namespace

MappedRange* guard_range(void* data, size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  MappedRange* range = ranges;
  while (range && range->end != 0) range = range->next;
  if (!range) {
    range = new MappedRange();
    range->next = ranges;
    ranges = range;
  }
  range->damaged = false;
  range->begin = reinterpret_cast<uintptr_t>(data);
  range->end = reinterpret_cast<uintptr_t>(data) + size;
  if (guarded++ == 0) install();
  return range;
}

void unguard_range(MappedRange* range) {
  std::lock_guard<std::mutex> lock(mutex);
  range->end = 0;
  range->begin = 0;
  if (--guarded == 0) uninstall();
}

bool is_damaged(const MappedRange* range) { return range->damaged; }

}  // namespace nanochat
#endif
