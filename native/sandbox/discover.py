# What an interpreter needs to see in order to run, found out by asking it: printed as one line of JSON. Runs outside the
# cage, before any code of a model, as `python3 -I -S discover.py runner.py`.
import json
import marshal
import os
import sys
import sysconfig

LIBRARY_ROOTS = ('/lib', '/lib64', '/lib32', '/libx32', '/usr/lib', '/usr/lib64', '/usr/local/lib', '/usr/local/lib64')
LOADERS = ('/lib64/ld-linux-x86-64.so.2', '/lib/ld-linux-aarch64.so.1', '/lib/ld-musl-x86_64.so.1', '/lib/ld-musl-aarch64.so.1')
DATA = ('/etc/ld.so.cache', '/usr/share/zoneinfo', '/usr/lib/locale/C.utf8', '/usr/lib/locale/C.UTF-8')
NOT_NEEDED = ('_tkinter', '_test', 'xx', 'readline', '_curses', '_dbm', '_gdbm', 'ossaudiodev', 'nis')

reads, links = set(), {}


def resolve(path):
    """The real path; every symbolic link met on the way is noted, since the cage has to have it too."""
    done, rest = '', [part for part in path.split('/') if part]
    while rest:
        part = rest.pop(0)
        here = done + '/' + part
        if part == '..':
            done = os.path.dirname(done)
        elif part != '.' and os.path.islink(here):
            target = links[here] = os.readlink(here)
            rest = [p for p in target.split('/') if p] + rest
            if target.startswith('/'):
                done = ''
        elif part != '.':
            done = here
    return done or '/'


def show(path):
    if path and os.path.isabs(path) and os.access(path, os.R_OK):
        reads.add(resolve(path))


def load_extensions():
    """Loads what the standard library may load later, so that the shared libraries show up in the memory map."""
    folder = sysconfig.get_config_var('DESTSHARED') or ''
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        module = name.split('.')[0]
        if name.endswith('.so') and not module.startswith(NOT_NEEDED):
            try:
                __import__(module)
            except Exception:
                pass


def show_libraries():
    """System library folders as a whole; elsewhere only the libraries themselves and the links that name them."""
    if not os.path.exists('/proc/self/maps'):
        return                                                   # no Linux, no cage
    with open('/proc/self/maps') as maps:
        mapped = {line.split(None, 5)[5].rstrip('\n') for line in maps if line.count(' ') > 4 and ' /' in line}
    for library in mapped:
        folder = os.path.dirname(library)
        if '.so' not in os.path.basename(library) or any(library.startswith(path + '/') for path in reads):
            continue
        if any(folder == root or folder.startswith(root + '/') for root in LIBRARY_ROOTS):
            show(folder)
            continue
        show(library)
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.islink(path) and os.path.realpath(path) == library:
                resolve(path)


def main():
    executable = os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)
    load_extensions()
    for key in ('stdlib', 'platstdlib'):
        folder = sysconfig.get_path(key, vars={'base': sys.base_prefix, 'platbase': sys.base_exec_prefix})
        show(folder)
    for path in sys.path:
        show(path)
    show(executable)
    for path in LOADERS + DATA:
        show(path)
    for path in LIBRARY_ROOTS:
        resolve(path)
    show_libraries()
    folders = sorted(path for path in reads if os.path.isdir(path))
    needed = sorted(path for path in reads if not any(path.startswith(folder + '/') for folder in folders))
    covered = [path for path in links if any(path.startswith(folder + '/') for folder in folders)]
    with open(sys.argv[1], encoding='utf-8') as file:
        runner = marshal.dumps(compile(file.read(), '<runner>', 'exec', 0, True, 2)).hex()
    print(json.dumps({
        'implementation': sys.implementation.name, 'version': '%d.%d.%d' % sys.version_info[:3], 'executable': executable,
        'home': sys.base_prefix if sys.base_prefix == sys.base_exec_prefix else sys.base_prefix + ':' + sys.base_exec_prefix,
        'reads': needed, 'links': [[links[path], path] for path in sorted(links) if path not in covered], 'runner': runner}))


main()
