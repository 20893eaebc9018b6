// The test runner: every test file in its own process, so that a native crash fails one file and not the run. A file that
// measures time or starts many processes says `// alone:` and why, and runs by itself; the others share the processors.
//   node test/run.mjs [pattern]    *.test.ts whose path matches
//   node test/run.mjs --long       the campaigns, *.long.ts
//   node test/run.mjs --in-process compiled tests in this process (emulators)
// uvu alone reports success for a suite whose before() throws, for a file that never calls run() and for no files at
// all; here each of them is a failure.
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const args = process.argv.slice(2)
const timeoutMs = Number(process.env.TEST_TIMEOUT_MS ?? (args.includes('--long') ? 1_800_000 : 300_000))

/** Runs one file in this process and counts. */
async function runFile(file) {
  const counts = { passed: 0, failed: 0, skipped: 0 }
  const suites = []
  globalThis.UVU_DEFER = 1
  globalThis.UVU_QUEUE = [[relative(here, file)]]
  globalThis.UVU_INDEX = 0
  try {
    await import(pathToFileURL(file).href)
    suites.push(...globalThis.UVU_QUEUE[0].slice(1))
    if (suites.length === 0) throw new Error('no suite registered: is .run() missing?')
  } catch (error) {
    console.error(`FAIL ${relative(here, file)} did not load\n${error?.stack ?? error}`)
    counts.failed++
    return counts
  }
  for (const suite of suites) {
    try {
      const [errors, ran, skipped, total] = await suite()
      counts.passed += ran
      counts.skipped += skipped
      counts.failed += total - ran
      if (total + skipped === 0) { console.error('FAIL a suite has no tests'); counts.failed++ }
      if (typeof errors === 'string') console.error(errors)
      else if (total > ran) console.error(`FAIL a before() hook threw: ${total - ran} tests did not run`)
    } catch (error) {
      console.error(`FAIL ${error?.stack ?? error}`)
      counts.failed++
    }
  }
  return counts
}

/** Runs one file in a child process; a crash, a hang or a missing report is a failure. */
function runFileInChild(file) {
  const name = relative(here, file)
  return new Promise((resolve) => {
    const started = Date.now()
    const child = spawn(process.execPath, ['--import', 'tsx', '--expose-gc', fileURLToPath(import.meta.url), '--child', file],
      { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], cwd: dirname(here) })
    const output = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk))
    let counts
    const timer = setTimeout(() => { output.push(`FAIL ${name} ran longer than ${timeoutMs} ms\n`); child.kill('SIGKILL') }, timeoutMs)
    child.on('message', (message) => { counts = message })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      process.stdout.write(Buffer.concat(output.map((chunk) => Buffer.from(chunk))))
      const crashed = signal !== null || counts === undefined || (code !== 0 && counts.failed === 0)
      counts ??= { passed: 0, failed: 0, skipped: 0 }
      if (crashed) { console.error(`FAIL ${name} ended with ${signal ?? code}`); counts.failed++ }
      console.log(`${name}  ${counts.passed} passed${counts.failed ? `, ${counts.failed} FAILED` : ''}  ${((Date.now() - started) / 1000).toFixed(1)} s`)
      resolve(counts)
    })
  })
}

if (args.includes('--child')) {
  const counts = await runFile(args[args.indexOf('--child') + 1])
  process.send(counts, () => process.exit(counts.failed ? 1 : 0))
} else {
  const suffix = args.includes('--long') ? /\.long\.[mc]?[tj]s$/ : /\.test\.[mc]?[tj]s$/
  const pattern = new RegExp(args.find((arg) => !arg.startsWith('--')) ?? '')
  const files = readdirSync(here, { recursive: true }).map((name) => join(here, name))
    .filter((file) => suffix.test(file) && pattern.test(relative(here, file))).sort()
  const sum = { passed: 0, failed: 0, skipped: 0 }
  if (files.length === 0) { console.error('FAIL no test files'); sum.failed++ }
  const run = args.includes('--in-process') ? runFile : runFileInChild
  const next = async (queue) => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const counts = await run(file)
      for (const key of Object.keys(sum)) sum[key] += counts[key]
    }
  }
  const isAlone = (file) => args.includes('--in-process') || /^\/\/ alone: /m.test(readFileSync(file, 'utf8'))
  const together = files.filter((file) => !isAlone(file))
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, () => next(together)))
  await next(files.filter(isAlone))
  console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`)
  process.exit(sum.failed ? 1 : 0)
}
