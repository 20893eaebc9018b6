// Stacks that one operating-system thread switches between.
#pragma once
#include <cstddef>

namespace nanochat {
namespace cuda {
namespace emulation {

struct Fiber {
  void** stack_pointer = nullptr;  // where it stopped
  void** fake_stack = nullptr;     // AddressSanitizer's note of it
  char* stack = nullptr;           // lowest address
  size_t bytes = 0;
};

// The stack pointer of a fiber that will begin in `entry`, which must call arrive_on_fiber first and never return.
void* new_fiber(char* stack, size_t bytes, void (*entry)());

// The fiber of the caller itself, on the stack that the system gave it.
Fiber launcher_fiber(void** stack_pointer, void** fake_stack);

// Stops `from` and goes on with `to`; returns when something switches to `from`. `ends`: nothing ever will.
void switch_fiber(const Fiber& from, const Fiber& to, bool ends);
void arrive_on_fiber(const Fiber& self);

}  // namespace emulation
}  // namespace cuda
}  // namespace nanochat
