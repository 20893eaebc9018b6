// The bitwise contract at toy shapes: logits do not depend on batch, chunks, forks or threads.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Backend } from '../lib/backend.js'
import type { ModelSpec, WeightDtype } from '../lib/native.js'
import { testedIsas } from './support/isas.js'
import { firstDifference } from './support/random-arrays.js'
import { randomInts } from './support/random-text.js'
import { append, formulaPrompt, rowOf, wholePass, withSeeded } from './support/seeded.js'
import { shortOf, someOf } from './support/some-of.js'
import { relativeError } from './support/logits.js'

const dtypes: readonly WeightDtype[] = ['float32', 'bfloat16', 'int8', 'int4']
/** Of logits from those of the reference kernels; rounded inputs may differ by a unit where they come near a tie. */
const furthest = { float32: 1e-5, bfloat16: 1e-2, int8: 1e-2, int4: 1e-2 }
const shape = { sequenceLen: 128, vocabSize: 130, nLayer: 3, windowPattern: 'SSL' }
/** Every generation; groups of 1, 2, 3, 6 and 7; odd sizes; three times as many positions as sequenceLen. */
const specs: readonly ModelSpec[] = [
  { ...shape, generation: 'G1', nHead: 4, nKvHead: 2, nEmbd: 64, windowPattern: 'L' },
  { ...shape, generation: 'G2', nHead: 2, nKvHead: 1, nEmbd: 60, windowPattern: 'L' },
  { ...shape, generation: 'G3', nHead: 3, nKvHead: 1, nEmbd: 48 },
  { ...shape, generation: 'G4', nHead: 6, nKvHead: 1, nEmbd: 96, sequenceLen: 130 },
  { ...shape, generation: 'G5', nHead: 7, nKvHead: 1, nEmbd: 42 },
  { ...shape, generation: 'G6', nHead: 2, nKvHead: 2, nEmbd: 260, vocabSize: 65 },
  { ...shape, generation: 'HF', nHead: 4, nKvHead: 4, nEmbd: 24, mlpHidden: 77, normEps: 1e-6, windowPattern: 'L' },
]
const T = 400
const test = suite('forward')

/** Rows [from, from + count) of the whole pass. */
const rowsOf = (whole: Float32Array, from: number, count: number, V: number): Float32Array => whole.subarray(from * V, (from + count) * V)

async function checkChunks(backend: Backend, tokens: Int32Array, whole: Float32Array, label: string): Promise<void> {
  const V = backend.vocabSize, random = randomInts(T)
  const ways = [[1, 1, 1, 60, 1, 1, 64, 65, 1], [128, 128, 128], [63, 1, 1, 6, 7, 5], Array.from({ length: 40 }, () => 1 + random(20))]
  for (const counts of someOf(ways)) {
    const sequence = backend.newSequence()
    for (const count of [...counts, T - counts.reduce((a, b) => a + b)]) {
      const from = sequence.length
      if (count <= 0 || from + count > T) continue
      assert.is(firstDifference(await append(backend, sequence, tokens.subarray(from, from + count)), rowsOf(whole, from, count, V)), null, `${label} chunk ${from}+${count}`)
    }
    sequence.dispose()
  }
}

async function checkForks(backend: Backend, tokens: Int32Array, whole: Float32Array, label: string): Promise<void> {
  const V = backend.vocabSize, others = tokens.map((id) => (id + 1) % V)
  for (const at of someOf([65, 1, 63, 64, 130, 200])) {
    const mother = backend.newSequence()
    await append(backend, mother, tokens.subarray(0, at), 'none')
    const child = mother.fork(), grandchild = child.fork()
    // in turns on different ways, so that a page shared by mistake would show in who reads it next
    const apart = [await append(backend, mother, others.subarray(at, at + 30))]
    for (const [from, count] of [[at, 30], [at + 30, 40]] as const) {
      assert.is(firstDifference(await append(backend, child, tokens.subarray(from, from + count)), rowsOf(whole, from, count, V)), null, `${label} fork at ${at}, ${from}+${count}`)
      if (from === at) apart.push(await append(backend, mother, others.subarray(at + 30, at + 70)))
    }
    mother.dispose()
    assert.is(firstDifference(await append(backend, grandchild, tokens.subarray(at, at + 3)), rowsOf(whole, at, 3, V)), null, `${label} second fork at ${at}`)
    child.truncate(at)
    for (const [i, logits] of apart.entries()) {
      assert.is(firstDifference(await append(backend, child, others.subarray(at + 30 * i, at + 30 + 40 * i)), logits), null, `${label} fork at ${at}, the other way`)
    }
    child.dispose()
    grandchild.dispose()
  }
}

async function checkTruncation(backend: Backend, tokens: Int32Array, whole: Float32Array, label: string): Promise<void> {
  const V = backend.vocabSize, sequence = backend.newSequence(), others = tokens.map((id) => (id + 1) % V)
  await append(backend, sequence, tokens, 'none')
  for (const at of someOf([321, 399, 320, 129, 64, 63, 1, 0])) {
    sequence.truncate(at)
    await append(backend, sequence, others.subarray(at, at + 1), 'none')
    sequence.truncate(at)
    assert.is(sequence.length, at)
    assert.is(firstDifference(await append(backend, sequence, tokens.subarray(at)), rowsOf(whole, at, T - at, V)), null, `${label} truncated to ${at}`)
  }
  sequence.dispose()
}

/** Rows of other lengths and prompts in the same passes; row 3 is the one that was computed alone. */
async function checkBatch(backend: Backend, rowCount: number, tokens: Int32Array, whole: Float32Array, label: string): Promise<void> {
  const V = backend.vocabSize, random = randomInts(16)
  const rows = Array.from({ length: rowCount }, (_, r) => ({ sequence: backend.newSequence(), tokens: r === 3 ? tokens : formulaPrompt(T, V, r + 2) }))
  for (const count of [1, 5, 130, 1, 1, 20, 1]) {
    const pass = rows.map(({ sequence, tokens: all }, r) => ({
      sequence, tokens: all.subarray(sequence.length, sequence.length + (r === 3 ? count : 1 + random(20))), logits: r === 3 ? 'all' as const : r % 2 ? 'last' as const : 'none' as const,
    }))
    const from = rows[3]?.sequence.length ?? NaN, logits = await backend.forward(pass)
    assert.is(firstDifference(rowsOf(logits, 1, count, V), rowsOf(whole, from, count, V)), null, `${label} position ${from}+${count} in a batch`)
  }
  for (const { sequence } of rows) sequence.dispose()
}

for (const { spec, dtype } of someOf(specs.flatMap((one) => dtypes.map((dtype) => ({ spec: one, dtype }))))) {
  const label = `${spec.generation} ${dtype}`
  test(`${label}: chunked = whole, forked = independent, truncated = straight, in a batch = alone, 1 thread = 2, bit for bit`, async () => {
    const tokens = formulaPrompt(T, spec.vocabSize)
    const whole = await withSeeded(spec, { dtype, threads: 1 }, (backend) => wholePass(backend, tokens))
    assert.ok(whole.every(Number.isFinite))
    await withSeeded(spec, { dtype }, async (backend) => {
      assert.is(firstDifference(await wholePass(backend, tokens), whole), null, `${label} 2 threads`)
      await checkChunks(backend, tokens, whole, label)
      await checkForks(backend, tokens, whole, label)
      await checkTruncation(backend, tokens, whole, label)
      await checkBatch(backend, 16, tokens, whole, label)
    })
  })
}

const grouped: ModelSpec = { ...shape, generation: 'G6', nHead: 6, nKvHead: 2, nEmbd: 96 }
for (const isa of testedIsas()) {
  for (const dtype of dtypes) {
    test(`${isa} ${dtype}: the same contract, near the reference kernels`, async () => {
      const tokens = formulaPrompt(T, grouped.vocabSize)
      const expected = await withSeeded(grouped, { dtype, isa: 'reference' }, (backend) => wholePass(backend, tokens))
      await withSeeded(grouped, { dtype, isa }, async (backend) => {
        const whole = await wholePass(backend, tokens), error = relativeError(whole, expected)
        assert.ok(error <= furthest[dtype], `relative L2 error ${error}`)
        await checkChunks(backend, tokens, whole, isa)
        await checkForks(backend, tokens, whole, isa)
        for (const rowCount of shortOf([16, 5], (one) => one < 16)) await checkBatch(backend, rowCount, tokens, whole, isa)
      })
    })
  }
}

test('a window hides the keys before it, beyond sequenceLen too', async () => {
  // one layer and no smear: position i sees ids i - w to i only
  const spec: ModelSpec = { ...shape, generation: 'G3', nLayer: 1, nHead: 2, nKvHead: 1, nEmbd: 32 }
  const tokens = formulaPrompt(T, spec.vocabSize), w = spec.sequenceLen
  for (const dtype of dtypes) {
    await withSeeded(spec, { dtype }, async (backend) => {
      const whole = await wholePass(backend, tokens)
      for (const changed of [0, 1, 100, 200]) {
        const other = await wholePass(backend, tokens.map((id, t) => t === changed ? (id + 1) % spec.vocabSize : id))
        const differs = Array.from({ length: T }, (_, t) => firstDifference(rowOf(whole, t, spec.vocabSize), rowOf(other, t, spec.vocabSize)) !== null)
        assert.equal(differs.slice(0, changed).filter(Boolean), [], 'causal')
        assert.ok(differs[changed])
        if (dtype === 'float32') assert.ok(differs[changed + w], `position ${changed} is not seen ${w} later`)
        assert.equal(differs.slice(changed + w + 1).filter(Boolean), [], `${dtype}: position ${changed} is seen beyond ${w} later`)
      }
    })
  }
})

test.run()
