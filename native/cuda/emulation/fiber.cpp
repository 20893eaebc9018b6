#include "cuda/emulation/fiber.h"

#include <pthread.h>

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// nc_emulation_switch(save, load): pushes the callee-saved registers, stores the stack pointer in *save, takes `load` for
// it and pops the registers from there. note: jumps, because a return to where nobody called from is always mispredicted.
extern "C" void nc_emulation_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.globl nc_emulation_switch
.type nc_emulation_switch,@function
nc_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size nc_emulation_switch,.-nc_emulation_switch
)");
constexpr int kSavedWords = 6, kEntryWord = 6, kFrameWords = 8;  // registers, return address, and one word that aligns
#elif defined(__aarch64__)
asm(R"(
.text
.globl nc_emulation_switch
.type nc_emulation_switch,%function
nc_emulation_switch:
  stp x19, x20, [sp, #-160]!
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x19, x20, [sp], #160
  ret
.size nc_emulation_switch,.-nc_emulation_switch
)");
constexpr int kSavedWords = 20, kEntryWord = 11, kFrameWords = 20;
#else
#error "The emulation switches stacks on x86-64 and arm64 only"
#endif

namespace nanochat {
namespace cuda {
namespace emulation {

void* new_fiber(char* stack, size_t bytes, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, bytes);  // frames of the fiber that was here before
#endif
  auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15};
  auto* frame = reinterpret_cast<uintptr_t*>(top) - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof *frame);
  frame[kEntryWord] = reinterpret_cast<uintptr_t>(entry);
  static_assert(kSavedWords <= kFrameWords, "registers fit in the first frame");
  return frame;
}

Fiber launcher_fiber(void** stack_pointer, void** fake_stack) {
  pthread_attr_t attributes;
  void* stack = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &stack, &bytes);
    pthread_attr_destroy(&attributes);
  }
  return {stack_pointer, fake_stack, static_cast<char*>(stack), bytes};
}

void switch_fiber(const Fiber& from, const Fiber& to, bool ends) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(ends ? nullptr : from.fake_stack, to.stack, to.bytes);
#else
  (void)ends;
#endif
  nc_emulation_switch(from.stack_pointer, *to.stack_pointer);
  arrive_on_fiber(from);
}

void arrive_on_fiber(const Fiber& self) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(*self.fake_stack, nullptr, nullptr);
#else
  (void)self;
#endif
}

}  // namespace emulation
}  // namespace cuda
}  // namespace nanochat
