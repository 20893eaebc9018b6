// remove_tree of the directory `top`, which somebody moves to `elsewhere` as soon as the walk turns back. Ends at the directory
// that it was started in, before a walk that has left the tree can empty more than that.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_start(int fd) {
  struct stat start, here;
  return stat(".", &start) != 0 || fstat(fd, &here) != 0 || (start.st_dev == here.st_dev && start.st_ino == here.st_ino);
}

static int open_and_move(int at, const char *name, int flags) {
  static bool moved = false;
  if (strcmp(name, "..") != 0) return openat(at, name, flags);
  if (!moved) moved = rename("top/a", "elsewhere/a") == 0;
  const int fd = openat(at, name, flags);
  if (!is_start(fd)) return fd;
  puts("left the tree");
  exit(0);
}

#define openat open_and_move
#include "remove_tree.c"

int main(void) {
  const int error = remove_tree("top");
  puts(error == EBUSY ? "EBUSY" : strerror(error));
  return 0;
}
