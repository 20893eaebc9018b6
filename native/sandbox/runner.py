# What the caged interpreter runs: warm up, install the second filter, take one request, answer it, end.
# Descriptors: 0 /dev/null, 1 and 2 the program's output, 3 the request, 4 the answers. Arguments: "warm" or "cold",
# "files" or "sealed" or "off", extra import paths joined by ":", a memory limit where no launcher sets one, the second
# filter in hexadecimal.
#
# note: the program runs in this very process and can do to it whatever it likes. Nothing here protects the host; what
# is said on descriptor 4 is only what the program says. The care below is for honest programs that go wrong.
import builtins
import posix
import sys
import time
from io import FileIO, BufferedWriter, TextIOWrapper

PRELOADED = ('abc argparse array ast base64 binascii bisect calendar cmath codecs collections collections.abc colorsys contextlib copy csv ctypes '
             'dataclasses datetime decimal difflib enum errno fractions functools glob hashlib heapq inspect io itertools json keyword linecache locale '
             'logging math numbers operator os os.path pathlib pprint queue random re shutil signal statistics string struct tempfile textwrap threading '
             'time timeit traceback types typing unicodedata warnings weakref zlib')
SEALED_ALSO = ('asyncio bz2 cProfile cmd code concurrent.futures configparser contextvars copyreg doctest encodings.ascii encodings.idna '
               'encodings.latin_1 encodings.raw_unicode_escape encodings.unicode_escape encodings.utf_16 encodings.utf_32 fnmatch gettext graphlib '
               'fcntl gzip hmac importlib.resources html html.parser ipaddress lzma mmap multiprocessing optparse pickle platform plistlib quopri reprlib resource sched secrets select '
               'selectors shelve shlex socket sqlite3 ssl stringprep subprocess symtable token tokenize tomllib trace tracemalloc unittest '
               'unittest.mock urllib.parse urllib.request uuid xml.etree.ElementTree zipfile zoneinfo _strptime _pydecimal')
FRESH_MAIN = type(sys)


class Output(TextIOWrapper):
    """
    Keeps partial output when the program is killed, without a system call for each of very many lines: after a thousand, lines of the
    last 10 ms wait for the next one.
    """

    def __init__(self, descriptor):
        super().__init__(BufferedWriter(FileIO(descriptor, 'w', closefd=False)), encoding='utf-8', errors='backslashreplace', write_through=False)
        self._lines, self._flushed = 0, 0.0

    def write(self, text, now=time.monotonic):
        written = super().write(text)
        if '\n' in text:
            self._lines += 1
            if self._lines < 1000 or now() - self._flushed > 0.01:
                self.flush()
                self._flushed = now()
        return written


def install_second_filter(code):
    import _ctypes
    # struct sock_fprog: the number of instructions and, aligned, where they are: the bytes of a bytes object
    program = (len(code) // 8).to_bytes(8, 'little') + (id(code) + bytes.__basicsize__ - 1).to_bytes(8, 'little')
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), 'prctl')
    if _ctypes.call_function(prctl, (22, 2, program)) != 0:      # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError('the second filter was refused')


def preload(names):
    for name in names.split():
        try:
            __import__(name)
        except Exception:                                        # not in every version or build
            pass


def prefer_pipes_in_asyncio():
    """asyncio wakes itself through a socket pair, which the cage has not; a pipe does the same."""
    find_spec_in_files = sys.modules['_frozen_importlib_external'].PathFinder.find_spec

    class End:
        def __init__(self, descriptor): self.descriptor = descriptor; posix.set_blocking(descriptor, False)
        def fileno(self): return self.descriptor
        def recv(self, size): return posix.read(self.descriptor, size)
        def send(self, data): return posix.write(self.descriptor, data)
        def close(self): posix.close(self.descriptor)

    def make_self_pipe(loop):
        reader, writer = posix.pipe()
        loop._ssock, loop._csock = End(reader), End(writer)
        loop._internal_fds += 1
        loop._add_reader(reader, loop._read_from_self)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != 'asyncio.selector_events':
                return None
            spec = find_spec_in_files(name, path)
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                module.BaseSelectorEventLoop._make_self_pipe = make_self_pipe
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Finder)


def limit_memory(memory):
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ValueError, OSError):                                # macOS has no such limit
        pass


def say_no_clearly():
    """Python turns some refusals into odd numbers; a program, and the model that wrote it, should see an exception."""
    from _signal import getsignal
    own, exit_now, real_kill = posix.getpid(), posix._exit, posix.kill
    fatal = {1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

    def system(command):
        raise PermissionError(1, 'Operation not permitted in the sandbox')

    def kill(pid, number):
        if pid != own:
            raise PermissionError(1, 'Operation not permitted in the sandbox')
        if number in fatal and getsignal(number) == 0:           # as process 1 it would be immune
            exit_now(128 + number)
        real_kill(pid, number)
    posix.system, posix.kill = system, kill                      # before os copies them


def read_exactly(descriptor, count):
    data = bytearray()
    while len(data) < count:
        more = posix.read(descriptor, min(count - len(data), 65536))
        if not more:
            posix._exit(0)                                       # the host closed: not needed any more
        data += more
    return bytes(data)


def cut(text, limit):
    """The UTF-8 of a text, its middle left out when it is longer than the limit; and whether it was."""
    data = text.encode('utf-8', 'backslashreplace')
    if len(data) <= limit:
        return data, 0
    head, tail = data[:limit - limit // 4].decode('utf-8', 'ignore').encode(), data[len(data) - limit // 4:].decode('utf-8', 'ignore').encode()
    return head + b'\n[... %d bytes left out ...]\n' % (len(data) - len(head) - len(tail)) + tail, 1


def describe(error):
    name = type(error).__name__
    try:
        message = str(error)
    except BaseException:
        message = '<exception str() failed>'
    return name + ': ' + message if message else name


def execute(source, limit, Expr, Expression):
    """Runs the program in a fresh __main__. Returns kind, exit status, truncated, text."""
    main = sys.modules['__main__'] = FRESH_MAIN('__main__')
    scope = main.__dict__
    scope['__builtins__'] = builtins
    reserve = bytearray(1 << 20)                                 # so that running out of memory can still be told
    try:
        tree = compile(source, '<unknown>', 'exec', 0x400, True)     # PyCF_ONLY_AST
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        exec(compile(tree, '<unknown>', 'exec', 0, True), scope)
        value = None if last is None else eval(compile(Expression(last.value), '<unknown>', 'eval', 0, True), scope)
        if value is None:
            return b'N', 0, 0, b''
        text, truncated = cut(str(value), limit)
        return b'V', 0, truncated, text
    except SystemExit as error:
        status = error.code
        if status is None or status == 0:
            return b'N', 0, 0, b''
        text, truncated = cut(describe(error), limit)
        return b'E', status & 255 if isinstance(status, int) else 1, truncated, text
    except BaseException as error:
        del reserve
        kind = b'M' if isinstance(error, MemoryError) else b'E'
        text, truncated = cut(describe(error), limit)
        error.__traceback__ = error.__context__ = None
        return kind, 1, truncated, text


def serve():
    how, where, paths, memory, seal = sys.argv[1:6]
    sys.argv[:] = ['']
    sys.path[:] = [path for path in sys.path if path] + [path for path in paths.split(':') if path] + ([] if where == 'sealed' else [''])
    if hasattr(sys, 'set_int_max_str_digits'):
        sys.set_int_max_str_digits(0)                            # the time limit bounds it
    if where == 'off':
        limit_memory(int(memory))
    else:
        say_no_clearly()
        prefer_pipes_in_asyncio()
    if how == 'warm':
        preload(PRELOADED)
    if where == 'sealed':
        preload(SEALED_ALSO)
    output, errors = Output(1), Output(2)
    sys.stdout = sys.__stdout__ = output
    sys.stderr = sys.__stderr__ = errors
    if seal:
        install_second_filter(bytes.fromhex(seal))
    posix.write(4, b'R')
    from _ast import Expr, Expression                            # takes a millisecond, while the host sends the request
    limit, seeded, seed, size = (int.from_bytes(read_exactly(3, 4), 'little') for _ in range(4))
    source = read_exactly(3, size).decode('utf-8').lstrip('\ufeff')   # text: what it says of its own encoding does not count
    posix.close(3)
    if seeded:
        import random
        random.seed(seed)
    kind, status, truncated, text = execute(source, limit, Expr, Expression)
    for stream in (output, errors):
        try:
            stream.flush()
        except BaseException:
            pass
    frame = kind + bytes((status, truncated)) + text
    frame = len(frame).to_bytes(4, 'little') + frame
    while frame:
        frame = frame[posix.write(4, frame):]
    posix._exit(status)


serve()
