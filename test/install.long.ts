// alone: it measures times that have a budget
// What `npm pack` makes, installed into empty projects as users do. Needs the prebuilt binaries: npm run prebuilds.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { barePath, bytesBelow, emptyProject, findCommand, nodeBinary, nodeHeaders, run, temporaryFolder, userEnvironment, type Run } from './support/bare-project.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const nodes = join(root, 'build-nodes')             // downloaded once
const budgets = {
  packageBytes: 5e6,                                // unpacked, without demo model and CUDA library
  cudaBytes: 8e6,
  demoBytes: 11e6,
  installedBytes: 25e6,                             // with both
  installSeconds: 3,
  requireMs: 30,
  answerSeconds: 1.5
}
// A machine that takes longer than this to start node itself has budgets of time that are longer in proportion.
const nodeStartMs = 80
// the oldest that package.json allows, the long-term lines, and what is newest
const nodeVersions = ['20.17.0', '22', '24', 'latest']

const install = suite('install')
const hasPrebuilds = existsSync(join(root, 'prebuilds/linux-x64/nanochat.glibc.node'))

if (process.platform !== 'linux' || process.arch !== 'x64' || !hasPrebuilds) {
  console.log(`SKIP install: ${hasPrebuilds ? 'this is not linux-x64' : 'no prebuilt binary for linux-x64 (npm run prebuilds)'}`)
  install.skip('of the package', () => {})
} else {
  const work = temporaryFolder()
  install.after(() => rmSync(work, { recursive: true, force: true }))
  // one line of JSON, after what the build says
  const [packed] = JSON.parse(/^\[$[\s\S]*/m.exec(execFileSync('npm', ['pack', '--json', '--pack-destination', work], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))?.[0] ?? '') as { filename: string, size: number, files: { path: string, size: number }[] }[]
  if (!packed) throw new Error('npm pack printed nothing')
  const tarball = join(work, packed.filename)
  const bare = userEnvironment({ PATH: barePath(join(work, 'bin'), process.execPath) })
  // the best counts: whatever else the machine does only adds
  const slowness = (): number => Math.max(1, 1000 * Math.min(...Array.from({ length: 5 }, () => run(process.execPath, ['-e', '0'], work, bare).seconds)) / nodeStartMs)
  let project = ''                                  // the first installation, for the measurements

  install('the package is within its budgets', () => {
    const isDemo = (path: string): boolean => path.startsWith('models/demo/'), isCuda = (path: string): boolean => path.endsWith('/nanochat_cuda.so')
    const bytes = (keep: (path: string) => boolean): number => packed.files.filter(({ path }) => keep(path)).reduce((sum, { size }) => sum + size, 0)
    const rest = bytes((path) => !isDemo(path) && !isCuda(path))
    console.log(`package: ${megabytes(packed.size)} packed; unpacked ${megabytes(rest)}, demo model ${megabytes(bytes(isDemo))}, CUDA library ${bytes(isCuda) === 0 ? 'none (no nvcc)' : megabytes(bytes(isCuda))}`)
    assert.ok(bytes(isDemo) > 0)
    assert.ok(rest <= budgets.packageBytes && bytes(isCuda) <= budgets.cudaBytes && bytes(isDemo) <= budgets.demoBytes)
  })

  install('npm install without compiler, make and python: seconds, and it answers', () => {
    for (const tool of ['cc', 'gcc', 'g++', 'make', 'python3', 'cmake']) assert.not.ok(existsSync(join(bare.PATH ?? '', tool)), tool)
    addPackage(emptyProject(work), bare)             // brings the dependencies into npm's cache
    project = emptyProject(work)
    const slow = slowness(), { seconds } = addPackage(project, bare)
    console.log(`npm install: ${seconds.toFixed(2)} s (budget ${(slow * budgets.installSeconds).toFixed(2)}), ${megabytes(bytesBelow(join(project, 'node_modules')))} installed`)
    answers(project, bare)
    assert.ok(seconds <= slow * budgets.installSeconds)
    assert.ok(bytesBelow(join(project, 'node_modules')) <= budgets.installedBytes)
    assert.match(addonOf(project), 'prebuilds/linux-x64/nanochat.glibc.node')
  })

  install('npm install --ignore-scripts: it answers', () => {
    const folder = emptyProject(work)
    addPackage(folder, bare, '--ignore-scripts')
    answers(folder, bare)
  })

  install('require, and the first answer of a cold process', () => {
    const slow = slowness()
    const requires = Array.from({ length: 9 }, () => Number(script(project, bare, "const start = performance.now(); require('nanochat-node'); console.log(performance.now() - start)").stdout)).sort((a, b) => a - b)
    const answerSeconds = Array.from({ length: 3 }, () => {
      const answer = run(join(project, 'node_modules/.bin/nanochat-node'), ['chat', '-i', 'demo', '-p', 'What is 1234 * 5678?'], project, bare)
      assert.match(answer.stdout, '7006652', answer.stderr)
      return answer.seconds
    }).sort((a, b) => a - b)
    console.log(`require: ${requires.map((ms) => ms.toFixed(1)).join(' ')} ms (budget ${(slow * budgets.requireMs).toFixed(1)}); demo answer: ${answerSeconds.map((seconds) => seconds.toFixed(2)).join(' ')} s`)
    assert.ok((requires[0] ?? NaN) <= slow * budgets.requireMs)
    assert.ok((answerSeconds[0] ?? NaN) <= slow * budgets.answerSeconds)
  })

  install('without python its tool says so and the calculator goes on', () => {
    const ask = `const { pythonTool, useCalculator } = require('nanochat-node')
      const call = (tool, code) => tool(code, { row: 0, signal: new AbortController().signal })
      call(pythonTool(PYTHON), '6 / 2').then(async (text) => console.log(text, await call(pythonTool(PYTHON), 'sum(range(5))').catch(({ code, message }) => code + ' ' + message)))`
    const named = script(project, bare, ask.replaceAll('PYTHON', "{ python: 'python3-that-is-nowhere' }"))
    assert.match(named.stdout, /^3\.0 ERR_SANDBOX_UNAVAILABLE [^]*no python3-that-is-nowhere was found on the PATH\. Install Python/, named.stderr)
    // the default also looks into /usr/bin: hidden in a mount namespace
    const hide = 'for file in /usr/bin/python3* /usr/local/bin/python3*; do [ ! -f "$file" ] || mount --bind /dev/null "$(readlink -f "$file")" || exit 77; done; exec node -e "$0"'
    const hidden = run(findCommand('unshare') ?? 'unshare', ['-m', '-r', '/bin/sh', '-c', `PATH=/usr/bin:/bin; ${hide.replace('exec node', `PATH='${bare.PATH}'; exec node`)}`, ask.replaceAll('PYTHON', '')], project, bare)
    if (hidden.status === 77 || /unshare/.test(hidden.stderr)) return console.log(`SKIP part of install: python could not be hidden: ${hidden.stderr.trim()}`)
    assert.match(hidden.stdout, /^3\.0 ERR_SANDBOX_UNAVAILABLE [^]*no python3 was found on the PATH\. Install Python/, hidden.stderr)
  })

  for (const version of nodeVersions) {
    install(`Node ${version}: it installs and answers`, () => {
      const found = nodeBinary(nodes, 'x64', version)
      if ('reason' in found) return console.log(`SKIP Node ${version}: ${found.reason}`)
      const env = { ...bare, PATH: barePath(join(work, `bin-${version}`), found.node) }
      const folder = emptyProject(work)
      addPackage(folder, env)
      answers(folder, env)
    })
  }

  install('arm64, emulated: the prebuilt addon answers', () => {
    if (!findCommand('qemu-aarch64') || !existsSync('/usr/aarch64-linux-gnu/lib')) return console.log('SKIP arm64: no qemu-aarch64 (Debian: qemu-user) or no libraries for it (g++-aarch64-linux-gnu)')
    if (!existsSync(join(root, 'prebuilds/linux-arm64'))) return console.log('SKIP arm64: no prebuilt binary (npm run prebuilds)')
    const found = nodeBinary(nodes, 'arm64', '20')
    if ('reason' in found) return console.log(`SKIP arm64: ${found.reason}`)
    copyFileSync(join(root, 'test/installed.mjs'), join(project, 'installed.mjs'))
    const answer = run('qemu-aarch64', ['-cpu', 'cortex-a57', '-L', '/usr/aarch64-linux-gnu', found.node, 'installed.mjs', '--api-only'], project, process.env)
    assert.is(answer.status, 0, answer.stderr)
    console.log(`${answer.stdout.trim()}  ${answer.seconds.toFixed(1)} s`)
  })

  const withoutBinaries = (): string => {
    const folder = join(work, 'without-binaries'), archive = join(folder, packed.filename)
    if (existsSync(archive)) return archive
    mkdirSync(folder)
    execFileSync('tar', ['xzf', tarball, '-C', folder])
    rmSync(join(folder, 'package/prebuilds'), { recursive: true })
    execFileSync('tar', ['czf', archive, '-C', folder, 'package'])
    return archive
  }

  install('no prebuilt binary, but a compiler: npm install builds one', () => {
    const folder = emptyProject(work)
    const headers = nodeHeaders()
    const { seconds } = addPackage(folder, userEnvironment({ JOBS: 'max', ...headers ? { npm_config_nodedir: headers } : {} }), withoutBinaries())
    console.log(`npm install from source: ${seconds.toFixed(0)} s`)
    assert.match(addonOf(folder), 'build/Release/nanochat.node')
    answers(folder, bare)
  })

  install('no prebuilt binary and no compiler: npm install fails and names what it needs', () => {
    const { status, stderr } = run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', withoutBinaries()], emptyProject(work), bare)
    assert.is.not(status, 0)
    assert.match(stderr, /find Python/)
  })

  install('no binary at all: the load error lists the platform, what was looked for and what to do', () => {
    const folder = emptyProject(work)
    addPackage(folder, bare, '--ignore-scripts', withoutBinaries())
    const { stdout } = script(folder, bare, "require('nanochat-node').loadModel('demo').catch(({ code, message }) => console.log(code, message))")
    for (const part of ['ERR_BINDING_NOT_FOUND', 'linux-x64', `Node ${process.versions.node}`, 'libc=glibc', 'build/Release/*.node', 'prebuilds/linux-x64/*.node', join(folder, 'node_modules/nanochat-node'),
      'prebuilt there: none', 'npm rebuild nanochat-node', 'python3, make and a C++ compiler', 'npm install-scripts approve nanochat-node']) assert.match(stdout, part)
  })

  install('a C library for which nothing is prebuilt gets no other\'s binary', () => {
    const { stdout } = script(project, { ...bare, LIBC: 'musl' }, "require('nanochat-node').loadModel('demo').catch(({ code, message }) => console.log(code, message))")
    const hasMusl = readdirSync(join(root, 'prebuilds/linux-x64')).includes('nanochat.musl.node')
    if (hasMusl) return assert.match(stdout, 'nanochat.musl.node')
    for (const part of ['ERR_BINDING_NOT_FOUND', 'libc=musl', 'linux-x64/nanochat.glibc.node']) assert.match(stdout, part)
  })

  function addPackage(folder: string, env: NodeJS.ProcessEnv, ...options: string[]): Run {
    const target = options.at(-1)?.endsWith('.tgz') ? [] : [tarball]
    const result = run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', ...options, ...target], folder, env)
    assert.is(result.status, 0, result.stderr)
    return result
  }

  function answers(folder: string, env: NodeJS.ProcessEnv): void {
    copyFileSync(join(root, 'test/installed.mjs'), join(folder, 'installed.mjs'))
    const { status, stdout, stderr } = run('node', ['installed.mjs'], folder, env)
    assert.is(status, 0, stderr)
    console.log(stdout.trim())
  }

  function script(folder: string, env: NodeJS.ProcessEnv, code: string): Run {
    return run('node', ['-e', code], folder, env)
  }

  function addonOf(folder: string): string {
    return script(folder, bare, "console.log(require('node-gyp-build').path('node_modules/nanochat-node'))").stdout.trim()
  }
}

install.run()

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(2)} MB`
}
