// alone: it measures the speed of encoding
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { SPECIAL_TOKENS, type SpecialToken } from '../lib/conversation.js'
import { NanochatError, type ErrorCode } from '../lib/errors.js'
import { loadTokenizer, tokenizerFromHuggingFace, tokenizerFromPickle, type Tokenizer } from '../lib/tokenizer.js'
import { pick, randomInts, randomText } from './support/random-text.js'

const test = suite('tokenizer')
const fixtures = new URL('fixtures/', import.meta.url)
const pickleBytes = readFileSync(new URL('demo/tokenizer/tokenizer.pkl', fixtures))
const huggingFaceText = readFileSync(new URL('demo/tokenizer/tokenizer.json', fixtures), 'utf8')
const pickled = tokenizerFromPickle(pickleBytes)
const huggingFace = tokenizerFromHuggingFace(huggingFaceText)
const vectors = JSON.parse(readFileSync(new URL('demo/tokenizer_vectors.json', fixtures), 'utf8')) as {
  strings: { text: string, ids: number[] }[], conversations: { messages: { content: string | { text: string }[] }[] }[]
}

const hasCode = (code: ErrorCode, message = /./) => (e: unknown): boolean => NanochatError.is(e) && e.code === code && message.test(e.message)

/** What the decoder gives, token by token, and how the pieces came. */
function streamed(tokenizer: Tokenizer, ids: ArrayLike<number>): string[] {
  const decoder = tokenizer.decoder()
  return [...Array.from(ids, (id) => decoder.write(id)), decoder.end()]
}

test('encodes and decodes the 160 strings of the demo vocabulary, from either file', () => {
  assert.is(vectors.strings.length, 160)
  for (const tokenizer of [pickled, huggingFace]) {
    assert.is(tokenizer.getVocabSize(), 2048)
    assert.is(tokenizer.getBosTokenId(), 2039)
    for (const { text, ids } of vectors.strings) {
      assert.equal([...tokenizer.encode(text)], ids, JSON.stringify(text))
      assert.is(tokenizer.decode(ids), text)
    }
  }
})

test('encodes the reference strings from pickles of protocol 2, 4 and 5', () => {
  const reference = JSON.parse(readFileSync(new URL('tokenizer/reference.json', fixtures), 'utf8')) as {
    encode_ordinary: [string, number[]][], special_tokens: Record<string, number>
  }
  for (const name of ['tokenizer', 'tokenizer_proto2', 'tokenizer_proto4', 'tokenizer_proto5']) {
    const tokenizer = tokenizerFromPickle(readFileSync(new URL(`tokenizer/${name}.pkl`, fixtures)))
    for (const [text, ids] of reference.encode_ordinary) assert.equal([...tokenizer.encode(text)], ids, `${name}: ${JSON.stringify(text)}`)
    assert.equal(Object.fromEntries(SPECIAL_TOKENS.map((special) => [special, tokenizer.encodeSpecial(special)])), reference.special_tokens)
    assert.is(tokenizer.getVocabSize(), 320)
  }
})

test('random Unicode: decode inverts encode, no special id comes out, streaming joins to decode, both files agree', () => {
  const random = randomInts(5)
  const firstSpecial = pickled.getBosTokenId()
  for (let i = 0; i < 5000; i++) {
    const text = randomText(random, random(60))
    const ids = pickled.encode(text)
    assert.is(pickled.decode(ids), text)
    assert.ok(ids.every((id) => id < firstSpecial))
    const parts = streamed(pickled, ids)
    assert.is(parts.join(''), text)
    assert.ok(parts.every((part) => !part.includes('\ufffd') || text.includes('\ufffd')), 'a character came out in halves')
    assert.equal(huggingFace.encode(text), ids)
  }
})

test('random ids: streaming joins to decode, also where the bytes are not UTF-8', () => {
  const random = randomInts(6)
  const bytes = [0x41, 0x80, 0xbf, 0xc0, 0xc2, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0x9f, 0xa0, 0x8f, 0x90, 0xbb, 0xff]
  for (let i = 0; i < 5000; i++) {
    const ids = Array.from({ length: random(20) }, () => random(3) ? pick(random, bytes) : random(pickled.getVocabSize()))
    assert.is(streamed(pickled, ids).join(''), pickled.decode(ids))
  }
})

test('bytes that are not UTF-8 decode as Python\'s errors="replace" has it', () => {
  // ids 0 to 255 of this vocabulary are the bytes
  const cases: [string, string][] = [
    ['80', '\ufffd'], ['4180', 'A\ufffd'], ['c0af', '\ufffd\ufffd'], ['c241', '\ufffdA'], ['e28241', '\ufffdA'], ['e080af', '\ufffd\ufffd\ufffd'],
    ['eda080', '\ufffd\ufffd\ufffd'], ['f09f98', '\ufffd'], ['f09f9841', '\ufffdA'], ['f4908080', '\ufffd\ufffd\ufffd\ufffd'], ['efbbbf41', '\ufeffA'], ['f09f9880', '\u{1f600}'],
  ]
  for (const [hex, text] of cases) assert.is(pickled.decode(Buffer.from(hex, 'hex')), text, hex)
})

test('the bytes of ids are what they are, in halves of characters as well', () => {
  const text = 'a\u20ac\u{1f600}', ids = [...pickled.encode(text), pickled.encodeSpecial('<|bos|>')]
  for (const tokenizer of [pickled, huggingFace]) {
    assert.equal(Buffer.from(tokenizer.decodeBytes(ids)).toString(), `${text}<|bos|>`)
    assert.equal(Buffer.concat(ids.map((id) => tokenizer.decodeBytes([id]))), Buffer.from(tokenizer.decodeBytes(ids)))
    assert.equal(tokenizer.decodeBytes([]).length, 0)
  }
  assert.equal([...pickled.decodeBytes([0xe2, 0x82])], [0xe2, 0x82])
  const own = pickled.decodeBytes([0x41])
  own[0] = 0
  assert.is(pickled.decode([0x41]), 'A', 'they are a copy')
  assert.throws(() => pickled.decodeBytes([1, 2048]), hasCode('ERR_INVALID_ARG', /ids\[1\].*2048/))
  assert.throws(() => pickled.decodeBytes('A' as never), hasCode('ERR_INVALID_ARG'))
})

test('the decoder gives each character with its last byte and flushes at the end', () => {
  assert.equal(streamed(pickled, [0xf0, 0x9f, 0x98, 0x80, 0x41, 0xe2, 0x82]), ['', '', '', '\u{1f600}', 'A', '', '', '\ufffd'])
  const decoder = pickled.decoder()
  assert.throws(() => decoder.write(2048), hasCode('ERR_INVALID_ARG', /0 to 2047.*2048/))
})

test('a lone surrogate is encoded as U+FFFD', () => {
  for (const text of ['\ud800', 'a\udc00b', '\ud83d x', '\udc00\ud800']) assert.equal(pickled.encode(text), pickled.encode(Buffer.from(text).toString()))
})

test('special tokens only by name', () => {
  SPECIAL_TOKENS.forEach((name, i) => {
    assert.is(pickled.encodeSpecial(name), 2039 + i)
    assert.is(pickled.decode([2039 + i]), name)
    assert.is(pickled.decode(pickled.encode(name)), name)
    assert.ok(pickled.encode(name).length > 1)
  })
  for (const name of ['bos', '<|endoftext|>', 'constructor', '', undefined, 3]) {
    assert.throws(() => pickled.encodeSpecial(name as SpecialToken), hasCode('ERR_INVALID_ARG', /special token/))
  }
})

test('prepend and append', () => {
  assert.equal([...pickled.encode('a', { prepend: '<|bos|>', append: 7 })], [2039, 97, 7])
  assert.equal([...pickled.encode('', { prepend: '<|bos|>', append: '<|user_end|>' })], [2039, 2041])
  assert.throws(() => pickled.encode('a', { prepend: '<|none|>' as SpecialToken }), hasCode('ERR_INVALID_ARG', /special token/))
  for (const id of [-1, 2048, 1.5, NaN]) assert.throws(() => pickled.encode('a', { append: id }), hasCode('ERR_INVALID_ARG', /append/))
})

test('refuses arguments of another kind', () => {
  for (const text of [undefined, null, 5, ['a']] as unknown[]) assert.throws(() => pickled.encode(text as string), hasCode('ERR_INVALID_ARG', /text/))
  for (const ids of [undefined, null, 5, 'a'] as unknown[]) assert.throws(() => pickled.decode(ids as number[]), hasCode('ERR_INVALID_ARG', /ids/))
  for (const id of [-1, 2048, 0.5, NaN, '1']) assert.throws(() => pickled.decode([65, id as number]), hasCode('ERR_INVALID_ARG', /ids\[1\]/))
})

test('visualizeTokenization: green and red by mask, no colour under NO_COLOR, control characters shown', () => {
  const before = process.env.NO_COLOR
  try {
    delete process.env.NO_COLOR
    assert.is(pickled.visualizeTokenization([65, 0x1b, 2039], Uint8Array.of(1, 0, 0)), '\x1b[92mA\x1b[0m|\x1b[91m\\x1b\x1b[0m|\x1b[91m<|bos|>\x1b[0m')
    assert.is(pickled.visualizeTokenization([65, 66]), 'A|B')
    process.env.NO_COLOR = '1'
    assert.is(pickled.visualizeTokenization([65, 66], Uint8Array.of(1, 0)), 'A|B')
    assert.throws(() => pickled.visualizeTokenization([65, 66], Uint8Array.of(1)), hasCode('ERR_INVALID_ARG', /mask/))
  } finally {
    if (before === undefined) delete process.env.NO_COLOR
    else process.env.NO_COLOR = before
  }
})

/** Of this process since `started`: other programs take time from the clock, not from this. */
function cpuSeconds(started: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(started)
  return (user + system) / 1e6
}

test('English at 2 MB/s or more on one thread', () => {
  const random = randomInts(7)
  const sentences = vectors.conversations.flatMap(({ messages }) => messages.flatMap(({ content }) => typeof content === 'string' ? [content] : content.map(({ text }) => text)))
  const english = Array.from({ length: 60_000 }, () => pick(random, sentences)).join(' ')
  const letters = Array.from({ length: 300_000 }, () => Array.from({ length: 2 + random(9) }, () => String.fromCharCode(97 + random(26))).join('')).join(' ')
  for (const [name, text] of Object.entries({ english, 'random words': letters })) {
    const started = process.cpuUsage()
    const ids = pickled.encode(text)
    const seconds = cpuSeconds(started)
    const megabytes = Buffer.byteLength(text) / 1e6
    console.log(`${name}: ${(megabytes / seconds).toFixed(1)} MB/s over ${megabytes.toFixed(1)} MB, ${(text.length / ids.length).toFixed(2)} characters per token`)
    if (name === 'english') assert.ok(megabytes / seconds >= 2, `${(megabytes / seconds).toFixed(2)} MB/s`)
    assert.is(pickled.decode(ids), text)
  }
})

test('a megabyte without a break takes seconds at most, whatever it is made of', () => {
  const random = randomInts(8)
  const size = 1 << 20
  const texts = {
    'a': 'a'.repeat(size), 'spaces': ' '.repeat(size), 'spaces x': `${' '.repeat(size)}x`, 'line ends': '\r\n'.repeat(size / 2), 'blank lines': ' \n'.repeat(size / 2),
    'punctuation': '#$%-=/!?'.repeat(size / 8), 'apostrophes': '\''.repeat(size), 'digits': '7'.repeat(size), 'lone surrogates': '\ud800'.repeat(size),
    'letters': Array.from({ length: size }, () => String.fromCharCode(97 + random(26))).join(''),
    'ideographs': Array.from({ length: size }, () => String.fromCharCode(0x4e00 + random(20_000))).join(''),
  }
  let slowest = ''
  let most = 0
  for (const [name, text] of Object.entries(texts)) {
    const started = process.cpuUsage()
    const ids = pickled.encode(text)
    const seconds = cpuSeconds(started)
    if (seconds > most) [most, slowest] = [seconds, name]
    assert.ok(seconds < 10, `${name}: ${seconds.toFixed(1)} s`)
    assert.is(pickled.decode(ids), Buffer.from(text).toString(), name)
  }
  console.log(`slowest megabyte: ${slowest}, ${most.toFixed(2)} s`)
})

test('loadTokenizer: the pickle before the json; says what is missing or unreadable', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-tokenizer-'))
  const rejects = async (dir: string, code: ErrorCode, message: RegExp): Promise<void> => {
    const error: unknown = await loadTokenizer(dir).then(() => undefined, (e: unknown) => e)
    assert.ok(hasCode(code, message)(error), String(error))
  }
  try {
    await rejects(dir, 'ERR_CHECKPOINT_NOT_FOUND', /tokenizer\.pkl or tokenizer\.json/)
    await rejects(join(dir, 'absent'), 'ERR_CHECKPOINT_NOT_FOUND', /absent/)
    writeFileSync(join(dir, 'tokenizer.json'), huggingFaceText)
    assert.is((await loadTokenizer(dir)).getVocabSize(), 2048)
    writeFileSync(join(dir, 'tokenizer.pkl'), readFileSync(new URL('tokenizer/tokenizer.pkl', fixtures)))
    assert.is((await loadTokenizer(dir)).getVocabSize(), 320)
    writeFileSync(join(dir, 'tokenizer.pkl'), '')
    await rejects(dir, 'ERR_TOKENIZER_FORMAT', /tokenizer\.pkl/)
    rmSync(join(dir, 'tokenizer.pkl'))
    mkdirSync(join(dir, 'tokenizer.pkl'))
    await rejects(dir, 'ERR_TOKENIZER_FORMAT', /EISDIR/)
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test.run()
