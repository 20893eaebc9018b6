// The launcher's second half: it stays outside the cage and ends what is inside.
#define _GNU_SOURCE
#include "cage.h"
#include "remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCRATCH_BYTES (48ll << 20)
#define SCRATCH_ENTRIES 1024
#define SCRATCH_CHECK_MS 10

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool count_below(int at, const char *name, long long *bytes, long *entries, int depth) {
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) return false;
  bool full = depth > 64;                               // deeper than any honest program goes
  for (struct dirent *entry; !full && (entry = readdir(dir)) != NULL;) {
    struct stat st;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    *bytes -= (long long)st.st_blocks * 512;
    *entries -= 1;
    full = *bytes < 0 || *entries < 0 || (S_ISDIR(st.st_mode) && count_below(fd, entry->d_name, bytes, entries, depth + 1));
  }
  closedir(dir);
  return full;
}

// Bytes and entries below a directory, counted until one of them passes its limit.
static bool tree_is_larger_than(const char *path, long long bytes, long entries) { return count_below(AT_FDCWD, path, &bytes, &entries, 0); }

static void report_end(int status, const char *reason, const struct rusage *used) {
  char line[160];
  int n = snprintf(line, sizeof line, "exit code=%d signal=%d reason=%s rss=%ld cpu=%ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                   WIFSIGNALED(status) ? WTERMSIG(status) : 0, reason, used->ru_maxrss,
                   (long)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1000 + (long)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1000);
  if (write(REPORT_FD, line, (size_t)n) < 0) return;   // the host is gone
}

// Milliseconds poll may sleep: until the deadline, or until the scratch directory is looked at again. -1: for ever.
static int patience(int64_t deadline, bool scratch) {
  if (deadline < 0) return -1;
  int64_t left = deadline - now_ms();
  if (left < 0) left = 0;
  if (scratch && left > SCRATCH_CHECK_MS) left = SCRATCH_CHECK_MS;
  return left > 1000000 ? 1000000 : (int)left;
}

int supervise(const struct cage *cage, pid_t python, int pidfd, int signal_fd) {
  const char *reason = "none";
  int64_t deadline = -1;
  bool stopping = false;
  struct pollfd fds[3] = {{pidfd, POLLIN, 0}, {CONTROL_FD, POLLIN, 0}, {signal_fd, POLLIN, 0}};
  while ((fds[0].revents & POLLIN) == 0) {
    if (poll(fds, stopping ? 1 : 3, stopping ? -1 : patience(deadline, cage->scratch != NULL)) < 0 && errno != EINTR) break;
    if (stopping || (fds[0].revents & POLLIN)) continue;
    const char *why = NULL;
    if (fds[1].revents) {
      uint32_t timeout_ms;
      if (read(CONTROL_FD, &timeout_ms, sizeof timeout_ms) == sizeof timeout_ms) deadline = now_ms() + timeout_ms;
      else why = "closed";
    } else if (fds[2].revents) why = "closed";
    else if (deadline >= 0 && now_ms() >= deadline) why = "timeout";
    else if (deadline >= 0 && cage->scratch != NULL && tree_is_larger_than(cage->scratch, SCRATCH_BYTES, SCRATCH_ENTRIES)) why = "disk";
    if (why == NULL) continue;
    reason = why;
    stopping = true;
    kill(python, SIGKILL);
  }
  int status = 0;
  struct rusage used;
  memset(&used, 0, sizeof used);
  kill(python, SIGKILL);
  while (wait4(python, &status, 0, &used) < 0 && errno == EINTR) {}
  if (cage->scratch != NULL) remove_tree(cage->scratch);
  report_end(status, reason, &used);
  return 0;
}
