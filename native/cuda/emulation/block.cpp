#include "cuda/emulation/block.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace nanochat {
namespace cuda {
namespace emulation {

Thread* current = nullptr;
Grid block;
int block_threads = 0;
unsigned char* shared = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 32 << 10;
#endif
constexpr size_t kStackStride = kStackBytes + 17 * 64;  // so that the tops of stacks do not compete for the same cache lines
constexpr int kMostThreads = 1024;
constexpr uint64_t kCanary = 0x6e616e6f63686174u;

Order order = Order::ascending;
uint32_t random_state = 1;
size_t shared_size = 0;

std::vector<std::unique_ptr<Thread>> threads;
std::vector<Warp> warps;
Barrier block_barrier;
int ready[kMostThreads];  // a ring of threads, those that became ready first in front
unsigned first_ready = 0, ready_count = 0;
int finished = 0;
std::string failure;
const std::function<void()>* body = nullptr;
Fiber launcher;           // where run() waits

int& ready_at(unsigned place) { return ready[(first_ready + place) % kMostThreads]; }

void make_ready(int thread) { ready_at(ready_count++) = thread; }

Thread* take_ready() {
  if (order == Order::random) {
    random_state = random_state * 1664525u + 1013904223u;
    std::swap(ready_at((random_state >> 8) % ready_count), ready_at(ready_count - 1));
  }
  ready_count--;
  if (order != Order::ascending) return threads[static_cast<size_t>(ready_at(ready_count))].get();
  return threads[static_cast<size_t>(ready[first_ready++ % kMostThreads])].get();
}

void switch_to_next(Thread* from, bool ends) {
  if (ready_count > 0) {
    Thread* next = take_ready();
    current = next;
    switch_fiber(from->fiber, next->fiber, ends);
  } else {
    if (finished < block_threads && failure.empty()) {
      failure = "deadlock: " + std::to_string(finished) + " of " + std::to_string(block_threads) + " threads ended and the others wait at barriers that not all reach";
    }
    switch_fiber(from->fiber, launcher, ends);
  }
}

// note: nothing that owns memory may be alive here, the fiber never goes on.
[[noreturn]] void fail(const char* text) {
  if (failure.empty()) failure = text;
  switch_fiber(current->fiber, launcher, true);
  std::abort();  // never reached: nobody switches back to a thread that failed
}

void wait_at(Barrier& barrier) {
  Thread* self = current;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    for (int thread : barrier.waiting) make_ready(thread);
    barrier.waiting.clear();
    return;
  }
  barrier.waiting.push_back(self->index);
  switch_to_next(self, false);
}

void thread_main() {
  arrive_on_fiber(current->fiber);
  (*body)();
  if (!current->copies.empty()) fail("a thread ended with asynchronous copies that it never waited for");
  finished++;
  switch_to_next(current, true);
}

void prepare(int count) {
  static char* const stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackStride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (stacks == MAP_FAILED) std::abort();
  while (threads.size() < static_cast<size_t>(count)) {
    auto thread = std::make_unique<Thread>();
    thread->index = static_cast<int>(threads.size());
    thread->lane = thread->index % kLanes;
    thread->fiber = {&thread->stack_pointer, &thread->fake_stack, stacks + threads.size() * kStackStride, kStackBytes};
    threads.push_back(std::move(thread));
  }
  warps.resize(static_cast<size_t>(count / kLanes));
  for (Warp& w : warps) {
    w.barrier = {kLanes, 0, {}};
    w.operation[0] = w.operation[1] = Operation::none;
  }
  block_barrier = {count, 0, {}};
  first_ready = ready_count = 0;
  finished = 0;
  for (int i = 0; i < count; i++) {
    Thread& t = *threads[static_cast<size_t>(i)];
    t.warp = &warps[static_cast<size_t>(i / kLanes)];
    t.exchanges = 0;
    t.copies.clear();
    t.groups.clear();
    t.fake_stack = nullptr;
    std::memcpy(t.fiber.stack, &kCanary, sizeof kCanary);
    t.stack_pointer = new_fiber(t.fiber.stack, kStackBytes, thread_main);
    make_ready(i);
  }
}

void run_block(int count) {
  prepare(count);
  Thread* first = take_ready();
  current = first;
  switch_fiber(launcher, first->fiber, false);
  current = nullptr;
  for (int i = 0; i < count && failure.empty(); i++) {
    if (std::memcmp(threads[static_cast<size_t>(i)]->fiber.stack, &kCanary, sizeof kCanary) != 0) failure = "a thread's stack overflowed";
  }
}

}  // namespace

void set_order(Order value) { order = value; }

std::string run(Grid grid, int count, size_t shared_bytes, const std::function<void()>& kernel) {
  if (count < kLanes || count % kLanes != 0 || count > kMostThreads) return "a block of " + std::to_string(count) + " threads";
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) return "an empty or too large grid";
  static void* launcher_stack_pointer;
  static void* launcher_fake_stack;
  launcher = launcher_fiber(&launcher_stack_pointer, &launcher_fake_stack);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, shared_bytes ? shared_bytes : 1) != 0) return "no shared memory";
  shared = static_cast<unsigned char*>(memory);
  shared_size = shared_bytes;
  block_threads = count;
  body = &kernel;
  failure.clear();
  for (block.z = 0; block.z < grid.z; block.z++) {
    for (block.y = 0; block.y < grid.y; block.y++) {
      for (block.x = 0; block.x < grid.x && failure.empty(); block.x++) {
        std::memset(shared, 0xff, shared_bytes);  // NaN in float32 and bfloat16
        run_block(count);
      }
    }
  }
  std::free(shared);
  return failure;
}

void sync_block() { wait_at(block_barrier); }

// Which of the two sides this exchange uses. note: in turns, so that a lane can show again before others have read.
static unsigned begin_exchange(Operation operation) {
  Thread& t = *current;
  const unsigned side = t.exchanges++ & 1;
  if (t.warp->barrier.arrived == 0) t.warp->operation[side] = operation;
  else if (t.warp->operation[side] != operation) fail("lanes of one warp are at different warp operations");
  return side;
}

const Shown* exchange(Operation operation, const Shown& mine) {
  Warp& w = *current->warp;
  const unsigned side = begin_exchange(operation);
  w.shown[side][current->lane] = mine;
  wait_at(w.barrier);
  return w.shown[side];
}

const uint32_t* exchange_word(Operation operation, uint32_t mine) {
  Warp& w = *current->warp;
  const unsigned side = begin_exchange(operation);
  w.words[side][current->lane] = mine;
  wait_at(w.barrier);
  return w.words[side];
}

void expect_shared(const void* address, size_t bytes, size_t alignment) {
  const auto* p = static_cast<const unsigned char*>(address);
  if (p < shared || p + bytes > shared + shared_size) fail("an address outside the shared memory of the block");
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) fail("a misaligned address in shared memory");
}

static void land(const PendingCopy& copy) {
  if (copy.from) std::memcpy(copy.to, copy.from, 16);
  else std::memset(copy.to, 0, 16);
}

void copy_async(void* to, const void* from, bool valid) {
  expect_shared(to, 16, 16);
  if (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("a misaligned source of an asynchronous copy");
  const PendingCopy copy{to, valid ? from : nullptr};
  if (order == Order::descending) land(copy);
  current->copies.push_back(copy);
}

void commit_copies() { current->groups.push_back(current->copies.size()); }

void wait_copies(int pending) {
  Thread& t = *current;
  if (t.groups.size() <= static_cast<size_t>(pending)) return;
  const size_t groups = t.groups.size() - static_cast<size_t>(pending), count = t.groups[groups - 1];
  for (size_t i = 0; i < count && order != Order::descending; i++) land(t.copies[i]);
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(count));
  t.groups.erase(t.groups.begin(), t.groups.begin() + static_cast<std::ptrdiff_t>(groups));
  for (size_t& end : t.groups) end -= count;
}

}  // namespace emulation
}  // namespace cuda
}  // namespace nanochat
