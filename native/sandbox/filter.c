// policy.def -> a classic BPF program. A plain chain of equality tests: no ordering comparison, no jump table, nothing
// that a 64-bit argument could dodge. The kernel's per-number cache makes the chain free for calls allowed outright.
#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>

#define X32_BIT 0x40000000u
#define ARG_LOW(n) ((uint32_t)offsetof(struct seccomp_data, args) + 8 * (n))
#define ARG_HIGH(n) (ARG_LOW(n) + 4)

enum action {
  ALLOW, FAKE, PERM, NOSYS, NOENT, INVAL, CHILD, NOTSUP, KILL,
  MMAP, MMAP_SEALED, MPROTECT, MADVISE, FUTEX, FCNTL, IOCTL, SELF, OWN, PRLIMIT, CLONE, EXECVEAT, PRCTL_START, PRCTL_RUN, ARCH_PRCTL
};

struct rule { int number[2]; enum action action[3]; };

static const struct rule rules[] = {
#define RULE(name, x86_64, aarch64, start, run, sealed) {{x86_64, aarch64}, {start, run, sealed}},
#include "policy.def"
#undef RULE
};
static const size_t rule_count = sizeof rules / sizeof rules[0];

static void emit(struct cage_filter *f, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf) {
  if (f->length < sizeof f->code / sizeof f->code[0]) f->code[f->length] = (struct sock_filter){code, jt, jf, k};
  f->length++;
}

static void load(struct cage_filter *f, uint32_t offset) { emit(f, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
static void ret(struct cage_filter *f, uint32_t value) { emit(f, BPF_RET | BPF_K, value, 0, 0); }
static void ret_errno(struct cage_filter *f, uint32_t number) { ret(f, SECCOMP_RET_ERRNO | number); }

static void ret_if(struct cage_filter *f, uint16_t test, uint32_t k, uint32_t value) {
  emit(f, BPF_JMP | test | BPF_K, k, 0, 1);
  ret(f, value);
}

static void allow_if_equal(struct cage_filter *f, uint32_t k) { ret_if(f, BPF_JEQ, k, SECCOMP_RET_ALLOW); }
static void refuse_if_set(struct cage_filter *f, uint32_t bits, uint32_t number) { ret_if(f, BPF_JSET, bits, SECCOMP_RET_ERRNO | number); }
static void refuse_unless_equal(struct cage_filter *f, uint32_t k, uint32_t number) {
  emit(f, BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
  ret_errno(f, number);
}

static void allow_only(struct cage_filter *f, const uint32_t *values, int count, uint32_t otherwise) {
  for (int i = 0; i < count; i++) allow_if_equal(f, values[i]);
  ret_errno(f, otherwise);
}
#define ALLOW_ONLY(f, otherwise, ...) \
  allow_only(f, (const uint32_t[]){__VA_ARGS__}, (int)(sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)), otherwise)

// Code may come from a file, never from anonymous or writable memory.
static void check_mmap(struct cage_filter *f) {
  load(f, ARG_LOW(2));
  emit(f, BPF_JMP | BPF_JSET | BPF_K, 4, 1, 0);        // PROT_EXEC
  ret(f, SECCOMP_RET_ALLOW);
  refuse_if_set(f, 2, EPERM);                          // PROT_WRITE
  load(f, ARG_LOW(3));
  refuse_if_set(f, 0x20, EPERM);                       // MAP_ANONYMOUS
  ret(f, SECCOMP_RET_ALLOW);
}

static void check_no_exec(struct cage_filter *f, uint32_t number) {
  load(f, ARG_LOW(2));
  refuse_if_set(f, 4, number);                         // PROT_EXEC
  ret(f, SECCOMP_RET_ALLOW);
}

static void check_prlimit(struct cage_filter *f) {     // may read its own limits, not set any
  load(f, ARG_LOW(0));
  refuse_unless_equal(f, 0, EPERM);
  load(f, ARG_LOW(2));
  refuse_unless_equal(f, 0, EPERM);
  load(f, ARG_HIGH(2));
  refuse_unless_equal(f, 0, EPERM);
  ret(f, SECCOMP_RET_ALLOW);
}

// No O_ASYNC, owners, leases, notifications, locks or pipe sizes.
static void check_fcntl(struct cage_filter *f) {
  load(f, ARG_LOW(1));
  for (uint32_t command = 0; command <= 3; command++) allow_if_equal(f, command);   // F_DUPFD, F_GETFD, F_SETFD, F_GETFL
  allow_if_equal(f, 1030);                             // F_DUPFD_CLOEXEC
  refuse_unless_equal(f, 4, EPERM);                    // F_SETFL
  load(f, ARG_LOW(2));
  refuse_if_set(f, 0x2000, EPERM);                     // O_ASYNC
  ret(f, SECCOMP_RET_ALLOW);
}

static void check_execveat(struct cage_filter *f) {
  load(f, ARG_LOW(0));
  refuse_unless_equal(f, CAGE_EXEC_FD, EPERM);
  load(f, ARG_LOW(4));
  refuse_unless_equal(f, 0x1000, EPERM);               // AT_EMPTY_PATH
  ret(f, SECCOMP_RET_ALLOW);
}

static void check_prctl_start(struct cage_filter *f) { // the second filter, once
  load(f, ARG_LOW(0));
  refuse_unless_equal(f, 22, EINVAL);                  // PR_SET_SECCOMP
  load(f, ARG_LOW(1));
  ALLOW_ONLY(f, EINVAL, 2);                            // SECCOMP_MODE_FILTER
}

static void check_futex(struct cage_filter *f) {       // no priority inheritance
  load(f, ARG_LOW(1));
  emit(f, BPF_ALU | BPF_AND | BPF_K, 0x7f, 0, 0);
  ALLOW_ONLY(f, ENOSYS, 0, 1, 3, 4, 5, 9, 10);         // WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET
}

// note: the kernel takes ioctl commands, pids, fcntl commands and prctl options as 32 bits; only that half is compared.
static void emit_action(struct cage_filter *f, enum action action, uint32_t self) {
  switch (action) {
    case ALLOW: ret(f, SECCOMP_RET_ALLOW); break;
    case FAKE: ret_errno(f, 0); break;
    case PERM: ret_errno(f, EPERM); break;
    case NOSYS: ret_errno(f, ENOSYS); break;
    case NOENT: ret_errno(f, ENOENT); break;
    case INVAL: ret_errno(f, EINVAL); break;
    case CHILD: ret_errno(f, ECHILD); break;
    case NOTSUP: ret_errno(f, EOPNOTSUPP); break;
    case KILL: ret(f, SECCOMP_RET_KILL_PROCESS); break;
    case MMAP: check_mmap(f); break;
    case MMAP_SEALED: check_no_exec(f, EPERM); break;
    case MPROTECT: check_no_exec(f, EACCES); break;
    case MADVISE: load(f, ARG_LOW(2)); ALLOW_ONLY(f, EINVAL, 0, 1, 2, 3, 4, 8, 14, 15, 16); break;
    case FUTEX: check_futex(f); break;
    case FCNTL: check_fcntl(f); break;
    case IOCTL: load(f, ARG_LOW(1)); ALLOW_ONLY(f, ENOTTY, 0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451); break;
    case SELF: load(f, ARG_LOW(0)); ALLOW_ONLY(f, EPERM, self); break;
    case OWN: load(f, ARG_LOW(0)); ALLOW_ONLY(f, EPERM, 0, self); break;
    case PRLIMIT: check_prlimit(f); break;
    case CLONE: load(f, ARG_LOW(0)); refuse_if_set(f, 0x10000, EAGAIN); ret_errno(f, EPERM); break;   // CLONE_THREAD
    case EXECVEAT: check_execveat(f); break;
    case PRCTL_START: check_prctl_start(f); break;
    case PRCTL_RUN: load(f, ARG_LOW(0)); ALLOW_ONLY(f, EINVAL, 15, 16); break;                        // PR_SET_NAME, PR_GET_NAME
    case ARCH_PRCTL: load(f, ARG_LOW(0)); ALLOW_ONLY(f, EINVAL, 0x1002); break;                       // ARCH_SET_FS
  }
}

// Neighbours in the table with the same answer share it. note: a jump reaches 255 instructions.
static size_t end_of_run(size_t first, enum cage_stage stage) {
  size_t next = first + 1;
  while (next < rule_count && next - first < 200 && rules[next].action[stage] == rules[first].action[stage]) next++;
  return next;
}

static void emit_run(struct cage_filter *f, size_t first, size_t next, enum cage_arch arch, enum cage_stage stage, uint32_t self) {
  int left = 0;
  for (size_t i = first; i < next; i++) left += rules[i].number[arch] >= 0;
  if (left == 0) return;
  uint16_t last = f->length;
  for (size_t i = first; i < next; i++) {
    if (rules[i].number[arch] < 0) continue;
    last = f->length;
    emit(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rules[i].number[arch], (uint8_t)--left, 0);
  }
  emit_action(f, rules[first].action[stage], self);
  if (last < sizeof f->code / sizeof f->code[0]) f->code[last].jf = (uint8_t)(f->length - last - 1);
}

int compile_filter(struct cage_filter *filter, enum cage_arch arch, enum cage_stage stage, uint32_t self) {
  filter->length = 0;
  load(filter, offsetof(struct seccomp_data, arch));
  emit(filter, BPF_JMP | BPF_JEQ | BPF_K, arch == CAGE_X86_64 ? AUDIT_ARCH_X86_64 : AUDIT_ARCH_AARCH64, 1, 0);
  ret(filter, SECCOMP_RET_KILL_PROCESS);
  load(filter, offsetof(struct seccomp_data, nr));
  if (arch == CAGE_X86_64) ret_if(filter, BPF_JSET, X32_BIT, SECCOMP_RET_KILL_PROCESS);
  for (size_t first = 0, next; first < rule_count; first = next) {
    next = end_of_run(first, stage);
    emit_run(filter, first, next, arch, stage, self);
  }
  ret_errno(filter, ENOSYS);
  return filter->length <= sizeof filter->code / sizeof filter->code[0] ? 0 : -1;
}
