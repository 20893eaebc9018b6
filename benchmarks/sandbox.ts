import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { cpus } from 'node:os'
import { Worker } from 'node:worker_threads'
import { closeSandbox, describeSandbox, executeCode, warmSandbox } from '../lib/python.js'
import { keepAlive, startProcess } from '../lib/sandbox-process.js'
import { integer, parseOptions } from './options.js'

const usage = `bench sandbox [options]
  -r, --repetitions N        programs run warm, and cold, and bare interpreters started; default 200
  -h, --help                 this text`

let busyStarts = 0                   // runs begun although the machine never became idle
const program = 'print("x")\n6 * 7'

/**
 * The cage's latency in milliseconds: code to result with a warm interpreter and with a cold one, beside a bare
 * `python3 -I -S -c` started the same way; and how long the event loop stands still while one is started from a process
 * with 2 GB resident. undefined when only help was wanted. Throws ERR_INVALID_ARG and what executeCode throws.
 */
export async function run(args: string[]): Promise<object | undefined> {
  const values = parseOptions(args, { repetitions: { type: 'string', short: 'r', default: '200' }, help: { type: 'boolean', short: 'h', default: false } })
  if (values.help) {
    console.log(usage)
    return undefined
  }
  const runs = integer('-r', values.repetitions, 1)
  const { tier, layers, python, pythonVersion, refused } = await describeSandbox()
  if (python === null) throw new Error(refused.join('\n'))
  const user = process.getuid?.() === 0 ? 'root' : 'unprivileged'
  console.log(`sandbox: ${tier} tier as ${user}, python ${pythonVersion}, ${runs} runs each, milliseconds`)
  const warm = await measure(runs, () => executeCode(program).then(check), () => warmSandbox().then(settled))
  report('warm, code to result', warm)
  await closeSandbox()
  const cold = await measure(runs, () => executeCode(program, { poolSize: 0 }).then(check), settled)
  report('cold, code to result', cold)
  const bare = await measure(runs, () => bareInterpreter(python), settled)
  report('bare python3 -I -S -c, to its exit', bare)
  const blocked = await blockedWith2GB()
  report('event loop stands still, start from 2 GB', blocked.cage)
  report('the same with child_process.spawn', blocked.spawn)
  report('the same with nothing started', blocked.nothing)
  report('the same, both processors busy', blocked.busy)
  await closeSandbox()
  if (busyStarts > 0) console.log(`${busyStarts} runs began while the machine was busy with something else`)
  return { benchmark: 'sandbox', tier, layers, user, pythonVersion, runs, busyStarts, warm: summary(warm), cold: summary(cold), bare: summary(bare), blockedMs: summary(blocked.cage), blockedBySpawnMs: summary(blocked.spawn), blockedByNothingMs: summary(blocked.nothing), blockedByBusyMs: summary(blocked.busy) }
}

async function measure(runs: number, action: () => Promise<unknown>, prepare: () => Promise<unknown>): Promise<number[]> {
  const times: number[] = []
  for (let i = -5; i < runs; i++) {
    await prepare()
    const started = performance.now()
    await action()
    if (i >= 0) times.push(performance.now() - started)
  }
  return times.sort((a, b) => a - b)
}

function check(result: { result: string | null, stdout: string }): void {
  if (result.result !== '42' || result.stdout !== 'x\n') throw new Error(`wrong result: ${JSON.stringify(result)}`)
}

/** Waits until the previous interpreter is gone and the machine has been idle for 40 ms, for two seconds at most. */
async function settled(): Promise<void> {
  for (let tries = 0; tries < 50; tries++) {
    const before = cpuTimes()
    await new Promise((resolve) => setTimeout(resolve, 40))
    const after = cpuTimes()
    if (after.idle - before.idle >= 0.85 * (after.total - before.total)) return
  }
  busyStarts++
}

function cpuTimes(): { idle: number, total: number } {
  const times = cpus().map((cpu) => cpu.times)
  return { idle: sum(times.map((t) => t.idle)), total: sum(times.map((t) => t.idle + t.user + t.sys + t.nice + t.irq)) }
}

function sum(numbers: number[]): number {
  return numbers.reduce((a, b) => a + b, 0)
}

async function bareInterpreter(python: string): Promise<void> {
  const started = await keepAlive(startProcess(python, [python, '-I', '-S', '-c', program], []))
  await keepAlive(started.exited)
  for (const fd of [started.stdout, started.stderr, started.request, started.result, started.control, started.report]) closeSync(fd)
}

async function blockedWith2GB(): Promise<{ cage: number[], spawn: number[], nothing: number[], busy: number[] }> {
  const ballast = Array.from({ length: 8 }, () => Buffer.alloc(256 << 20, 1))
  const cage = await longestPauses(20, () => executeCode('1', { poolSize: 0 }))
  const forked = await longestPauses(5, () => new Promise((resolve) => spawn('/bin/true').on('exit', resolve)))
  const nothing = await longestPauses(20, () => new Promise((resolve) => setTimeout(resolve, 25)))
  const busy = await pausesBesideBusyThreads()
  if (ballast.length !== 8) throw new Error('the ballast is gone')
  return { cage, spawn: forked, nothing, busy }
}

/** What a cage's processes do to the event loop by being at work, not by being started: threads that were there before work as long. */
async function pausesBesideBusyThreads(): Promise<number[]> {
  const work = `const { parentPort } = require('node:worker_threads')
    parentPort.on('message', () => { const end = performance.now() + 15; while (performance.now() < end); parentPort.postMessage(0) })`
  const workers = Array.from({ length: 2 }, () => new Worker(work, { eval: true }))
  await Promise.all(workers.map((worker) => once(worker, 'online')))
  const pauses = await longestPauses(20, () => Promise.all(workers.map((worker) => {
    worker.postMessage(0)
    return once(worker, 'message')
  })))
  await Promise.all(workers.map((worker) => worker.terminate()))
  return pauses
}

/** For each call the longest time between two turns of the event loop; a busy machine shows as pauses of its time slice. */
async function longestPauses(runs: number, action: () => Promise<unknown>): Promise<number[]> {
  const pauses: number[] = []
  for (let i = -2; i < runs; i++) {
    let longest = 0, last = performance.now(), done = false
    const tick = (): void => {
      const now = performance.now()
      longest = Math.max(longest, now - last)
      last = now
      if (!done) setImmediate(tick)
    }
    setImmediate(tick)
    await action()
    done = true
    if (i >= 0) pauses.push(longest)
    await settled()
  }
  return pauses.sort((a, b) => a - b)
}

function summary(times: number[]): { min: number, p50: number, p90: number, p99: number, max: number } {
  const at = (share: number): number => Number((times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0).toFixed(2))
  return { min: at(0), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
}

function report(name: string, times: number[]): void {
  const { min, p50, p90, p99, max } = summary(times)
  console.log(`${name.padEnd(44)} min ${min}  p50 ${p50}  p90 ${p90}  p99 ${p99}  max ${max}`)
}
