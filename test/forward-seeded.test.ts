// alone: its d12 models hold gigabytes
// The seeded models of real size against logits and tokens of nanochat's own forward pass, and the bitwise contract at d12 shapes of
// bfloat16; the other types and the plain kernels in forward-seeded.long.ts.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../lib/native.js'
import { checkContract, checkGolden, checkTypes, d12, d4, greedy } from './support/seeded-fixtures.js'
import { wholePass, withSeeded } from './support/seeded.js'

const test = suite('forward, seeded models')

test('the prompt is the one of the fixtures', () => {
  for (const { tokens, expected } of [d4, d12]) assert.equal([...tokens.subarray(0, 8)], expected.prompt_head)
})

for (const isa of native().info().isas.filter((isa) => isa !== 'plain')) {
  test(`d4 ${isa}: golden logits and greedy tokens in float32, the other types near them`, () => checkTypes(isa))
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

test('d12 bfloat16: chunked = whole, forked = independent, alone = in a batch, 1 thread = 2, bit for bit', () => checkContract('bfloat16', float32Logits))

test.run()
