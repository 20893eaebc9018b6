// alone: its programs have deadlines and its checks look at every process
// Programs of the catalogue's kinds that are not in it, in the two tiers with files.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox } from '../lib/python.js'
import { findCage, type CagePlan } from '../lib/sandbox-tier.js'
import { Host, type Case } from './support/sandbox-catalogue.js'

const call = `
import ctypes, os, signal, errno, sys, platform
_l = ctypes.CDLL(None, use_errno=True)
def attempt(what, action, bad=lambda r: True):
    try: r = action()
    except BaseException as e: print("BLOCKED", what, type(e).__name__, e, flush=True); return
    print(("ESCAPED" if bad(r) else "BLOCKED"), what, r, flush=True)
def sc(nr, *a):
    ctypes.set_errno(0)
    return _l.syscall(ctypes.c_long(nr), *[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
ok = lambda r: isinstance(r, int) and r >= 0
`
const programs: [id: string, expect: Case['expect'], code: string][] = [
  ['ptrace_traceme', 'blocked', 'attempt("traceme", lambda: sc(101, 0, 0, 0, 0), ok)'],
  ['process_vm_self', 'blocked', 'attempt("vm", lambda: sc(310, os.getpid(), 0, 0, 0, 0, 0), ok)'],
  ['userfaultfd', 'blocked', 'attempt("uffd", lambda: sc(323, 1), ok)'],
  ['setns', 'blocked', 'attempt("setns", lambda: sc(308, 0, 0), ok)'],
  ['clone3', 'blocked', 'attempt("clone3", lambda: sc(435, 0, 0), ok)'],
  ['clone_high_bits', 'blocked', 'r = sc(56, 0x1_0000_0011, 0, 0, 0, 0)\nif r == 0: os._exit(0)\nattempt("clone", lambda: r, ok)'],
  ['memfd_exec', 'blocked', 'attempt("memfd", lambda: sc(319, b"x", 0), ok)'],
  ['kill_group', 'blocked', 'attempt("killpg", lambda: sc(62, 0, 0), ok)\nattempt("kill -1", lambda: sc(62, -1, 0), ok)\nattempt("tgkill", lambda: sc(234, {CANARY_PID}, {CANARY_PID}, 0), ok)\nattempt("sigqueue", lambda: sc(129, {CANARY_PID}, 0, 0), ok)'],
  ['setrlimit', 'blocked', 'import resource\nattempt("raise", lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)))\nattempt("same", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))'],
  ['prctl_seccomp', 'blocked', 'attempt("filter", lambda: sc(157, 22, 2, 0, 0, 0), lambda r: r == 0 or ctypes.get_errno() == 14)\nattempt("pdeathsig", lambda: sc(157, 1, 0, 0, 0, 0), ok)'],
  ['ioctl_high_bits', 'blocked', 'b = ctypes.c_char(b"x")\nfor fd in (0, 1, 2): attempt("TIOCSTI", lambda: sc(16, fd, 0x1_0000_5412, ctypes.byref(b)), ok)\nattempt("TIOCLINUX", lambda: sc(16, 0, 0x541c, 0), ok)'],
  ['mmap_write_exec', 'blocked', 'attempt("wx", lambda: sc(9, 0, 4096, 7, 0x22, -1, 0), lambda r: r > 0)\nattempt("pkey", lambda: sc(329, 0, 0, 5, 0), ok)\nattempt("remap", lambda: sc(216, 0, 0, 0, 0, 0), ok)'],
  ['reboot_modules', 'blocked', 'attempt("reboot", lambda: sc(169, 0, 0, 0, 0), ok)'],
  ['setuid', 'blocked', 'attempt("setuid", lambda: os.setuid(0))\nattempt("setresuid", lambda: sc(117, 0, 0, 0), ok)\nattempt("setgroups", lambda: os.setgroups([0]))\nattempt("capset", lambda: sc(126, 0, 0), ok)'],
  ['threads_processes', 'bounded', 'import threading\nattempt("thread", lambda: threading.Thread(target=print).start())\nimport multiprocessing\nattempt("process", lambda: multiprocessing.Process(target=print).start())'],
  ['path_existence', 'blocked', 'attempt("exists", lambda: os.path.exists("{CANARY_FILE}"), lambda r: r and os.getppid() == 0)\nprint("BLOCKED")'],
  ['deep_tree', 'any', 'for i in range(3000):\n    os.mkdir("d"); os.chdir("d")\nprint("made")'],
  ['many_inodes', 'blocked', 'n = 0\ntry:\n    for i in range(20000): open("f%d" % i, "w").close(); n += 1\n    print("ESCAPED", n)\nexcept OSError as e: print("BLOCKED", n, e)'],
  ['file_locks', 'blocked', 'import fcntl\nf = open(os.__file__)\nattempt("flock", lambda: fcntl.flock(f, fcntl.LOCK_EX))\nattempt("lockf", lambda: fcntl.lockf(f, fcntl.LOCK_SH))\nattempt("lease", lambda: fcntl.fcntl(f, 1024, 0))\nattempt("notify", lambda: fcntl.fcntl(f, 1026, 1))'],
  ['leaked_descriptors', 'blocked', 'seen = []\nfor fd in range(0, 1100):\n    try: os.fstat(fd); seen.append(fd)\n    except OSError: pass\nprint("ESCAPED" if [fd for fd in seen if fd > 4] else "BLOCKED", seen)'],
  ['write_stdlib', 'blocked', 'attempt("write", lambda: open(os.__file__, "a"))\nattempt("unlink", lambda: os.remove(os.__file__))\nattempt("mkdir", lambda: os.mkdir(os.path.dirname(os.__file__) + "/x"))\nattempt("rename", lambda: os.rename(os.__file__, "x"))'],
  ['dev_and_proc', 'blocked', 'for p in ("/proc/self/status", "/proc/1/root", "/sys/kernel", "/dev/mem", "/dev/urandom", "/proc/kcore", "/etc/shadow", "/root/.ssh", "/var/run/docker.sock", "/etc/resolv.conf"): attempt(p, lambda: os.open(p, os.O_RDONLY))'],
  ['symlink_race', 'blocked', 'attempt("symlink", lambda: os.symlink("/etc/passwd", "l"))\nattempt("link", lambda: os.link(os.__file__, "l"))\nattempt("linkat", lambda: sc(265, -100, b"/etc/passwd", -100, b"l", 0x400), ok)'],
  ['openat2', 'blocked', 'h = (ctypes.c_uint64 * 3)(0, 0, 0)\nattempt("openat2", lambda: sc(437, -100, b"/etc/passwd", ctypes.byref(h), 24), ok)'],
  ['dotdot', 'blocked', 'attempt("up", lambda: open("../" * 20 + "etc/passwd"))\nd = os.open(".", os.O_RDONLY)\nattempt("dirfd", lambda: os.open("../../../etc/passwd", os.O_RDONLY, dir_fd=d))\nattempt("fchdir", lambda: (os.fchdir(d), os.chdir(".."), os.listdir("."))[2])'],
  ['sockets', 'blocked', 'import socket\nattempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {CANARY_PORT})))\nattempt("unix", lambda: socket.socket(socket.AF_UNIX))\nattempt("fromfd", lambda: socket.socket(fileno=1))\nattempt("getaddrinfo", lambda: socket.getaddrinfo("example.com", 80))'],
  ['loop', 'timeout', 'while True: pass'],
  ['ignore_signals', 'timeout', 'for n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass'],
  ['itimer_storm', 'timeout', 'signal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)\nwhile True: pass'],
  ['memory_regex', 'bounded', 'import re\nre.match(r"(a*)*b", "a" * 24)'],
  ['memory_string', 'mem', 'x = "a"\nwhile True: x += x'],
  ['abort', 'error', 'os.abort()'],
  ['stack_overflow', 'error', 'sys.setrecursionlimit(10 ** 9)\ndef f(n): return [f(n + 1)]\nf(0)'],
  ['two_frames', 'forge', 'f = lambda t: (len(t) + 3).to_bytes(4, "little") + b"V\\0\\0" + t\nos.write(4, f(b"one") + f(b"two")); os._exit(0)'],
  ['frame_then_flood', 'any', 'os.write(4, (4).to_bytes(4, "little") + b"V\\0\\0x")\nwhile True: os.write(1, b"z" * 65536)'],
  ['half_a_frame', 'error', 'os.write(4, (400).to_bytes(4, "little") + b"V\\0\\0x"); os._exit(0)'],
  ['ready_again', 'any', 'os.write(4, b"R" * 100)\n1'],
  ['mixed_flood', 'bounded', 'while True: os.write(1, b"x" * 40000); os.write(2, b"y" * 40000)'],
  ['slow_drip', 'timeout', 'import time\nwhile True: print("x"); time.sleep(0.05)'],
  ['result_str_hangs', 'timeout', 'class E:\n    def __str__(self):\n        while True: pass\nE()'],
  ['result_str_raises', 'error', 'class E:\n    def __str__(self): raise ValueError("no")\nE()'],
  ['exit_in_thread_and_del', 'any', 'class D:\n    def __del__(self):\n        import time; time.sleep(60)\nd = D()\nsys.modules["keep"] = d\n1'],
  ['deep_parse', 'error', 'eval("(" * 5000 + ")" * 5000)'],
  ['huge_source_value', 'any', '[0] * 10_000_000'],
  ['compile_bomb', 'bounded', 'exec("x=" + "-" * 100000 + "1")'],
  ['sched_and_io', 'blocked', 'attempt("nice", lambda: os.nice(-1))\nattempt("ioprio", lambda: sc(251, 1, 0, 0), ok)\nattempt("syncfs", lambda: sc(306, 1), ok)\nattempt("mlock", lambda: sc(149, 0, 4096), ok)\nattempt("affinity", lambda: os.sched_setaffinity(0, [0]))'],
  ['time_and_host', 'blocked', 'import time\nattempt("settime", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))\nattempt("hostname", lambda: sc(170, b"x", 1), ok)'],
]

for (const tier of ['full', 'container'] as const) {
  const test = suite(`sandbox: more programs in the ${tier} tier`)
  const host = new Host()
  let plan: CagePlan
  test.before(async () => {
    const { plan: found, refusals } = await findCage(undefined, [tier])
    if (!found) throw new Error(`no ${tier} tier on this machine: ${JSON.stringify(refusals)}`)
    plan = found
    await host.open()
  })
  test.after(async () => {
    host.close()
    await closeSandbox()
  })
  for (const [id, expect, code] of programs) {
    // the numbers above are those of x86_64
    if (/\bsc\(/.test(code) && process.arch !== 'x64') { console.log(`not tested on ${process.arch}: ${id}`); continue }
    test(id, async () => { assert.equal(await host.check({ id, cat: 'more', expect, code: call + code, note: '' }, plan), []) })
  }
  test.run()
}
