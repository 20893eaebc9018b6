import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runSeeds } from './support/seeds.js'

const test = suite('fuzzing')

test('400,000 calls of native functions with broken arguments', async () => {
  const { calls } = await runSeeds('native', 100, 1100, 400, { timeoutMs: 600_000 })
  assert.is(calls, 400_000)
})

test('40,000 texts, bytes and lists of ids for the tokenizer', async () => {
  const { cases } = await runSeeds('tokenizer', 10, 50, 1000, { timeoutMs: 600_000 })
  assert.is(cases, 40_000)
})

test.run()
