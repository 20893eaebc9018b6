import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { SPECIAL_TOKENS } from '../lib/conversation.js'
import { NanochatError, type ErrorCode } from '../lib/errors.js'
import { SPLIT_PATTERN } from '../lib/split.js'
import { tokenizerFromHuggingFace, tokenizerFromPickle, type Tokenizer } from '../lib/tokenizer.js'
import { vocabularyFromHuggingFace, vocabularyFromPickle } from '../lib/vocabulary.js'
import { pick, randomInts } from './support/random-text.js'

const test = suite('vocabulary')
const fixtures = new URL('fixtures/', import.meta.url)
const demoPickle = readFileSync(new URL('demo/tokenizer/tokenizer.pkl', fixtures))
const demoJson = readFileSync(new URL('demo/tokenizer/tokenizer.json', fixtures), 'utf8')

const hasCode = (code: ErrorCode, message = /./) => (e: unknown): boolean => {
  if (NanochatError.is(e) && e.code === code && message.test(e.message)) return true
  throw new Error(`expected ${code} with ${message} but received ${String(e)}`)
}

interface Encoding { pattern?: unknown, ranks?: [unknown, unknown][], specials?: [unknown, unknown][] }

const byteRanks: [unknown, unknown][] = Array.from({ length: 256 }, (_, byte) => [Uint8Array.of(byte), byte])
const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text))
const specialsFrom = (firstId: number): [unknown, unknown][] => SPECIAL_TOKENS.map((name, i) => [name, firstId + i])

/** A protocol 4 pickle of a tiktoken encoding. */
function pickleOf({ pattern = SPLIT_PATTERN, ranks = byteRanks, specials = specialsFrom(ranks.length) }: Encoding): Uint8Array {
  const sized = (op: number, raw: Uint8Array): Buffer => {
    const head = Buffer.alloc(5)
    head[0] = op
    head.writeUInt32LE(raw.length, 1)
    return Buffer.concat([head, raw])
  }
  const dump = (value: unknown): Buffer => {
    if (typeof value === 'string') return sized(0x58, Buffer.from(value))
    if (value instanceof Uint8Array) return sized(0x42, value)
    if (value === true) return Buffer.of(0x88)
    if (typeof value === 'number' && Number.isInteger(value)) {
      const int = Buffer.alloc(5, 0x4a)
      int.writeInt32LE(value, 1)
      return int
    }
    return Buffer.concat([Buffer.from('}('), ...(value as [unknown, unknown][]).flat().map(dump), Buffer.from('u')])
  }
  const state = dump([['name', 'rustbpe'], ['pat_str', pattern], ['mergeable_ranks', ranks], ['special_tokens', specials]])
  return Buffer.concat([Buffer.of(0x80, 4), Buffer.from('ctiktoken.core\nEncoding\n)\x81', 'latin1'), state, Buffer.from('b.')])
}

test('both files of the demo tokenizer say the same', () => {
  const pickled = vocabularyFromPickle(demoPickle), converted = vocabularyFromHuggingFace(demoJson)
  assert.equal(pickled.tokens.map((token) => Buffer.from(token).toString('hex')), converted.tokens.map((token) => Buffer.from(token).toString('hex')))
  assert.equal([...pickled.specials], [...converted.specials])
  assert.ok(pickled.keepsWholeTokens && converted.keepsWholeTokens)
  // the merges of the file are the pairs that the ranks imply
  const merges = (JSON.parse(demoJson) as { model: { merges: unknown[] } }).model.merges
  let joined = 0
  for (let left = 0; left < pickled.tokens.length; left++) {
    for (let right = 0; right < pickled.tokens.length; right++) {
      const rank = converted.merges.pairs.get(left, right)
      assert.is(pickled.merges.pairs.get(left, right), rank < 0 ? -1 : converted.merges.merged[rank])
      joined += Number(rank >= 0)
    }
  }
  assert.is(joined, merges.length)
})

test('ranks and merges decide: leftmost lowest rank, whole tokens first', () => {
  const tokenizer = tokenizerFromPickle(pickleOf({ ranks: [...byteRanks, [bytes('bc'), 256], [bytes('ab'), 257], [bytes('abcd'), 258], [bytes('aa'), 259]] }))
  assert.equal([...tokenizer.encode('abc')], [97, 256])
  assert.equal([...tokenizer.encode('abcd')], [258])
  assert.equal([...tokenizer.encode('abcde')], [97, 256, 100, 101])
  assert.equal([...tokenizer.encode('aaaaa')], [259, 259, 97])
})

test('the merge list of a tokenizer.json rules, as strings or pairs; ignore_merges: false lets it split whole tokens', () => {
  const demo = tokenizerFromHuggingFace(demoJson)
  const edited = edit(demoJson, (json) => { json.model.merges = json.model.merges.map((pair) => (pair as string[]).join(' ')) })
  const text = 'The demo model knows 1234 things, doesn\'t it?'
  assert.equal(tokenizerFromHuggingFace(edited).encode(text), demo.encode(text))
  const noMerges = edit(demoJson, (json) => { json.model.merges = [] })
  assert.equal([...tokenizerFromHuggingFace(noMerges).encode(' is')], [...demo.encode(' is')])
  const noneAtAll = edit(noMerges, (json) => { json.model.ignore_merges = false })
  assert.equal([...tokenizerFromHuggingFace(noneAtAll).encode(' is')], [32, 105, 115])
})

test('special tokens that the vocabulary repeats are special', () => {
  const repeated = edit(demoJson, (json) => { for (const { content, id } of json.added_tokens) json.model.vocab[content] = id })
  assert.equal([...vocabularyFromHuggingFace(repeated).specials], [...vocabularyFromHuggingFace(demoJson).specials])
})

test('refuses pickles that break a rule, and says which', () => {
  assert.is(tokenizerFromPickle(pickleOf({})).getVocabSize(), 265)
  const ranks = (entries: [unknown, unknown][]): Encoding => ({ ranks: entries, specials: specialsFrom(256) })
  const cases: [Encoding, RegExp][] = [
    [{ pattern: SPLIT_PATTERN.replace('1,2', '1,3') }, /split pattern/],
    [{ pattern: 7 }, /split pattern.*received 7/],
    [ranks(byteRanks.slice(1)), /0 to 254, each once/],
    [ranks([...byteRanks, [bytes('ab'), 257]]), /0 to 256, each once.*257/],
    [ranks([...byteRanks, [bytes('ab'), 255]]), /each once.*255/],
    [ranks([...byteRanks, [bytes('ab'), -1]]), /each once.*-1/],
    [ranks([...byteRanks, [bytes('ab'), true]]), /each once.*true/],
    [{ ranks: [...byteRanks, [bytes('A'), 256]] }, /every token once.*256/],
    [{ ranks: [...byteRanks, [new Uint8Array(0), 256]] }, /at least one byte/],
    [{ ranks: byteRanks.map(([token, id]) => id === 65 ? [bytes('ab'), id] : [token, id]) }, /256 bytes.*none for 65/],
    [{ ranks: byteRanks.map(([token, id]) => id === 65 ? ['A', id] : [token, id]) }, /to be bytes.*"A"/],
    [{ specials: specialsFrom(255) }, /256 to 264.*255/],
    [{ specials: specialsFrom(257) }, /256 to 264.*265/],
    [{ specials: specialsFrom(256).map(([name], i) => [name, 256 + Math.min(i, 7)]) }, /different ids/],
    [{ specials: specialsFrom(256).slice(0, 8) }, /without <\|output_end\|>/],
    [{ specials: [...specialsFrom(256).slice(0, 8), ['<|bos|>', 264]] }, /different names.*<\|bos\|>/],
  ]
  for (const [encoding, message] of cases) assert.throws(() => tokenizerFromPickle(pickleOf(encoding)), hasCode('ERR_TOKENIZER_FORMAT', message))
  assert.throws(() => tokenizerFromPickle(bytes('\x80\x04N.')), hasCode('ERR_TOKENIZER_FORMAT'))
  assert.throws(() => tokenizerFromPickle(Buffer.from('80045807000000rustbpe2e'.replace('rustbpe', '72757374627065'), 'hex')), hasCode('ERR_TOKENIZER_FORMAT', /tiktoken\.core\.Encoding/))
})

test('a size that the caller did not expect', () => {
  assert.is(tokenizerFromPickle(demoPickle, { vocabSize: 2048 }).getVocabSize(), 2048)
  assert.throws(() => tokenizerFromPickle(demoPickle, { vocabSize: 2112 }), hasCode('ERR_TOKENIZER_MISMATCH', /2112.*2048/))
})

interface TokenizerJson {
  normalizer: unknown
  added_tokens: { content: string, id: number }[]
  pre_tokenizer: { type: string, pretokenizers: Record<string, unknown>[] }
  model: { vocab: Record<string, unknown>, merges: unknown[] } & Record<string, unknown>
}

function edit(json: string, change: (json: TokenizerJson) => void): string {
  const parsed = JSON.parse(json) as TokenizerJson
  change(parsed)
  return JSON.stringify(parsed)
}

test('refuses a tokenizer.json with a step that nanochat does not have, and says which', () => {
  const cases: [(json: TokenizerJson) => void, RegExp][] = [
    [(json) => { json.normalizer = { type: 'NFC' } }, /normalizer/],
    [(json) => { json.model.type = 'WordPiece' }, /model\.type.*WordPiece/],
    [(json) => { json.model.dropout = 0.1 }, /model\.dropout.*0\.1/],
    [(json) => { json.model.byte_fallback = true }, /byte_fallback/],
    [(json) => { json.model.end_of_word_suffix = '</w>' }, /end_of_word_suffix/],
    [(json) => { json.pre_tokenizer.pretokenizers.pop() }, /pretokenizers 2.*1/],
    [(json) => { json.pre_tokenizer.type = 'ByteLevel' }, /pretokenizers 2.*0/],
    [(json) => { json.pre_tokenizer.pretokenizers.reverse() }, /Split.*ByteLevel/],
    [(json) => { (json.pre_tokenizer.pretokenizers[0] ?? {}).pattern = { Regex: '\\s+' } }, /its pattern/],
    [(json) => { (json.pre_tokenizer.pretokenizers[1] ?? {}).add_prefix_space = true }, /add_prefix_space/],
    [(json) => { json.model.vocab['\u65e5'] = 2039 }, /byte-level alphabet/],
    [(json) => { delete json.model.vocab['A'] }, /each once/],
    [(json) => { json.added_tokens.pop() }, /without <\|output_end\|>/],
    [(json) => { json.model.merges.push(['q', 'zzzz']) }, /join two tokens/],
    [(json) => { json.model.merges.push(['a', 'b', 'c']) }, /join two tokens/],
    [(json) => { json.model.merges.push([['a'], 'b']) }, /join two tokens/],
    [(json) => { json.model.merges.push(7) }, /join two tokens/],
    [(json) => { json.model.merges.push(json.model.merges[0]) }, /every merge once/],
  ]
  for (const [change, message] of cases) assert.throws(() => tokenizerFromHuggingFace(edit(demoJson, change)), hasCode('ERR_TOKENIZER_FORMAT', message))
  for (const json of ['', '{', 'null', '[]', '"a"', '{"model":{}}', '['.repeat(100_000)]) {
    assert.throws(() => tokenizerFromHuggingFace(json), hasCode('ERR_TOKENIZER_FORMAT', /tokenizer\.json/))
  }
})

test('a vocabulary of long tokens is read in linear time', () => {
  const ranks = [...byteRanks]
  for (let length = 2; length <= 2500; length++) ranks.push([new Uint8Array(length).fill(97), ranks.length])
  const started = performance.now()
  const tokenizer = tokenizerFromPickle(pickleOf({ ranks }))
  const seconds = (performance.now() - started) / 1000
  assert.ok(seconds < 10, `${seconds} s for 3 MB`)
  assert.is(tokenizer.encode('a'.repeat(2501)).length, 2)
})

test('damaged files: ERR_TOKENIZER_FORMAT or a tokenizer that works', () => {
  const random = randomInts(9)
  const small = readFileSync(new URL('tokenizer/tokenizer.pkl', fixtures)), protocol2 = readFileSync(new URL('tokenizer/tokenizer_proto2.pkl', fixtures))
  const outcomes = { refused: 0, accepted: 0 }
  const tryIt = (read: () => Tokenizer): void => {
    let tokenizer: Tokenizer
    try {
      tokenizer = read()
    } catch (e) {
      hasCode('ERR_TOKENIZER_FORMAT')(e)
      outcomes.refused++
      return
    }
    const text = 'It still works: \u00e9\u{1f600} 123\n'
    assert.is(tokenizer.decode(tokenizer.encode(text, { prepend: '<|bos|>' }).subarray(1)), text)
    outcomes.accepted++
  }
  for (let i = 0; i < 1500; i++) {
    const original = pick(random, [small, protocol2, demoPickle])
    tryIt(() => tokenizerFromPickle(damaged(random, original)))
  }
  const json = Buffer.from(edit(demoJson, () => {}))
  for (let i = 0; i < 300; i++) tryIt(() => tokenizerFromHuggingFace(damaged(random, json).toString()))
  console.log(`${outcomes.refused} refused, ${outcomes.accepted} accepted`)
  assert.ok(outcomes.refused > 1000 && outcomes.accepted > 0)
})

/** Cut short, some bits flipped, or a stretch repeated. */
function damaged(random: (n: number) => number, original: Buffer): Buffer {
  const kind = random(4)
  if (kind === 0) return original.subarray(0, random(original.length))
  const copy = Buffer.from(original)
  if (kind === 1) copy.copyWithin(random(copy.length), random(copy.length), random(copy.length))
  else {
    for (let flips = kind === 2 ? 1 : 1 + random(8); flips > 0; flips--) {
      const at = random(copy.length)
      copy.writeUInt8(copy.readUInt8(at) ^ (1 << random(8)), at)
    }
  }
  return copy
}

test.run()
