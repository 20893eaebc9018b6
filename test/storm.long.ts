// alone: it starts and ends many processes
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runSeeds } from './support/seeds.js'
import { exitCode } from './support/storm.js'

const test = suite('storm of lifecycles')

test('60 random sequences of load, generate, abort, dispose, worker and process exit: none crashes or hangs', async () => {
  const { started } = await runSeeds('storm', 0, 60, 0, { timeoutMs: 60_000, exitCodes: [exitCode] })
  assert.ok(Number(started) > 100, `${started} actions`)
})

test.run()
