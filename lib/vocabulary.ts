import { newPairTable, type Merges } from './bpe.js'
import { readPickle, type Pickled, type PickledDict, type PickledObject } from './checkpoint/pickle.js'
import { SPECIAL_TOKENS } from './conversation.js'
import { NanochatError, describe } from './errors.js'
import { SPLIT_PATTERN } from './split.js'

/** What a tokenizer file says, validated (MODEL.md 3). Ids 0 to tokens.length - 1 are byte strings, the special tokens follow. */
export interface Vocabulary {
  tokens: readonly Uint8Array[]              // by id
  specials: ReadonlyMap<string, number>      // name -> id
  merges: Merges
  keepsWholeTokens: boolean                  // a piece that is a token stays it, whatever the merges would make of it
}

/** Of a pickled `tiktoken.core.Encoding`, protocols 2 to 5. Nothing is executed. Throws ERR_TOKENIZER_FORMAT. */
export function vocabularyFromPickle(bytes: Uint8Array): Vocabulary {
  const refuse = refuser('tokenizer.pkl')
  const encoding = readPickle(bytes, { globals: ['tiktoken.core.Encoding'], fileName: 'tokenizer.pkl', code: 'ERR_TOKENIZER_FORMAT' })
  const state = isObject(encoding) ? encoding.state : undefined
  if (!isDict(state)) throw refuse('a tiktoken.core.Encoding with a vocabulary of its own', shown(state ?? encoding))
  const field = (name: string): Pickled | undefined => state.entries.find(([key]) => key === name)?.[1]
  const entries = (name: string): [Pickled, Pickled][] => {
    const dict = field(name)
    if (!isDict(dict)) throw refuse(`${name} to be a dict`, shown(dict))
    return dict.entries
  }

  if (field('pat_str') !== SPLIT_PATTERN) throw refuse(`the split pattern ${SPLIT_PATTERN}`, shown(field('pat_str')))
  const tokens = tokensById(refuse, entries('mergeable_ranks').map(([token, id]) => {
    if (!(token instanceof Uint8Array)) throw refuse('the keys of mergeable_ranks to be bytes', shown(token))
    return [token, id]
  }))
  const specials = checkedSpecials(refuse, tokens.length, entries('special_tokens'))
  return { tokens, specials, merges: mergesOfRanks(refuse, tokens), keepsWholeTokens: true }
}

/** Of a Hugging Face tokenizer.json: byte-level BPE with nanochat's split pattern. Throws ERR_TOKENIZER_FORMAT. */
export function vocabularyFromHuggingFace(json: string): Vocabulary {
  const refuse = refuser('tokenizer.json')
  const root = parsed(refuse, json)
  const model = record(root.model)
  checkSteps(refuse, root, model)

  const added = list(root.added_tokens).map(record).map(({ content, id }): [unknown, unknown] => [content, id])
  const addedIds = new Map(added)
  const entries = Object.entries(record(model.vocab)).filter(([token, id]) => addedIds.get(token) !== id)
  const tokens = tokensById(refuse, entries.map(([token, id]) => [bytesOfToken(refuse, token), id]))
  const specials = checkedSpecials(refuse, tokens.length, added)

  const ids = new Map(entries) as Map<unknown, number>
  const merges = list(model.merges)
  if (merges.length > MAX_MERGES) throw refuse(`at most ${MAX_MERGES} merges`, `${merges.length}`)
  const pairs = newPairTable(merges.length)
  const merged = Int32Array.from(merges, (merge, rank) => {
    const [a, b, ...rest]: unknown[] = typeof merge === 'string' ? merge.split(' ') : list(merge)
    const whole = typeof a === 'string' && typeof b === 'string' ? ids.get(a + b) : undefined
    const left = ids.get(a), right = ids.get(b)
    if (left === undefined || right === undefined || whole === undefined || rest.length > 0) {
      throw refuse(`model.merges[${rank}] to join two tokens of the vocabulary to a third`, describe(merge))
    }
    if (!pairs.add(left, right, rank)) throw refuse('every merge once', `${describe(`${a} ${b}`)} again at model.merges[${rank}]`)
    return whole
  })
  return { tokens, specials, merges: { pairs, merged }, keepsWholeTokens: model.ignore_merges === true }
}

const MAX_MERGES = 2 ** 22             // what a heap key of bpe.ts holds

type Refuse = (expected: string, actual: string, cause?: unknown) => NanochatError

function refuser(file: string): Refuse {
  return (expected, actual, cause) => new NanochatError('ERR_TOKENIZER_FORMAT',
    `${file}: expected ${expected}, but received ${actual}. The file is damaged or not nanochat's; copy the tokenizer that the checkpoint was trained with.`, { cause })
}

function tokensById(refuse: Refuse, entries: readonly (readonly [Uint8Array, unknown])[]): Uint8Array[] {
  const tokens = new Map<number, Uint8Array>()
  const missing = new Set(Array(256).keys())
  for (const [token, id] of entries) {
    if (!isIndex(id, entries.length) || tokens.has(id)) throw refuse(`the ids of ${entries.length} tokens to be 0 to ${entries.length - 1}, each once`, shown(id))
    if (token.length === 0) throw refuse('tokens of at least one byte', `an empty one with id ${id}`)
    if (token.length === 1) missing.delete(token[0] as number)
    tokens.set(id, token)
  }
  if (missing.size > 0) throw refuse('a token for each of the 256 bytes', `none for ${[...missing].slice(0, 5).join(', ')}`)
  return entries.map((_, id) => tokens.get(id) as Uint8Array)
}

function checkedSpecials(refuse: Refuse, firstId: number, entries: readonly (readonly [unknown, unknown])[]): Map<string, number> {
  const specials = new Map<string, number>()
  const endId = firstId + entries.length
  for (const [name, id] of entries) {
    if (typeof name !== 'string' || specials.has(name)) throw refuse('special tokens with different names', shown(name))
    if (!isIndex(id, endId) || id < firstId) throw refuse(`the ids of the special tokens to be ${firstId} to ${endId - 1}`, `${shown(id)} for ${describe(name)}`)
    specials.set(name, id)
  }
  if (new Set(specials.values()).size < specials.size) throw refuse('special tokens with different ids', [...specials.values()].slice(0, 20).join(', '))
  const missing = SPECIAL_TOKENS.filter((name) => !specials.has(name))
  if (missing.length > 0) throw refuse('nanochat\'s nine special tokens', `a file without ${missing.join(', ')}`)
  return specials
}

/**
 * The merges of tokens whose ids are their ranks: every two tokens that join to a third. Linear in the bytes of all
 * tokens, whatever their lengths: tries read forwards and backwards find the prefixes and suffixes that are tokens.
 */
function mergesOfRanks(refuse: Refuse, tokens: readonly Uint8Array[]): Merges {
  if (tokens.length > MAX_MERGES) throw refuse(`at most ${MAX_MERGES} tokens`, `${tokens.length}`)
  const forwards = newTrie(), backwards = newTrie()
  tokens.forEach((token, id) => {
    if (!forwards.add(token, id)) throw refuse('every token once', `id ${id} for the bytes of another`)
    backwards.add(token.toReversed(), id)
  })
  const pairs = newPairTable(tokens.length)
  tokens.forEach((token, id) => {
    const prefixes = forwards.idsAlong(token)                  // [n]: the id of the first n + 1 bytes, or -1
    const suffixes = backwards.idsAlong(token.toReversed())    // [n]: of the last n + 1 bytes
    for (let n = 1; n < token.length; n++) {
      const left = prefixes[n - 1] as number, right = suffixes[token.length - n - 1] as number
      if (left >= 0 && right >= 0) pairs.add(left, right, id)
    }
  })
  return { pairs, merged: Int32Array.from(tokens.keys()) }
}

interface Trie {
  /** False, and no change, when the same bytes were added before. */
  add(bytes: Uint8Array, id: number): boolean
  /** The id of each prefix of `bytes`, shortest first, -1 where it was not added; `bytes` itself was. */
  idsAlong(bytes: Uint8Array): Int32Array
}

function newTrie(): Trie {
  const edges = newPairTable(0)        // (node, byte) -> node; the root is 0
  const ids = [-1]                     // by node
  return {
    add(bytes, id) {
      let node = 0
      for (const byte of bytes) {
        if (edges.add(node, byte, ids.length)) ids.push(-1)
        node = edges.get(node, byte)
      }
      if (ids[node] !== -1) return false
      ids[node] = id
      return true
    },
    idsAlong(bytes) {
      const along = new Int32Array(bytes.length)
      for (let i = 0, node = 0; i < bytes.length; i++) {
        node = edges.get(node, bytes[i] as number)
        along[i] = ids[node] as number
      }
      return along
    },
  }
}

/** Refuses any step that would make other tokens than nanochat's: the settings are those of a converted tiktoken file. */
function checkSteps(refuse: Refuse, root: Record<string, unknown>, model: Record<string, unknown>): void {
  const steps = root.pre_tokenizer && record(root.pre_tokenizer).type === 'Sequence' ? list(record(root.pre_tokenizer).pretokenizers).map(record) : []
  const [split = {}, byteLevel = {}] = steps
  const check = (name: string, actual: unknown, ...allowed: unknown[]): void => {
    if (!allowed.includes(actual)) throw refuse(`${name} ${allowed.map((value) => JSON.stringify(value) ?? 'left out').join(' or ')}`, describe(actual))
  }
  check('model.type', model.type, 'BPE')
  check('model.dropout', model.dropout, null, undefined, 0)
  check('model.byte_fallback', model.byte_fallback, false, undefined)
  check('model.continuing_subword_prefix', model.continuing_subword_prefix, null, undefined, '')
  check('model.end_of_word_suffix', model.end_of_word_suffix, null, undefined, '')
  check('normalizer', root.normalizer, null, undefined)
  check('the number of pre_tokenizer.pretokenizers', steps.length, 2)
  check('the first pre-tokenizer', split.type, 'Split')
  check('its behavior', split.behavior, 'Isolated')
  check('its invert', split.invert, false, undefined)
  check('its pattern', record(split.pattern).Regex, SPLIT_PATTERN)
  check('the second pre-tokenizer', byteLevel.type, 'ByteLevel')
  check('its add_prefix_space', byteLevel.add_prefix_space, false)
  check('its use_regex', byteLevel.use_regex, false)
}

/** The bytes of a token in the byte-level alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and on. */
function bytesOfToken(refuse: Refuse, token: string): Uint8Array {
  return Uint8Array.from(token, (char) => {
    const byte = byteLevelAlphabet.get(char)
    if (byte === undefined) throw refuse('tokens in the byte-level alphabet', describe(token))
    return byte
  })
}

const byteLevelAlphabet = new Map<string, number>()
for (let byte = 0, moved = 0x100; byte < 256; byte++) {
  const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
  byteLevelAlphabet.set(String.fromCharCode(printable ? byte : moved++), byte)
}

function parsed(refuse: Refuse, json: string): Record<string, unknown> {
  try {
    return record(JSON.parse(json))
  } catch (cause) {
    throw refuse('JSON', cause instanceof Error ? cause.message : describe(cause), cause)
  }
}

/** `value` where it is an object, else one without fields: a check of a field then says what was expected. */
function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? value as Record<string, unknown> : {}
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function isIndex(value: unknown, end: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < end
}

function isDict(value: Pickled | undefined): value is PickledDict {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'dict'
}

function isObject(value: Pickled): value is PickledObject {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'object'
}

function shown(value: unknown): string {
  return isDict(value as Pickled) ? 'a dict' : describe(value)
}
