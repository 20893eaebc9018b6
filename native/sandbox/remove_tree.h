#ifndef NANOCHAT_SANDBOX_REMOVE_TREE_H
#define NANOCHAT_SANDBOX_REMOVE_TREE_H

#ifdef __cplusplus
extern "C" {
#endif

// Removes `path` and everything below it, however deep, without following a link or leaving the tree.
// Nothing may be writing below it any more. Returns 0, or an error number; a path that is not there is no error.
int remove_tree(const char *path);

#ifdef __cplusplus
}
#endif

#endif
