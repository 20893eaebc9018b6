// npm run prebuilds [-- --arch arm64] [-- --cuda]     -> prebuilds/<platform>-<arch>/nanochat.<libc>.node
// --cuda: with the CUDA backend beside it, built by nvcc.
// Builds the addon from scratch, strips it and files it where node-gyp-build looks. Downloads nothing: the headers are
// those of the running node. Only through npm run, which puts node-gyp on the PATH.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'

const args = process.argv.slice(2)
const arch = args.includes('--arch') ? args[args.indexOf('--arch') + 1] : process.arch
const cross = arch !== process.arch
const env = { ...process.env, JOBS: process.env.JOBS ?? String(availableParallelism()) }

if (!process.env.npm_execpath) fail('Expected to run through npm: npm run prebuilds')
// note: without it prebuildify asks for the headers of the newest node it knows.
const prefix = dirname(dirname(process.execPath))
if (!env.npm_config_nodedir && existsSync(join(prefix, 'include/node/common.gypi'))) env.npm_config_nodedir = prefix

let strip = 'strip'
if (cross) {
  if (process.platform !== 'linux' || arch !== 'arm64') fail(`Expected --arch ${process.arch} or, on linux, arm64 but received ${arch}`)
  const triple = 'aarch64-linux-gnu'
  const version = ['', '-12', '-13', '-14'].find((suffix) => runs(`${triple}-g++${suffix}`))
  if (version === undefined) fail(`Expected ${triple}-g++ on the PATH: apt-get install g++-${triple}`)
  const compilers = { CC: `${triple}-gcc${version}`, CXX: `${triple}-g++${version}`, LINK: `${triple}-g++${version}`, AR: `${triple}-ar` }
  Object.assign(env, compilers)
  strip = `${triple}-strip`
}

const prebuildify = createRequire(import.meta.url).resolve('prebuildify/bin.js')
const result = spawnSync(process.execPath,
  [prebuildify, '--napi', '--strip', '--strip-bin', strip, '--arch', arch, '--name', 'nanochat', '--tag-libc'], { stdio: 'inherit', env })
if (result.status !== 0) fail(`prebuildify ended with ${result.signal ?? result.status}`)

const folder = join('prebuilds', `${process.platform}-${arch}`)
const built = readdirSync(folder).filter((name) => name.endsWith('.node'))
if (built.length !== 1) fail(`Expected one addon in ${folder} but found ${built.join(', ') || 'none'}`)
// the sandbox's launcher lies beside the addon; prebuildify knows only addons
if (process.platform === 'linux') {
  copyFileSync('build/Release/nanochat-sandbox', join(folder, 'nanochat-sandbox'))
  spawnSync(strip, [join(folder, 'nanochat-sandbox')], { stdio: 'inherit' })
}
if (args.includes('--cuda')) {
  for (const step of [['-S', 'native/cuda', '-B', 'build-cuda'], ['--build', 'build-cuda', '--parallel']]) {
    if (spawnSync('cmake', step, { stdio: 'inherit' }).status !== 0) fail('The CUDA backend was not built')
  }
  copyFileSync('build/Release/nanochat_cuda.so', join(folder, 'nanochat_cuda.so'))
  spawnSync(strip, ['--strip-all', join(folder, 'nanochat_cuda.so')], { stdio: 'inherit' })
}
// prebuildify moves the addon away; a clone goes on with what was just built, not with an older prebuilt one.
if (!cross) {
  mkdirSync('build/Release', { recursive: true })
  copyFileSync(join(folder, built[0]), 'build/Release/nanochat.node')
}
console.log(join(folder, built[0]))

function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
}

function fail(message) {
  console.error(message)
  process.exit(1)
}
