/* Keeps the glibc floor low: for each listed function a hidden symbol of our own shadows the version that a new linker
 * would pick and jumps to the oldest version, which every glibc still exports. The jump knows no prototype.
 * note: never compile this file with -flto, the asm symbols would be lost. */
#if defined(__linux__)
#include <features.h>
#endif
#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))

#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#define JUMP(name) "endbr64\n jmp *oldest_" #name "@GOTPCREL(%rip)\n"
#else
#define OLDEST "GLIBC_2.17"
#define JUMP(name) "hint 34\n adrp x16, :got:oldest_" #name "\n ldr x16, [x16, :got_lo12:oldest_" #name "]\n br x16\n"
#endif

#define USE_OLDEST(name)                                                                                     \
  __asm__(".pushsection .text.oldest." #name ",\"ax\",%progbits\n"                                           \
          ".symver oldest_" #name "," #name "@" OLDEST "\n"                                                  \
          ".globl " #name "\n.hidden " #name "\n.type " #name ",%function\n" #name ":\n" JUMP(name)          \
          ".size " #name ",.-" #name "\n.popsection\n");

#if defined(NANOCHAT_EXECUTABLE)
USE_OLDEST(__libc_start_main)
#else
#include <time.h>

USE_OLDEST(dlopen) USE_OLDEST(dlsym) USE_OLDEST(dlclose) USE_OLDEST(dlerror) USE_OLDEST(dladdr)
USE_OLDEST(pthread_create) USE_OLDEST(pthread_join) USE_OLDEST(pthread_detach) USE_OLDEST(pthread_once)
USE_OLDEST(pthread_key_create) USE_OLDEST(__pthread_key_create) USE_OLDEST(pthread_key_delete)
USE_OLDEST(pthread_getspecific) USE_OLDEST(pthread_setspecific)
USE_OLDEST(pthread_mutex_trylock) USE_OLDEST(pthread_mutexattr_init) USE_OLDEST(pthread_mutexattr_settype) USE_OLDEST(pthread_mutexattr_destroy)
USE_OLDEST(pthread_rwlock_rdlock) USE_OLDEST(pthread_rwlock_wrlock) USE_OLDEST(pthread_rwlock_unlock)
USE_OLDEST(exp) USE_OLDEST(exp2) USE_OLDEST(log) USE_OLDEST(log2) USE_OLDEST(pow)

#if defined(NANOCHAT_CUDA_LIBRARY) && defined(__x86_64__) /* wanted by the static CUDA runtime */
USE_OLDEST(dlvsym) USE_OLDEST(pthread_kill) USE_OLDEST(shm_open) USE_OLDEST(shm_unlink)
USE_OLDEST(pthread_spin_init) USE_OLDEST(pthread_spin_destroy) USE_OLDEST(pthread_spin_lock) USE_OLDEST(pthread_spin_trylock) USE_OLDEST(pthread_spin_unlock)
USE_OLDEST(pthread_rwlock_init) USE_OLDEST(pthread_rwlock_destroy) USE_OLDEST(pthread_rwlock_tryrdlock) USE_OLDEST(pthread_rwlock_trywrlock)
USE_OLDEST(pthread_rwlock_timedrdlock) USE_OLDEST(pthread_rwlock_timedwrlock) USE_OLDEST(pthread_rwlockattr_init) USE_OLDEST(pthread_rwlockattr_destroy)
USE_OLDEST(pthread_rwlockattr_setpshared) USE_OLDEST(pthread_mutexattr_setpshared) USE_OLDEST(pthread_condattr_setpshared)
USE_OLDEST(sem_init) USE_OLDEST(sem_destroy) USE_OLDEST(sem_post) USE_OLDEST(sem_wait) USE_OLDEST(sem_trywait) USE_OLDEST(sem_timedwait)
#undef OLDEST
#define OLDEST "GLIBC_2.3.4"
USE_OLDEST(dlmopen)
#undef OLDEST
#define OLDEST "GLIBC_2.2.5"
#endif

/* glibc 2.33: fstat was an inline call of __fxstat with the number of the struct's layout.
 * note: prototypes of our own, because sys/stat.h renames fstat where files are 64-bit. */
#if defined(__x86_64__)
#define STAT_VERSION 1
#else
#define STAT_VERSION 0
#endif
int oldest_fxstat(int version, int fd, void* info);
__asm__(".symver oldest_fxstat,__fxstat@" OLDEST);
__attribute__((visibility("hidden"))) int fstat(int fd, void* info);
__attribute__((visibility("hidden"))) int fstat64(int fd, void* info);
int fstat(int fd, void* info) { return oldest_fxstat(STAT_VERSION, fd, info); }
int fstat64(int fd, void* info) { return oldest_fxstat(STAT_VERSION, fd, info); }

/* glibc 2.30, wanted by std::condition_variable::wait_for: waits on the realtime clock instead. */
int pthread_cond_timedwait(void* cond, void* mutex, const struct timespec* deadline);
__attribute__((visibility("hidden"))) int pthread_cond_clockwait(void* cond, void* mutex, clockid_t clock, const struct timespec* deadline);
int pthread_cond_clockwait(void* cond, void* mutex, clockid_t clock, const struct timespec* deadline) {
  struct timespec now, real, until = *deadline;
  if (clock != CLOCK_REALTIME) {
    clock_gettime(clock, &now);
    clock_gettime(CLOCK_REALTIME, &real);
    until.tv_sec += real.tv_sec - now.tv_sec;
    until.tv_nsec += real.tv_nsec - now.tv_nsec;
    while (until.tv_nsec < 0) { until.tv_nsec += 1000000000L; until.tv_sec--; }
    while (until.tv_nsec >= 1000000000L) { until.tv_nsec -= 1000000000L; until.tv_sec++; }
  }
  return pthread_cond_timedwait(cond, mutex, &until);
}

/* glibc 2.32: 0 says "may have threads", so libstdc++ uses atomics. */
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
#endif
#endif

typedef int translation_unit_is_not_empty;
