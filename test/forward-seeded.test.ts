// alone: its d12 models hold gigabytes
// The seeded models of real size against logits and tokens of nanochat's own forward pass. The bitwise contract at d12 shapes and the
// plain kernels are in forward-seeded.long.ts.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../lib/native.js'
import { checkGolden, checkTypes, d12, d4, greedy } from './support/seeded-fixtures.js'
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

test('d12 float32: golden logits at all window borders, and greedy tokens', async () => {
  const { spec, tokens, expected } = d12
  await withSeeded(spec, { dtype: 'float32' }, async (backend) => {
    checkGolden(await wholePass(backend, tokens), expected, spec.vocabSize)
    assert.equal(await greedy(backend, tokens.subarray(0, expected.greedy_prompt_length), expected.greedy_tokens.length), expected.greedy_tokens)
  })
})

test.run()
