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
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
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
  int fd = open_directory(at, name);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) return errno != ENOENT && errno != ENOTDIR;   // what can't be counted is too much
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

// Files of the scratch directory without a name, found in the interpreter's descriptors and maps.
struct unnamed {
  long long bytes;                                     // that are left of the limit
  ino_t seen[128];
  size_t count;
};

static bool is_new(struct unnamed *files, ino_t inode) {
  for (size_t i = 0; i < files->count; i++)
    if (files->seen[i] == inode) return false;
  if (files->count < sizeof files->seen / sizeof files->seen[0]) files->seen[files->count++] = inode;
  return true;
}

static void count_open_files(pid_t python, struct unnamed *files) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd", (int)python);
  DIR *dir = opendir(path);
  struct stat st;
  for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
    if (fstatat(dirfd(dir), entry->d_name, &st, 0) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 0) continue;
    if (is_new(files, st.st_ino)) files->bytes -= (long long)st.st_blocks * 512;
  }
  if (dir != NULL) closedir(dir);
}

// note: a map does not tell the size of a file, so that one which is not open any more counts as the largest there can be.
static void count_mapped_files(pid_t python, const char *scratch, struct unnamed *files) {
  char line[4096 + 128];
  snprintf(line, sizeof line, "/proc/%d/maps", (int)python);
  FILE *maps = fopen(line, "re");
  while (maps != NULL && files->bytes >= 0 && fgets(line, sizeof line, maps) != NULL) {
    const char *path = strchr(line, '/');              // range rights offset major:minor inode path
    if (path == NULL || strncmp(path, scratch, strlen(scratch)) != 0 || strstr(path, " (deleted)") == NULL) continue;
    const char *device = strchr(line, ':');
    if (is_new(files, (ino_t)strtoul(strchr(device, ' '), NULL, 10))) files->bytes -= LARGEST_FILE;
  }
  if (maps != NULL) fclose(maps);
}

// Does the scratch directory hold more than it may, by names or, where /proc can be read, without? note: as its own user, because
// root without CAP_SYS_PTRACE may not look into another user's process.
static bool scratch_is_full(const struct cage *cage, pid_t python) {
  struct unnamed files = {.bytes = SCRATCH_BYTES};
  long entries = SCRATCH_ENTRIES;
  if (count_below(AT_FDCWD, cage->scratch, &files.bytes, &entries, 0)) return true;
  const int gid = setfsgid(cage->gid), uid = setfsuid(cage->uid);
  count_open_files(python, &files);
  count_mapped_files(python, cage->scratch, &files);
  setfsuid((uid_t)uid);
  setfsgid((gid_t)gid);
  return files.bytes < 0;
}

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
    else if (deadline >= 0 && cage->scratch != NULL && scratch_is_full(cage, python)) why = "disk";
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
