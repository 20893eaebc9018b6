// alone: its programs have deadlines and its checks look at every process
import { readdirSync, readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox, executeCode, executeIn } from '../lib/python.js'
import { findCage, type Tier } from '../lib/sandbox-tier.js'
import { survivors } from './support/sandbox-catalogue.js'
import { answerTo } from './support/sandbox-policy.js'

const errnos: Record<string, number> = { PERM: 1, NOENT: 2, CHILD: 10, AGAIN: 11, ACCES: 13, INVAL: 22, NOTTY: 25, NOSYS: 38, NOTSUP: 95 }
const arch = process.arch === 'arm64' ? 'aarch64' : 'x86_64'
// recent x86_64 kernels let these past every filter (see native/sandbox/policy.def)
const exempt = arch === 'x86_64' ? [335, 336] : []
const lastNumber = 480

const sweep = suite('sandbox: every system call with zero arguments, live')

for (const tier of ['full', 'container', 'sealed'] as Tier[]) {
  sweep(tier, async () => {
    const { plan, refusals } = await findCage(undefined, [tier])
    if (!plan) throw new Error(JSON.stringify(refusals))
    const stage = tier === 'sealed' ? 'sealed' : 'run'
    const numbers = Array.from({ length: lastNumber + 1 }, (_, nr) => nr).filter((nr) => !exempt.includes(nr))
    const answers = new Map(numbers.map((nr) => [nr, answerTo(arch, stage, nr, [0n, 0n, 0n, 0n, 0n, 0n])]))
    const call = (list: number[]): string => `import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nfor nr in ${JSON.stringify(list)}:\n  ctypes.set_errno(0); r = l.syscall(ctypes.c_long(nr), *[ctypes.c_long(0)] * 6); print(nr, r, ctypes.get_errno(), flush=True)`
    // what is answered with an error number can share a program; what kills or reaches the kernel gets its own
    const refused = numbers.filter((nr) => { const answer = answers.get(nr) ?? ''; return answer in errnos || answer === 'FAKE' })
    for (let at = 0; at < refused.length; at += 40) {
      const list = refused.slice(at, at + 40)
      const run = await executeIn(plan, call(list), { poolSize: 1 })
      assert.is(run.stdout.trim().split('\n').length, list.length, JSON.stringify([list, run]))
      for (const line of run.stdout.trim().split('\n')) {
        const [nr = 0, result, errno] = line.split(' ').map(Number)
        const answer = answers.get(nr) ?? ''
        assert.equal([nr, result, errno], answer === 'FAKE' ? [nr, 0, 0] : [nr, -1, errnos[answer]], `${nr} ${answer}`)
      }
    }
    const others = numbers.filter((nr) => !refused.includes(nr))
    const checkOne = async (nr: number): Promise<void> => {
      const run = await executeIn(plan, call([nr]), { poolSize: 1, timeoutMs: 700 })
      if (answers.get(nr) === 'KILL') assert.is(run.signal, 'SIGSYS', `${nr} was not killed: ${JSON.stringify(run)}`)
      else {
        assert.is.not(run.signal, 'SIGSYS', `${nr} was killed`)
        assert.not.match(run.stdout, / -1 38$/m, `${nr} did not reach the kernel`)
      }
    }
    for (let at = 0; at < others.length; at += 4) await Promise.all(others.slice(at, at + 4).map(checkOne))
    console.log(`\n${tier}: ${refused.length} answered with an error or faked, ${others.filter((nr) => answers.get(nr) === 'KILL').length} kill, ${others.filter((nr) => answers.get(nr) === 'ALLOW').length} reach the kernel; exempt: ${exempt.join(', ') || 'none'}`)
  })
}

const soak = suite('sandbox: 2,000 runs in a row')

soak('no wrong result, nothing left, memory flat', async () => {
  const mark = (256 << 20) + process.pid
  const state = (): object => ({ fds: readdirSync('/proc/self/fd').length, mounts: readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length, processes: survivors(mark) })
  await executeCode('1', { maximumMemoryBytes: mark })
  await closeSandbox()
  await new Promise((resolve) => setTimeout(resolve, 300))
  const before = state()
  const rss: number[] = []
  for (let i = 0; i < 2000; i++) {
    const run = await executeCode(i % 10 === 9 ? `print(${i})\nraise ValueError(${i})` : `print(${i})\n${i} * 3`, { maximumMemoryBytes: mark })
    assert.equal([run.stdout, run.result, run.error], [`${i}\n`, i % 10 === 9 ? null : String(i * 3), i % 10 === 9 ? `ValueError: ${i}` : null])
    if (i % 250 === 249) {
      globalThis.gc?.()
      rss.push(Math.round(process.memoryUsage().rss / 2 ** 20))
    }
  }
  await closeSandbox()
  await new Promise((resolve) => setTimeout(resolve, 300))
  console.log(`\nRSS in MB every 250 runs: ${rss.join(' ')}`)
  assert.equal(state(), before)
  assert.ok((rss.at(-1) ?? 0) - (rss[2] ?? 0) < 20, 'memory grows')
})

const clocks = suite('sandbox: clocks')

clocks('an event loop that stands still for ten seconds while the cage is looked for changes nothing', async () => {
  const search = findCage(undefined, ['full', 'full'])       // one that was not made yet
  await new Promise((resolve) => setTimeout(resolve, 5))
  const until = performance.now() + 10_500
  while (performance.now() < until) { /* blocks the loop */ }
  const { plan, refusals } = await search
  assert.equal([plan?.tier, refusals], ['full', []])
})

clocks('a limit just below a step of the processor seconds is a timeout', async () => {
  const { plan } = await findCage(undefined, ['sealed'])
  if (!plan) throw new Error('no sealed tier')
  const { timeout, error } = await executeIn(plan, 'while True: pass', { timeoutMs: 5995, poolSize: 0 })
  assert.equal([timeout, error], [true, 'TimeoutError: the program ran longer than 5995 ms'])
})

for (const one of [sweep, soak, clocks]) {
  one.after(closeSandbox)
  one.run()
}
