// What is built, and everything in prebuilds/: each asks for no more than the machines have that Node runs on, and shows and keeps no more than it must.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readElf, type Elf } from './support/elf.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const prebuilds = join(root, 'prebuilds')
const oldestGlibc = '2.28'         // of the official Node 20 binaries
const systemLibraries = /^(?:ld-linux-x86-64\.so\.2|ld-linux-aarch64\.so\.1|lib(?:c|m|dl|pthread|rt)\.so\.\d|libgcc_s\.so\.1|libc\.musl-\w+\.so\.1)$/
const napiSymbols = ['napi_register_module_v1', 'node_api_module_get_api_version_v1']

const built = ['nanochat.node', 'nanochat_cuda.so', 'nanochat-sandbox'].map((name) => join(root, 'build/Release', name))
const filed = existsSync(prebuilds) ? readdirSync(prebuilds, { recursive: true }).map((name) => join(prebuilds, String(name))) : []
const files = [...built, ...filed].filter((file) => /\.node$|\.so$|nanochat-sandbox$/.test(file) && existsSync(file))

const binaries = suite('binaries')

if (process.platform !== 'linux') {
  console.log('SKIP binaries: the checks read ELF files')
  binaries.skip('ELF files', () => {})
} else {
  binaries('there is an addon to look at', () => {
    assert.ok(files.some((file) => file.endsWith('.node')), 'npm install, or npm run prebuilds')
  })

  binaries('the reader sees what Node has and ours must not have', () => {
    const node = readElf(process.execPath)
    assert.is(node.machine, process.arch)
    assert.ok(node.exports.includes('napi_create_function'))
    assert.not(node.isNeverUnloaded)
    assert.throws(() => readElf(fileURLToPath(import.meta.url)), /ELF/)
  })

  for (const file of files) {
    const name = relative(root, file), elf = readElf(file)
    const isLauncher = basename(file) === 'nanochat-sandbox', isFiled = filed.includes(file)

    if (isFiled) {
      binaries(`${name}: stripped, for the processor of its folder`, () => {
        assert.ok(elf.isStripped)
        assert.is(elf.machine, basename(dirname(file)).split('-')[1])
      })
    }

    if (isLauncher) {
      binaries(`${name}: needs no library${isFiled ? '' : ', or only the system\'s'}`, () => {
        assert.equal(elf.needed.filter((library) => isFiled || !systemLibraries.test(library)), [])
      })
    } else {
      binaries(`${name}: runs on every glibc that Node itself runs on, with its own libstdc++`, () => {
        assert.equal(elf.needed.filter((library) => !systemLibraries.test(library)), [])
        assert.equal(elf.versions.filter((version) => !/^(?:GCC|GLIBC)_[\d.]+$/.test(version)), [])
        assert.is(glibcVersions(elf).length > 0, elf.needed.includes('libc.so.6'))
        assert.equal(glibcVersions(elf).filter((version) => compareVersions(version, oldestGlibc) > 0), [])
        assert.is(elf.needed.includes('libc.so.6'), !/\.musl\.node$/.test(name))
      })

      binaries(`${name}: exports what its loader looks for and nothing else`, () => {
        assert.equal(elf.exports, file.endsWith('.so') ? ['nc_cuda_get_api'] : napiSymbols)
      })

      binaries(`${name}: is never unmapped under its own threads`, () => {
        assert.ok(elf.isNeverUnloaded)
      })
    }

    binaries(`${name}: no search path, no executable stack, nothing to overwrite after loading`, () => {
      assert.equal(elf.searchPaths, [])
      assert.not(elf.stackIsExecutable)
      assert.ok(elf.isRelro)
      assert.ok(elf.bindsNow || !elf.isDynamic)
    })
    console.log(`${name}  ${glibcVersions(elf).length > 0 ? `glibc ${glibcVersions(elf).at(-1)} or newer` : elf.isDynamic ? 'musl' : 'static'}`)
  }
}

binaries.run()

const choice = suite('binaries choice')

const places = [['linux', 'x64', 'glibc'], ['linux', 'x64', 'musl'], ['linux', 'arm64', 'glibc'], ['linux', 'arm64', 'musl'], ['darwin', 'arm64', 'glibc'], ['win32', 'x64', 'glibc']]

for (const [platform = '', arch = '', libc = ''] of filed.length > 0 ? places : []) {
  const expected = [`nanochat.${libc}.node`, 'nanochat.node'].map((name) => join(prebuilds, `${platform}-${arch}`, name)).find((file) => filed.includes(file))
  choice(`${platform}-${arch} with ${libc} gets ${expected ? relative(root, expected) : 'none of the others'}`, () => {
    const { stdout, stderr } = spawnSync(process.execPath, ['-p', 'require("node-gyp-build").path(".")'],
      { cwd: root, encoding: 'utf8', env: { ...process.env, PREBUILDS_ONLY: '1', npm_config_platform: platform, npm_config_arch: arch, LIBC: libc } })
    assert.is(stdout.trim(), expected ?? '', stderr)
    if (!expected) assert.match(stderr, `No native build was found for platform=${platform} arch=${arch}`)
  })
}

if (filed.length > 0) choice.run()
else console.log('SKIP binaries choice: no prebuilds here (npm run prebuilds)')

/** Of the glibc symbols that a file wants, ascending. */
function glibcVersions({ versions }: Elf): string[] {
  return versions.flatMap((version) => /^GLIBC_(.+)$/.exec(version)?.[1] ?? []).sort(compareVersions)
}

function compareVersions(left: string, right: string): number {
  const [a = 0, b = 0] = left.split('.').map(Number), [c = 0, d = 0] = right.split('.').map(Number)
  return a - c || b - d
}
