import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

interface Package {
  main: string
  module: string
  types: string
  exports: Record<string, string | Record<'import' | 'require', { types: string, default: string }>>
  typesVersions: Record<string, Record<string, string[]>>
  bin: Record<string, string>
  files: string[]
  dependencies: Record<string, string>
}

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const pkg = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Package
const built = existsSync(join(root, 'dist'))

const packed = suite('package content')

packed('holds what a user needs and nothing else', () => {
  const files = packedFiles()
  const allowed = /^(?:dist\/(?:esm|cjs)\/.*\.(?:d\.ts|d\.cts|js|cjs)|dist\/cjs\/package\.json|prebuilds\/[\w-]+\/(?:[\w.-]+\.(?:node|so)|nanochat-sandbox)|models\/demo\/.*|native\/(?!cuda\/(?!(?:api|memory|index)\.h$)).*\.(?:c|cpp|h|inl|inc|txt|map|def|py)|binding\.gyp|CMakeLists\.txt|scripts\/(?:sources|static-libc)\.cjs|package\.json|README\.md|LICENSE)$/
  assert.equal(files.filter((file) => !allowed.test(file)), [])
})

packed('has a README, and everything that a source build reads', () => {
  const files = new Set(packedFiles())
  const sources = execFileSync(process.execPath, ['scripts/sources.cjs'], { cwd: root, encoding: 'utf8' }).trim().split('\n')
  const sandboxSources = ['main.c', 'cage.c', 'supervise.c', 'filter.c', 'policy.def', 'runner.py', 'discover.py'].map((name) => `native/sandbox/${name}`)
  const needed = new Set(['package.json', 'LICENSE', 'README.md', 'binding.gyp', 'CMakeLists.txt', 'scripts/sources.cjs', 'scripts/static-libc.cjs', 'native/sources.txt', ...sandboxSources, 'native/exports.map', ...sources])
  for (const file of needed) {
    assert.ok(existsSync(join(root, file)), `${file} does not exist`)
    if (!/\.(?:c|cc|cpp|h|hpp|inl|inc)$/.test(file)) continue
    for (const [, name] of readFileSync(join(root, file), 'utf8').matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      const header = [join(dirname(file), name ?? ''), join('native', name ?? '')].find((path) => existsSync(join(root, path)))
      assert.ok(header !== undefined, `${file} includes "${name}", which is nowhere`)
      if (header !== undefined) needed.add(header)
    }
  }
  assert.ok(needed.size > 10)
  assert.equal([...needed].filter((file) => !files.has(file)), [])
})

packed('has the demo model', () => {
  const files = packedFiles()
  for (const pattern of [/^models\/demo\/model_\d{6}\.pt$/, /^models\/demo\/meta_\d{6}\.json$/, /^models\/demo\/tokenizer\.pkl$/]) {
    assert.is(files.filter((file) => pattern.test(file)).length, 1, String(pattern))
  }
})

packed('every target of exports, bin and types is built from a source in lib', () => {
  const targets = [pkg.main, pkg.module, pkg.types, ...Object.values(pkg.bin), ...Object.values(pkg.typesVersions).flatMap((entry) => Object.values(entry).flat())]
  for (const entry of Object.values(pkg.exports)) {
    if (typeof entry === 'string') continue
    assert.match(entry.import.default, /^\.\/dist\/esm\//)
    assert.match(entry.require.default, /^\.\/dist\/cjs\//)
    for (const side of [entry.import, entry.require]) {
      assert.is(side.types, side.default.replace(/\.js$/, '.d.ts'))
      targets.push(side.types, side.default)
    }
  }
  const files = built ? new Set(packedFiles()) : undefined
  for (const target of targets.map((path) => path.replace(/^\.\//, ''))) {
    const source = target.replace(/^dist\/(?:esm\/lib|cjs)\//, 'lib/').replace(/\.d\.ts$|\.js$/, '.ts')
    assert.match(target, /^dist\//)
    assert.ok(existsSync(join(root, source)), `${target} would be built from ${source}, which does not exist`)
    if (files) assert.ok(files.has(target), `${target} is not in the package: npm run build`)
  }
  assert.ok(pkg.files.includes('dist'))
})

packed('has the benchmarks that nanochat-node bench runs, and none that needs other packages', () => {
  if (!built) return console.log('SKIP part of package content: not built (npm run build)')
  const files = packedFiles().filter((file) => file.startsWith('dist/esm/benchmarks/'))
  for (const name of ['commands', 'decode', 'kernels', 'load', 'load-child', 'sandbox']) assert.ok(files.includes(`dist/esm/benchmarks/${name}.js`), name)
  assert.equal(files.filter((file) => /plot|compare\//.test(file)), [])
  for (const file of files.filter((name) => name.endsWith('.js'))) {
    const imported = [...readFileSync(join(root, file), 'utf8').matchAll(/(?:\bfrom |\bimport\()'([^']+)'/g)].map(([, name = '']) => name)
    assert.equal(imported.filter((name) => !/^(?:\.|node:)/.test(name)), [], file)
  }
})

packed('depends on two packages at run time, both small', () => {
  assert.equal(Object.keys(pkg.dependencies).sort(), ['node-addon-api', 'node-gyp-build'])
})

packed.run()

const repository = suite('package repository')

repository('the lock file names packages, not the hosts they came from', () => {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, { resolved?: string, integrity?: string, link?: boolean }> }
  const entries = Object.entries(lock.packages).filter(([path]) => path !== '')
  assert.ok(entries.length > 50)
  assert.equal(entries.filter(([, entry]) => entry.resolved !== undefined).map(([path]) => path), [])
  assert.equal(entries.filter(([, entry]) => entry.integrity === undefined).map(([path]) => path), [])
})

const tracked = existsSync(join(root, '.git')) ? execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0').filter(Boolean) : undefined

if (tracked === undefined) {
  console.log('SKIP package repository: not a git clone')
  repository.skip('no path of a machine in tracked files', () => {})
} else {
  repository('no path of a machine and no registry host in tracked files', () => {
    // note: spelled in pieces, so that this file passes its own test.
    const patterns = [root, ['', 'work', ''].join('/'), ['', 'tmp', 'bash_jobs'].join('/'), ['registry', 'npmjs'].join('.'), ['deb', 'debian', 'org'].join('.')]
    const texts = tracked.filter((file) => !/\.(?:pt|pkl|safetensors|f32|node|png)$/.test(file) && existsSync(join(root, file)))
    assert.ok(texts.length > 30)
    const found = texts.flatMap((file) => {
      const text = readFileSync(join(root, file), 'utf8')
      return patterns.filter((pattern) => text.includes(pattern)).map((pattern) => `${file}: ${pattern}`)
    })
    assert.equal(found, [])
  })

  repository('nothing that is built is tracked', () => {
    assert.equal(tracked.filter((file) => /^(?:dist|build|build-[\w-]+|prebuilds|node_modules)\/|\.(?:node|o|tgz)$/.test(file)), [])
  })
}

repository.run()

let files: string[] | undefined

function packedFiles(): string[] {
  if (files) return files
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const [report] = JSON.parse(output) as { files: { path: string }[] }[]
  files = (report?.files ?? []).map((file) => file.path)
  return files
}
