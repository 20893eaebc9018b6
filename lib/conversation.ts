import { NanochatError, describe, invalidArg } from './errors.js'

/** The tokens around turns and tool calls, in nanochat's spelling. Text that reads like one is still text. */
export type SpecialToken = '<|bos|>' | `<|${'user' | 'assistant' | 'python' | 'output'}_${'start' | 'end'}|>`
/** A piece of what an assistant said. */
export type Part = {
  /** Plain text; code that the model wrote for its tool; what the tool gave back. */
  type: 'text' | 'python' | 'python_output'
  /** Its content. */
  text: string
}

/** One turn. User and assistant alternate, beginning with the user; anything else is ERR_INVALID_CONVERSATION. */
export type Message =
  /** A user's turn; a system message may come first, and is merged into the user's after it. */
  | { role: 'system' | 'user', content: string }
  /** The model's turn: text, or parts where it used its tool. */
  | { role: 'assistant', content: string | Part[] }

/** In the order of their ids. */
export const SPECIAL_TOKENS: readonly SpecialToken[] = [
  '<|bos|>', '<|user_start|>', '<|user_end|>', '<|assistant_start|>', '<|assistant_end|>',
  '<|python_start|>', '<|python_end|>', '<|output_start|>', '<|output_end|>',
]

/** What rendering needs of a tokenizer. */
export interface Encoder {
  encode(text: string): Int32Array
  encodeSpecial(name: SpecialToken): number
}

/**
 * The tokens of a conversation and their training mask: 1 where the assistant speaks, 0 elsewhere (MODEL.md 4). Both
 * are cut to `maxTokens` when it is given. Throws ERR_INVALID_CONVERSATION, naming the message at fault.
 */
export function renderConversation(tokenizer: Encoder, messages: readonly Message[], maxTokens?: number): { ids: Int32Array, mask: Uint8Array } {
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens > 0)) throw invalidArg('maxTokens', 'a positive integer', maxTokens)
  const { ids, mask } = joined(render(tokenizer, checkedTurns(messages)))
  return { ids: ids.slice(0, maxTokens), mask: mask.slice(0, maxTokens) }
}

/**
 * The prompt that makes the assistant answer: the conversation without a final assistant message, then
 * `<|assistant_start|>` (MODEL.md 4). Nothing is cut. Throws ERR_INVALID_CONVERSATION.
 */
export function renderForCompletion(tokenizer: Encoder, messages: readonly Message[]): Int32Array {
  const turns = checkedTurns(messages)
  if (turns.at(-1)?.role === 'assistant') turns.pop()
  const chunks = render(tokenizer, turns)
  chunks.push({ ids: [tokenizer.encodeSpecial('<|assistant_start|>')], mask: 0 })
  return joined(chunks).ids
}

interface Chunk { ids: ArrayLike<number>, mask: 0 | 1 }

function render(tokenizer: Encoder, turns: readonly Message[]): Chunk[] {
  const chunks: Chunk[] = []
  const special = (name: SpecialToken, mask: 0 | 1): void => { chunks.push({ ids: [tokenizer.encodeSpecial(name)], mask }) }
  const text = (text: string, mask: 0 | 1): void => { chunks.push({ ids: tokenizer.encode(text), mask }) }

  special('<|bos|>', 0)
  for (const turn of turns) {
    if (turn.role !== 'assistant') {
      special('<|user_start|>', 0)
      text(turn.content, 0)
      special('<|user_end|>', 0)
      continue
    }
    special('<|assistant_start|>', 0)
    const parts: Part[] = typeof turn.content === 'string' ? [{ type: 'text', text: turn.content }] : turn.content
    for (const part of parts) {
      const mask = part.type === 'python_output' ? 0 : 1
      if (part.type === 'python') special('<|python_start|>', mask)
      if (part.type === 'python_output') special('<|output_start|>', mask)
      text(part.text, mask)
      if (part.type === 'python') special('<|python_end|>', mask)
      if (part.type === 'python_output') special('<|output_end|>', mask)
    }
    special('<|assistant_end|>', 1)
  }
  return chunks
}

function joined(chunks: readonly Chunk[]): { ids: Int32Array, mask: Uint8Array } {
  const length = chunks.reduce((sum, chunk) => sum + chunk.ids.length, 0)
  const ids = new Int32Array(length), mask = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    ids.set(chunk.ids, at)
    mask.fill(chunk.mask, at, at + chunk.ids.length)
    at += chunk.ids.length
  }
  return { ids, mask }
}

/** The messages as alternating user and assistant turns: a leading system message becomes the opening of the first user turn. */
function checkedTurns(messages: readonly Message[]): Message[] {
  if (!Array.isArray(messages)) throw invalid('an array of messages', describe(messages))
  if (messages.length === 0) throw invalid('at least one message', 'an empty list')
  for (const [i, message] of messages.entries()) checkMessage(message, i)   // note: forEach would skip holes
  const [system, first, ...rest] = messages as readonly Message[]
  if (system?.role !== 'system') return alternating(messages, 0)
  if (first?.role !== 'user') throw invalid('a user message at messages[1], after the system message', first ? `role ${describe(first.role)}` : 'nothing')
  return alternating([{ role: 'user', content: `${system.content}\n\n${first.content}` }, ...rest], 1)
}

function alternating(turns: readonly Message[], offset: number): Message[] {
  turns.forEach(({ role }, i) => {
    const wanted = i % 2 === 0 ? 'user' : 'assistant'
    if (role !== wanted) {
      throw invalid(`role "${wanted}" at messages[${i + offset}]: user and assistant alternate, only the first message may be a system message`,
        `role ${describe(role)}`)
    }
  })
  return [...turns]
}

function checkMessage(message: unknown, i: number): void {
  const at = `messages[${i}]`
  if (!isObject(message)) throw invalid(`an object { role, content } at ${at}`, describe(message))
  const { role, content } = message
  if (role !== 'system' && role !== 'user' && role !== 'assistant') throw invalid(`role "system", "user" or "assistant" at ${at}`, `role ${describe(role)}`)
  if (typeof content === 'string') return
  if (role !== 'assistant') throw invalid(`a string as content of ${at}, a ${role} message`, describe(content))
  if (!Array.isArray(content)) throw invalid(`a string or a list of parts as content of ${at}`, describe(content))
  for (const [p, part] of (content as unknown[]).entries()) {
    if (!isObject(part)) throw invalid(`an object { type, text } at ${at}.content[${p}]`, describe(part))
    const { type, text } = part
    if (type !== 'text' && type !== 'python' && type !== 'python_output') {
      throw invalid(`type "text", "python" or "python_output" at ${at}.content[${p}]`, `type ${describe(type)}`)
    }
    if (typeof text !== 'string') throw invalid(`a string as text of ${at}.content[${p}]`, describe(text))
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

function invalid(expected: string, actual: string): NanochatError {
  return new NanochatError('ERR_INVALID_CONVERSATION', `Expected ${expected}, but received ${actual}.`)
}
