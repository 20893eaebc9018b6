import { renderConversation, renderForCompletion, type SpecialToken } from '../../lib/conversation.js'
import type { Tokenizer } from '../../lib/tokenizer.js'

const names: SpecialToken[] = ['<|bos|>', '<|user_start|>', '<|user_end|>', '<|assistant_start|>', '<|assistant_end|>', '<|python_start|>', '<|python_end|>',
  '<|output_start|>', '<|output_end|>']

/** The ids of the special tokens of `byteTokenizer`. */
export const special = {
  bos: 256, userStart: 257, userEnd: 258, assistantStart: 259, assistantEnd: 260, pythonStart: 261, pythonEnd: 262, outputStart: 263, outputEnd: 264
}

/** A tokenizer of bytes: ids 0..255 and the special tokens, 265 in all; `words` are further tokens of several characters. */
export function byteTokenizer(words: readonly string[] = []): Tokenizer {
  const utf8 = new TextEncoder()
  const bytesOf = (id: number): Uint8Array => {
    if (id < 256) return Uint8Array.of(id)
    const text = id < 265 ? names[id - 256] : words[id - 265]
    if (text === undefined) throw new Error(`no token ${id}`)
    return utf8.encode(text)
  }
  const tokenizer: Tokenizer = {
    encode: (text) => Int32Array.from(utf8.encode(text)),
    decodeBytes: (ids) => Buffer.concat(Array.from(ids, bytesOf)),
    decode(ids) {
      const decoder = tokenizer.decoder()
      return Array.from(ids, (id) => decoder.write(id)).join('') + decoder.end()
    },
    decoder() {
      const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
      return { write: (id) => decoder.decode(bytesOf(id), { stream: true }), end: () => decoder.decode() }
    },
    encodeSpecial: (name) => 256 + names.indexOf(name),
    getBosTokenId: () => 256,
    getVocabSize: () => 265 + words.length,
    renderConversation: (messages, maxTokens) => renderConversation(tokenizer, messages, maxTokens),
    renderForCompletion: (messages) => renderForCompletion(tokenizer, messages),
    visualizeTokenization: () => ''
  }
  return tokenizer
}
