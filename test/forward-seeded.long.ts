// alone: its d12 models hold gigabytes
// What forward-seeded.test.ts leaves out: the plain kernels, and the bitwise contract at d12 shapes of every type.
import { suite } from 'uvu'
import { checkContract, checkTypes, d12 } from './support/seeded-fixtures.js'
import { wholePass, withSeeded } from './support/seeded.js'

const test = suite('forward, seeded models: plain kernels, other types')
let float32Logits: Float32Array = new Float32Array()

test.before(async () => {
  float32Logits = await withSeeded(d12.spec, { dtype: 'float32' }, (backend) => wholePass(backend, d12.tokens))
})

test('d4 plain: golden logits and greedy tokens in float32, the other types near them', () => checkTypes('plain'))

for (const dtype of ['float32', 'bfloat16', 'int8', 'int4'] as const) {
  test(`d12 ${dtype}: chunked = whole, forked = independent, alone = in a batch, 1 thread = 2, bit for bit; the rounded near float32`, () => checkContract(dtype, float32Logits))
}

test.run()
