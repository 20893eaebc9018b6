// alone: its d12 models hold gigabytes
// The bitwise contract at d12 shapes, as in forward-seeded.test.ts, of int8 and int4.
import { suite } from 'uvu'
import { checkContract, d12 } from './support/seeded-fixtures.js'
import { wholePass, withSeeded } from './support/seeded.js'

const test = suite('forward, seeded models of 8 and 4 bits')
let float32Logits: Float32Array = new Float32Array()

test.before(async () => {
  float32Logits = await withSeeded(d12.spec, { dtype: 'float32' }, (backend) => wholePass(backend, d12.tokens))
})

for (const dtype of ['int8', 'int4'] as const) {
  test(`d12 ${dtype}: chunked = whole, forked = independent, alone = in a batch, 1 thread = 2, bit for bit; near float32`, () => checkContract(dtype, float32Logits))
}

test.run()
