// Thread blocks on the CPU: a fiber per thread, barriers, warps that exchange values, copies that land when waited for. All on
// the calling thread; blocks run one after the other, or a few side by side, or all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/emulation/fiber.h"

namespace nanochat {
namespace cuda {
namespace emulation {

constexpr int kLanes = 32;

struct Thread;

struct Barrier {
  int expected = 0, arrived = 0;
  std::vector<Thread*> waiting;
};

enum class Operation : uint8_t { none, shuffle, any, load_matrices, mma };

// What a lane shows to its warp.
struct Shown {
  uint32_t word[6];
  const void* address;
};

struct Warp {
  Barrier barrier;
  Operation operation[2];
  Shown shown[2][kLanes];
  uint32_t words[2][kLanes];
};

struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
};

struct Block;

struct Thread {
  int index = 0, lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  unsigned exchanges = 0;
  std::vector<PendingCopy> copies;
  std::vector<size_t> groups;  // copies that belong to all groups up to this one
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Fiber fiber;
};

struct Grid {
  int x = 1, y = 1, z = 1;
};

// The order in which ready threads run: a missing barrier shows in one of them. In random order a few blocks run side by side,
// so that what they do to each other's memory shows; in descending order the last block runs first. Asynchronous copies land
// as late as they may, in descending order as early.
enum class Order { ascending, descending, random };

void set_order(Order order);
extern int processors;      // that the device says it has

// Runs `body` in every thread of every block, all blocks side by side if they are `together`; the text says what the threads did
// wrong, empty when nothing.
std::string run(Grid grid, int threads, size_t shared_bytes, bool together, const std::function<void()>& body);

extern Thread* current;
extern Grid block;          // of the running threads
extern Grid grid;
extern int block_threads;
extern unsigned char* shared;

void sync_block();
// Lets other threads go on before this one, which waits for what one of them will write.
void pause();
// Shows `mine` to the warp and gives what all lanes showed; valid until this lane exchanges again.
const Shown* exchange(Operation operation, const Shown& mine);
const uint32_t* exchange_word(Operation operation, uint32_t mine);
void copy_async(void* to, const void* from, bool valid);
void commit_copies();
void wait_copies(int pending);
void expect_shared(const void* address, size_t bytes, size_t alignment);

}  // namespace emulation
}  // namespace cuda
}  // namespace nanochat
