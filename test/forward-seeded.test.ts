// alone: its d12 models hold gigabytes
// The seeded models of real size against logits and tokens of nanochat's own forward pass, and the bitwise contract at d12 shapes, of
// int8 and int4 in forward-seeded.long.ts.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Backend } from '../lib/backend.js'
import { native } from '../lib/native.js'
import { argmax } from './support/logits.js'
import { checkContract, checkGolden, checkNear, d12, d4, roundedTypes } from './support/seeded-fixtures.js'
import { append, wholePass, withSeeded } from './support/seeded.js'

const test = suite('forward, seeded models')

async function greedy(backend: Backend, prompt: Int32Array, count: number): Promise<number[]> {
  const sequence = backend.newSequence(), tokens: number[] = []
  let logits = await append(backend, sequence, prompt, 'last')
  while (tokens.length < count) {
    tokens.push(argmax(logits))
    logits = await append(backend, sequence, Int32Array.of(tokens.at(-1) ?? 0), 'last')
  }
  sequence.dispose()
  return tokens
}

test('the prompt is the one of the fixtures', () => {
  for (const { tokens, expected } of [d4, d12]) assert.equal([...tokens.subarray(0, 8)], expected.prompt_head)
})

for (const isa of native().info().isas) {
  test(`d4 ${isa}: golden logits and greedy tokens in float32, the other types near them`, async () => {
    const { spec, tokens, expected } = d4
    const logits = await withSeeded(spec, { dtype: 'float32', isa }, async (backend) => {
      assert.equal(await greedy(backend, tokens.subarray(0, expected.greedy_prompt_length), expected.greedy_tokens.length), expected.greedy_tokens)
      return wholePass(backend, tokens)
    })
    checkGolden(logits, expected, spec.vocabSize)
    for (const dtype of roundedTypes) checkNear(await withSeeded(spec, { dtype, isa }, (backend) => wholePass(backend, tokens)), logits, spec.vocabSize, dtype)
  })
}

test('d4 reference: golden logits from the slow twins', async () => {
  const { spec, tokens, expected } = d4, T = 129
  const logits = await withSeeded(spec, { dtype: 'float32', isa: 'reference' }, (backend) => wholePass(backend, tokens.subarray(0, T)))
  checkGolden(logits, { ...expected, positions: expected.positions.filter(({ position }) => position < T) }, spec.vocabSize)
})

let float32Logits: Float32Array = new Float32Array()

test('d12 float32: golden logits at all window borders, and greedy tokens', async () => {
  const { spec, tokens, expected } = d12
  await withSeeded(spec, { dtype: 'float32' }, async (backend) => {
    float32Logits = await wholePass(backend, tokens)
    checkGolden(float32Logits, expected, spec.vocabSize)
    assert.equal(await greedy(backend, tokens.subarray(0, expected.greedy_prompt_length), expected.greedy_tokens.length), expected.greedy_tokens)
  })
})

for (const dtype of ['float32', 'bfloat16'] as const) {
  test(`d12 ${dtype}: chunked = whole, forked = independent, alone = in a batch, 1 thread = 2, bit for bit`, () => checkContract(dtype, float32Logits))
}

test.run()
