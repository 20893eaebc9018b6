# Runs a program in an environment poorer than this machine, made with a seccomp filter of its own:
#   deny.py [namespaces] [landlock] [seccomp] -- program arguments
# namespaces: as Docker's default profile refuses them. landlock: as a kernel without it. seccomp: as a kernel without it.
import ctypes
import os
import platform
import struct
import sys

ALLOW, KILL = 0x7fff0000, 0x80000000
x86 = platform.machine() == 'x86_64'
NUMBERS = {'clone': 56, 'clone3': 435, 'unshare': 272, 'mount': 165, 'prctl': 157, 'seccomp': 317} if x86 else {'clone': 220, 'clone3': 435, 'unshare': 97, 'mount': 40, 'prctl': 167, 'seccomp': 277}
NAMESPACES = 0x7e020000


def insn(code, jt, jf, k): return struct.pack('<HBBI', code, jt, jf, k)
def errno(number): return insn(6, 0, 0, 0x50000 | number)


def deny(number, error): return insn(0x15, 0, 1, number) + errno(error)


def deny_if(number, argument, test, value, error):
    return insn(0x15, 0, 4, number) + insn(0x20, 0, 0, 16 + 8 * argument) + insn(test, 0, 1, value) + errno(error) + insn(0x20, 0, 0, 0)


split = sys.argv.index('--')
code = insn(0x20, 0, 0, 0)
for layer in sys.argv[1:split]:
    if layer == 'namespaces':
        code += deny_if(NUMBERS['clone'], 0, 0x45, NAMESPACES, 1) + deny(NUMBERS['clone3'], 38) + deny(NUMBERS['unshare'], 1) + deny(NUMBERS['mount'], 1)
    if layer == 'landlock':
        code += deny(444, 38)
    if layer == 'seccomp':
        code += deny_if(NUMBERS['prctl'], 0, 0x15, 22, 22) + deny(NUMBERS['seccomp'], 22)
code += insn(6, 0, 0, ALLOW)
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack('<HxxxxxxQ', len(code) // 8, ctypes.addressof(buffer))
if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program) != 0:
    sys.exit('deny.py: the filter was refused: ' + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[split + 1], sys.argv[split + 1:])
