import { setMaxListeners } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Engine, type EngineOptions } from '../engine.js'
import { invalidArg } from '../errors.js'
import { linkedAbort } from '../linked-abort.js'
import type { Loaded } from '../load.js'
import { availableMemory } from '../native.js'
import { checkGenerateOptions, checkInteger, checkKnown } from '../options.js'
import type { Tokenizer } from '../tokenizer.js'
import type { GenerateOptions, SamplingOptions, Stats, TokenLogprob, Tool } from '../types.js'
import { chatFormat, textFormat, usageOf, type AnswerFormat, type ChoiceEvent, type Usage } from './answer.js'
import { ApiError } from './errors.js'
import { clientLeft, delivered, eventStream, isSame, jsonBody, sendError, sendJson } from './http.js'
import { promptCache } from './prompt-cache.js'
import { chatRequest, textRequest, type CompletionRequest, type Echo, type RequestContext } from './request.js'
import { scored } from './score.js'

/** How a model is served. */
export interface OpenAIOptions {
  /** What requests call the model; default 'nanochat'. Any other name is answered with 404. */
  modelName?: string | undefined
  /** What requests must show as `Authorization: Bearer <apiKey>`; without one nobody is asked. */
  apiKey?: string | undefined
  /** Web pages that may ask, as 'http://localhost:3000', or ['*']; requests of any other page are refused. Default none. */
  origins?: string[] | undefined
  /** For requests that do not say: temperature 0.8 and topK 50 as nanochat's chat_web, and no limit but the context for a chat's tokens. */
  defaults?: (Pick<SamplingOptions, 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty'> & Pick<GenerateOptions, 'maxTokens'>) | undefined
  /** Runs the code that the model writes; default the engine's, Python in a cage. null: nothing runs. */
  tool?: Tool | null | undefined
  /** Rows and memory of all requests together. */
  engine?: EngineOptions | undefined
  /** Memory for keys and values of earlier requests, whose beginnings are not computed again; 0: none are kept. Default: half of what the engine takes by itself. */
  promptCacheBytes?: number | undefined
  /** Requests that may be under way at a time, those that wait for their turn included; more are answered with 429. Default 256. */
  maxRequests?: number | undefined
  /** Of a request's body; default 1 MiB. */
  maxBodyBytes?: number | undefined
  /** Called when a response has ended or its client has left. */
  onResponse?: ((summary: ResponseSummary) => void) | undefined
}

/** One request and what became of it. */
export interface ResponseSummary {
  /** Of HTTP. */
  method: string
  /** Without the query. */
  path: string
  /** Of HTTP; 499 where the client left first. */
  status: number
  /** Milliseconds from its head to the end of its response. */
  durationMs: number
  /** Of each sample that was finished. */
  stats: Stats[]
  /** What went wrong, also after the first part of a stream, else null. */
  error: unknown
}

/** OpenAI's HTTP interface to one model. Disposing it ends its requests and its engine and leaves the model alone. */
export interface OpenAIApi extends AsyncDisposable {
  /** Answers `request` through `response`: pass it to http.createServer. It must see the body unread. Rejects with nothing but what `onResponse` throws. */
  handle(request: IncomingMessage, response: ServerResponse): Promise<void>
}

const optionNames = ['modelName', 'apiKey', 'origins', 'defaults', 'tool', 'engine', 'promptCacheBytes', 'maxRequests', 'maxBodyBytes', 'onResponse']

/**
 * OpenAI's chat and text completions, streamed or whole, of the model in `loaded` (docs/server.md): all requests are decoded together by one
 * engine, and a conversation's next turn computes only what is new. Throws ERR_INVALID_ARG, ERR_TOKENIZER_MISMATCH.
 */
export function openaiApi(loaded: Loaded, options: OpenAIOptions = {}): OpenAIApi {
  checkKnown(options, optionNames)
  if (typeof loaded !== 'object' || loaded === null || !loaded.tokenizer) throw invalidArg('loaded', 'what loadModel gives, a model with its tokenizer,', loaded)
  const { model, tokenizer } = loaded
  const engine = new Engine(model, tokenizer, options.engine)
  const { modelName = 'nanochat', apiKey, origins = [], tool, onResponse, maxRequests = 256, maxBodyBytes = 1 << 20 } = options
  const { maxRows = 64 } = options.engine ?? {}
  const { promptCacheBytes = Math.floor((model.backend.kvCacheBytes ?? availableMemory() / 4) / 2) } = options
  checkKnown(options.defaults ?? {}, ['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'maxTokens'])
  const defaults = { temperature: 0.8, topK: 50, ...options.defaults }
  const { vocabSize, sequenceLen } = model.config
  for (const [name, value] of Object.entries({ modelName, apiKey })) if (value !== undefined && (typeof value !== 'string' || value === '')) throw invalidArg(name, 'a text', value)
  if (!Array.isArray(origins) || origins.some((origin) => typeof origin !== 'string')) throw invalidArg('origins', 'an array of strings', origins)
  if (onResponse !== undefined && typeof onResponse !== 'function') throw invalidArg('onResponse', 'a function', onResponse)
  if (tool !== undefined && tool !== null && typeof tool !== 'function') throw invalidArg('tool', 'a function or null', tool)
  checkInteger('promptCacheBytes', promptCacheBytes, 0, Number.MAX_SAFE_INTEGER)
  checkInteger('maxRequests', maxRequests, 1, 65_536)
  checkInteger('maxBodyBytes', maxBodyBytes, 1, 2 ** 30)
  checkGenerateOptions(defaults, { vocabSize, maxRows, defaultTool: null })

  const cache = promptCache(model, promptCacheBytes)
  let longest = 0
  const longestToken = (): number => longest ||= longestOf(tokenizer)
  const context: RequestContext = { modelName, tokenizer, sequenceLen, longestToken, maxRows, defaults }
  const card = { id: modelName, object: 'model', created: Math.floor(Date.now() / 1000), owned_by: 'nanochat', max_model_len: sequenceLen }
  const ending = new AbortController()
  setMaxListeners(0, ending.signal)
  const running = new Set<Promise<void>>()
  let scoring: Promise<unknown> = Promise.resolve()

  /** Of one prompt after the other: what they need is not counted by the engine. */
  const score = (prompt: Int32Array, top: number, signal: AbortSignal): Promise<TokenLogprob[]> => {
    const scores = scoring.then(async () => {
      signal.throwIfAborted()
      const kvCache = model.newCache()
      try {
        return await scored(model, kvCache, prompt, top, signal)
      } finally {
        cache.keep(kvCache)
      }
    })
    scoring = scores.catch(() => undefined)
    return scores
  }

  /** The events of one prompt's rows, whose choices begin at `firstIndex`; what is repeated of the prompt comes first. */
  async function* eventsOf(prompt: Int32Array, firstIndex: number, echo: Echo | null, options: GenerateOptions, signal: AbortSignal): AsyncGenerator<ChoiceEvent, void, undefined> {
    const { logprobs, numSamples = 1 } = options
    const room = sequenceLen - prompt.length, maxTokens = Math.min(options.maxTokens ?? room, room)
    if (echo) {
      const scores = logprobs === undefined ? {} : { logprobs: (await score(prompt, logprobs, signal)).slice(echo.ahead) }
      for (let row = 0; row < numSamples; row++) {
        const index = firstIndex + row
        yield { type: 'text', row, index, text: echo.text, ...scores }
        if (maxTokens === 0) yield { type: 'finish', row, index, finishReason: 'length', message: { role: 'assistant', content: '' }, stats: { ...nothing, promptTokens: prompt.length } }
      }
      if (maxTokens === 0) return
    }
    const kvCache = cache.take(prompt)
    try {
      const events = engine.events(prompt, { ...(tool === undefined ? {} : { tool }), ...options, maxTokens, kvCache, signal })
      for await (const event of events) yield { ...event, index: firstIndex + event.row }
    } finally {
      cache.keep(kvCache)
    }
  }

  const complete = async ({ prompts, options, echo, stream, includeUsage }: CompletionRequest, newFormat: typeof chatFormat, response: ServerResponse, stats: Stats[], outer: AbortSignal): Promise<void> => {
    const { controller, unlink } = linkedAbort(outer)
    const { signal } = controller
    const format = newFormat(modelName, tokenizer, includeUsage)
    const samples = options.numSamples ?? 1
    const runs = prompts.map((prompt, i) => () => eventsOf(prompt, i * samples, echo?.[i] ?? null, options, signal))
    const seen = (event: ChoiceEvent): ChoiceEvent => {
      if (event.type === 'finish') stats.push(event.stats)
      return event
    }
    const usage = (): Usage => {
      const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0)
      const cachedTokens = stats.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0) / samples
      return usageOf(stats, promptTokens, cachedTokens)
    }
    try {
      if (stream) await streamed(runs, samples, format, response, signal, seen, includeUsage ? usage : null)
      else {
        const events = await allOrNone(runs.map(async (run) => {
          const own: ChoiceEvent[] = []
          for await (const event of run()) own.push(seen(event))
          return own
        }), controller)
        sendJson(response, 200, format.whole(events.flat(), usage()))
      }
    } finally {
      unlink()
    }
  }

  const answer = async (request: IncomingMessage, response: ServerResponse, path: string, stats: Stats[], signal: AbortSignal): Promise<void> => {
    const { origin } = request.headers
    const isAllowed = origin === undefined || origins.includes('*') || origins.includes(origin)
    if (!isAllowed) throw new ApiError(403, `Pages of ${origin} may not ask here: the server's origins do not have it.`, null, 'origin_not_allowed')
    if (origin !== undefined) response.setHeader('access-control-allow-origin', origin).setHeader('vary', 'origin')
    if (origin !== undefined && request.method === 'OPTIONS') {
      response.writeHead(204, { 'access-control-allow-methods': 'GET, POST', 'access-control-allow-headers': request.headers['access-control-request-headers'] ?? '', 'access-control-max-age': '600' }).end()
      return
    }
    const method = methods.get(path) ?? (path.startsWith('/v1/models/') ? 'GET' : null)
    if (!method) throw new ApiError(404, `There is no ${path.slice(0, 100)} here. There are ${[...methods.keys()].join(', ')}.`, null, 'not_found')
    if (request.method !== method && !(method === 'GET' && request.method === 'HEAD')) {
      response.setHeader('allow', method)
      throw new ApiError(405, `Expected ${method} for ${path} but received ${request.method}.`, null, 'method_not_allowed')
    }
    if (path === '/health') return sendJson(response, 200, { status: 'ok' })
    if (apiKey !== undefined && !isSame(/^bearer +(.*)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '', apiKey)) {
      throw new ApiError(401, 'Expected the header Authorization: Bearer and the API key of this server.', null, 'invalid_api_key')
    }
    if (path === '/v1/models') return sendJson(response, 200, { object: 'list', data: [card] })
    if (path.startsWith('/v1/models/')) {
      if (decoded(path.slice('/v1/models/'.length)) !== modelName) throw new ApiError(404, `There is no such model here, only ${modelName}.`, 'model', 'model_not_found')
      return sendJson(response, 200, card)
    }
    if (running.size >= maxRequests) {
      response.setHeader('retry-after', '1')
      throw new ApiError(429, `${maxRequests} requests are under way; that is as many as this server takes at a time.`, null, 'too_many_requests')
    }
    const body = await jsonBody(request, maxBodyBytes, signal)
    if (path === '/v1/completions') await complete(textRequest(body, context), textFormat, response, stats, signal)
    else await complete(chatRequest(body, context), chatFormat, response, stats, signal)
  }

  const report = (summary: ResponseSummary): void => {
    try {
      onResponse?.(summary)
    } catch (error) {
      process.emitWarning(`onResponse threw: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const startedAt = performance.now()
    const path = (request.url ?? '/').replace(/[?#].*$/s, '')
    const { controller, unlink } = linkedAbort(ending.signal)
    const stats: Stats[] = []
    let failure: unknown = null
    let isGone = false
    const leave = (): void => {
      isGone = true
      controller.abort(clientLeft)
    }
    response.on('error', leave)
    response.on('close', () => { if (!response.writableFinished) leave() })
    const forget = onSocketClose(request.socket, leave)   // a response behind another one is not told
    if (response.destroyed || request.socket.destroyed) leave()
    try {
      try {
        await answer(request, response, path, stats, controller.signal)
      } catch (error) {
        failure = isGone ? clientLeft : error
        if (failure !== clientLeft) sendError(response, error)
      }
      const hasLeft = failure === clientLeft
      report({ method: request.method ?? '', path, status: hasLeft ? 499 : response.statusCode, durationMs: performance.now() - startedAt, stats, error: hasLeft ? null : failure })
      await delivered(response, controller.signal)
    } finally {
      forget()
      unlink()
    }
  }

  return {
    async handle(request, response) {
      const run = handle(request, response)
      const settled = run.catch(() => undefined)
      running.add(settled)
      try {
        await run
      } finally {
        running.delete(settled)
      }
    },
    async [Symbol.asyncDispose]() {
      ending.abort(new ApiError(503, 'The server is ending.', null, 'shutting_down'))
      await Promise.all(running)
      await engine[Symbol.asyncDispose]()
      cache[Symbol.dispose]()
    }
  }
}

/** The bytes of the longest token. */
function longestOf(tokenizer: Tokenizer): number {
  let most = 0
  for (let id = 0; id < tokenizer.getVocabSize(); id++) most = Math.max(most, tokenizer.decodeBytes([id]).length)
  return most
}

/** What to do when a socket closes, one listener for all of a socket's requests. */
const onClose = new WeakMap<Socket, Set<() => void>>()

/** Calls `work` when `socket` closes, unless what is returned was called. */
function onSocketClose(socket: Socket, work: () => void): () => void {
  const all = onClose.get(socket) ?? new Set()
  if (!onClose.has(socket)) {
    onClose.set(socket, all)
    socket.once('close', () => { for (const each of all) each() })
  }
  all.add(work)
  return () => { all.delete(work) }
}

const methods = new Map([['/v1/chat/completions', 'POST'], ['/v1/completions', 'POST'], ['/v1/models', 'GET'], ['/health', 'GET']])
const nothing: Stats = { promptTokens: 0, cachedTokens: 0, generatedTokens: 0, forcedTokens: 0, ttftMs: 0, tpotMs: 0, tokensPerSecond: 0 }

/** The events of `runs`, one run after the other, as chunks; the status is there only with the first event, so that what fails before it has one of its own. */
async function streamed(
  runs: readonly (() => AsyncIterable<ChoiceEvent>)[], samples: number, format: AnswerFormat, response: ServerResponse, signal: AbortSignal,
  seen: (event: ChoiceEvent) => ChoiceEvent, usage: (() => Usage) | null
): Promise<void> {
  const stream = eventStream(response, signal)
  try {
    for (const run of runs) {
      for await (const event of run()) {
        if (!response.headersSent) {
          response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' }).flushHeaders()
          for (let index = 0; index < samples; index++) await stream.send(format.opening(index))
        }
        await stream.send(format.chunk(seen(event)))
      }
    }
    if (usage) await stream.send(format.usage(usage()))
  } finally {
    stream.flush()
  }
  response.end('data: [DONE]\n\n')
}

/** All results; when one fails the others are ended first. */
async function allOrNone<T>(runs: readonly Promise<T>[], controller: AbortController): Promise<T[]> {
  for (const run of runs) run.catch((error: unknown) => controller.abort(error))
  await Promise.allSettled(runs)
  controller.signal.throwIfAborted()
  return Promise.all(runs)
}

function decoded(component: string): string | null {
  try {
    return decodeURIComponent(component)
  } catch {
    return null
  }
}
