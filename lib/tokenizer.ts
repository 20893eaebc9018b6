import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { bytePairMerger } from './bpe.js'
import { SPECIAL_TOKENS, renderConversation, renderForCompletion, type Message, type SpecialToken } from './conversation.js'
import { NanochatError, invalidArg } from './errors.js'
import { checkKnown } from './options.js'
import { pieceEnd } from './split.js'
import { vocabularyFromHuggingFace, vocabularyFromPickle, type Vocabulary } from './vocabulary.js'

/** Token ids: an array or a typed array of them. */
export type Ids = ArrayLike<number>

/** nanochat's tokenizer (MODEL.md 3 and 4). Synchronous; user text can never become a special token. */
export interface Tokenizer {
  /**
   * The tokens of `text`, as ordinary text whatever it says. A lone surrogate is encoded as U+FFFD. `prepend` and
   * `append` add one token, by the name of a special token or by id. Throws ERR_INVALID_ARG.
   */
  encode(text: string, options?: { prepend?: SpecialToken | number, append?: SpecialToken | number }): Int32Array
  /** The text of `ids`; special tokens read as their names, bytes that are not UTF-8 as U+FFFD. Throws ERR_INVALID_ARG for an unknown id. */
  decode(ids: Ids): string
  /** The bytes of `ids`, special tokens as their names: of a token that is a part of a character, that part. Throws ERR_INVALID_ARG for an unknown id. */
  decodeBytes(ids: Ids): Uint8Array
  /** Decodes token by token: what `write` and `end` return joins to what `decode` gives. A character is held back until it is complete. `write` throws ERR_INVALID_ARG for an unknown id. */
  decoder(): { write(id: number): string, end(): string }
  /** The id of the special token `name`. Throws ERR_INVALID_ARG. */
  encodeSpecial(name: SpecialToken): number
  /** The id of <|bos|>, with which every document and conversation begins. */
  getBosTokenId(): number
  /** V: all tokens, special ones included; ids are 0 to V - 1. */
  getVocabSize(): number
  /**
   * The tokens `ids` of the conversation `messages` and their training `mask`, 1 where the assistant speaks (MODEL.md 4); both cut to
   * `maxTokens` when it is given. Throws ERR_INVALID_CONVERSATION, which names the message at fault, and ERR_INVALID_ARG.
   */
  renderConversation(messages: Message[], maxTokens?: number): { ids: Int32Array, mask: Uint8Array }
  /** The prompt that makes the assistant answer `messages`; a final assistant message is dropped (MODEL.md 4). Throws ERR_INVALID_CONVERSATION. */
  renderForCompletion(messages: Message[]): Int32Array
  /** The tokens of `ids` with `|` between them, for debugging; with a `mask` green for 1 and red for 0, unless NO_COLOR is set. Throws ERR_INVALID_ARG. */
  visualizeTokenization(ids: Ids, mask?: Uint8Array): string
}

/**
 * A tokenizer from the bytes of nanochat's tokenizer.pkl, which is read, not executed. Throws ERR_TOKENIZER_FORMAT, and
 * ERR_TOKENIZER_MISMATCH when its size is not `expected.vocabSize`.
 */
export function tokenizerFromPickle(bytes: Uint8Array, expected: { vocabSize?: number } = {}): Tokenizer {
  const tokenizer = newTokenizer(vocabularyFromPickle(bytes))
  const size = tokenizer.getVocabSize()
  if (expected.vocabSize !== undefined && size !== expected.vocabSize) {
    throw new NanochatError('ERR_TOKENIZER_MISMATCH',
      `Expected a tokenizer of ${expected.vocabSize} tokens but tokenizer.pkl has ${size}. Use the tokenizer that the model was trained with.`)
  }
  return tokenizer
}

/** A tokenizer from the text of a Hugging Face tokenizer.json (byte-level BPE). Throws ERR_TOKENIZER_FORMAT. */
export function tokenizerFromHuggingFace(json: string): Tokenizer {
  return newTokenizer(vocabularyFromHuggingFace(json))
}

/**
 * The tokenizer in `dir`: tokenizer.pkl, else tokenizer.json. Throws ERR_CHECKPOINT_NOT_FOUND where there is neither,
 * ERR_TOKENIZER_FORMAT for one that can't be used.
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const pickle = await bytesOf(join(dir, 'tokenizer.pkl'))
  if (pickle) return tokenizerFromPickle(pickle)
  const json = await bytesOf(join(dir, 'tokenizer.json'))
  if (json) return tokenizerFromHuggingFace(new TextDecoder().decode(json))
  throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND',
    `Expected tokenizer.pkl or tokenizer.json in ${dir} but found neither. nanochat keeps its tokenizer in the tokenizer folder of its base directory.`)
}

async function bytesOf(file: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(file)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new NanochatError('ERR_TOKENIZER_FORMAT', `Expected a readable file ${file} but reading it failed: ${String(code ?? cause)}.`, { cause })
  }
}

// note: V8 keeps the whole text alive for a slice of 13 units or more, so longer pieces don't go into the cache.
const MAX_CACHED_PIECE = 12
const MAX_CACHED_PIECES = 65_536

function newTokenizer({ tokens, specials, merges, keepsWholeTokens }: Vocabulary): Tokenizer {
  const utf8 = new TextEncoder()
  const vocabSize = tokens.length + specials.size
  const bytesById = [...tokens]
  for (const [name, id] of specials) bytesById[id] = utf8.encode(name)
  const byteIds = new Int32Array(256)
  tokens.forEach((token, id) => { if (token.length === 1) byteIds[token[0] as number] = id })
  const wholeTokens = keepsWholeTokens ? textsOf(tokens) : new Map<string, number>()
  const merge = bytePairMerger(merges)
  const cache = new Map<string, Int32Array>()
  const shared = newWorkspace(1024)

  /** The tokens of a piece that is none itself; the result is good until the next call. */
  const mergedPiece = (piece: string): Int32Array => {
    const cached = cache.get(piece)
    if (cached) return cached
    const { bytes, ids } = 3 * piece.length <= shared.ids.length ? shared : newWorkspace(3 * piece.length)
    const length = utf8.encodeInto(piece, bytes).written
    for (let i = 0; i < length; i++) ids[i] = byteIds[bytes[i] as number] as number
    const merged = ids.subarray(0, merge(ids, length))
    if (piece.length <= MAX_CACHED_PIECE) {
      if (cache.size >= MAX_CACHED_PIECES) cache.clear()
      cache.set(piece, merged.slice())
    }
    return merged
  }

  const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < vocabSize
  const unknownId = (name: string, id: number): NanochatError => invalidArg(name, `a token id from 0 to ${vocabSize - 1}`, id)
  const idOf = (name: string, token: SpecialToken | number): number => {
    if (typeof token !== 'number') return tokenizer.encodeSpecial(token)
    if (!isId(token)) throw unknownId(name, token)
    return token
  }

  const tokenizer: Tokenizer = {
    encode(text, options = {}) {
      if (typeof text !== 'string') throw invalidArg('text', 'a string', text)
      checkKnown(options, ['prepend', 'append'])
      const { prepend, append } = options
      let ids: Int32Array = new Int32Array(16 + text.length / 2)
      let count = 0
      if (prepend !== undefined) ids[count++] = idOf('prepend', prepend)
      for (let start = 0, end = 0; start < text.length; start = end) {
        end = pieceEnd(text, start)
        const piece = text.slice(start, end)
        const whole = wholeTokens.get(piece)
        if (whole !== undefined) {
          ids = withRoom(ids, count + 1)
          ids[count++] = whole
        } else {
          const merged = mergedPiece(piece)
          ids = withRoom(ids, count + merged.length)
          ids.set(merged, count)
          count += merged.length
        }
      }
      ids = withRoom(ids, count + 1)
      if (append !== undefined) ids[count++] = idOf('append', append)
      return ids.slice(0, count)
    },
    decode: (ids) => newDecoder().decode(tokenizer.decodeBytes(ids)),
    decodeBytes(ids) {
      checkIds(ids)
      let length = 0
      for (let i = 0; i < ids.length; i++) {
        const id = ids[i] as number
        if (!isId(id)) throw unknownId(`ids[${i}]`, id)
        length += (bytesById[id] as Uint8Array).length
      }
      const bytes = new Uint8Array(length)
      for (let i = 0, at = 0; i < ids.length; i++) {
        const token = bytesById[ids[i] as number] as Uint8Array
        bytes.set(token, at)
        at += token.length
      }
      return bytes
    },
    decoder() {
      const utf8 = newDecoder()
      return {
        write(id) {
          if (!isId(id)) throw unknownId('id', id)
          return utf8.decode(bytesById[id] as Uint8Array, { stream: true })
        },
        end: () => utf8.decode(),
      }
    },
    encodeSpecial(name) {
      const id = SPECIAL_TOKENS.includes(name) ? specials.get(name) : undefined
      if (id === undefined) throw invalidArg('name', `a special token (${SPECIAL_TOKENS.join(' ')})`, name)
      return id
    },
    getBosTokenId: () => tokenizer.encodeSpecial('<|bos|>'),
    getVocabSize: () => vocabSize,
    renderConversation: (messages, maxTokens) => renderConversation(tokenizer, messages, maxTokens),
    renderForCompletion: (messages) => renderForCompletion(tokenizer, messages),
    visualizeTokenization(ids, mask) {
      checkIds(ids)
      if (mask && mask.length !== ids.length) throw invalidArg('mask', `one entry for each of ${ids.length} ids`, mask)
      const colored = mask && !process.env.NO_COLOR
      return Array.from(ids, (id, i) => {
        const text = withoutControls(tokenizer.decode([id]))
        return colored ? `${mask[i] ? GREEN : RED}${text}${RESET}` : text
      }).join('|')
    },
  }
  return tokenizer
}

function checkIds(ids: Ids): void {
  if (typeof ids !== 'object' || !Number.isInteger(ids?.length)) throw invalidArg('ids', 'an array of token ids', ids)
}

/** `ids`, or a copy of twice the size where it holds fewer than `length`. */
function withRoom(ids: Int32Array, length: number): Int32Array {
  if (length <= ids.length) return ids
  const larger = new Int32Array(2 * length)
  larger.set(ids)
  return larger
}

/** Room for a piece of `n` bytes. */
function newWorkspace(n: number): { bytes: Uint8Array, ids: Int32Array } {
  return { bytes: new Uint8Array(n), ids: new Int32Array(n) }
}

const RED = '\x1b[91m', GREEN = '\x1b[92m', RESET = '\x1b[0m'

/** One U+FFFD for each maximal part of a character that is not UTF-8, as Python's errors="replace"; keeps a leading U+FEFF. */
function newDecoder() {
  return new TextDecoder('utf-8', { ignoreBOM: true })
}

/** Control characters but tab and newline as \x1b and the like: a model's output can't drive the terminal. */
function withoutControls(text: string): string {
  return text.replace(/[^\P{Cc}\t\n]/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** The tokens that are text by themselves; the others can be no whole piece. */
function textsOf(tokens: readonly Uint8Array[]): Map<string, number> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const texts = new Map<string, number>()
  tokens.forEach((token, id) => {
    try {
      texts.set(utf8.decode(token), id)
    } catch {
      // part of a character
    }
  })
  return texts
}
