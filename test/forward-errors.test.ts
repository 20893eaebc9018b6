// What a pass refuses, and that a pass which fails or is cancelled leaves its sequences as they were.
import { totalmem } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runJob } from '../lib/cpu-backend.js'
import { native, type ModelSpec, type NativeModel, type NativeSequence } from '../lib/native.js'
import { firstDifference } from './support/random-arrays.js'
import { formulaPrompt } from './support/seeded.js'

const test = suite('forward, errors')
const toy: ModelSpec = { generation: 'G6', sequenceLen: 64, vocabSize: 100, nLayer: 2, nHead: 2, nKvHead: 1, nEmbd: 32, windowPattern: 'SL' }
const V = toy.vocabSize

async function withNative(spec: ModelSpec, use: (model: NativeModel) => Promise<void>): Promise<void> {
  const model = await runJob(() => native().seeded(spec, 1, { dtype: 'float32', threads: 2 }), undefined)
  try {
    await use(model)
  } finally {
    await model.dispose()
  }
}

/** All logits of one row. */
async function pass(model: NativeModel, sequence: NativeSequence, tokens: Int32Array, vocabSize = V): Promise<Float32Array> {
  const out = new Float32Array(tokens.length * vocabSize)
  await model.forward([sequence], tokens, Int32Array.of(tokens.length), Uint8Array.of(2), out).promise
  return out
}

async function codeOf(work: () => unknown): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error
  }
  return 'none'
}

test('invalid arguments are ERR_INVALID_ARG and change nothing', () => withNative(toy, async (model) => {
  const sequence = model.newSequence(), stranger = model.newSequence(), disposed = model.newSequence()
  disposed.dispose()
  const ids = Int32Array.of(1, 2), counts = Int32Array.of(2), wanted = Uint8Array.of(1), out = new Float32Array(V)
  const detached = Int32Array.of(1, 2)
  structuredClone(detached, { transfer: [detached.buffer] })
  const cases: unknown[][] = [
    [], [null, ids, counts, wanted, out], [[], ids, counts, wanted, out], [[{}], ids, counts, wanted, out], [[null], ids, counts, wanted, out],
    [[sequence], [1, 2], counts, wanted, out], [[sequence], new Uint32Array(2), counts, wanted, out], [[sequence], detached, counts, wanted, out],
    [[sequence], Int32Array.of(1, V), counts, wanted, out], [[sequence], Int32Array.of(-1, 1), counts, wanted, out],
    [[sequence], ids, Int32Array.of(1), wanted, out], [[sequence], ids, Int32Array.of(3), wanted, out], [[sequence], ids, Int32Array.of(0), wanted, out],
    [[sequence], ids, Int32Array.of(-2), wanted, out], [[sequence], ids, Int32Array.of(2, 2), wanted, out], [[sequence], ids, counts, Uint8Array.of(3), out],
    [[sequence], ids, counts, Uint8Array.of(1, 1), out], [[sequence], ids, counts, wanted, new Float32Array(V - 1)], [[sequence], ids, counts, Uint8Array.of(2), out],
    [[sequence], ids, counts, wanted, new Float64Array(V)], [[sequence, sequence], ids, Int32Array.of(1, 1), Uint8Array.of(0, 0), out],
    [[sequence, stranger], ids, Int32Array.of(1, 2 ** 31 - 1), Uint8Array.of(0, 0), out], [[sequence], new Int32Array(2 ** 20 + 1), Int32Array.of(2 ** 20 + 1), Uint8Array.of(0), out],
  ]
  for (const [i, args] of cases.entries()) assert.is(await codeOf(() => Reflect.apply(model.forward, model, args)), 'ERR_INVALID_ARG', `case ${i}`)
  assert.is(await codeOf(() => model.forward([disposed], ids, counts, wanted, out)), 'ERR_DISPOSED')
  await withNative(toy, async (other) => {
    assert.is(await codeOf(() => other.forward([sequence], ids, counts, wanted, out)), 'ERR_INVALID_ARG')
  })
  for (const length of [1, -1, NaN, 0.5]) assert.is(await codeOf(() => sequence.truncate(length)), 'ERR_INVALID_ARG')
  assert.is(sequence.length, 0)
  assert.is(firstDifference(await pass(model, sequence, ids), await pass(model, stranger, ids)), null)
}))

test('a sequence in a pass can be neither used nor changed until the pass ends', () => withNative(toy, async (model) => {
  const sequence = model.newSequence(), running = pass(model, sequence, formulaPrompt(200, V))
  for (const work of [() => pass(model, sequence, Int32Array.of(1)), () => sequence.fork(), () => sequence.truncate(0)]) assert.is(await codeOf(work), 'ERR_INVALID_ARG')
  assert.is(sequence.length, 0)
  await running
  assert.is(sequence.length, 200)
  assert.is(sequence.fork().length, 200)
}))

test('positions end at 10 sequenceLen, with every position before legal', () => withNative(toy, async (model) => {
  const sequence = model.newSequence(), ids = formulaPrompt(641, V)
  assert.is(await codeOf(() => pass(model, sequence, ids)), 'ERR_CONTEXT_OVERFLOW')
  const logits = await pass(model, sequence, ids.subarray(0, 640))
  assert.ok(logits.every(Number.isFinite))
  assert.is(sequence.length, 640)
  assert.is(await codeOf(() => pass(model, sequence, Int32Array.of(1))), 'ERR_CONTEXT_OVERFLOW')
  sequence.truncate(639)
  assert.is(firstDifference(await pass(model, sequence, ids.subarray(639, 640)), logits.subarray(639 * V)), null)
}))

test('a pass cancelled midway leaves the sequence and its forks as they were', () => withNative({ ...toy, sequenceLen: 2048, nLayer: 8, nHead: 4, nEmbd: 256 }, async (model) => {
  const ids = formulaPrompt(2000, V), sequence = model.newSequence()
  const start = await pass(model, sequence, ids.subarray(0, 100)), fork = sequence.fork()
  const begin = performance.now()
  await pass(model, fork, ids.subarray(100))
  const wholeMs = performance.now() - begin
  const job = model.forward([sequence], ids.subarray(100), Int32Array.of(1900), Uint8Array.of(0), new Float32Array(0))
  await sleep(wholeMs / 4)
  job.cancel()
  assert.is(await codeOf(() => job.promise), 'ERR_ABORTED')
  assert.is(sequence.length, 100)

  const fresh = model.newSequence()
  assert.is(firstDifference(await pass(model, fresh, ids.subarray(0, 100)), start), null)
  assert.is(firstDifference(await pass(model, sequence, ids.subarray(7, 90)), await pass(model, fresh, ids.subarray(7, 90))), null)
  const expected = await pass(model, fork, ids.subarray(0, 50))
  fork.truncate(2000)
  assert.is(firstDifference(await pass(model, fork, ids.subarray(0, 50)), expected), null)
}))

test('cancelling before the start and after the end', () => withNative(toy, async (model) => {
  const sequence = model.newSequence(), first = model.forward([sequence], Int32Array.of(1), Int32Array.of(1), Uint8Array.of(0), new Float32Array(0))
  await first.promise
  first.cancel()
  assert.is(sequence.length, 1)
  const blocker = model.forward([model.newSequence()], formulaPrompt(600, V), Int32Array.of(600), Uint8Array.of(0), new Float32Array(0))
  const waiting = model.forward([sequence], Int32Array.of(2), Int32Array.of(1), Uint8Array.of(0), new Float32Array(0))
  waiting.cancel()
  assert.is(await codeOf(() => waiting.promise), 'ERR_ABORTED')
  await blocker.promise
  assert.is(sequence.length, 1)
}))

// one token's hidden activations are 4 MB in this model, so a pass of a few thousand tokens exceeds any memory
const wide: ModelSpec = { generation: 'HF', sequenceLen: 2 ** 20, vocabSize: 4, nLayer: 1, nHead: 1, nKvHead: 1, nEmbd: 2, mlpHidden: 2 ** 20, windowPattern: 'L' }

test('a pass that does not fit in memory is ERR_OUT_OF_MEMORY before it takes any', () => withNative(wide, async (model) => {
  if (process.platform !== 'linux') return console.log('skipped: only Linux says how much memory is available')
  for (const share of [1, 8]) {
    const sequence = model.newSequence(), count = Math.min(2 ** 20, Math.ceil(share * totalmem() / 2 ** 22))
    const before = process.memoryUsage.rss()
    const job = model.forward([sequence], new Int32Array(count), Int32Array.of(count), Uint8Array.of(0), new Float32Array(0))
    assert.is(await codeOf(() => job.promise), 'ERR_OUT_OF_MEMORY', `${count} tokens`)
    assert.ok(process.memoryUsage.rss() - before < 2 ** 28)
    assert.is(sequence.length, 0)
    assert.is((await pass(model, sequence, Int32Array.of(1, 2), 4)).length, 8)
  }
}))

test('a detached array for the logits is an error of that pass', () => withNative(toy, async (model) => {
  const out = new Float32Array(V), sequence = model.newSequence()
  const job = model.forward([sequence], Int32Array.of(1), Int32Array.of(1), Uint8Array.of(1), out)
  structuredClone(out, { transfer: [out.buffer] })
  assert.is(await codeOf(() => job.promise), 'ERR_INVALID_ARG')
  assert.is((await pass(model, model.newSequence(), Int32Array.of(1))).length, V)
}))

test.run()
