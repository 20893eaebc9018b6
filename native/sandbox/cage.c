// The cage, in the order it closes. Every step forbids something to the process that will become the interpreter; a step
// that fails ends the launcher with the reason. Nothing is tried a weaker way: which layers to use is the host's decision.
#define _GNU_SOURCE
#include "cage.h"
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BOX "/box"                                     // where the program works
#define STAGE "/tmp"                                   // the new root is put together over this directory
#define SCRATCH_LIMITS "size=33554432,nr_inodes=1024,mode=700"

extern char **environ;

// Numbers and flags that the build machine's headers may be too old for.
#define SYS_OPEN_TREE 428
#define SYS_MOVE_MOUNT 429
#define SYS_MOUNT_SETATTR 442
#define SYS_LANDLOCK_CREATE 444
#define SYS_LANDLOCK_ADD 445
#define SYS_LANDLOCK_RESTRICT 446
#define TREE_CLONE 1
#define MOVE_FROM_EMPTY_PATH 4
#define RECURSIVE 0x8000
#define ATTR_RDONLY 1ull
#define ATTR_NOSUID 2ull
#define ATTR_NODEV 4ull
#define ATTR_NOEXEC 8ull

_Noreturn void die(const char *layer, const char *what, const char *hint) {
  char line[512];
  int n = snprintf(line, sizeof line, "fail %s: %s: %s%s%s\n", layer, what, strerror(errno), *hint ? ". " : "", hint);
  if (n > 0 && write(REPORT_FD, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1) < 0) _exit(126);
  _exit(125);
}

// ── 1. outliving the launcher ──────────────────────────────────────────────────────────────────────────────────────

// The interpreter must not outlive the launcher. note: the kernel forgets the wish when credentials change, and a new
// pid namespace hides the parent, so that the pipe held by the launcher tells whether it died in between.
static void forbid_outliving_the_launcher(int launcher_alive_fd) {
  struct pollfd alive = {.fd = launcher_alive_fd, .events = POLLIN};
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) die("process", "PR_SET_PDEATHSIG", "");
  if (poll(&alive, 1, 0) != 0) _exit(125);
}

// ── 2. privileges over the host: a user namespace, where the launcher has none ─────────────────────────────────────

static void write_proc(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) die("namespaces", path, "The user namespace got no mapping; AppArmor or a container profile may restrict it");
  close(fd);
}

// Inside, this user is 1000 and the only one there is.
static void forbid_other_users(uid_t uid, gid_t gid) {
  char map[64];
  write_proc("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "1000 %u 1", (unsigned)uid);
  write_proc("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "1000 %u 1", (unsigned)gid);
  write_proc("/proc/self/gid_map", map);
}

// ── 3. the host's files ────────────────────────────────────────────────────────────────────────────────────────────

// struct mount_attr of the kernel; its header clashes with <sys/mount.h> in some C libraries.
struct attributes { uint64_t set, clear, propagation, userns; };

static void set_attributes(int at, const char *path, unsigned flags, uint64_t set) {
  struct attributes attributes = {.set = set};
  if (syscall(SYS_MOUNT_SETATTR, at, path, flags, &attributes, sizeof attributes) != 0) die("namespaces", path, "mount_setattr failed; it needs Linux 5.12");
}

static int clone_tree(const char *path) {
  int fd = (int)syscall(SYS_OPEN_TREE, AT_FDCWD, path, TREE_CLONE | O_CLOEXEC | RECURSIVE);
  if (fd < 0) die("namespaces", path, "open_tree failed");
  return fd;
}

static void make_parents(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    if (mkdir(path, 0755) != 0 && errno != EEXIST) die("namespaces", path, "mkdir in the new root");
    *slash = '/';
  }
}

// Attaches a cloned tree under the same name in the new root.
static void show_read_only(int tree, const char *path, uint64_t attributes) {
  char target[4096 + sizeof STAGE];
  struct stat st;
  snprintf(target, sizeof target, STAGE "%s", path);
  make_parents(target);
  if (fstat(tree, &st) != 0) die("namespaces", path, "");
  if (S_ISDIR(st.st_mode)) mkdir(target, 0755);
  else close(open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
  set_attributes(tree, "", AT_EMPTY_PATH | RECURSIVE, attributes);
  if (syscall(SYS_MOVE_MOUNT, tree, "", AT_FDCWD, target, MOVE_FROM_EMPTY_PATH) != 0) die("namespaces", path, "move_mount failed");
  close(tree);
}

static void mount_scratch(const struct cage *cage) {
  char options[128];
  uid_t uid = cage->user_namespace ? 1000 : cage->uid;
  snprintf(options, sizeof options, SCRATCH_LIMITS ",uid=%u,gid=%u", (unsigned)uid, (unsigned)(cage->user_namespace ? 1000 : cage->gid));
  if (mkdir(STAGE BOX, 0700) != 0 || mount("tmpfs", STAGE BOX, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) != 0) die("namespaces", BOX, "mounting the scratch tmpfs");
}

static void forbid_the_host_name(void) {
  static const char name[] = "sandbox";
  if (sethostname(name, sizeof name - 1) != 0 || setdomainname("", 0) != 0) die("namespaces", "host name", "");
}

// An empty root: read-only what the interpreter needs, /dev/null, one small tmpfs to work in. No /proc, no /tmp, no /etc.
static void hide_filesystem(const struct cage *cage) {
  int trees[256], count = 0;
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) die("namespaces", "making mounts private", "");
  int null = clone_tree("/dev/null");
  for (; cage->read[count] != NULL && count < 256; count++) trees[count] = clone_tree(cage->read[count]);
  if (mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1048576,nr_inodes=4096,mode=755") != 0) die("namespaces", "mounting the new root", "");
  for (int i = 0; i < count; i++) show_read_only(trees[i], cage->read[i], ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV);
  show_read_only(null, "/dev/null", ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC);
  for (int i = 0; cage->links[i] != NULL; i += 2) {
    char path[4096 + sizeof STAGE];
    snprintf(path, sizeof path, STAGE "%s", cage->links[i + 1]);
    make_parents(path);
    if (symlink(cage->links[i], path) != 0 && errno != EEXIST) die("namespaces", path, "symlink in the new root");
  }
  mount_scratch(cage);
  if (chdir(STAGE) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0) die("namespaces", "pivot_root", "");
  set_attributes(AT_FDCWD, "/", 0, ATTR_RDONLY | ATTR_NOEXEC);
  if (chdir(BOX) != 0) die("namespaces", BOX, "");
}

static void go_where_it_works(const struct cage *cage) {
  if (cage->namespaces) return;
  if (chdir(cage->scratch != NULL ? cage->scratch : "/") != 0) die("process", "working directory", "");
}

// ── 4. privileges ──────────────────────────────────────────────────────────────────────────────────────────────────

static void forbid_identity_of_root(const struct cage *cage) {
  if (!cage->privileged) return;
  if (setgroups(0, NULL) != 0 || setresgid(cage->gid, cage->gid, cage->gid) != 0 || setresuid(cage->uid, cage->uid, cage->uid) != 0)
    die("process", "leaving root", "The launcher needs CAP_SETUID and CAP_SETGID when started as root");
}

// note: without CAP_SETPCAP the bounding set stays as it is; no_new_privs below makes it useless.
static void forbid_regaining_capabilities(void) {
  for (int capability = 0; capability < 64; capability++)
    if (prctl(PR_CAPBSET_DROP, capability) != 0 && errno != EINVAL && errno != EPERM) die("capabilities", "bounding set", "");
}

static void forbid_capabilities(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (syscall(SYS_capset, &header, none) != 0) die("capabilities", "capset", "");
}

static void forbid_new_privileges(void) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) die("process", "no_new_privs", "");
}

// ── 5. files and sockets a second time: Landlock ───────────────────────────────────────────────────────────────────

#define READ_FILE (1ull << 2)
#define READ_DIR (1ull << 3)
#define EXECUTE (1ull << 0)
#define WRITE_FILE (1ull << 1)
#define TRUNCATE (1ull << 14)
// write, read, list, remove, make directories and plain files, refer, truncate; no devices, sockets, fifos, links, exec
#define WORK (WRITE_FILE | READ_FILE | READ_DIR | 1ull << 4 | 1ull << 5 | 1ull << 7 | 1ull << 8 | 1ull << 13 | TRUNCATE)

struct ruleset { uint64_t files, net, scoped; };

// What each ABI version can forbid. Index: the version, the last entry stands for all later ones.
static const struct ruleset handled[] = {
  {0, 0, 0},
  {(1ull << 13) - 1, 0, 0}, {(1ull << 14) - 1, 0, 0}, {(1ull << 15) - 1, 0, 0},   // refer; truncate
  {(1ull << 15) - 1, 3, 0}, {(1ull << 16) - 1, 3, 0}, {(1ull << 16) - 1, 3, 3},   // tcp; ioctl on devices; abstract sockets and signals
};
#define NEWEST_ABI ((int)(sizeof handled / sizeof handled[0]) - 1)

static void allow_beneath(int ruleset, const char *path, uint64_t rights, uint64_t known) {
  struct __attribute__((packed)) { uint64_t rights; int32_t parent; } rule;
  struct stat st;
  rule.parent = open(path, O_PATH | O_CLOEXEC);
  if (rule.parent < 0 || fstat(rule.parent, &st) != 0) die("landlock", path, "");
  if (!S_ISDIR(st.st_mode)) rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
  rule.rights = rights & known;
  if (syscall(SYS_LANDLOCK_ADD, ruleset, 1, &rule, 0) != 0) die("landlock", path, "");
  close(rule.parent);
}

static void forbid_paths_and_sockets(const struct cage *cage) {
  long abi = syscall(SYS_LANDLOCK_CREATE, NULL, 0, 1);
  if (abi < 1) die("landlock", "landlock_create_ruleset", "Landlock needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK and 'landlock' in the lsm= list");
  struct ruleset rules = handled[abi < NEWEST_ABI ? abi : NEWEST_ABI];
  size_t size = abi < 4 ? 8 : abi < 6 ? 16 : 24;
  int fd = (int)syscall(SYS_LANDLOCK_CREATE, &rules, size, 0);
  if (fd < 0) die("landlock", "landlock_create_ruleset", "");
  for (int i = 0; cage->read[i] != NULL; i++) allow_beneath(fd, cage->read[i], READ_FILE | READ_DIR | EXECUTE, rules.files);
  allow_beneath(fd, "/dev/null", READ_FILE | WRITE_FILE | TRUNCATE, rules.files);
  if (cage->namespaces) allow_beneath(fd, BOX, WORK, rules.files);
  else if (cage->scratch != NULL) allow_beneath(fd, cage->scratch, WORK, rules.files);
  if (syscall(SYS_LANDLOCK_RESTRICT, fd, 0) != 0) die("landlock", "landlock_restrict_self", "");
  close(fd);
}

// ── 6. eating the machine ──────────────────────────────────────────────────────────────────────────────────────────

static void limit(int resource, rlim_t value, const char *name) {
  struct rlimit now, wanted;
  if (getrlimit(resource, &now) != 0) die("rlimits", name, "");
  if (now.rlim_max < value) value = now.rlim_max;      // a limit already lower stays
  wanted.rlim_cur = wanted.rlim_max = value;
  if (setrlimit(resource, &wanted) != 0) die("rlimits", name, "");
}

// note: RLIMIT_CORE 1 and not 0: with a pipe as core_pattern the kernel ignores 0 and skips the handler at 1.
static void forbid_eating_the_machine(const struct cage *cage) {
  limit(RLIMIT_AS, (rlim_t)cage->memory_bytes, "RLIMIT_AS");
  limit(RLIMIT_DATA, (rlim_t)cage->memory_bytes, "RLIMIT_DATA");
  limit(RLIMIT_CPU, (rlim_t)cage->cpu_seconds, "RLIMIT_CPU");
  limit(RLIMIT_STACK, 8 << 20, "RLIMIT_STACK");
  limit(RLIMIT_FSIZE, LARGEST_FILE, "RLIMIT_FSIZE");
  limit(RLIMIT_NPROC, 1, "RLIMIT_NPROC");
  limit(RLIMIT_CORE, 1, "RLIMIT_CORE");
  limit(RLIMIT_MEMLOCK, 0, "RLIMIT_MEMLOCK");
  limit(RLIMIT_MSGQUEUE, 0, "RLIMIT_MSGQUEUE");
  limit(RLIMIT_SIGPENDING, 64, "RLIMIT_SIGPENDING");
  limit(RLIMIT_RTPRIO, 0, "RLIMIT_RTPRIO");
  limit(RLIMIT_NICE, 0, "RLIMIT_NICE");
}

// ── 7. system calls ────────────────────────────────────────────────────────────────────────────────────────────────

static void forbid_system_calls(uint32_t self) {
  static struct cage_filter filter;
  if (compile_filter(&filter, CAGE_NATIVE_ARCH, CAGE_START, self) != 0) die("seccomp", "the policy is too long", "");
  struct sock_fprog program = {.len = filter.length, .filter = filter.code};
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) die("seccomp", "PR_SET_SECCOMP", "The kernel needs CONFIG_SECCOMP_FILTER");
}

// The second filter travels as hexadecimal text in the last argument; the interpreter installs it when it is warm.
static char *second_filter(const struct cage *cage, uint32_t self) {
  static struct cage_filter filter;
  static char text[sizeof filter.code * 2 + 1];
  if (cage->seal == NULL) return text;
  if (compile_filter(&filter, CAGE_NATIVE_ARCH, strcmp(cage->seal, "sealed") == 0 ? CAGE_SEALED : CAGE_RUN, self) != 0) die("seccomp", "the policy is too long", "");
  const unsigned char *bytes = (const unsigned char *)filter.code;
  for (size_t i = 0; i < filter.length * sizeof filter.code[0]; i++) {
    text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
    text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
  }
  return text;
}

// ── 8. another program ─────────────────────────────────────────────────────────────────────────────────────────────

// Moves the interpreter's file to a number above the limit on descriptors that is set here: execveat is allowed on that number alone,
// closes it, and nobody can make it again. note: with an absolute path the kernel ignores the number; the second filter, which is in
// force before the first line of the program, refuses execveat whatever its arguments are.
static void forbid_a_second_exec(const struct cage *cage, int python) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) die("rlimits", "RLIMIT_NOFILE", "");
  if (files.rlim_cur <= CAGE_EXEC_FD) {
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) die("rlimits", "RLIMIT_NOFILE", "");
  }
  if (dup3(python, CAGE_EXEC_FD, O_CLOEXEC) < 0) die("process", "descriptor 1000", "The limit on open files must be above 1000");
  close(python);
  if (cage->rlimits) limit(RLIMIT_NOFILE, 64, "RLIMIT_NOFILE");
}

_Noreturn void close_cage(struct cage *cage, int launcher_alive_fd) {
  uid_t uid = getuid();
  gid_t gid = getgid();
  forbid_outliving_the_launcher(launcher_alive_fd);
  if (cage->user_namespace) {
    uid = cage->uid;
    gid = cage->gid;
    forbid_other_users(uid, gid);
  }
  if (cage->namespaces) {
    forbid_the_host_name();
    hide_filesystem(cage);
  }
  if (cage->capabilities) forbid_regaining_capabilities();
  forbid_identity_of_root(cage);
  if (cage->capabilities) forbid_capabilities();
  forbid_new_privileges();
  forbid_outliving_the_launcher(launcher_alive_fd);
  go_where_it_works(cage);
  int python = open(cage->python, O_PATH | O_CLOEXEC);
  if (python < 0) die("process", cage->python, "The interpreter can't be read by the user of the cage");
  if (cage->landlock) forbid_paths_and_sockets(cage);
  uint32_t self = (uint32_t)getpid();
  int last = 0;
  while (cage->argv[last] != NULL) last++;
  cage->argv[last] = second_filter(cage, self);
  forbid_a_second_exec(cage, python);
  if (cage->rlimits) forbid_eating_the_machine(cage);
  if (cage->seccomp) forbid_system_calls(self);
  syscall(SYS_execveat, CAGE_EXEC_FD, "", cage->argv, environ, AT_EMPTY_PATH);
  die("process", "starting the interpreter", "");
}
