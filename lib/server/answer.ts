import { randomBytes } from 'node:crypto'
import type { Part } from '../conversation.js'
import type { Tokenizer } from '../tokenizer.js'
import type { ChatEvent, FinishReason, Stats, TokenLogprob } from '../types.js'

/** Counts of OpenAI's usage. `completion_tokens` has what the tool's results took, too. */
export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details: { cached_tokens: number }
}

/** An event of a row of a prompt; `index` counts the choices of the answer. */
export type ChoiceEvent = ChatEvent & { index: number }

/** Turns events into the objects of one kind of answer. */
export interface AnswerFormat {
  /** What a stream opens a choice with; null: nothing. */
  opening(index: number): object | null
  /** The chunk of one event; null: nothing to send. */
  chunk(event: ChoiceEvent): object | null
  /** The chunk that ends a stream whose client wants counts. */
  usage(usage: Usage): object
  /** The answer as a whole. */
  whole(events: readonly ChoiceEvent[], usage: Usage): object
}

interface Head { id: string, created: number, model: string }

/** The objects of /v1/chat/completions. `parts` is ours: text, code of the model and what it gave. `includeUsage`: the client of a stream wants counts, and every chunk says that it is none with them. */
export function chatFormat(modelName: string, tokenizer: Tokenizer, includeUsage: boolean): AnswerFormat {
  const head = newHead('chatcmpl', modelName)
  const deltas = new Map<number, (event: ChoiceEvent) => object>()
  const deltaOf = (event: ChoiceEvent): object => {
    const next = deltas.get(event.index) ?? messageDeltas()
    deltas.set(event.index, next)
    return next(event)
  }
  const chunkOf = (choices: object[], usage: Usage | null = null): object => ({ ...head, object: 'chat.completion.chunk', choices, ...(includeUsage ? { usage } : {}) })
  const ends = [tokenizer.getBosTokenId(), tokenizer.encodeSpecial('<|assistant_end|>')]   // which are no part of an answer
  const logprobsOf = (events: readonly ChoiceEvent[]): object | null => {
    const list = logprobsIn(events)?.filter(({ id }) => !ends.includes(id))
    return list ? { content: list.map((token) => chatLogprob(token, tokenizer)), refusal: null } : null
  }
  return {
    opening: (index) => chunkOf([{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }]),
    chunk(event) {
      const { index } = event
      const logprobs = logprobsOf([event])
      if (event.type === 'finish') return chunkOf([{ index, delta: {}, logprobs, finish_reason: finishReason(event.finishReason) }])
      if (event.type === 'python_output' && event.text === null) return null
      return chunkOf([{ index, delta: deltaOf(event), logprobs, finish_reason: null }])
    },
    usage: (usage) => chunkOf([], usage),
    whole: (events, usage) => ({
      ...head, object: 'chat.completion',
      choices: choicesOf(events).map(({ finish, own }) => {
        const { content } = finish.message
        const parts: Part[] | null = typeof content === 'string' ? null : content
        return {
          index: finish.index,
          message: { role: 'assistant', content: visibleText(own), refusal: null, ...(parts ? { parts } : {}) },
          logprobs: logprobsOf(own),
          finish_reason: finishReason(finish.finishReason)
        }
      }),
      usage
    })
  }
}

/** The objects of /v1/completions. */
export function textFormat(modelName: string, tokenizer: Tokenizer, includeUsage: boolean): AnswerFormat {
  const head = newHead('cmpl', modelName)
  const places = new Map<number, { decoder: ReturnType<Tokenizer['decoder']>, offset: number }>()   // how far the tokens of each choice have come
  const answer = (choices: object[], usage: Usage | null = null): object => ({ ...head, object: 'text_completion', choices, ...(usage || includeUsage ? { usage } : {}) })
  const nameOf = (id: number): string => {
    const { token, isWhole } = textOf(id, tokenizer)
    return isWhole ? token : `bytes:${token}`
  }
  const logprobsOf = (list: readonly TokenLogprob[] | null, index: number): object | null => {
    if (!list) return null
    const place = places.get(index) ?? { decoder: tokenizer.decoder(), offset: 0 }
    places.set(index, place)
    const offsets = list.map(({ id }) => {
      const { offset } = place
      place.offset += place.decoder.write(id).length
      return offset
    })
    return {
      tokens: list.map(({ id }) => nameOf(id)),
      token_logprobs: list.map(({ logprob }) => finite(logprob)),
      top_logprobs: list.map(({ logprob, top }) => Number.isNaN(logprob) ? null : Object.fromEntries(top.map(({ id, logprob }) => [nameOf(id), finite(logprob)]))),
      text_offset: offsets
    }
  }
  return {
    opening: () => null,
    chunk(event) {
      const { index } = event
      if (event.type !== 'text' && event.type !== 'finish' && !event.logprobs) return null
      return answer([{
        index, text: event.type === 'text' ? event.text : '', logprobs: logprobsOf(logprobsIn([event]), index),
        finish_reason: event.type === 'finish' ? finishReason(event.finishReason) : null
      }])
    },
    usage: (usage) => answer([], usage),
    whole: (events, usage) => answer(choicesOf(events).map(({ finish, own }) => (
      { index: finish.index, text: visibleText(own), logprobs: logprobsOf(logprobsIn(own), finish.index), finish_reason: finishReason(finish.finishReason) }
    )), usage)
  }
}

/** The counts of whole answers, each prompt's tokens once. */
export function usageOf(stats: readonly Stats[], promptTokens: number, cachedTokens: number): Usage {
  const completionTokens = stats.reduce((sum, { generatedTokens, forcedTokens }) => sum + generatedTokens + forcedTokens, 0)
  return {
    prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens }
  }
}

function newHead(prefix: string, model: string): Head {
  return { id: `${prefix}-${randomBytes(12).toString('hex')}`, created: Math.floor(Date.now() / 1000), model }
}

/** The deltas of one message. `parts` begins with the first that is no text, by then with the text before it; each has its index, by which clients fold them. */
function messageDeltas(): (event: ChoiceEvent) => object {
  let text = '', count = 0, last: Part['type'] = 'text'
  return (event) => {
    if (event.type === 'finish' || event.text === null) return {}
    const parts: (Part & { index: number })[] = []
    if (count === 0) {
      if (event.type === 'text') {
        text += event.text
        return { content: event.text }
      }
      if (text !== '') parts.push({ index: count++, type: 'text', text })
    }
    if (event.type !== 'text' || last !== 'text') count++
    last = event.type
    parts.push({ index: count - 1, type: event.type, text: event.text })
    return { ...(event.type === 'text' ? { content: event.text } : {}), parts }
  }
}

/** The events of each choice that was finished, in their order. */
function choicesOf(events: readonly ChoiceEvent[]): { finish: ChoiceEvent & { type: 'finish' }, own: ChoiceEvent[] }[] {
  const choices = new Map<number, ChoiceEvent[]>()
  for (const event of events) {
    const own = choices.get(event.index) ?? []
    choices.set(event.index, own)
    own.push(event)
  }
  return [...choices.values()].flatMap((own) => {
    const finish = own.at(-1)
    return finish?.type === 'finish' ? [{ finish, own }] : []
  }).sort((a, b) => a.finish.index - b.finish.index)
}

/** Those of every token; null where none were asked for. */
function logprobsIn(events: readonly ChoiceEvent[]): TokenLogprob[] | null {
  const lists = events.flatMap(({ logprobs }) => logprobs ? [logprobs] : [])
  return lists.length > 0 ? lists.flat() : null
}

function visibleText(events: readonly ChoiceEvent[]): string {
  return events.map((event) => event.type === 'text' ? event.text : '').join('')
}

function finishReason(reason: FinishReason): 'stop' | 'length' {
  return reason === 'length' ? 'length' : 'stop'
}

function chatLogprob({ id, logprob, top }: TokenLogprob, tokenizer: Tokenizer): object {
  const one = (id: number, logprob: number): object => {
    const { token, bytes } = textOf(id, tokenizer)
    return { token, logprob: finite(logprob), bytes: [...bytes] }
  }
  return { ...one(id, logprob), top_logprobs: top.map(({ id, logprob }) => one(id, logprob)) }
}

/** A token as text; one that is no whole characters as OpenAI has it, `\xe2\x82`, so that no two are the same. */
function textOf(id: number, tokenizer: Tokenizer): { token: string, bytes: Uint8Array, isWhole: boolean } {
  const bytes = tokenizer.decodeBytes([id]), token = tokenizer.decode([id])
  const isWhole = Buffer.from(token).equals(bytes)
  return { token: isWhole ? token : Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''), bytes, isWhole }
}

/** JSON has no -Infinity: what can't be is as unlikely as OpenAI says it. NaN, of a token that nothing precedes, is null. */
function finite(logprob: number): number | null {
  return Number.isNaN(logprob) ? null : Math.max(logprob, -9999)
}
