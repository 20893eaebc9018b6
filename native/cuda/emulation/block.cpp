#include "cuda/emulation/block.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace nanochat {
namespace cuda {
namespace emulation {

Thread* current = nullptr;
Grid block, grid;
int block_threads = 0;
int processors = 3;
unsigned char* shared = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 32 << 10;
#endif
constexpr size_t kStackStride = kStackBytes + 17 * 64;  // so that the tops of stacks do not compete for the same cache lines
constexpr int kMostThreads = 1024, kMostBlocks = 40;  // of a block, side by side
constexpr int kSideBySide = 3;                         // blocks that need not be
constexpr int kMostPauses = 100000;                    // one after the other: nobody else is left
constexpr uint64_t kCanary = 0x6e616e6f63686174u;

Order order = Order::ascending;
uint32_t random_state = 1;
size_t shared_size = 0;

}  // namespace

struct Block {
  Grid at;
  unsigned char* shared = nullptr;
  char* stacks = nullptr;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  int finished = 0;
  bool is_running = false;
};

namespace {

Block live[kMostBlocks];
Thread* ready[kMostBlocks * kMostThreads];  // a ring, those that became ready first in front
unsigned first_ready = 0, ready_count = 0;
std::string failure;
const std::function<void()>* body = nullptr;
Fiber launcher;           // where run() waits
int pauses = 0;

Thread*& ready_at(unsigned place) { return ready[(first_ready + place) % (kMostBlocks * kMostThreads)]; }

void make_ready(Thread* thread) { ready_at(ready_count++) = thread; }

Thread* take_ready() {
  if (order == Order::random) {
    random_state = random_state * 1664525u + 1013904223u;
    std::swap(ready_at((random_state >> 8) % ready_count), ready_at(ready_count - 1));
  }
  ready_count--;
  if (order != Order::ascending) return ready_at(ready_count);
  Thread* first = ready_at(0);
  first_ready++;
  return first;
}

// Behind all others that are ready.
void make_ready_last(Thread* thread) {
  if (order == Order::descending) {
    first_ready = (first_ready + kMostBlocks * kMostThreads - 1) % (kMostBlocks * kMostThreads);
    ready_at(0) = thread;
    ready_count++;
  } else {
    make_ready(thread);
  }
}

// Goes on with a thread that is ready, of whatever block, or with the launcher.
void switch_from(const Fiber& self, bool ends) {
  if (ready_count == 0) return switch_fiber(self, launcher, ends);
  Thread* next = take_ready();
  current = next;
  block = next->block->at;
  shared = next->block->shared;
  if (&next->fiber != &self) switch_fiber(self, next->fiber, ends);
}

// note: nothing that owns memory may be alive here, the fiber never goes on.
[[noreturn]] void fail(const char* text) {
  if (failure.empty()) failure = text;
  switch_fiber(current->fiber, launcher, true);
  std::abort();  // never reached: nobody switches back to a thread that failed
}

void wait_at(Barrier& barrier) {
  Thread* self = current;
  pauses = 0;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    for (Thread* thread : barrier.waiting) make_ready(thread);
    barrier.waiting.clear();
    return;
  }
  barrier.waiting.push_back(self);
  switch_from(self->fiber, false);
}

void thread_main() {
  arrive_on_fiber(current->fiber);
  (*body)();
  if (!current->copies.empty()) fail("a thread ended with asynchronous copies that it never waited for");
  const Thread* self = current;
  if (++self->block->finished == block_threads) switch_fiber(self->fiber, launcher, true);  // which begins another block
  switch_from(self->fiber, true);
}

void begin_block(Block& b, Grid at) {
  if (!b.stacks) {
    b.stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackStride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (b.stacks == MAP_FAILED) std::abort();
  }
  while (b.threads.size() < static_cast<size_t>(block_threads)) {
    auto thread = std::make_unique<Thread>();
    thread->index = static_cast<int>(b.threads.size());
    thread->lane = thread->index % kLanes;
    thread->block = &b;
    thread->fiber = {&thread->stack_pointer, &thread->fake_stack, b.stacks + b.threads.size() * kStackStride, kStackBytes};
    b.threads.push_back(std::move(thread));
  }
  b.at = at;
  std::memset(b.shared, 0xff, shared_size);  // NaN in float32 and bfloat16
  b.warps.resize(static_cast<size_t>(block_threads / kLanes));
  for (Warp& w : b.warps) {
    w.barrier = {kLanes, 0, {}};
    w.operation[0] = w.operation[1] = Operation::none;
  }
  b.barrier = {block_threads, 0, {}};
  b.finished = 0;
  b.is_running = true;
  for (int i = 0; i < block_threads; i++) {
    Thread& t = *b.threads[static_cast<size_t>(i)];
    t.warp = &b.warps[static_cast<size_t>(i / kLanes)];
    t.exchanges = 0;
    t.copies.clear();
    t.groups.clear();
    t.fake_stack = nullptr;
    std::memcpy(t.fiber.stack, &kCanary, sizeof kCanary);
    t.stack_pointer = new_fiber(t.fiber.stack, kStackBytes, thread_main);
    make_ready(&t);
  }
}

void end_block(Block& b) {
  b.is_running = false;
  for (int i = 0; i < block_threads && failure.empty(); i++) {
    if (std::memcmp(b.threads[static_cast<size_t>(i)]->fiber.stack, &kCanary, sizeof kCanary) != 0) failure = "a thread's stack overflowed";
  }
}

void run_blocks(int64_t at_once) {
  const int64_t count = int64_t{grid.x} * grid.y * grid.z;
  int64_t begun = 0;
  for (int64_t ended = 0; ended < count && failure.empty();) {
    for (int i = 0; i < at_once && begun < count; i++) {
      if (live[i].is_running) continue;
      const int64_t next = order == Order::descending ? count - 1 - begun : begun;
      begin_block(live[i], {static_cast<int>(next % grid.x), static_cast<int>(next / grid.x % grid.y), static_cast<int>(next / grid.x / grid.y)});
      begun++;
    }
    if (ready_count == 0) {
      failure = "deadlock: some threads ended and the others wait at barriers that not all reach";
      break;
    }
    switch_from(launcher, false);
    for (Block& b : live) {
      if (!b.is_running || b.finished < block_threads) continue;
      end_block(b);
      ended++;
    }
  }
  current = nullptr;
}

}  // namespace

void set_order(Order value) { order = value; }

std::string run(Grid of, int count, size_t shared_bytes, bool together, const std::function<void()>& kernel) {
  if (count < kLanes || count % kLanes != 0 || count > kMostThreads) return "a block of " + std::to_string(count) + " threads";
  if (of.x < 1 || of.y < 1 || of.z < 1 || of.y > 65535 || of.z > 65535) return "an empty or too large grid";
  const int64_t at_once = together ? int64_t{of.x} * of.y * of.z : order == Order::random ? kSideBySide : 1;
  if (at_once > kMostBlocks) return "more blocks together than fit";
  static void* launcher_stack_pointer;
  static void* launcher_fake_stack;
  launcher = launcher_fiber(&launcher_stack_pointer, &launcher_fake_stack);
  grid = of;
  shared_size = shared_bytes;
  pauses = 0;
  block_threads = count;
  body = &kernel;
  failure.clear();
  first_ready = ready_count = 0;
  for (int i = 0; i < at_once; i++) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared_bytes ? shared_bytes : 1) != 0) failure = "no shared memory";
    live[i].shared = static_cast<unsigned char*>(memory);
  }
  for (Block& b : live) b.is_running = false;
  if (failure.empty()) run_blocks(at_once);
  for (int i = 0; i < at_once; i++) std::free(live[i].shared);
  return failure;
}

void sync_block() { wait_at(current->block->barrier); }

void pause() {
  Thread* self = current;
  if (++pauses > kMostPauses) fail("deadlock: some threads wait for others that never come");
  make_ready_last(self);
  switch_from(self->fiber, false);
}

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
