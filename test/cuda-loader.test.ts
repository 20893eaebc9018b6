// Every way in which there is no CUDA device, each with its own text; 'auto' goes on with the CPU, 'cuda' does not.
import { execFileSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'
import { backendOf, compiler, emptyDriver, failingDriver, loadIn, withLibraries } from './support/stub-libraries.js'

const test = suite('cuda loader')
const library = join(dirname(binding.addonPath()), 'nanochat_cuda.so')
const hasLibrary = existsSync(library)
const none = 'no-such-folder'

/** 'cuda' fails with this message, 'auto' takes the CPU and warns with it when `warns`. */
function check(dir: string, message: RegExp, warns: boolean, env: Record<string, string> = {}): void {
  for (const device of ['cuda', 'cuda:3']) {
    const refused = loadIn(dir, device, env)
    assert.is(refused.code, 'ERR_DEVICE_UNAVAILABLE', refused.message)
    assert.match(refused.message, message)
    assert.match(refused.message, new RegExp(`Device ${device} is not available`))
  }
  const fallen = loadIn(dir, 'auto', env)
  assert.is(fallen.device, 'cpu', fallen.message)
  assert.is(fallen.warnings.length, warns ? 1 : 0)
  if (warns) assert.match(fallen.warnings[0] ?? '', message)
}

if (process.platform !== 'linux') {
  console.log('SKIP cuda loader: the CUDA backend is for Linux')
  test.skip('all', () => {})
} else {
  test('no driver', () => check(none, /no NVIDIA driver: libcuda\.so\.1 was not found/, false))

  if (compiler === undefined) {
    console.log('SKIP cuda loader: stubs of the driver need a C compiler')
    test.skip('with stubs', () => {})
  } else {
    test('a driver, and no backend library', () => withLibraries({ 'libcuda.so.1': emptyDriver }, (dir) => {
      check(dir, /This build has no CUDA backend: .*missing\.so is not there/, false, { NANOCHAT_CUDA_LIBRARY: join(dir, 'missing.so') })
    }))

    test('a library that is none', () => withLibraries({ 'libcuda.so.1': emptyDriver }, (dir) => {
      check(dir, /cannot be loaded: .*stub\.c/, true, { NANOCHAT_CUDA_LIBRARY: join(dir, 'stub.c') })
    }))

    test('a library of another interface, or of none', () => withLibraries({ 'libcuda.so.1': emptyDriver, 'abi.so': backendOf(99), 'plain.so': emptyDriver }, (dir) => {
      check(dir, /from another build: .*abi\.so has interface 99 and this addon wants \d+/, true, { NANOCHAT_CUDA_LIBRARY: join(dir, 'abi.so') })
      check(dir, /has interface none/, true, { NANOCHAT_CUDA_LIBRARY: join(dir, 'plain.so') })
    }))

    if (!hasLibrary) {
      console.log('SKIP cuda loader: what the CUDA runtime says of a driver needs the backend library (npm run build:cuda)')
      test.skip('with the backend library', () => {})
    } else {
      test('the library runs on every glibc that Node runs on, exports its table alone and takes at most 8 MB', () => withLibraries({ 'libcuda.so.1': emptyDriver }, (dir) => {
        const symbols = execFileSync('objdump', ['-T', library], { encoding: 'utf8' })
        const newer = symbols.split('\n').filter((line) => [...line.matchAll(/GLIBC_2\.(\d+)/g)].some(([, minor]) => Number(minor) > 28))
        assert.equal(newer, [])
        assert.not.match(symbols, /GLIBCXX_|CXXABI_/)
        const exported = symbols.split('\n').filter((line) => /^[0-9a-f]+ [gwu]/.test(line) && !line.includes('*UND*')).map((line) => line.trim().split(/\s+/).at(-1))
        assert.equal(exported, ['nc_cuda_get_api'])
        const stripped = join(dir, 'stripped.so')
        execFileSync('strip', ['--strip-all', '-o', stripped, library])
        const { size } = statSync(stripped)
        console.log(`  nanochat_cuda.so: ${(size / 1e6).toFixed(1)} MB stripped`)
        assert.ok(size <= 8e6)
      }))

      test('a driver that is too old', () => withLibraries({ 'libcuda.so.1': failingDriver(12040, 100) }, (dir) => {
        check(dir, /driver is too old: it supports CUDA 12\.4 and 13\.0 is needed\. Update it to release 580/, true, { NANOCHAT_CUDA_LIBRARY: library })
      }))

      test('a driver without a device', () => withLibraries({ 'libcuda.so.1': failingDriver(13000, 100) }, (dir) => {
        check(dir, /driver is there but shows no device/, true, { NANOCHAT_CUDA_LIBRARY: library })
      }))

      test('a driver that fails', () => withLibraries({ 'libcuda.so.1': failingDriver(13000, 999) }, (dir) => {
        check(dir, /driver does not work: cudaErrorUnknown/, true, { NANOCHAT_CUDA_LIBRARY: library })
      }))
    }
  }
}

test.run()
