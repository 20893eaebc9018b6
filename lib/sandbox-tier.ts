import { execFile } from 'node:child_process'
import { accessSync, constants, existsSync, lstatSync, readdirSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, dirname, isAbsolute, join } from 'node:path'
import binding from './binding.cjs'
import { NanochatError } from './errors.js'
import { Cage, CageFailure, type CageSpec } from './sandbox-cage.js'
import { hasSandboxThread, keepAlive, removeTree, startProcess } from './sandbox-process.js'

/** From the strongest to the weakest; all three are real cages. */
export type Tier = 'full' | 'container' | 'sealed'
export const tiers: readonly Tier[] = ['full', 'container', 'sealed']

export type Layer = 'namespaces' | 'landlock' | 'seccomp' | 'seal' | 'rlimits' | 'capabilities'
export const layersOf: Record<Tier, readonly Layer[]> = {
  full: ['namespaces', 'landlock', 'seccomp', 'seal', 'rlimits', 'capabilities'],
  container: ['landlock', 'seccomp', 'seal', 'rlimits', 'capabilities'],
  sealed: ['seccomp', 'seal', 'rlimits', 'capabilities'],
}

/** What an interpreter said about itself (native/sandbox/discover.py). */
export interface Interpreter {
  implementation: string
  version: string
  executable: string
  home: string
  reads: string[]
  links: [target: string, path: string][]
  runner: string                     // the compiled runner, hexadecimal
}

export interface CagePlan {
  tier: Tier
  layers: readonly Layer[]
  interpreter: Interpreter
}

export interface Refusal { tier: Tier, python: string, layer: string, reason: string, mayPass?: boolean }

export interface CageLimits { memoryBytes: number, cpuSeconds: number, readOnlyPaths: readonly string[] }

const launcherName = 'nanochat-sandbox'
let launcher = ''
const bootstrap = "import sys,marshal,builtins;exec(marshal.loads(bytes.fromhex(sys.argv.pop(1))),{'__name__':'runner','__builtins__':dict(vars(builtins))})"
const found = new Map<string, Promise<{ plan: CagePlan | null, refusals: Refusal[] }>>()
const interpreters = new Map<string, Promise<Interpreter>>()

/**
 * The strongest cage that works here, found once by a dry run: the real interpreter in the real cage attempts what must
 * not be possible. Throws ERR_SANDBOX_UNAVAILABLE with every layer that is missing when the best is below `minTier`.
 */
export async function planCage(python: string | undefined, minTier: Tier): Promise<CagePlan> {
  const { plan, refusals } = await findCage(python)
  if (plan && tiers.indexOf(plan.tier) <= tiers.indexOf(minTier)) return plan
  throw unavailable(minTier, plan, refusals)
}

/** The best cage among some tiers and everything that was refused on the way to it. */
export function findCage(python?: string, among: readonly Tier[] = tiers): Promise<{ plan: CagePlan | null, refusals: Refusal[] }> {
  const key = `${among.join()} ${python ?? ''}`
  let search = found.get(key)
  if (!search) {
    found.set(key, search = keepAlive(searchCage(python, among)))
    // a cage that was only too slow to start is looked for again
    void search.then(({ refusals }) => { if (refusals.some(({ mayPass }) => mayPass)) found.delete(key) }, () => found.delete(key))
  }
  return search
}

/** The launcher's command line for one more cage of this plan. */
export function cageSpec(plan: CagePlan, limits: CageLimits, warm: boolean): CageSpec {
  const { interpreter, layers, tier } = plan
  const sealed = tier === 'sealed'
  const scratch = tier === 'container' ? join(tmpdir(), `${scratchPrefix()}${process.pid}-${crypto().randomBytes(6).toString('hex')}`) : null
  const home = tier === 'full' ? '/box' : scratch ?? '/'
  const given = limits.readOnlyPaths.map((path): [real: string, path: string] => [realPath(path), path])
  const reads = [...new Set([...interpreter.reads, ...given.map(([real]) => real)])]
  const links = [...interpreter.links, ...given.filter(([real, path]) => real !== path)]
  const argv = [
    launcherName, '--host', String(process.pid), '--layers', layers.join(','), '--memory', String(limits.memoryBytes), '--cpu', String(limits.cpuSeconds),
    ...layers.includes('seal') ? ['--seal', sealed ? 'sealed' : 'run'] : [], '--python', interpreter.executable,
    ...reads.flatMap((path) => ['--read', path]), ...links.flatMap(([target, path]) => ['--link', target, path]),
    ...scratch === null ? [] : ['--scratch', scratch], '--',
    ...interpreterArguments(interpreter, warm, sealed ? 'sealed' : 'files', limits),
  ]
  return { launcher: launcherPath(), argv, env: cageEnvironment(interpreter, home), scratch }
}

/** argv of the interpreter, up to the second filter that the launcher appends. */
export function interpreterArguments(interpreter: Interpreter, warm: boolean, where: 'files' | 'sealed' | 'off', limits: CageLimits): string[] {
  return [interpreter.executable, '-s', '-S', '-B', '-c', bootstrap, interpreter.runner, warm ? 'warm' : 'cold', where, limits.readOnlyPaths.filter(isDirectory).join(':'), String(limits.memoryBytes)]
}

/** Nothing of the host's environment, and nothing that differs between two runs. */
export function cageEnvironment(interpreter: Interpreter, home: string): string[] {
  return ['PYTHONHASHSEED=0', `PYTHONHOME=${interpreter.home}`, 'PYTHONSAFEPATH=1', 'PYTHONUTF8=1', 'PYTHONDONTWRITEBYTECODE=1', 'LANG=C.UTF-8', 'LC_ALL=C.UTF-8', 'TZ=UTC0',
    `HOME=${home}`, `TMPDIR=${home}`, 'PATH=', 'MALLOC_ARENA_MAX=1', 'OPENBLAS_NUM_THREADS=1', 'OMP_NUM_THREADS=1']
}

/** Asks an interpreter what it needs, outside any cage. Throws an Error with what it said. */
export function discover(executable: string): Promise<Interpreter> {
  let answer = interpreters.get(executable)
  if (!answer) interpreters.set(executable, answer = keepAlive(askInterpreter(executable)))
  return answer
}

/** Interpreters to try, in order: the given one alone, else every python3 of the PATH and the usual places. */
export function pythonCandidates(python?: string): string[] {
  if (python !== undefined && isAbsolute(python)) return [python]
  const folders = [...(process.env.PATH ?? '').split(delimiter).filter(isAbsolute), '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']
  return [...new Set(folders.map((folder) => join(folder, python ?? 'python3')).filter(isExecutable))]
}

/** note: only when a cage is made; node takes 2 ms to load it. */
function crypto(): typeof import('node:crypto') {
  return process.getBuiltinModule('node:crypto')
}

/** Names of this host's scratch directories begin so; the pid namespace keeps containers that share a /tmp apart. */
export function scratchPrefix(): string {
  let space = ''
  try { space = crypto().createHash('sha256').update(readlinkSync('/proc/self/ns/pid')).digest('hex').slice(0, 8) } catch { /* no /proc */ }
  return `nanochat-sandbox-${space}-`
}

async function searchCage(python: string | undefined, among: readonly Tier[]): Promise<{ plan: CagePlan | null, refusals: Refusal[] }> {
  const refusals: Refusal[] = []
  const refuse = (tier: Tier, path: string, layer: string, reason: string): void => { refusals.push({ tier, python: path, layer, reason }) }
  if (process.platform !== 'linux' || !hasSandboxThread()) {
    refuse('full', python ?? 'python3', 'kernel', `the cage is made of Linux namespaces, Landlock and seccomp; this is ${process.platform}. Use a Linux machine, WSL2 or a Linux container`)
    return { plan: null, refusals }
  }
  if (!existsSync(launcherPath())) {
    refuse('full', python ?? 'python3', 'launcher', `${launcherPath()} is missing. Run \`npm rebuild nanochat-node\``)
    return { plan: null, refusals }
  }
  const usable: Interpreter[] = []
  for (const path of pythonCandidates(python)) {
    try {
      const interpreter = await discover(path)
      if (!usable.some((other) => other.executable === interpreter.executable)) usable.push(interpreter)
    } catch (error) { refuse('sealed', path, 'python', error instanceof Error ? error.message : String(error)) }
  }
  if (usable.length === 0 && refusals.length === 0) refuse('sealed', python ?? 'python3', 'python', `no ${python ?? 'python3'} was found on the PATH. Install Python 3.8 or later or pass its path as \`python\``)
  await sweepScratch()
  for (const tier of among) {
    for (const interpreter of usable) {
      const plan: CagePlan = { tier, layers: layersOf[tier], interpreter }
      const refusal = await dryRun(plan)
      if (refusal === null) return { plan, refusals }
      refusals.push({ tier, python: interpreter.executable, ...refusal })
    }
  }
  return { plan: null, refusals }
}

/** Runs the self-test in the cage. Null when every attempt was refused. */
async function dryRun(plan: CagePlan): Promise<{ layer: string, reason: string, mayPass?: boolean } | null> {
  try {
    const cage = await Cage.start(cageSpec(plan, { memoryBytes: 256 << 20, cpuSeconds: 6, readOnlyPaths: [] }, plan.tier === 'sealed'))
    const outcome = await cage.run(selfTest(plan.tier), { timeoutMs: 5000, maxOutputBytes: 4096 })
    cage.close()
    if (outcome.frame?.kind === 'value' && outcome.frame.text === 'held') return null
    const said = outcome.frame?.text ?? `${outcome.end}, exit code ${outcome.exitCode}, signal ${outcome.signal}`
    return { layer: /^[a-z]+(?=:)/.exec(said)?.[0] ?? 'process', reason: `the self-test failed: ${said}`, mayPass: outcome.end === 'timeout' }
  } catch (error) {
    if (error instanceof CageFailure) return { layer: error.layer, reason: error.message, mayPass: error.mayPass }
    throw error
  }
}

/** A program whose value is "held" when the layers of the tier do what they are there for, else "layer: what got through". */
function selfTest(tier: Tier): string {
  const attempt = (layer: Layer, what: string, code: string): string => `attempt(${JSON.stringify(layer)}, ${JSON.stringify(what)}, lambda: ${code})`
  return [
    'import os, ctypes, _socket, mmap, sys',
    'through = []',
    'def attempt(layer, what, action):',
    '    try: action()',
    '    except (OSError, MemoryError, AttributeError): return',
    '    through.append(layer + ": " + what)',
    'libc = ctypes.CDLL(None, use_errno=True)',
    'def check(condition):',
    '    if not condition: raise OSError',
    attempt(tier === 'sealed' ? 'seal' : 'landlock', 'reading /etc/passwd', "open('/etc/passwd')"),
    attempt(tier === 'sealed' ? 'seal' : 'landlock', 'listing /', "os.listdir('/')"),
    attempt(tier === 'sealed' ? 'seal' : 'landlock', 'writing /tmp', "os.open('/tmp/nanochat-sandbox-selftest', os.O_CREAT | os.O_WRONLY)"),
    attempt('seccomp', 'a socket', '_socket.socket()'),
    attempt('seccomp', 'memfd_create', "os.memfd_create('x')"),
    attempt('seccomp', 'executable memory', "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"),
    attempt('seccomp', 'exec', `os.execv(sys.executable, [sys.executable, '-c', ''])`),
    attempt('seal', 'another filter', 'check(libc.prctl(22, 2, 0, 0, 0) == 0 or ctypes.get_errno() == 14)'),
    attempt('rlimits', 'a gigabyte', 'bytearray(1 << 30)'),
    ...tier === 'full' ? [attempt('namespaces', 'a visible parent', 'check(os.getppid() != 0)'), attempt('namespaces', 'files of the host', "check(os.path.exists('/etc/passwd') or os.path.exists('/proc/self'))"), attempt('namespaces', 'the host name', "check(os.uname().nodename != 'sandbox')")] : [],
    ...tier === 'sealed' ? [] : ["open('works', 'w').write('x')", "os.remove('works')"],
    '"held" if not through else "; ".join(through)',
  ].join('\n')
}

async function askInterpreter(executable: string): Promise<Interpreter> {
  const folder = join(binding.packageRoot, 'native', 'sandbox')
  const argv = ['-I', '-S', '-W', 'ignore', join(folder, 'discover.py'), join(folder, 'runner.py')]
  const { stdout, reason } = hasSandboxThread() ? await ask(executable, argv) : await askWithoutThread(executable, argv)
  if (!stdout) throw new Error(`${executable} could not describe itself: ${reason || 'no output'}. Python 3.8 or later is needed`)
  const answer = JSON.parse(stdout) as Interpreter
  if (answer.implementation !== 'cpython') throw new Error(`${executable} is ${answer.implementation}; the cage knows CPython`)
  if (/^3\.[0-7]\./.test(answer.version)) throw new Error(`${executable} is Python ${answer.version}; 3.8 or later is needed`)
  return answer
}

async function ask(executable: string, argv: string[]): Promise<{ stdout: string, reason: string }> {
  const env = Object.entries(process.env).filter(([name]) => !name.startsWith('PYTHON')).map(([name, value]) => `${name}=${value ?? ''}`)
  const started = await startProcess(executable, [executable, ...argv], env)
  const timer = setTimeout(() => started.kill(), 20_000)
  const [stdout = '', stderr = ''] = await Promise.all([started.stdout, started.stderr, started.result, started.report].map(readAll))
  for (const fd of [started.request, started.control]) new Socket({ fd, readable: false, writable: true }).on('error', () => {}).destroy()
  const status = await started.exited
  clearTimeout(timer)
  return { stdout: status === 0 ? stdout : '', reason: stderr.trim().split('\n').pop() || `wait status ${status}` }
}

/** For `sandbox: 'off'` on systems where the addon starts no processes. */
function askWithoutThread(executable: string, argv: string[]): Promise<{ stdout: string, reason: string }> {
  return new Promise((resolve) => {
    execFile(executable, argv, { timeout: 20_000 }, (error, stdout) => resolve({ stdout: error ? '' : stdout, reason: error?.message ?? '' }))
  })
}

function readAll(fd: number): Promise<string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    new Socket({ fd, readable: true, writable: false }).on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {}).on('close', () => resolve(Buffer.concat(chunks).toString('utf8')))
  })
}

/** Removes scratch directories of a host and a launcher that were both killed. */
async function sweepScratch(): Promise<void> {
  const prefix = scratchPrefix()
  for (const name of namesIn(tmpdir())) {
    const pid = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : Number.NaN
    const path = join(tmpdir(), name)
    if (!Number.isNaN(pid) && !isAlive(pid) && isOfACage(path)) await removeTree(path).catch(() => {})
  }
}

function namesIn(folder: string): string[] {
  try { return readdirSync(folder) } catch { return [] }
}

/** Whether it is a directory of this user or, as root, of one that cages get (native/sandbox/main.c): anybody can make one of that name. */
function isOfACage(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false }), own = process.getuid?.()
  if (!stats?.isDirectory()) return false
  const { uid } = stats
  return uid === own || (own === 0 && ((uid >= 0x70000000 && uid < 0x70400000) || (uid >= 50_000 && uid < 60_000)))
}

function isAlive(pid: number): boolean {
  try { process.kill(pid, 0); return true } catch (error) { return (error as NodeJS.ErrnoException).code !== 'ESRCH' }
}

function isExecutable(path: string): boolean {
  try { accessSync(path, constants.X_OK); return statSync(realpathSync(path)).isFile() } catch { return false }
}

/** Without links; the path itself where there is nothing, which the launcher then reports. */
function realPath(path: string): string {
  try { return realpathSync(path) } catch { return path }
}

function isDirectory(path: string): boolean {
  try { return statSync(path).isDirectory() } catch { return false }
}

function launcherPath(): string {
  if (launcher !== '') return launcher
  let folder = join(binding.packageRoot, 'build', 'Release')
  try { folder = dirname(binding.addonPath()) } catch { /* reported where the addon is loaded */ }
  return launcher = join(folder, launcherName)
}

function unavailable(minTier: Tier, plan: CagePlan | null, refusals: Refusal[]): NanochatError {
  const wanted = refusals.filter(({ tier }) => tiers.indexOf(tier) <= tiers.indexOf(minTier))
  const lines = (wanted.length > 0 ? wanted : refusals).map(({ tier, python, layer, reason }) => `\n  ${tier} tier with ${python}: ${layer} missing: ${reason}.`)
  const got = plan ? `the best that works is '${plan.tier}'` : 'none works'
  return new NanochatError('ERR_SANDBOX_UNAVAILABLE', `Expected a Python sandbox of tier '${minTier}' or better, but on this machine ${got}.${lines.join('')}\n  See docs/sandbox.md. Python is not run without it unless \`sandbox: 'off'\` is written out.`)
}
