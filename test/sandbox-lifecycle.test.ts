// alone: its programs have deadlines and its checks look at every process
import { spawn } from 'node:child_process'
import { chownSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'
import { closeSandbox, executeCode, executeIn, warmSandbox } from '../lib/python.js'
import { findCage, scratchPrefix, type CagePlan, type Tier } from '../lib/sandbox-tier.js'
import { survivors } from './support/sandbox-catalogue.js'

const test = suite('sandbox: whoever dies, nothing is left')
let lastMark = (256 << 20) + process.pid * 64
const newMark = (): number => ++lastMark
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function planOf(tier: Tier): Promise<CagePlan> {
  const { plan, refusals } = await findCage(undefined, [tier])
  if (!plan) throw new Error(`no ${tier} tier on this machine: ${JSON.stringify(refusals)}`)
  return plan
}

/** Milliseconds until no process of this mark is there any more; fails after two seconds. */
async function untilGone(mark: number): Promise<number> {
  const started = performance.now()
  while (survivors(mark).length > 0) {
    if (performance.now() - started > 2000) assert.unreachable(`left: ${survivors(mark).join('\n')}`)
    await sleep(2)
  }
  return performance.now() - started
}

const scratchOf = (pid: number | undefined): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('nanochat-sandbox-') && name.includes(`-${pid}-`))

async function hostAt(tier: Tier, stage: string, mark: number): Promise<ReturnType<typeof spawn>> {
  const host = spawn(process.execPath, ['--import', 'tsx', join(binding.packageRoot, 'test/support/sandbox-host.ts'), tier, stage, String(mark)], { cwd: binding.packageRoot, stdio: ['ignore', 'pipe', stage === 'throw' ? 'ignore' : 'inherit'] })
  await new Promise<void>((resolve, reject) => {
    host.stdout?.once('data', () => resolve())
    host.once('exit', (code) => reject(new Error(`the host ended with ${code}`)))
  })
  return host
}

for (const tier of ['full', 'container', 'sealed'] as const) {
  for (const stage of tier === 'full' ? ['starting', 'running', 'idle'] : ['running']) {
    test(`${tier}: host killed while ${stage}`, async () => {
      const mark = newMark()
      const host = await hostAt(tier, stage, mark)
      if (stage !== 'starting') assert.ok(survivors(mark).length >= 2, 'a launcher and an interpreter are there')
      host.kill('SIGKILL')
      await untilGone(mark)
      assert.equal(scratchOf(host.pid), [])
    })
  }

  test(`${tier}: launcher killed at work`, async () => {
    const mark = newMark()
    const run = executeIn(await planOf(tier), 'while True: pass', { maximumMemoryBytes: mark, timeoutMs: 60_000, poolSize: 0 })
    await sleep(400)
    const launcher = survivors(mark).find((line) => line.includes('nanochat-sandbox'))
    process.kill(Number(launcher?.split(' ')[0]), 'SIGKILL')
    const result = await run
    assert.equal([result.success, result.timeout], [false, false])
    await untilGone(mark)
    await sleep(20)
    assert.equal(scratchOf(process.pid), [])
  })
}

for (const stage of ['exit', 'throw', 'worker']) {
  test(`the host ends by itself: ${stage}`, async () => {
    const mark = newMark()
    const host = await hostAt('full', stage, mark)
    assert.ok(survivors(mark).length >= 2, 'a launcher and an interpreter are there')
    await new Promise((resolve) => host.once('exit', resolve))
    await untilGone(mark)
  })
}

test('a host with warm interpreters and nothing else to do ends', async () => {
  const mark = newMark()
  const host = await hostAt('full', 'idle', mark)
  assert.is(await new Promise((resolve) => host.once('exit', resolve)), 0)
  await untilGone(mark)
})

test('the interpreter killed from outside is a failure with its signal', async () => {
  const mark = newMark()
  const run = executeIn(await planOf('full'), 'while True: pass', { maximumMemoryBytes: mark, poolSize: 0 })
  await sleep(300)
  const interpreter = survivors(mark).find((line) => !line.includes('nanochat-sandbox'))
  process.kill(Number(interpreter?.split(' ')[0]), 'SIGKILL')
  const { success, timeout, signal, error } = await run
  assert.equal([success, timeout, signal], [false, false, 'SIGKILL'])
  assert.match(error ?? '', /SIGKILL/)
})

test('a stopped launcher: the host ends the run two seconds late', async () => {
  const mark = newMark()
  const run = executeIn(await planOf('full'), 'while True: pass', { maximumMemoryBytes: mark, timeoutMs: 500, poolSize: 0 })
  await sleep(250)
  process.kill(Number(survivors(mark).find((line) => line.includes('nanochat-sandbox'))?.split(' ')[0]), 'SIGSTOP')
  assert.is((await run).timeout, true)
  await untilGone(mark)
})

test('a blocked event loop: the limit holds, and a result that was in time is the result', async () => {
  const mark = newMark()
  const plan = await planOf('full')
  const options = { maximumMemoryBytes: mark, timeoutMs: 1200, poolSize: 0 }
  const slow = executeIn(plan, 'while True: pass', options)
  const quick = executeIn(plan, 'import time\ntime.sleep(0.7)\nprint("in time")\n1', options)
  await sleep(500)
  const until = performance.now() + 2000
  while (performance.now() < until) { /* blocks the loop */ }
  assert.is(survivors(mark).filter((line) => !line.includes('nanochat-sandbox')).length, 0, 'the interpreter was gone while the loop was blocked')
  assert.is((await slow).timeout, true)
  assert.equal([(await quick).result, (await quick).stdout], ['1', 'in time\n'])
})

test('a result in time is the result, however long the event loop was blocked', async () => {
  const run = executeIn(await planOf('full'), 'import time\ntime.sleep(0.2)\nprint("in time")\n1', { timeoutMs: 300, poolSize: 0 })
  await sleep(100)
  await new Promise((resolve) => setImmediate(resolve))
  const until = performance.now() + 2600     // two seconds more than the limit: the host's own timer is due before anything is read
  while (performance.now() < until) { /* blocks the loop */ }
  const { timeout, result, stdout } = await run
  assert.equal([timeout, result, stdout], [false, '1', 'in time\n'])
})

test('output that a program closed is nobody else\'s: no file of the host and no pipe of another run is read in its place', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'closed-')), file = join(folder, 'secret')
  writeFileSync(file, 'SECRET OF THE HOST\n')
  const plan = await planOf('full')
  const spy = executeIn(plan, 'import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.6)\n42', { poolSize: 0 })
  await sleep(250)
  const files = Array.from({ length: 4 }, () => openSync(file, 'r'))
  const others = Array.from({ length: 4 }, (_, i) => executeIn(plan, `import sys\nprint("of ${i}")\nprint("of ${i}", file=sys.stderr)`, { poolSize: 0 }))
  const { result, stdout, stderr } = await spy
  assert.equal([result, stdout, stderr], ['42', '', ''])
  for (const [i, other] of others.entries()) assert.equal([(await other).stdout, (await other).stderr], [`of ${i}\n`, `of ${i}\n`])
  for (const fd of files) closeSync(fd)
  rmSync(folder, { recursive: true })
})

test('a worker that ends with warm interpreters leaves no descriptor and no warning', async () => {
  const warnings: string[] = []
  const start = async (): Promise<void> => {
    const worker = new Worker(`require('tsx/cjs/api').register(); const { executeCode, warmSandbox } = require(${JSON.stringify(join(binding.packageRoot, 'lib/python.ts'))});
      process.on('warning', ({ message }) => require('worker_threads').parentPort.postMessage(message))
      executeCode('1').then(() => warmSandbox()).then(() => setTimeout(() => process.exit(), 20))`, { eval: true })
    worker.on('message', (message: string) => { warnings.push(message) })
    await new Promise((resolve) => worker.once('exit', resolve))
  }
  const pipes = (): number => readdirSync('/proc/self/fd').filter((fd) => { try { return readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:') } catch { return false } }).length
  await start()
  const before = pipes()
  for (let i = 0; i < 3; i++) await start()
  for (let tries = 0; pipes() > before && tries < 50; tries++) await sleep(20)
  assert.equal([pipes(), warnings], [before, []])
})

for (const [what, code] of [
  ['unlinked files that stay open', 'import os\nkept = []\nfor i in range(20):\n  f = open("f", "wb"); f.write(b"x" * (8 << 20)); f.flush(); os.unlink("f"); kept.append(f); time.sleep(0.03)'],
  ['unlinked files that stay mapped', 'import os, mmap\nkept = []\nfor i in range(20):\n  f = open("f", "wb+"); f.write(b"x" * (8 << 20)); f.flush(); kept.append(mmap.mmap(f.fileno(), 4096)); os.unlink("f"); f.close(); time.sleep(0.03)'],
  ['a folder that nobody may read', 'import os\nos.mkdir("d", 0o300)\nfor i in range(20):\n  open("d/%d" % i, "wb").write(b"x" * (8 << 20)); time.sleep(0.03)']
] as const) {
  test(`container: the limit of the scratch directory counts ${what}`, async () => {
    const { success, error } = await executeIn(await planOf('container'), `import time\n${code}\n"not stopped"`, { poolSize: 0, timeoutMs: 10_000 })
    assert.equal([success, error], [false, 'OSError: [Errno 28] No space left on device'])
  })
}

test('a few mapped files without names are no flood', async () => {
  const run = await executeIn(await planOf('container'), 'import mmap, tempfile, time\nkept = []\nfor i in range(3):\n  f = tempfile.TemporaryFile(); f.write(b"x" * 5000); f.flush(); kept.append((f, mmap.mmap(f.fileno(), 0)))\ntime.sleep(0.1)\nlen(kept)', { poolSize: 0 })
  assert.equal([run.result, run.error], ['3', null])
})

test('scratch directories of the dead are removed, but nobody else\'s of such a name', async () => {
  const own = join(tmpdir(), `${scratchPrefix()}4194305-own`), others = join(tmpdir(), `${scratchPrefix()}4194305-others`)
  mkdirSync(own)
  mkdirSync(others)
  if (process.getuid?.() === 0) chownSync(others, 65534, 65534)
  else console.log('not tested here: the directory of another user, which only root can make')
  await findCage(undefined, ['full', 'sealed'])     // searched for anew, and swept before
  assert.equal([existsSync(own), existsSync(others)], [false, process.getuid?.() === 0])
  rmSync(others, { recursive: true, force: true })
})

test('eight hostile programs at once', async () => {
  const mark = newMark()
  const codes: [string, (result: Awaited<ReturnType<typeof executeCode>>) => boolean][] = [
    ['while True: pass', (r) => r.timeout], ['bytearray(1 << 30)', (r) => r.memoryExceeded], ['while True: print("x" * 100000)', (r) => /4 MiB/.test(r.error ?? '')], ['import os\nos.fork()', (r) => /PermissionError/.test(r.error ?? '')],
    ['6 * 7', (r) => r.result === '42'], ['1 / 0', (r) => /ZeroDivision/.test(r.error ?? '')], ['import time\ntime.sleep(99)', (r) => r.timeout], ['import os\nos._exit(0)', (r) => !r.success && r.exitCode === 0],
  ]
  const started = performance.now()
  const results = await Promise.all(codes.map(([code]) => executeCode(code, { maximumMemoryBytes: mark, timeoutMs: 1000, poolSize: 1 })))
  for (const [index, result] of results.entries()) assert.ok(codes[index]?.[1](result), JSON.stringify([codes[index]?.[0], result]))
  assert.ok(performance.now() - started < 5000)
})

test('a program that ends at its deadline: a result or a timeout, never both', async () => {
  const seen = { results: 0, timeouts: 0 }
  for (let i = 0; i < 40; i++) {
    const run = await executeCode(`import time\ntime.sleep(${0.05 + (i % 10) * 0.002})\n1`, { timeoutMs: 60, poolSize: 2 })
    assert.ok(run.timeout ? !run.success && run.result === null && run.error !== null : run.success && run.result === '1' && run.error === null, JSON.stringify(run))
    seen[run.timeout ? 'timeouts' : 'results']++
    assert.ok(run.durationMs < 500)
  }
  assert.is(seen.results + seen.timeouts, 40)
})

test('sixty calls at once take turns and all come back', async () => {
  const results = await Promise.all(Array.from({ length: 60 }, (_, i) => executeCode(`${i} * 2`, { timeoutMs: 20_000 })))
  assert.equal(results.map((run) => run.result), Array.from({ length: 60 }, (_, i) => String(i * 2)))
})

test('closing ends warm interpreters and running programs; later calls work', async () => {
  const mark = newMark()
  await warmSandbox({ maximumMemoryBytes: mark })
  const run = executeCode('while True: pass', { maximumMemoryBytes: mark, timeoutMs: 60_000 })
  await sleep(100)
  await closeSandbox()
  assert.is((await run).success, false)
  await untilGone(mark)
  assert.is((await executeCode('6 * 7', { maximumMemoryBytes: mark })).result, '42')
})

test('closing waits for interpreters that have not started yet', async () => {
  const mark = newMark()
  const run = executeCode('while True: pass', { maximumMemoryBytes: mark, timeoutMs: 60_000 })
  await sleep(2)
  await closeSandbox()
  assert.equal(survivors(mark), [])
  assert.is((await run).success, false)
})

test.after(closeSandbox)
test.run()
