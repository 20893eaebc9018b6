// Scratch directories hold what a hostile program wanted them to hold: names that no path can spell, directories that
// may not be read, trees deeper than a stack or PATH_MAX. One descriptor walks down by openat and back up by "..".
#if defined(__linux__)
#define _GNU_SOURCE
#include "remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_directory(int at, const char *name) {
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && errno == EACCES && fchmodat(at, name, 0700, 0) == 0) fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return fd;
}

// Unlinks all files of the directory; leaves the name of one subdirectory in `below`. Returns 1 if there is one, 0, or -1.
static int empty_directory(int fd, char below[256]) {
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  if (dir == NULL) return -1;
  fchmod(fd, 0700);
  int found = 0;
  for (struct dirent *entry; found == 0 && (entry = readdir(dir)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT || unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0) continue;
    snprintf(below, 256, "%s", entry->d_name);
    found = 1;
  }
  closedir(dir);
  return found;
}

int remove_tree(const char *path) {
  struct stat top, here;
  int fd = open_directory(AT_FDCWD, path);
  if (fd < 0) return errno == ENOENT ? 0 : errno;
  if (fstat(fd, &top) != 0) { close(fd); return errno; }
  int error = 0;
  ino_t left = 0;                                      // the directory just emptied: meeting it again means it can't be removed
  char below[256];
  for (;;) {
    int found = empty_directory(fd, below);
    if (found < 0) { error = errno; break; }
    if (fstat(fd, &here) != 0) { error = errno; break; }
    if (found == 0 && here.st_ino == top.st_ino && here.st_dev == top.st_dev) break;
    int next = found ? open_directory(fd, below) : openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (next < 0) { error = errno; break; }
    close(fd);
    fd = next;
    if (!found) left = here.st_ino;
    else if (fstat(fd, &here) == 0 && here.st_ino == left) { error = EBUSY; break; }
  }
  close(fd);
  if (error == 0 && rmdir(path) != 0 && errno != ENOENT) error = errno;
  return error;
}
#endif

typedef int translation_unit_is_not_empty;
