// The addon's functions called at random, and in a process that is short of something. They run in child processes, so that
// a crash is a failed test with its seed.
import { spawnSync } from 'node:child_process'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runSeeds } from './support/seeds.js'

const test = suite('fuzzing of native functions')

test('40,000 calls with broken arguments', async () => {
  const { calls, returned, refused } = await runSeeds('native', 0, 100, 400)
  console.log(`${calls} calls: ${returned} returned, ${refused} refused`)
  assert.is(calls, 40_000)
  assert.ok(Number(returned) > 4000 && Number(refused) > 15_000)
})

test('workers that are terminated while they call the addon do not take the process with them', () => {
  const worker = `
    const addon = require('node-gyp-build')(require('node:worker_threads').workerData)
    for (;;) try { addon.describe({}) } catch {}`
  const script = `
    const { Worker } = require('node:worker_threads'), { once } = require('node:events'), { setTimeout: sleep } = require('node:timers/promises')
    const run = async () => {
      for (let i = 0; i < 25; i++) {
        const worker = new Worker(${JSON.stringify(worker)}, { eval: true, workerData: process.cwd() })
        await once(worker, 'online')
        await sleep(5 + i % 20)
        await worker.terminate()
      }
      console.log('alive')
    }
    run()`
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' })
  assert.equal([status, signal, stdout], [0, null, 'alive\n'], stderr)
})

if (process.platform === 'linux') {
  test('no descriptor left: the sandbox thread is refused and the process ends', () => {
    const script = `
      const addon = require('node-gyp-build')('.'), fs = require('node:fs')
      try { for (;;) fs.openSync('/dev/null') } catch {}
      try { addon.startSandboxThread(() => {}) } catch (error) { fs.writeSync(1, error.message) }`
    const { status, signal, stdout } = spawnSync('prlimit', ['--nofile=64:64', process.execPath, '-e', script], { encoding: 'utf8', timeout: 20_000, killSignal: 'SIGKILL' })
    assert.equal([status, signal, stdout], [0, null, 'starting the sandbox\'s thread failed: Too many open files'])
  })
}

test.run()
