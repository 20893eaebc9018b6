#ifndef NANOCHAT_SANDBOX_REMOVE_TREE_H
#define NANOCHAT_SANDBOX_REMOVE_TREE_H

#ifdef __cplusplus
extern "C" {
#endif

// Opens the directory `name` of `at`, no link; one that its owner may not read is made readable first. Returns -1 with errno.
int open_directory(int at, const char *name);

// Removes `path` and everything below it, however deep, without following a link or leaving the tree, also while somebody moves
// directories. Returns 0, or an error number, EBUSY where a directory was moved; a path that is not there is no error.
int remove_tree(const char *path);

#ifdef __cplusplus
}
#endif

#endif
