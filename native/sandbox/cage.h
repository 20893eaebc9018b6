#ifndef NANOCHAT_SANDBOX_CAGE_H
#define NANOCHAT_SANDBOX_CAGE_H

#include <stdbool.h>
#include <sys/types.h>

// What the host and the launcher agree on. 0 /dev/null, 1 and 2 the program's output, 3 the request, 4 the result; then:
#define CONTROL_FD 5    // host -> launcher: the time limit in ms (u32, little-endian) when the code is sent; end of file: stop
#define REPORT_FD 6     // launcher -> host: one line, "fail <layer>: why" or "exit code= signal= reason= rss= cpu="

#define LARGEST_FILE (16 << 20)   // bytes; RLIMIT_FSIZE

struct cage {
  bool namespaces, landlock, seccomp, rlimits, capabilities;
  bool user_namespace;             // without privileges a user namespace gives them inside itself
  bool privileged;                 // started as root, with the right to make namespaces
  long long memory_bytes;
  long cpu_seconds;
  const char *python;
  const char *scratch;             // a directory of the host, only without namespaces
  const char **read;               // NULL-terminated, absolute
  const char **links;              // NULL-terminated pairs: target, path
  const char *seal;                // "run", "sealed" or NULL: the second filter, handed to the interpreter
  char **argv;                     // NULL-terminated, with room for one more: the second filter
  uid_t uid; gid_t gid;            // what the interpreter runs as, root's cage only
};

// Closes the cage around this process, step by step, and turns it into the interpreter. Never returns.
_Noreturn void close_cage(struct cage *cage, int launcher_alive_fd);

// Waits in the launcher for the interpreter's end and makes it end: time, host gone, disk full. Returns the exit status.
int supervise(const struct cage *cage, pid_t python, int pidfd, int signal_fd);

// Writes "fail <layer>: <what>: <errno>. <hint>" to the host and exits.
_Noreturn void die(const char *layer, const char *what, const char *hint);

#endif
