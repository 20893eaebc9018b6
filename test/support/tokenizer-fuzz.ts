// Bytes, texts and ids that no tokenizer was trained on.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { NanochatError } from '../../lib/errors.js'
import { tokenizerFromHuggingFace, tokenizerFromPickle, type Tokenizer } from '../../lib/tokenizer.js'
import { generator, type Random } from './random.js'

const fixture = (name: string): Buffer => readFileSync(new URL(`../fixtures/demo/tokenizer/${name}`, import.meta.url))
let loaded: [Tokenizer, Tokenizer] | undefined

export interface TokenizerCounts { cases: number, refused: number }

/** Both tokenizers agree on any text; decode inverts encode, up to lone surrogates; any bytes decode as the platform decodes them. */
export function fuzzTokenizer(seed: number, cases: number): Promise<TokenizerCounts> {
  const [pickled, huggingFace] = loaded ??= [tokenizerFromPickle(fixture('tokenizer.pkl')), tokenizerFromHuggingFace(fixture('tokenizer.json').toString())]
  const random = generator(seed)
  const V = pickled.getVocabSize()
  let refused = 0
  for (let i = 0; i < cases; i++) {
    const label = `case ${i} of seed ${seed}`
    const text = randomString(random)
    const ids = pickled.encode(text)
    const whole = Buffer.from(text).toString()       // lone surrogates replaced
    assert.is(pickled.decode(ids), whole, label)
    if (i % 8 === 0) assert.equal(huggingFace.encode(text), ids, label)

    // the ids 0 to 255 of this vocabulary are the bytes
    const bytes = randomBytes(random)
    const decoder = pickled.decoder()
    const decoded = pickled.decode(bytes)
    assert.is(decoded, bytes.toString(), label)
    assert.is(Array.from(bytes, (byte) => decoder.write(byte)).join('') + decoder.end(), decoded, label)

    const wild = Array.from({ length: random(6) }, () => [random(V), V, -1, 0.5, NaN, Infinity, 2 ** 32 + 65, '65', null, undefined, {}][random(3) ? 0 : random(11)])
    const isRight = wild.every((id) => Number.isInteger(id) && (id as number) >= 0 && (id as number) < V)
    try {
      pickled.decode(wild as number[])
      assert.ok(isRight, `${label}: ${JSON.stringify(wild)} decoded`)
    } catch (error) {
      assert.ok(!isRight && NanochatError.is(error) && error.code === 'ERR_INVALID_ARG', `${label}: ${String(error)}`)
      refused++
    }
  }
  return Promise.resolve({ cases, refused })
}

/** UTF-16 of any kind: any units, bytes that were read as UTF-8, long runs of one unit. */
function randomString(random: Random): string {
  const units = (n: number, below: () => number): string => Array.from({ length: n }, () => String.fromCharCode(below())).join('')
  const kinds = [
    () => units(random(40), () => random(0x10000)), () => units(random(40), () => 0xd800 + random(0x800)), () => units(random(40), () => random(256)),
    () => randomBytes(random).toString(), () => randomBytes(random).toString('latin1'),
    () => units(1, () => random(0x10000)).repeat(random(random(50) ? 300 : 30_000)), () => units(random(20), () => [0x20, 0x0a, 0x27, 0x73, 0xd83d, 0xde00, 0x200d, 0x30][random(8)] ?? 0),
  ]
  return (kinds[random(kinds.length)] as () => string)()
}

/** Any bytes, or UTF-8 that was cut or changed. */
function randomBytes(random: Random): Buffer {
  if (random(2)) return Buffer.from(Array.from({ length: random(60) }, () => random(256)))
  const bytes = Buffer.from('Grüße, 世界! \u{1f469}\u200d\u{1f680} e\u0301 \ufeff 12 345'.slice(random(12)))
  for (let n = random(4); n > 0; n--) bytes[random(bytes.length)] = random(256)
  return bytes.subarray(random(4), bytes.length - random(6))
}
