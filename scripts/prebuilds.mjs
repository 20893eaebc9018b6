// npm run prebuilds [-- TARGET...]     -> prebuilds/<platform>-<arch>/nanochat.<libc>.node, and beside it what it loads
//   linux-arm64      cross-built with aarch64-linux-gnu-g++
//   linux-x64-musl   cross-built with x64's x86_64-linux-musl-g++
//   host             this machine's platform, on Linux with the sandbox's launcher and, where nvcc is, the CUDA backend
// Without a target all of them: what has no toolchain here is skipped, and said. A named one that can't be built is a failure.
// Every addon is built from scratch, stripped and filed where node-gyp-build looks; then test/binaries.test.ts reads them all.
// Downloads nothing: the headers are those of the running node. Only through npm run, which puts node-gyp on the PATH.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'

const isMusl = process.platform === 'linux' && process.report.getReport().header.glibcVersionRuntime === undefined
const host = { platform: process.platform, arch: process.arch, libc: isMusl ? 'musl' : 'glibc', strip: 'strip', env: {} }
// host last: a clone goes on with what was built last, and that must run here.
const targets = {
  'linux-arm64': () => cross('arm64', 'glibc', 'aarch64-linux-gnu', () => 'Debian: g++-aarch64-linux-gnu'),
  'linux-x64-musl': () => cross('x64', 'musl', 'x86_64-linux-musl', whyNoMusl),
  host: () => host
}

/** A reason not to build a target. */
class Skip extends Error {}

const named = process.argv.slice(2)
const unknown = named.filter((name) => !(name in targets))
if (unknown.length > 0) fail(`Expected some of ${Object.keys(targets).join(', ')} but received ${unknown.join(', ')}`)
if (!process.env.npm_execpath) fail('Expected to run through npm: npm run prebuilds')
if (named.length === 0) rmSync('prebuilds', { recursive: true, force: true })

const env = { ...process.env, JOBS: process.env.JOBS ?? String(availableParallelism()) }
// note: without it prebuildify asks for the headers of the newest node it knows.
const prefix = dirname(dirname(process.execPath))
if (!env.npm_config_nodedir && existsSync(join(prefix, 'include/node/common.gypi'))) env.npm_config_nodedir = prefix

for (const name of Object.keys(targets).filter((one) => named.length === 0 || named.includes(one))) {
  orSkip(name, () => buildAddon(targets[name]()))
  if (name === 'host' && process.platform === 'linux') orSkip('CUDA backend', buildCuda)
}
run(process.execPath, ['test/run.mjs', 'binaries'], env)
for (const file of readdirSync('prebuilds', { recursive: true }).map((name) => join('prebuilds', name)).sort()) {
  if (statSync(file).isFile()) console.log(`${file}  ${statSync(file).size} bytes`)
}

/** A compiler for another machine or C library, unless this is that machine. */
function cross(arch, libc, triple, whyNot) {
  if (process.platform !== 'linux') throw new Skip('not cross-built from here')
  if (arch === process.arch && libc === host.libc) throw new Skip('it is the host')
  const version = ['', '-12', '-13', '-14'].find((suffix) => runs(`${triple}-g++${suffix}`))
  if (version === undefined) throw new Skip(`no ${triple}-g++ (${whyNot()})`)
  const compilers = { CC: `${triple}-gcc${version}`, CXX: `${triple}-g++${version}`, LINK: `${triple}-g++${version}`, AR: `${triple}-ar` }
  return { platform: 'linux', arch, libc, strip: `${triple}-strip`, env: compilers }
}

/** Debian has no compiler of that name; what its musl-tools say to C++ (docs/build.md). */
function whyNoMusl() {
  const { error, stderr } = spawnSync('musl-gcc', ['-x', 'c++', '-fsyntax-only', '-'], { input: '#include <string>\n', env: { ...process.env, REALGCC: 'g++' }, encoding: 'utf8' })
  return error ? 'nor musl-gcc; Debian: musl-tools' : `musl-gcc: ${/error: .*/.exec(stderr)?.[0] ?? 'not a C++ compiler by name'}`
}

function buildAddon({ platform, arch, libc, strip, env: compilers }) {
  const prebuildify = createRequire(import.meta.url).resolve('prebuildify/bin.js')
  const tags = platform === 'linux' ? ['--tag-libc'] : []
  run(process.execPath, [prebuildify, '--napi', '--strip', '--strip-bin', strip, '--arch', arch, '--name', 'nanochat', ...tags],
    { ...env, ...compilers, PREBUILD_LIBC: libc })
  const folder = join('prebuilds', `${platform}-${arch}`)
  const file = join(folder, platform === 'linux' ? `nanochat.${libc}.node` : 'nanochat.node')
  if (!existsSync(file)) fail(`Expected ${file} but prebuildify left ${readdirSync(folder).join(', ')}`)
  // prebuildify knows only addons; the launcher is static and serves every C library
  if (platform === 'linux') {
    copyFileSync('build/Release/nanochat-sandbox', join(folder, 'nanochat-sandbox'))
    run(strip, [join(folder, 'nanochat-sandbox')], env)
  }
  // prebuildify moves the addon away; a clone goes on with what was just built, not with an older prebuilt one.
  if (arch === process.arch && libc === host.libc) copyFileSync(file, 'build/Release/nanochat.node')
}

function buildCuda() {
  if (!env.CUDACXX && !runs('nvcc')) throw new Skip('no nvcc')
  if (!runs('cmake')) throw new Skip('no cmake')
  run('cmake', ['-S', 'native/cuda', '-B', 'build-cuda'], env)
  run('cmake', ['--build', 'build-cuda', '--parallel', env.JOBS], env)
  const file = join('prebuilds', `${process.platform}-${process.arch}`, 'nanochat_cuda.so')
  mkdirSync(dirname(file), { recursive: true })
  copyFileSync('build/Release/nanochat_cuda.so', file)
  run('strip', ['--strip-all', file], env)
}

function orSkip(name, build) {
  try {
    build()
  } catch (error) {
    if (!(error instanceof Skip)) throw error
    if (named.includes(name)) fail(`${name}: ${error.message}`)
    console.log(`SKIP ${name}: ${error.message}`)
  }
}

function run(command, args, environment) {
  const { status, signal, error } = spawnSync(command, args, { stdio: 'inherit', env: environment })
  if (status !== 0) fail(`${command} ${args.join(' ')}: ${error?.message ?? `ended with ${signal ?? status}`}`)
}

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
}

function fail(message) {
  console.error(message)
  process.exit(1)
}
