#ifndef NANOCHAT_SANDBOX_FILTER_H
#define NANOCHAT_SANDBOX_FILTER_H

#include <linux/filter.h>
#include <stdint.h>

enum cage_arch { CAGE_X86_64, CAGE_AARCH64 };
enum cage_stage { CAGE_START, CAGE_RUN, CAGE_SEALED };

// The descriptor the interpreter is executed from. Above the cage's limit on descriptors, so it can't be made again.
#define CAGE_EXEC_FD 1000

struct cage_filter {
  uint16_t length;
  struct sock_filter code[1024];
};

#if defined(__x86_64__)
#define CAGE_NATIVE_ARCH CAGE_X86_64
#elif defined(__aarch64__)
#define CAGE_NATIVE_ARCH CAGE_AARCH64
#else
#error "the policy knows x86_64 and aarch64; add a column to policy.def"
#endif

// Compiles policy.def for one architecture and stage. `self` is the process id the interpreter will see as its own.
// Returns -1 when the program would be longer than the buffer.
int compile_filter(struct cage_filter *filter, enum cage_arch arch, enum cage_stage stage, uint32_t self);

#endif
