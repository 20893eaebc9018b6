// Scratch directories hold what a hostile program wanted them to hold: names that no path can spell, directories that
// may not be read, trees deeper than a stack or PATH_MAX. One descriptor walks down by openat and back up by "..", which
// leads out of the tree when somebody moves the directory meanwhile: it has to be the one that the walk came from.
#if defined(__linux__)
#define _GNU_SOURCE
#include "remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct place { dev_t device; ino_t inode; };

static bool is_at(int fd, struct place place) {
  struct stat st;
  return fstat(fd, &st) == 0 && st.st_dev == place.device && st.st_ino == place.inode;
}

int open_directory(int at, const char *name) {
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0 || errno != EACCES) return fd;
  // note: by its descriptor, because the name could be a link by now, and chmod follows links
  const int place = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (place < 0) return -1;
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", place);
  if (chmod(path, 0700) == 0) fd = openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int error = errno;
  close(place);
  errno = error;
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
  int fd = open_directory(AT_FDCWD, path);
  if (fd < 0) return errno == ENOENT ? 0 : errno;
  struct place *above = NULL;                          // where the walk came from
  size_t depth = 0, room = 0;
  struct place left = {0, 0};                          // the directory just emptied: meeting it again means it can't be removed
  int error = 0;
  for (;;) {
    char below[256];
    struct stat st;
    const int found = empty_directory(fd, below);
    if (found < 0 || fstat(fd, &st) != 0) { error = errno; break; }
    if (found == 0 && depth == 0) break;
    if (found && depth == room) {
      struct place *more = realloc(above, (room = 2 * room + 64) * sizeof *above);
      if (more == NULL) { error = ENOMEM; break; }
      above = more;
    }
    const struct place here = {st.st_dev, st.st_ino};
    const int next = found ? open_directory(fd, below) : openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (next < 0) { error = errno; break; }
    close(fd);
    fd = next;
    if (found ? is_at(fd, left) : !is_at(fd, above[depth - 1])) { error = EBUSY; break; }
    if (found) above[depth++] = here;
    else depth--, left = here;
  }
  close(fd);
  free(above);
  if (error == 0 && rmdir(path) != 0 && errno != ENOENT) error = errno;
  return error;
}
#endif

typedef int translation_unit_is_not_empty;
