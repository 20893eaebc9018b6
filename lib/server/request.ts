import { randomInt } from 'node:crypto'
import type { Message, Part } from '../conversation.js'
import { describe } from '../errors.js'
import type { Tokenizer } from '../tokenizer.js'
import type { GenerateOptions, SamplingOptions } from '../types.js'
import { ApiError } from './errors.js'
import { fieldsOf, isObject, type Fields } from './fields.js'

/** A checked request. */
export interface CompletionRequest {
  /** Tokens to go on from; more than one only where several texts are to be completed. */
  prompts: Int32Array[]
  options: GenerateOptions
  /** Of each prompt what the answer repeats; null: none of it. */
  echo: Echo[] | null
  stream: boolean
  includeUsage: boolean
}

/** A prompt's text, and how many tokens ahead of it are not of the client's. */
export interface Echo { text: string, ahead: number }

/** What requests are checked against. */
export interface RequestContext {
  modelName: string
  tokenizer: Tokenizer
  sequenceLen: number
  /** Bytes of the longest token. */
  longestToken(): number
  maxRows: number
  defaults: Defaults
}

/** Sampling of a request that says nothing about it. */
export type Defaults = Pick<SamplingOptions, 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty'> & Pick<GenerateOptions, 'maxTokens'>

const most = Number.MAX_SAFE_INTEGER
const maxPrompts = 256, maxChoices = 1024, maxStops = 64, maxLogprobs = 200_000

/** The body of POST /v1/chat/completions. Throws ApiError, ERR_INVALID_CONVERSATION. */
export function chatRequest(body: unknown, context: RequestContext): CompletionRequest {
  const fields = fieldsOf(body)
  checkModel(fields, context)
  const messages = messagesOf(fields.any('messages'))
  for (const text of textsIn(messages)) checkLength(text, context)
  const prompt = context.tokenizer.renderForCompletion(messages)
  const maxTokens = fields.integer('max_completion_tokens', 1, most) ?? fields.integer('max_tokens', 1, most) ?? context.defaults.maxTokens
  fields.ignore('max_tokens')
  const logprobs = fields.flag('logprobs') ?? false
  const topLogprobs = fields.integer('top_logprobs', 0, 20)
  if (topLogprobs !== undefined && !logprobs) throw new ApiError(400, 'top_logprobs goes with logprobs: true.', 'top_logprobs', 'invalid_value')
  const toolChoice = fields.any('tool_choice')
  if (toolChoice !== undefined && toolChoice !== 'auto' && toolChoice !== 'none') {
    throw new ApiError(400, `tool_choice is 'auto' or 'none', which runs nothing; the model can't be made to use its Python. Received ${describe(toolChoice)}.`, 'tool_choice', 'unsupported_parameter')
  }
  const ownTool = "the model's one tool is the Python that the server runs for it."
  fields.refuse('tools', isEmptyList, ownTool)
  fields.refuse('functions', isEmptyList, ownTool)
  fields.refuse('function_call', (value) => value === 'none' || value === 'auto', ownTool)
  fields.refuse('response_format', (value) => isObject(value) && value.type === 'text', 'answers are text.')
  fields.refuse('modalities', (value) => Array.isArray(value) && value.length === 1 && value[0] === 'text', 'answers are text.')
  fields.ignore('store', 'metadata', 'service_tier', 'parallel_tool_calls')
  return rest(fields, context, [prompt], null, { maxTokens, ...(logprobs ? { logprobs: topLogprobs ?? 0 } : {}), ...(toolChoice === 'none' ? { tool: null } : {}) })
}

/** The body of POST /v1/completions. Throws ApiError. */
export function textRequest(body: unknown, context: RequestContext): CompletionRequest {
  const fields = fieldsOf(body)
  checkModel(fields, context)
  const echo = fields.flag('echo') ?? false
  const prompts = promptsOf(fields.any('prompt'), context)
  const maxTokens = fields.integer('max_tokens', echo ? 0 : 1, most) ?? context.defaults.maxTokens ?? 16
  const logprobs = fields.integer('logprobs', 0, 20)
  const n = fields.integer('n', 1, context.maxRows) ?? 1
  fields.refuse('best_of', (value) => value === n, 'every sample is returned.')
  fields.refuse('suffix', (value) => value === '', 'nanochat models continue a text, they fill no gaps.')
  return rest(fields, context, prompts.map(({ ids }) => ids), echo ? prompts : null, { maxTokens, logprobs })
}

/** What both kinds of request have in common. */
function rest(fields: Fields, { defaults, sequenceLen, maxRows }: RequestContext, prompts: Int32Array[], echo: Echo[] | null, options: GenerateOptions): CompletionRequest {
  const longest = Math.max(...prompts.map(({ length }) => length))
  if (longest >= sequenceLen) throw tooLong(`${longest}`, sequenceLen)
  const stream = fields.flag('stream') ?? false
  const streamOptions = fields.object('stream_options')
  if (streamOptions && !stream) throw new ApiError(400, 'stream_options goes with stream: true.', 'stream_options', 'invalid_value')
  const includeUsage = streamOptions?.flag('include_usage') ?? false
  streamOptions?.ignore('include_obfuscation')
  streamOptions?.end()
  const why = 'repetition_penalty, which multiplies, is what there is.'
  fields.refuse('frequency_penalty', (value) => value === 0, why)
  fields.refuse('presence_penalty', (value) => value === 0, why)
  fields.ignore('user', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention')
  const stop = fields.any('stop')
  if (Array.isArray(stop) && stop.length > maxStops) throw new ApiError(400, `Expected at most ${maxStops} texts for stop but received ${stop.length}.`, 'stop', 'invalid_value')
  const numSamples = fields.integer('n', 1, maxRows) ?? 1
  if (numSamples * prompts.length > maxChoices) throw new ApiError(400, `Expected at most ${maxChoices} samples of all prompts together but received ${numSamples} of ${prompts.length}.`, 'n', 'invalid_value')
  const sampling = {
    temperature: fields.number('temperature', 0, 100) ?? defaults.temperature,
    topK: fields.integer('top_k', 0, most) ?? defaults.topK,
    topP: fields.number('top_p', 0, 1) ?? defaults.topP,
    minP: fields.number('min_p', 0, 1) ?? defaults.minP,
    repetitionPenalty: fields.number('repetition_penalty', 1e-6, 1e6) ?? defaults.repetitionPenalty,
    logitBias: fields.any('logit_bias') as SamplingOptions['logitBias'],
    seed: fields.integer('seed', 0, most) ?? randomInt(2 ** 47),
    numSamples,
    ...(Array.isArray(stop) && stop.length === 0 ? {} : { stop: stop as GenerateOptions['stop'] })
  }
  fields.end()
  const request = { prompts, options: { ...sampling, ...options }, echo, stream, includeUsage }
  checkLogprobs(request, sequenceLen)
  return request
}

/** Refuses what would be answered with more log-probabilities than can be put together without holding up the others. */
function checkLogprobs({ prompts, options: { logprobs, numSamples = 1, maxTokens }, echo, stream }: CompletionRequest, sequenceLen: number): void {
  if (logprobs === undefined) return
  const tokens = prompts.reduce((sum, { length }) => sum + (echo ? length : 0) + (stream ? 0 : Math.min(maxTokens ?? sequenceLen, sequenceLen - length)), 0)
  const count = tokens * numSamples * (logprobs + 1)
  if (count > maxLogprobs) {
    throw new ApiError(400, `Expected at most ${maxLogprobs} log-probabilities in an answer but this one could have ${count}: ask for fewer samples, prompts, tokens or alternatives.`, 'logprobs', 'invalid_value')
  }
}

/** Every text of messages whose parts are not checked yet. */
function textsIn(messages: Message[]): string[] {
  return messages.flatMap(({ content }): unknown[] => Array.isArray(content) ? content.map((part: unknown) => isObject(part) ? part.text : null) : [content])
    .filter((text) => typeof text === 'string')
}

/** Refuses a text that no number of tokens below the context can spell, which takes the tokenizer half a second for each megabyte of blanks to say. */
function checkLength(text: string, { longestToken, sequenceLen }: RequestContext): void {
  const bytes = Buffer.byteLength(text)
  if (bytes < sequenceLen) return
  const least = Math.ceil(bytes / longestToken())
  if (least >= sequenceLen) throw tooLong(`at least ${least}`, sequenceLen)
}

function tooLong(tokens: string, sequenceLen: number): ApiError {
  return new ApiError(400, `The prompt is ${tokens} tokens and the model's context is ${sequenceLen}. Drop the oldest turns, or shorten it.`, null, 'context_length_exceeded')
}

function checkModel(fields: Fields, { modelName }: RequestContext): void {
  const model = fields.text('model') ?? modelName
  if (model !== modelName) throw new ApiError(404, `There is no model ${describe(model)} here, only ${describe(modelName)}.`, 'model', 'model_not_found')
}

/** OpenAI's messages as nanochat's: what a message says beside its text is refused, an assistant's `parts` go before its content. */
function messagesOf(value: unknown): Message[] {
  if (!Array.isArray(value) || value.length === 0) throw new ApiError(400, `Expected a list of messages but received ${describe(value)}.`, 'messages', 'invalid_value')
  const messages = joined(value.map((message: unknown, i) => messageOf(message, `messages[${i}]`)))
  if (messages.at(-1)?.role !== 'user') throw new ApiError(400, 'Expected a message of the user at the end of messages.', 'messages', 'invalid_value')
  return messages
}

/** Messages of which no two of one role follow each other: texts become paragraphs of one message. */
function joined(messages: Message[]): Message[] {
  const all: Message[] = []
  for (const message of messages) {
    const last = all.at(-1)
    if (last?.role === message.role && typeof last.content === 'string' && typeof message.content === 'string') last.content += `\n\n${message.content}`
    else all.push({ ...message })
  }
  return all
}

function messageOf(message: unknown, path: string): Message {
  const fields = fieldsOf(message, `${path}.`)
  const role = fields.text('role')
  const content = fields.any('content')
  const givenParts = fields.any('parts'), parts = isEmptyList(givenParts) ? undefined : givenParts
  for (const key of ['tool_calls', 'function_call', 'audio']) fields.refuse(key, isEmptyList, 'a message is text, or parts.')
  if (role === 'assistant') return { role, content: parts === undefined ? textOf(content, path) : parts as Part[] }
  if (role !== 'system' && role !== 'developer' && role !== 'user') throw new ApiError(400, `Expected role system, developer, user or assistant for ${path} but received ${describe(role)}.`, path, 'invalid_value')
  if (parts !== undefined) throw new ApiError(400, `Only an assistant's message has parts; ${path} is of the ${role}.`, `${path}.parts`, 'invalid_value')
  if (content === undefined) throw new ApiError(400, `Expected the content of ${path}, a string or text parts.`, `${path}.content`, 'invalid_value')
  return { role: role === 'user' ? 'user' : 'system', content: textOf(content, path) }
}

/** A content of text parts joined; absent is empty. */
function textOf(content: unknown, path: string): string {
  if (typeof content === 'string') return content
  if (content === undefined) return ''
  if (!Array.isArray(content)) throw new ApiError(400, `Expected a string or text parts as content of ${path} but received ${describe(content)}.`, path, 'invalid_value')
  return content.map((part: unknown) => {
    if (isObject(part) && part.type === 'text' && typeof part.text === 'string') return part.text
    throw new ApiError(400, `Expected only { type: 'text', text } in the content of ${path}: the model reads text alone.`, path, 'invalid_value')
  }).join('')
}

/** A text, a list of texts, token ids, or a list of lists of them. A text opens a document, after <|bos|>; ids are taken as they are. */
function promptsOf(value: unknown, context: RequestContext): (Echo & { ids: Int32Array })[] {
  const { tokenizer } = context
  const isIds = (list: unknown): list is number[] => Array.isArray(list) && list.length > 0 && list.every((id) => Number.isInteger(id) && id >= 0 && id < tokenizer.getVocabSize())
  const list: unknown[] = Array.isArray(value) && !isIds(value) ? value : [value]
  if (list.length === 0 || list.length > maxPrompts) throw new ApiError(400, `Expected 1 to ${maxPrompts} prompts but received ${list.length}.`, 'prompt', 'invalid_value')
  return list.map((prompt) => {
    if (typeof prompt === 'string') {
      checkLength(prompt, context)
      return { ids: tokenizer.encode(prompt, { prepend: '<|bos|>' }), text: prompt, ahead: 1 }
    }
    if (isIds(prompt)) return { ids: Int32Array.from(prompt), text: tokenizer.decode(prompt), ahead: 0 }
    throw new ApiError(400, `Expected a text, ids of tokens below ${tokenizer.getVocabSize()}, or a list of either for prompt but received ${describe(prompt)}.`, 'prompt', 'invalid_value')
  })
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}
