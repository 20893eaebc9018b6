import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { decode } from '../lib/decode.js'
import type { DecodeRow } from '../lib/decode.js'
import { newSampler } from '../lib/sampling.js'
import { FakeBackend } from './support/fake-backend.js'

const V = 32
const unhurried = { budgetMs: 1e6 }
const params = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 42 }

function newRow(backend: FakeBackend, row: number, tokens: number[], maxSteps: number): DecodeRow {
  return { sequence: backend.newSequence(), tokens: Int32Array.from(tokens), sampler: newSampler(params, row, V, tokens), maxSteps, logprobs: 2 }
}

const test = suite('decode')

test('steps until maxSteps, its own or a row\'s, a pause id or the end of the budget; the last token is not in the sequence yet', async () => {
  for (const [maxSteps, ofRow, pauseIds, budgetMs, steps] of [[9, 9, [], 1e6, 4], [3, 9, [], 1e6, 3], [9, 2, [], 1e6, 2], [9, 9, [22, 5], 1e6, 2], [9, 9, [], 0, 1]] as const) {
    const backend = new FakeBackend({ vocabSize: V })
    backend.script([1, 2], [10, 11, 12, 13])
    backend.script([3], [20, 21, 22, 23])
    backend.script([4], [30, 5, 31, 29])
    const rows = [newRow(backend, 0, [1, 2], 4), newRow(backend, 1, [3], ofRow), newRow(backend, 2, [4], 9)]
    const runs = await decode(backend, rows, { pauseIds, maxSteps, budgetMs })
    assert.equal(runs.map(({ ids }) => ids), [[10, 11, 12, 13], [20, 21, 22, 23], [30, 5, 31, 29]].map((ids) => ids.slice(0, steps)))
    assert.equal(runs.map(({ logprobs }) => logprobs.length), [steps, steps, steps])
    assert.equal(rows.map(({ sequence }) => sequence.length), [1 + steps, steps, steps])
    assert.equal(backend.passes.map(({ rows }) => rows.length), Array(steps).fill(3))
  }
})

test('running ahead draws the tokens that single steps draw', async () => {
  const backend = new FakeBackend({ vocabSize: V })
  const ahead = await decode(backend, [newRow(backend, 0, [1, 2], 6), newRow(backend, 1, [7], 6)], { ...unhurried, pauseIds: [], maxSteps: 6 })
  const rows = [newRow(backend, 0, [1, 2], 1), newRow(backend, 1, [7], 1)]
  const single: number[][] = [[], []]
  for (let step = 0; step < 6; step++) {
    const runs = await decode(backend, rows, { ...unhurried, pauseIds: [], maxSteps: 1, out: new Float32Array(2 * V) })
    runs.forEach(({ ids }, i) => {
      single[i]?.push(...ids)
      ;(rows[i] as DecodeRow).tokens = Int32Array.from(ids)
    })
  }
  assert.equal(ahead.map(({ ids }) => ids), single)
})

test('a failure in any step leaves every sequence as it was', async () => {
  let passes = 0
  const failure = new Error('broken')
  const backend = new FakeBackend({ vocabSize: V, fail: () => { if (++passes === 3) throw failure } })
  const rows = [newRow(backend, 0, [1, 2], 9), newRow(backend, 1, [3], 9)]
  assert.is(await decode(backend, rows, { ...unhurried, pauseIds: [], maxSteps: 9 }).catch((error: unknown) => error), failure)
  assert.equal(rows.map(({ sequence }) => sequence.length), [0, 0])
})

test.run()
