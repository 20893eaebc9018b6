// nanochat-sandbox: starts one Python interpreter in a cage made by the kernel, and ends it. Run by the addon, not by hand:
//   nanochat-sandbox --host PID --layers a,b --memory BYTES --cpu SECONDS --seal run|sealed --python FILE
//                    [--read PATH]... [--link TARGET PATH]... [--scratch DIRECTORY] -- ARGUMENTS
//   nanochat-sandbox --filter x86_64|aarch64 start|run|sealed PID       prints the compiled filter, for the tests
// cage.c reads top to bottom as the cage closes; policy.def is the system-call policy; supervise.c ends the interpreter.
#define _GNU_SOURCE
#include "cage.h"
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_PATHS 256
#define PIDFD_FLAG 0x1000
#define ALL_NAMESPACES (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
#define FIRST_UID 0x70000000u                          // a private range: one user per cage

#define MAX_ARGUMENTS 32

static const char *read_paths[MAX_PATHS + 1], *link_pairs[2 * MAX_PATHS + 1];
static char *arguments[MAX_ARGUMENTS + 2];             // with room for the second filter

static _Noreturn void usage(const char *what) {
  errno = EINVAL;
  die("process", what, "See native/sandbox/main.c for the arguments");
}

static bool has_layer(const char *layers, const char *name) {
  size_t length = strlen(name);
  for (const char *at = strstr(layers, name); at != NULL; at = strstr(at + 1, name))
    if ((at == layers || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) return true;
  return false;
}

static void take_layers(struct cage *cage, const char *layers) {
  cage->namespaces = has_layer(layers, "namespaces");
  cage->landlock = has_layer(layers, "landlock");
  cage->seccomp = has_layer(layers, "seccomp");
  cage->rlimits = has_layer(layers, "rlimits");
  cage->capabilities = has_layer(layers, "capabilities");
}

static void parse_arguments(struct cage *cage, char **argv, long *host) {
  int reads = 0, links = 0;
  *cage = (struct cage){.read = read_paths, .links = link_pairs};
  for (argv++; *argv != NULL && strcmp(*argv, "--") != 0; argv += 2) {
    if (argv[1] == NULL) usage(*argv);
    if (strcmp(*argv, "--host") == 0) *host = strtol(argv[1], NULL, 10);
    else if (strcmp(*argv, "--layers") == 0) take_layers(cage, argv[1]);
    else if (strcmp(*argv, "--memory") == 0) cage->memory_bytes = strtoll(argv[1], NULL, 10);
    else if (strcmp(*argv, "--cpu") == 0) cage->cpu_seconds = strtol(argv[1], NULL, 10);
    else if (strcmp(*argv, "--seal") == 0) cage->seal = argv[1];
    else if (strcmp(*argv, "--python") == 0) cage->python = argv[1];
    else if (strcmp(*argv, "--scratch") == 0) cage->scratch = argv[1];
    else if (strcmp(*argv, "--read") == 0 && reads < MAX_PATHS && strlen(argv[1]) < 4000) read_paths[reads++] = argv[1];
    else if (strcmp(*argv, "--link") == 0 && argv[2] != NULL && links < 2 * MAX_PATHS && strlen(argv[2]) < 4000) {
      link_pairs[links++] = argv[1];
      link_pairs[links++] = argv[2];
      argv++;
    } else usage(*argv);
  }
  if (*argv == NULL || argv[1] == NULL || cage->python == NULL || cage->memory_bytes <= 0 || cage->cpu_seconds <= 0) usage("arguments");
  for (int i = 0; argv[i + 1] != NULL; i++) {
    if (i == MAX_ARGUMENTS) usage("too many arguments");
    arguments[i] = argv[i + 1];
  }
  cage->argv = arguments;
}

static int print_filter(const char *arch, const char *stage, const char *self) {
  static struct cage_filter filter;
  enum cage_stage which = strcmp(stage, "start") == 0 ? CAGE_START : strcmp(stage, "run") == 0 ? CAGE_RUN : CAGE_SEALED;
  if (compile_filter(&filter, strcmp(arch, "aarch64") == 0 ? CAGE_AARCH64 : CAGE_X86_64, which, (uint32_t)strtoul(self, NULL, 10)) != 0) return 1;
  for (int i = 0; i < filter.length; i++) printf("%u %u %u %u\n", filter.code[i].code, filter.code[i].jt, filter.code[i].jf, filter.code[i].k);
  return 0;
}

static bool may_make_namespaces(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  return syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1u << CAP_SYS_ADMIN)) != 0;
}

// Is the user id mapped in the user namespace the launcher runs in (a rootless container maps few)?
static bool is_mapped(uint32_t uid) {
  // note: strtoul, because fscanf brings 0.1 MB of libc into the static launcher.
  char line[64], *rest;
  FILE *map = fopen("/proc/self/uid_map", "re");
  bool found = false;
  while (map != NULL && !found && fgets(line, sizeof line, map) != NULL) {
    const unsigned long first = strtoul(line, &rest, 10);
    (void)strtoul(rest, &rest, 10);  // the id outside
    found = uid >= first && uid - first < strtoul(rest, NULL, 10);
  }
  if (map != NULL) fclose(map);
  return found;
}

// As root every cage gets a user of its own; otherwise it keeps the caller's, in a user namespace where there is one.
static void choose_user(struct cage *cage) {
  uint32_t own = FIRST_UID + (uint32_t)getpid() % 0x400000u;
  if (!is_mapped(own)) own = 50000 + (uint32_t)getpid() % 10000;
  cage->privileged = getuid() == 0 && is_mapped(own) && (!cage->namespaces || may_make_namespaces());
  cage->user_namespace = cage->namespaces && !cage->privileged;
  cage->uid = cage->privileged ? own : getuid();
  cage->gid = cage->privileged ? own : getgid();
}

static void close_leaked_descriptors(void) {
  if (syscall(436, REPORT_FD + 1, ~0u, 0) == 0) return;   // close_range, Linux 5.9
  for (int fd = REPORT_FD + 1; fd < 65536; fd++) close(fd);
}

// The launcher has to live long enough to clean up: a signal and the end of the control pipe both mean stop.
static int die_with_host(long host) {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGHUP);
  signal(SIGPIPE, SIG_IGN);
  if (sigprocmask(SIG_BLOCK, &stop, NULL) != 0) die("process", "signal mask", "");
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || (host != 0 && getppid() != host)) _exit(125);
  int fd = signalfd(-1, &stop, SFD_CLOEXEC);
  if (fd < 0) die("process", "signalfd", "");
  return fd;
}

static void make_scratch(const struct cage *cage) {
  if (cage->scratch == NULL) return;
  if (mkdir(cage->scratch, 0700) != 0 || (cage->privileged && chown(cage->scratch, cage->uid, cage->gid) != 0)) die("process", cage->scratch, "making the scratch directory");
}

static void reset_signals(void) {
  sigset_t none;
  sigemptyset(&none);
  for (int number = 1; number < 32; number++) signal(number, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static pid_t clone_with_pidfd(const struct cage *cage, int *pidfd) {
  unsigned long flags = PIDFD_FLAG | SIGCHLD;
  if (cage->namespaces) flags |= ALL_NAMESPACES;
  if (cage->user_namespace) flags |= CLONE_NEWUSER;
  return (pid_t)syscall(SYS_clone, flags, NULL, pidfd, NULL, 0);
}

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "--filter") == 0) return print_filter(argv[2], argv[3], argv[4]);
  struct cage cage;
  long host = 0;
  int alive[2], pidfd = -1;
  parse_arguments(&cage, argv, &host);
  close_leaked_descriptors();
  int signal_fd = die_with_host(host);
  choose_user(&cage);
  umask(077);
  make_scratch(&cage);
  fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
  fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC);
  if (pipe2(alive, O_CLOEXEC) != 0) die("process", "pipe", "");
  pid_t python = clone_with_pidfd(&cage, &pidfd);
  if (python < 0) {
    if (cage.scratch != NULL) rmdir(cage.scratch);
    die(cage.namespaces ? "namespaces" : "process", "clone", cage.namespaces ? "A container's seccomp profile or user.max_user_namespaces forbids new namespaces" : "It needs Linux 5.2");
  }
  if (python == 0) {
    close(alive[1]);
    close(CONTROL_FD);
    reset_signals();
    umask(022);
    close_cage(&cage, alive[0]);
  }
  for (int fd = 0; fd <= 4; fd++) close(fd);
  close(alive[0]);
  return supervise(&cage, python, pidfd, signal_fd);
}
