import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fuzzTokenizer } from './support/tokenizer-fuzz.js'

const test = suite('tokenizer with random bytes')

test('2,000 texts of any UTF-16, bytes of any kind and lists of any ids', async () => {
  const { refused } = await fuzzTokenizer(1, 2000)
  assert.ok(refused > 500)
})

test.run()
