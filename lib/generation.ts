import { setMaxListeners } from 'node:events'
import type { Sequence } from './backend.js'
import { draw, prefillChunk } from './decode.js'
import type { Drawn, TokenLogprobs } from './decode.js'
import { invalidArg } from './errors.js'
import type { GPT } from './gpt.js'
import { commonPrefix } from './kv-cache.js'
import type { KVCache } from './kv-cache.js'
import type { CheckedOptions } from './options.js'
import { initialRowState, nextRowState } from './row-state.js'
import type { RowState, SpecialIds } from './row-state.js'
import { newSampler, observe } from './sampling.js'
import type { Sampler } from './sampling.js'
import type { Reservation, Scheduler } from './scheduler.js'
import type { Tokenizer } from './tokenizer.js'
import type { FinishReason, Stats, TokenColumn } from './types.js'
import { visibleText } from './visible-text.js'
import type { VisibleText } from './visible-text.js'

/** What a generation needs of its engine. `text` is null where there is no tokenizer. */
export interface GenerationContext {
  model: GPT
  scheduler: Scheduler
  text: { tokenizer: Tokenizer, ids: SpecialIds } | null
  /** Registers what the engine ends when it is disposed. Throws ERR_DISPOSED when it is. */
  enter(generation: Generation): void
  leave(generation: Generation): void
}

/** The reason for tools and passes when the consumer has ended the generator. */
export function endedByReturn(): DOMException {
  return new DOMException('The generator was ended by return().', 'AbortError')
}

/** Hears of a row's text as its tokens are yielded; chat() makes its events from it. */
export interface RowObserver {
  logprobs(row: number, id: number, logprobs: TokenLogprobs): void
  text(row: number, text: string): void
  python(row: number, code: string): void
  pythonOutput(row: number, text: string | null): void
  finish(row: number, reason: FinishReason): void
}

/** One token a row will yield; forced ones have mask 0 and no log-probabilities. */
interface ReadyToken { id: number, mask: 0 | 1, logprobs: TokenLogprobs | null }

interface Row {
  readonly index: number
  readonly sampler: Sampler
  readonly visible: VisibleText | null         // where somebody looks at the text
  readonly output: number[]
  readonly masks: (0 | 1)[]
  readonly ready: ReadyToken[]
  state: RowState
  sequence: Sequence | null
  waiting: Promise<void> | null                // its tool, or the reading of its tool's long answer
  finishReason: FinishReason | null
  stopFrom: number | null                      // first output token with part of the stop string that ended the row
}

/**
 * One call of generate(): its rows from admission to release. `next` works only when it is asked for a column. Sampling,
 * columns, masks and the tool machine are MODEL.md 5.
 */
export class Generation {
  readonly rows: readonly Row[]
  readonly tokens: Int32Array                  // the prompt
  readonly #context: GenerationContext
  readonly #options: CheckedOptions
  readonly #maxOutput: number
  readonly #observer: RowObserver | null
  readonly #abort = new AbortController()
  readonly #aborted: Promise<never>
  #started = false
  #closed = false
  #releasing: Promise<void> | null = null
  #current: Promise<unknown> = Promise.resolve()
  #reservation: Reservation | null = null
  #base: Sequence | null = null                // holds the prompt until the rows have it
  #cacheLocked = false
  readonly #reading = new Set<Promise<unknown>>()   // passes that run beside the columns
  #cachedTokens = 0
  #startedAt = 0
  #ttftMs = 0
  #decodeMs = 0
  #decodeSteps = 0
  #decodedTokens = 0

  /** `maxOutput`: tokens per row at most, by maxTokens and the end of the context. */
  constructor(context: GenerationContext, tokens: Int32Array, maxOutput: number, options: CheckedOptions, observer: RowObserver | null) {
    this.#context = context
    this.tokens = tokens
    this.#options = options
    this.#maxOutput = maxOutput
    this.#observer = observer
    const { text, model } = context
    const seesText = text && (observer || options.stops.length > 0)
    this.rows = Array.from({ length: options.numSamples }, (_, index) => ({
      index,
      sampler: newSampler(options.sampling, index, model.config.vocabSize, tokens),
      visible: seesText ? visibleText(text.tokenizer, options.stops) : null,
      output: [],
      masks: [],
      ready: [],
      state: initialRowState,
      sequence: null,
      waiting: null,
      finishReason: null,
      stopFrom: null
    }))
    setMaxListeners(0, this.#abort.signal)     // every row may wait for it, and every tool
    this.#aborted = new Promise((_, reject) => this.#abort.signal.addEventListener('abort', () => reject(this.#abort.signal.reason)))
    this.#aborted.catch(() => undefined)
  }

  /** The next column, or null when every row is finished. After a failure every call rejects with its reason. */
  next(): Promise<TokenColumn | null> {
    return this.#run(async () => {
      if (!this.#started) await this.#fork(await this.#readPrompt('last'))
      const column = await this.#column()
      if (!column) await this.#release()
      return column
    })
  }

  /** Instead of `next`: computes the prompt, into the kvCache, and no more. */
  prefill(): Promise<void> {
    return this.#run(async () => {
      await this.#readPrompt('none')
      await this.#release()
    })
  }

  /** Ends it: `next` rejects with `reason` from now on. Resolves when everything is released. */
  async close(reason: unknown): Promise<void> {
    this.#closed = true
    this.#abort.abort(reason)
    await this.#current
    await this.#release()
  }

  /** True once `close` was called or the signal aborted. */
  get closed(): boolean {
    return this.#closed
  }

  /** Of all rows, or of one. */
  stats(only?: number): Stats {
    const rows = only === undefined ? this.rows : this.rows.filter(({ index }) => index === only)
    const tokens = rows.reduce((sum, { masks }) => sum + masks.length, 0)
    const generatedTokens = rows.reduce((sum, { masks }) => sum + masks.reduce((sampled: number, mask) => sampled + mask, 0), 0)
    return {
      promptTokens: this.tokens.length,
      cachedTokens: this.#cachedTokens,
      generatedTokens,
      forcedTokens: tokens - generatedTokens,
      ttftMs: this.#ttftMs,
      tpotMs: this.#decodeSteps > 0 ? this.#decodeMs / this.#decodeSteps : 0,
      tokensPerSecond: this.#decodeMs > 0 ? this.#decodedTokens / this.#decodeMs * 1000 : 0
    }
  }

  readonly #onAbort = (): void => { void this.close(this.#options.signal?.reason) }

  #run<T>(work: () => Promise<T>): Promise<T> {
    const guarded = async (): Promise<T> => {
      const { signal } = this.#abort
      try {
        signal.throwIfAborted()
        return await work()
      } catch (error) {
        this.#abort.abort(error)
        await this.#release()
        throw signal.reason
      }
    }
    const result = guarded()
    this.#current = result.catch(() => undefined)
    return result
  }

  /** Admission and prefill; the logits of the last position, (V). */
  async #readPrompt(logits: 'last' | 'none'): Promise<Float32Array> {
    const { model, scheduler, enter } = this.#context
    const { numSamples, kvCache, signal } = this.#options
    signal?.throwIfAborted()
    this.#started = true
    this.#startedAt = performance.now()
    enter(this)
    if (signal) setMaxListeners(0, signal)     // any number of calls may share the caller's
    signal?.addEventListener('abort', this.#onAbort)
    const cached = kvCache?.lock(model.backend)
    this.#cacheLocked = kvCache !== null
    this.#reservation = await scheduler.reserve(numSamples, this.tokens.length + this.#maxOutput, this.#abort.signal)
    if (kvCache && cached) {
      this.#cachedTokens = Math.min(commonPrefix(kvCache.ids, this.tokens), cached.length, this.tokens.length - 1)
      kvCache.ids.length = this.#cachedTokens
      cached.truncate(this.#cachedTokens)
    }
    this.#base = cached ?? model.backend.newSequence()
    return scheduler.prefill(this.#base, this.tokens.subarray(this.#cachedTokens), logits, this.#abort.signal)
  }

  /** Gives every row the prompt and, from its logits, a first token of its own. */
  async #fork(logits: Float32Array): Promise<void> {
    const prompt = this.#base
    if (!prompt) return
    const { numSamples, kvCache } = this.#options
    for (const row of this.rows) {
      // The last row goes on in the sequence that holds the prompt, unless a cache has to stay there.
      const inherits = numSamples === 1 || (!kvCache && row.index === numSamples - 1)
      row.sequence = inherits ? prompt : prompt.fork()
      if (inherits && !kvCache) this.#base = null
    }
    const position = this.tokens.length
    const first = await draw(this.rows.map(({ sampler }) => ({ sampler, logits, position, logprobs: this.#options.logprobs })))
    this.rows.forEach(({ ready }, i) => ready.push({ ...first[i] as Drawn, mask: 1 }))
    this.#ttftMs = performance.now() - this.#startedAt
  }

  async #column(): Promise<TokenColumn | null> {
    for (;;) {
      this.#abort.signal.throwIfAborted()
      const live = this.rows.filter(({ finishReason }) => finishReason === null)
      if (live.length === 0) return null
      const idle = live.filter(({ ready, waiting }) => ready.length === 0 && !waiting)
      if (idle.length > 0) await this.#decode(idle)
      this.#abort.signal.throwIfAborted()
      if (live.some(({ ready }) => ready.length > 0)) return this.#yieldColumn()
      await Promise.race([this.#aborted, ...live.map(({ waiting }) => waiting)])
    }
  }

  /**
   * Gives every row of `rows` its next tokens, or has it wait where a long tool answer must be read first. They run ahead
   * no further than the others have: all rows of a call then need tokens at the same time and share passes.
   */
  async #decode(rows: readonly Row[]): Promise<void> {
    const { scheduler } = this.#context
    const { logprobs, stops } = this.#options
    const needsHost = logprobs !== null || stops.length > 0
    const ahead = Math.min(...this.rows.flatMap(({ ready }) => ready.length > 0 ? [ready.length] : []))
    const continued = []
    for (const row of rows) {
      const { sequence } = row
      if (!sequence) continue
      const tokens = Int32Array.from(row.output.slice(sequence.length - this.tokens.length))
      if (tokens.length > prefillChunk) {
        const read = scheduler.prefill(sequence, tokens.subarray(0, -1), 'none', this.#abort.signal)
        this.#reading.add(read)
        this.#wait(row, read.then(() => { this.#reading.delete(read) }))
        continue
      }
      const maxSteps = needsHost ? 1 : Math.min(ahead, this.#maxOutput - row.output.length)
      continued.push({ row, decodeRow: { sequence, tokens, sampler: row.sampler, maxSteps, logprobs } })
    }
    if (continued.length === 0) return
    const startedAt = performance.now()
    const runs = await scheduler.decode(continued.map(({ decodeRow }) => decodeRow), this.#abort.signal)
    this.#decodeMs += performance.now() - startedAt
    for (const [i, { row }] of continued.entries()) {
      const run = runs[i]
      run?.ids.forEach((id, at) => row.ready.push({ id, mask: 1, logprobs: run.logprobs[at] ?? null }))
      this.#decodedTokens += run?.ids.length ?? 0
    }
    this.#decodeSteps += Math.max(...runs.map(({ ids }) => ids.length))
  }

  #yieldColumn(): TokenColumn {
    const n = this.rows.length
    const tokenColumn = new Int32Array(n).fill(-1)
    const tokenMasks = new Uint8Array(n)
    const probs = { token: new Float32Array(n).fill(NaN), top: this.rows.map((): TokenLogprobs['top'] => []) }
    for (const row of this.rows) {
      const token = row.finishReason === null ? row.ready.shift() : undefined
      if (!token) continue
      tokenColumn[row.index] = token.id
      tokenMasks[row.index] = token.mask
      if (token.logprobs) {
        probs.token[row.index] = token.logprobs.token
        probs.top[row.index] = token.logprobs.top
      }
      this.#accept(row, token)
    }
    const column: TokenColumn = { tokenColumn, tokenMasks, finished: this.rows.map(({ finishReason }) => finishReason) }
    if (this.#options.logprobs !== null) column.logprobs = probs
    return column
  }

  /** What a yielded token does to its row. */
  #accept(row: Row, { id, mask, logprobs }: ReadyToken): void {
    if (logprobs) this.#observer?.logprobs(row.index, id, logprobs)
    const ids = this.#context.text?.ids ?? null
    const index = row.output.push(id) - 1
    row.masks.push(mask)
    observe(row.sampler, id)
    const { state, effect } = nextRowState(row.state, id, index, ids)
    row.state = state
    let stopped = false
    if (effect.type === 'text' && row.visible) {
      const { text, stopFrom } = row.visible.write(id, index)
      this.#show(row, text)
      row.stopFrom = stopFrom
      stopped = stopFrom !== null
    }
    if (effect.type === 'open') this.#endText(row)
    const block = effect.type === 'python' || effect.type === 'output' ? this.#textOf(row, effect.from, index) : ''
    if (effect.type === 'python') this.#observer?.python(row.index, block)
    if (effect.type === 'output') this.#observer?.pythonOutput(row.index, block)

    if (effect.type === 'end') this.#finish(row, 'stop')
    else if (stopped) this.#finish(row, 'stop-sequence')
    else if (row.output.length >= this.#maxOutput) this.#finish(row, 'length')
    else if (effect.type === 'python' && effect.from < index) this.#runTool(row, block)
  }

  #runTool(row: Row, code: string): void {
    const { tool } = this.#options
    if (!tool) return
    try {
      const answer: unknown = tool(code, { row: row.index, signal: this.#abort.signal })
      if (isThenable(answer)) this.#wait(row, Promise.resolve(answer).then((answer) => this.#force(row, answer)))
      else this.#force(row, answer)
    } catch (error) {
      this.#abort.abort(error)
    }
  }

  /** Queues the tool's answer as forced tokens. */
  #force(row: Row, answer: unknown): void {
    if (this.#abort.signal.aborted) return
    if (answer === null) return this.#observer?.pythonOutput(row.index, null)
    if (typeof answer !== 'string') throw invalidArg('the result of the tool', 'a string or null', answer)
    const { text } = this.#context
    if (!text) return
    const forced = [text.ids.outputStart, ...text.tokenizer.encode(answer), text.ids.outputEnd]
    for (const id of forced) row.ready.push({ id, mask: 0, logprobs: null })
  }

  /** Takes the row out of the batch until `done`; a rejection ends the generation. */
  #wait(row: Row, done: Promise<void>): void {
    row.waiting = done.catch((error: unknown) => this.#abort.abort(error)).then(() => { row.waiting = null })
  }

  #finish(row: Row, reason: FinishReason): void {
    row.finishReason = reason
    row.ready.length = 0
    const { block, from } = row.state
    const end = row.output.length - (reason === 'stop' ? 1 : 0)
    if (block === 'text' && reason !== 'stop-sequence') this.#endText(row)
    if (block === 'python' && from < end) this.#observer?.python(row.index, this.#textOf(row, from, end))
    if (block === 'output' && from < end) this.#observer?.pythonOutput(row.index, this.#textOf(row, from, end))
    this.#observer?.finish(row.index, reason)
    this.#dropSequence(row)
    this.#reservation?.release(1)
  }

  #textOf(row: Row, from: number, to: number): string {
    return this.#context.text?.tokenizer.decode(row.output.slice(from, to)) ?? ''
  }

  #endText(row: Row): void {
    this.#show(row, row.visible?.end() ?? '')
  }

  #show(row: Row, text: string): void {
    if (text !== '') this.#observer?.text(row.index, text)
  }

  /** Frees the row's sequence, unless it is the cache's. */
  #dropSequence(row: Row): void {
    if (row.sequence !== this.#base) row.sequence?.dispose()
    row.sequence = null
  }

  /** Gives everything back, once; passes that use a sequence of this generation end first. */
  #release(): Promise<void> {
    this.#releasing ??= this.#releaseAll()
    return this.#releasing
  }

  async #releaseAll(): Promise<void> {
    this.#options.signal?.removeEventListener('abort', this.#onAbort)
    await Promise.allSettled(this.#reading)
    for (const row of this.rows) this.#dropSequence(row)
    const { kvCache } = this.#options
    if (!kvCache) this.#base?.dispose()
    if (kvCache && this.#cacheLocked) {
      if (this.#base) this.#fillCache(kvCache, this.#base)
      kvCache.unlock()
    }
    this.#reservation?.release(this.rows.filter(({ finishReason }) => finishReason === null).length)
    this.#context.leave(this)
  }

  /** The cache ends holding the prompt as far as it was computed and, of a single row, the output. */
  #fillCache(kvCache: KVCache, sequence: Sequence): void {
    try {
      const output = this.rows.length === 1 && sequence.length >= this.tokens.length ? this.rows[0]?.output ?? [] : []
      kvCache.ids = [...this.tokens.subarray(0, sequence.length), ...output]
      if (sequence.length > kvCache.ids.length) sequence.truncate(kvCache.ids.length)
    } catch {
      kvCache.ids = []                         // the model is disposed, and with it what the cache held
    }
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
