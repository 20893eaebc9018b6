import { asyncGenerator } from './async-generator.js'
import type { Source } from './async-generator.js'
import { chatSource } from './chat.js'
import type { Message, SpecialToken } from './conversation.js'
import { burst } from './decode.js'
import { NanochatError, invalidArg } from './errors.js'
import { Generation, endedByReturn } from './generation.js'
import type { GenerationContext, RowObserver } from './generation.js'
import { GPT, checkIds, positionsPerSequenceLen } from './gpt.js'
import type { KVCache } from './kv-cache.js'
import { availableMemory } from './native.js'
import { checkGenerateOptions, checkInteger, checkKnown } from './options.js'
import type { CheckedOptions, OptionLimits } from './options.js'
import { pythonTool } from './python.js'
import type { SpecialIds } from './row-state.js'
import { Scheduler } from './scheduler.js'
import type { Ids, Tokenizer } from './tokenizer.js'
import type { ChatEvent, FinishReason, GenerateOptions, Stats, TokenColumn, Tool } from './types.js'

/** What all calls of an engine share. */
export interface EngineOptions {
  /** Rows of all calls together; further calls wait their turn. Default 64. */
  maxRows?: number | undefined
  /**
   * Memory for keys and values of all calls together; further calls wait their turn. Counted ahead: each row at prompt +
   * maxTokens. Caches that the caller holds are not in it. Default: a quarter of the free memory, of a CUDA device's half of
   * what the model leaves; at least one row.
   */
  kvCacheBytes?: number | undefined
}

/** Whole rows, in their order. */
export interface BatchResult {
  /** Per row: prompt and output, without the terminal token. */
  results: Int32Array[]
  /** As long as `results`: 1 sampled, 0 prompt or forced by the tool. */
  masks: Uint8Array[]
  /** Per row: why it ended. */
  finishReasons: FinishReason[]
  /** Of all rows together. */
  stats: Stats
}

/**
 * nanochat's Engine: generation with tool use (MODEL.md 5). Calls may run concurrently; they share the model step by step. A call that
 * is read slowly holds its rows meanwhile. Disposing the engine ends its calls and leaves the model alone.
 */
export class Engine implements AsyncDisposable {
  readonly #context: GenerationContext
  readonly #maxRows: number
  readonly #defaultTool: Tool | null
  readonly #running = new Set<Generation>()
  #disposed = false

  /** Draws tokens from `model`. With null for `tokenizer` tokens are plain: no stop token, no tools, no chat. Throws ERR_INVALID_ARG, ERR_TOKENIZER_MISMATCH. */
  constructor(model: GPT, tokenizer: Tokenizer | null, options: EngineOptions = {}) {
    if (!(model instanceof GPT)) throw invalidArg('model', 'a GPT, of the same build of the package (ESM or CommonJS) as the Engine,', model)
    checkKnown(options, ['maxRows', 'kvCacheBytes'])
    const { vocabSize, sequenceLen } = model.config
    const oneRow = sequenceLen * model.backend.kvBytesPerToken
    const { maxRows = 64, kvCacheBytes = Math.max(model.backend.kvCacheBytes ?? Math.floor(availableMemory() / 4), oneRow) } = options
    checkInteger('maxRows', maxRows, 1, 65_536)
    checkInteger('kvCacheBytes', kvCacheBytes, 1, Number.MAX_SAFE_INTEGER)
    if (tokenizer !== null && typeof tokenizer?.renderForCompletion !== 'function') {
      throw invalidArg('tokenizer', 'a Tokenizer or null', tokenizer)
    }
    if (tokenizer && tokenizer.getVocabSize() !== vocabSize) {
      throw new NanochatError('ERR_TOKENIZER_MISMATCH',
        `Expected a tokenizer of ${vocabSize} tokens, as the model has, but it has ${tokenizer.getVocabSize()}. `
        + 'Use the tokenizer that the model was trained with.')
    }
    const text = tokenizer && { tokenizer, ids: specialIds(tokenizer) }
    const pauseIds = text ? [text.ids.assistantEnd, text.ids.bos, text.ids.pythonEnd] : []
    this.#maxRows = maxRows
    this.#defaultTool = tokenizer && pythonTool({ maxTokens: Math.max(16, sequenceLen >> 2), encode: (text) => tokenizer.encode(text) })
    this.#context = {
      model,
      text,
      scheduler: new Scheduler(model.backend, { maxRows, kvCacheBytes, pauseIds, ...burst, ...(!model.backend.decode && { maxSteps: 1 }) }),
      enter: (generation) => {
        if (this.#disposed) throw disposedError()
        this.#running.add(generation)
      },
      leave: (generation) => { this.#running.delete(generation) }
    }
  }

  /**
   * Continues `tokens`, one column of all rows at a time; returns the stats. Work is done only while a next() is pending.
   * `break` and `return()` end it at once, also during the prefill. All errors, those of arguments too, come from next(), which rejects
   * with what the tool throws, with signal.reason, or by itself. Rejects with ERR_INVALID_ARG, ERR_CONTEXT_OVERFLOW, ERR_OUT_OF_MEMORY,
   * ERR_SANDBOX_UNAVAILABLE (of the default tool), ERR_CUDA, ERR_DISPOSED.
   */
  generate(tokens: Ids, options: GenerateOptions = {}): AsyncGenerator<TokenColumn, Stats, undefined> {
    return asyncGenerator(orFailing(() => columnSource(this.#newGeneration(tokens, options, 'prompt', null))))
  }

  /**
   * Continues `tokens` to the end: per row prompt and output without the terminal token (and, after a stop string, without
   * the tokens that hold part of it), masks (0 for the prompt) and why it ended. Rejects as `generate`.
   */
  async generateBatch(tokens: Ids, options: GenerateOptions = {}): Promise<BatchResult> {
    const generation = this.#newGeneration(tokens, options, 'prompt', null)
    while (await generation.next()) continue
    const prompt = generation.tokens
    const rows = generation.rows.map((row) => ({ ...row, end: row.stopFrom ?? row.output.length - (row.finishReason === 'stop' ? 1 : 0) }))
    return {
      results: rows.map(({ output, end }) => Int32Array.from([...prompt, ...output.slice(0, end)])),
      masks: rows.map(({ masks, end }) => Uint8Array.from([...new Uint8Array(prompt.length), ...masks.slice(0, end)])),
      finishReasons: rows.map(({ finishReason }) => finishReason ?? 'length'),
      stats: generation.stats()
    }
  }

  /** Answers the conversation `messages`: events that fold into the assistant's message. Rejects as `generate`, and with ERR_INVALID_CONVERSATION. */
  chat(messages: Message[], options: GenerateOptions = {}): AsyncGenerator<ChatEvent, void, undefined> {
    return asyncGenerator(orFailing(() => {
      const { text } = this.#context
      if (!text) {
        throw new NanochatError('ERR_INVALID_ARG',
          'Expected an engine with a tokenizer for chat() but it has none. Pass one to the Engine, or use generate().')
      }
      return this.#eventSource(text.tokenizer.renderForCompletion(messages), options, 'conversation')
    }))
  }

  /** @internal The events of `chat` after any `tokens`. */
  events(tokens: Ids, options: GenerateOptions = {}): AsyncGenerator<ChatEvent, void, undefined> {
    return asyncGenerator(orFailing(() => this.#eventSource(tokens, options, 'prompt')))
  }

  /** A cache that holds `tokens`, computed: the shared beginning of later calls. `signal` ends it. Rejects as `generate`. */
  async prefill(tokens: Ids, options: { signal?: AbortSignal | undefined } = {}): Promise<KVCache> {
    checkKnown(options, ['signal'])
    const { model } = this.#context
    const prompt = checkIds('tokens', tokens, model.config.vocabSize, (length) => this.#checkPositions('prompt', length - 1))
    const checked = checkGenerateOptions({ tool: null, signal: options.signal }, this.#limits)
    const kvCache = model.newCache()
    try {
      await new Generation(this.#context, prompt, 0, { ...checked, kvCache }, null).prefill()
      return kvCache
    } catch (error) {
      kvCache[Symbol.dispose]()
      throw error
    }
  }

  /** Pending and later calls reject with ERR_DISPOSED. The model stays. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true
    await Promise.all([...this.#running].map((generation) => generation.close(disposedError())))
  }

  get #limits(): OptionLimits {
    return { vocabSize: this.#context.model.config.vocabSize, maxRows: this.#maxRows, defaultTool: this.#defaultTool }
  }

  #eventSource(tokens: Ids, options: GenerateOptions, what: 'prompt' | 'conversation'): Source<ChatEvent, void> {
    return chatSource((observer) => this.#newGeneration(tokens, options, what, observer))
  }

  #newGeneration(tokens: Ids, options: GenerateOptions, what: 'prompt' | 'conversation', observer: RowObserver | null): Generation {
    const checked = checkGenerateOptions(options, this.#limits)
    const { model } = this.#context
    const prompt = checkIds('tokens', tokens, model.config.vocabSize, (length) => { this.#outputLimit(what, length, checked) })
    return new Generation(this.#context, prompt, this.#outputLimit(what, prompt.length, checked), checked, observer)
  }

  /** Tokens that may follow a prompt of `length` (MODEL.md 5). Throws ERR_CONTEXT_OVERFLOW when there is no room for one. */
  #outputLimit(what: string, length: number, { maxTokens, kvCache, numSamples }: CheckedOptions): number {
    const { sequenceLen } = this.#context.model.config
    if (maxTokens === null && length >= sequenceLen) {
      throw new NanochatError('ERR_CONTEXT_OVERFLOW',
        `The ${what} is ${length} tokens and the model's context is ${sequenceLen}. `
        + `${what === 'conversation' ? 'Drop the oldest turns' : 'Shorten it'} or pass maxTokens.`)
    }
    const positions = this.#checkPositions(what, length)
    if (kvCache && length + (numSamples === 1 ? 1 : 0) > kvCache.maxSeqLen) {
      throw new NanochatError('ERR_CONTEXT_OVERFLOW',
        `The ${what} is ${length} tokens and the KVCache holds ${kvCache.maxSeqLen}. Make a larger one with model.newCache().`)
    }
    const end = kvCache && numSamples === 1 ? Math.min(positions, kvCache.maxSeqLen) : positions
    return Math.min(maxTokens ?? sequenceLen - length, end - length)
  }

  #checkPositions(what: string, length: number): number {
    const positions = positionsPerSequenceLen * this.#context.model.config.sequenceLen
    if (length < positions) return positions
    throw new NanochatError('ERR_CONTEXT_OVERFLOW',
      `The ${what} is ${length} tokens and the model has ${positions} positions. Shorten it.`)
  }
}

function columnSource(generation: Generation): Source<TokenColumn, Stats> {
  return {
    next: async () => {
      const column = await generation.next()
      return column ? { done: false, value: column } : { done: true, value: generation.stats() }
    },
    close: () => generation.close(endedByReturn())
  }
}

/** What `make` makes, or a source whose next() rejects with what it threw. */
function orFailing<T, R>(make: () => Source<T, R>): Source<T, R> {
  try {
    return make()
  } catch (error) {
    return { next: () => Promise.reject(error), close: () => Promise.resolve() }
  }
}

function specialIds(tokenizer: Tokenizer): SpecialIds {
  const id = (name: SpecialToken): number => tokenizer.encodeSpecial(name)
  return {
    bos: id('<|bos|>'),
    assistantEnd: id('<|assistant_end|>'),
    pythonStart: id('<|python_start|>'),
    pythonEnd: id('<|python_end|>'),
    outputStart: id('<|output_start|>'),
    outputEnd: id('<|output_end|>'),
    others: [id('<|user_start|>'), id('<|user_end|>'), id('<|assistant_start|>')]
  }
}

function disposedError(): NanochatError {
  return new NanochatError('ERR_DISPOSED', 'The Engine is disposed. Make another on the same model.')
}
