// npm run test:sanitized [-- NAME]     the native code under the sanitizers of gcc, built by the presets of CMakePresets.json:
//   asan   addresses and undefined behaviour: test files in this repository's own runner, short campaigns, and a program
//          without node, in which leaks are looked for as well
//   tsan   data races: the same program, and campaigns in node, whose own code is not instrumented
// Needs cmake and gcc's libasan and libtsan; what is not there is skipped, and said. The last line is `N passed, N failed`.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { layOut } from './lay-out.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const pattern = new RegExp(process.argv[2] ?? '')
const sum = { passed: 0, failed: 0 }
const stormExit = 7                    // of test/support/storm.ts
const reportExit = 66                  // of a process in which a sanitizer reported something

// Test files that call native code and take a minute at most when it is some five times slower; programs that they start are
// sanitized, too. Not here: what measures time or memory (load), what starts python or compilers, into which the sanitizer would be
// preloaded as well, and fuzz-native, whose calls are the campaign `native`: with no descriptor left UBSan cannot look at a type.
const testFiles = [
  'kernels-attention', 'kernels-matmul', 'kernels-quantized', 'kernels', 'forward', 'forward-errors', 'golden', 'packed', 'sampler', 'sampling', 'kv-cache',
  'checkpoint', 'checkpoint-hostile', 'hostile-arguments', 'arguments', 'engine', 'engine-reference', 'decode', 'scheduler', 'chat', 'split', 'stop', 'vocabulary', 'lifecycle'
]

const targets = [
  {
    name: 'asan', library: 'libasan.so', wrap: [],
    env: { ASAN_OPTIONS: `detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2000:exitcode=${reportExit}`, UBSAN_OPTIONS: `print_stacktrace=1:exitcode=${reportExit}`, TEST_ONE_IN: '11' },
    jobs: [
      ['threads', ['20'], { ASAN_OPTIONS: 'detect_leaks=1' }], ...testFiles.map((file) => ['node', ['test/run.mjs', '--in-process', `^${file}\\.test`]]),
      ...campaign('native', 0, 60, 400), ...campaign('loaders', 0, 5, 2000), ...campaign('tokenizer', 0, 2, 1000), ...storms(0, 8)
    ]
  },
  {
    // note: with the kernel's usual 32 random bits node lies where ThreadSanitizer wants its shadow
    name: 'tsan', library: 'libtsan.so', wrap: ['setarch', '-R'],
    env: { TSAN_OPTIONS: `suppressions=${join(root, 'test/native/tsan.supp')} report_signal_unsafe=0 exitcode=${reportExit}` },
    jobs: [['node', ['-e', 'require("./build/Release/planted_race.node").writeTwice()'], {}, reportExit], ['threads', ['20']], ...campaign('native', 0, 20, 400), ...storms(0, 16)]
  }
]

function campaign(kind, from, to, size) {
  return [['node', ['--expose-gc', 'test/support/seeds-child.js', kind, String(from), String(to), String(size)]]]
}

/** One seed a process: many of them end it. */
function storms(from, to) {
  return Array.from({ length: to - from }, (_, i) => campaign('storm', from + i, from + i + 1, 0)[0])
}

function gccLibrary(name) {
  const { stdout } = spawnSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' })
  return isAbsolute(stdout?.trim() ?? '') && existsSync(stdout.trim()) ? stdout.trim() : undefined
}

function build(name) {
  for (const args of [['--preset', name], ['--build', '--preset', name, '--parallel', String(availableParallelism())]]) {
    const { status, stdout, stderr } = spawnSync('cmake', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
    if (status !== 0) throw new Error(`cmake ${args.join(' ')} ended with ${status}\n${stdout}${stderr}`)
  }
  return layOut(join(root, `build-${name}`))
}

/** Runs one job to its end: a test that fails, another end than `end` or a report of the sanitizer is a failure; the lack of one, too, where one must come. */
function run({ name, wrap, env }, [program, args, more = {}, end = 0], folder, library) {
  return new Promise((resolve) => {
    const started = Date.now(), output = []
    const preload = program === 'node' ? { LD_PRELOAD: library } : {}
    const command = [...wrap, program === 'node' ? process.execPath : join(folder, program), ...program === 'node' && args[0] === 'test/run.mjs' ? ['--expose-gc'] : [], ...args]
    const child = spawn(command[0], command.slice(1), { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env, ...preload, ...more }, timeout: 800_000, killSignal: 'SIGKILL' })
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk))
    child.on('close', (code, signal) => {
      const text = Buffer.concat(output).toString(), label = `${name}  ${program} ${args.join(' ').slice(0, 90)}`, seconds = ((Date.now() - started) / 1000).toFixed(1)
      const [, passed = 1, failed = 0] = (/^(\d+) passed, (\d+) failed/m.exec(text) ?? []).map(Number)
      const isEnd = code === end || (code === stormExit && args.includes('storm'))
      const reported = /ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:/.test(text)
      const failures = Math.max(failed, !isEnd || reported !== (end === reportExit) ? 1 : 0)
      sum.passed += failures > 0 && failed === 0 ? 0 : passed
      sum.failed += failures
      if (failures > 0) console.log(`FAIL ${label} ended with ${signal ?? code} after ${seconds} s\n${text.slice(-12_000)}`)
      else console.log(`${label}  ${passed} passed  ${seconds} s`)
      resolve()
    })
  })
}

for (const target of targets.filter(({ name }) => pattern.test(name))) {
  const library = gccLibrary(target.library)
  const missing = spawnSync('cmake', ['--version']).error ? 'no cmake' : library === undefined ? `no ${target.library} of gcc` : undefined
  if (process.platform !== 'linux' || missing !== undefined) {
    console.log(`SKIP ${target.name}: ${missing ?? 'not on Linux'}`)
    continue
  }
  const folder = build(target.name)
  const queue = [...target.jobs]
  const next = async () => { for (let job = queue.shift(); job !== undefined; job = queue.shift()) await run(target, job, folder, library) }
  await Promise.all(Array.from({ length: availableParallelism() }, next))
}
console.log(`${sum.passed} passed, ${sum.failed} failed`)
process.exit(sum.failed ? 1 : 0)
