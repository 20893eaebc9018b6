import type { Backend, Sequence } from './backend.js'
import { prefillChunk } from './decode.js'
import { NanochatError, invalidArg } from './errors.js'
import { KVCache } from './kv-cache.js'
import { linkedAbort } from './linked-abort.js'
import type { Ids } from './tokenizer.js'

/** nanochat's model configuration, as its meta file has it. */
export interface GPTConfig {
  /** Positions it was trained on; ten times as many can be computed. */
  sequenceLen: number
  /** V: tokens, and logits of a position. */
  vocabSize: number
  /** L: layers. */
  nLayer: number
  /** H: query heads. */
  nHead: number
  /** K: heads of keys and values; it divides H. */
  nKvHead: number
  /** C: channels; a head has D = C / H. */
  nEmbd: number
  /** S and L for layers in turn: a short window or all positions; the last layer is always L (MODEL.md 1). */
  windowPattern: string
}

/** Which equations a checkpoint was trained with, recognised from its tensors (MODEL.md 2). */
export type Generation = 'G1' | 'G2' | 'G3' | 'G4' | 'G5' | 'G6' | 'HF'

export interface GPTOptions {
  backend: Backend
  config: GPT['config']
  device: string
  dtype: string
  numParams: number
  memoryBytes: number
  /** Ends the backend; called once, when no pass is running any more. */
  dispose: () => Promise<void>
}

/** Positions end at this many times sequenceLen (MODEL.md 5). */
export const positionsPerSequenceLen = 10

/** A loaded model: logits from tokens, by the equations of MODEL.md 1. The loading functions make it. */
export class GPT implements AsyncDisposable {
  /** Its shape, and the generation of its equations. */
  readonly config: GPTConfig & { generation: Generation }
  /** Where it runs: 'cpu', 'cuda:0'. */
  readonly device: string
  /** Weights as held in memory: 'float32', 'bfloat16', 'int8' or 'int4'. */
  readonly dtype: string
  /** Weights of all tensors, embedding tables included. */
  readonly numParams: number
  /** Bytes of weights and tables. */
  readonly memoryBytes: number
  /** @internal The backend, which rejects with ERR_DISPOSED once the model is disposed. */
  readonly backend: Backend
  readonly #passes = new Set<{ cancel: AbortController, end: Promise<unknown> }>()
  readonly #end: () => Promise<void>
  #disposing: Promise<void> | null = null

  /** @internal */
  static create(options: GPTOptions): GPT {
    return new GPT(options)
  }

  private constructor({ backend, config, device, dtype, numParams, memoryBytes, dispose }: GPTOptions) {
    this.config = config
    this.device = device
    this.dtype = dtype
    this.numParams = numParams
    this.memoryBytes = memoryBytes
    this.#end = dispose
    const decode = backend.decode?.bind(backend)
    this.backend = {
      device: backend.device,
      vocabSize: backend.vocabSize,
      kvBytesPerToken: backend.kvBytesPerToken,
      ...(backend.passTokens !== undefined && { passTokens: backend.passTokens }),
      ...(backend.kvCacheBytes !== undefined && { kvCacheBytes: backend.kvCacheBytes }),
      newSequence: () => {
        this.#checkAlive()
        return backend.newSequence()
      },
      forward: (rows, options) => this.#pass(options?.signal, (signal) => backend.forward(rows, { ...options, signal })),
      ...(decode && { decode: (rows, options) => this.#pass(options.signal, (signal) => decode(rows, { ...options, signal })) })
    }
  }

  /** An empty cache of up to `maxSeqLen` positions; the default and the most is 10 * sequenceLen. Throws ERR_INVALID_ARG, ERR_DISPOSED. */
  newCache(maxSeqLen: number = this.#maxPositions): KVCache {
    this.#checkAlive()
    if (!Number.isInteger(maxSeqLen) || maxSeqLen < 1 || maxSeqLen > this.#maxPositions) {
      throw invalidArg('maxSeqLen', `an integer from 1 to ${this.#maxPositions}`, maxSeqLen)
    }
    return KVCache.create(this.backend, maxSeqLen)
  }

  /**
   * Appends `ids`, at least one, to `kvCache`, or starts from nothing without one; raw logits of the last position, (V), softcap included
   * (MODEL.md 1). When it rejects, the cache is as it was. Rejects with ERR_INVALID_ARG, also for a cache of another model or in use,
   * ERR_CONTEXT_OVERFLOW, ERR_OUT_OF_MEMORY, ERR_CUDA, ERR_DISPOSED.
   */
  async forward(ids: Ids, kvCache?: KVCache): Promise<Float32Array> {
    this.#checkAlive()
    if (kvCache === undefined) {
      const tokens = checkIds('ids', ids, this.config.vocabSize, (length) => this.#checkLength(length, this.#maxPositions))
      return this.#withSequence((sequence) => this.#append(sequence, tokens, 'last', new Float32Array(this.config.vocabSize)))
    }
    if (!(kvCache instanceof KVCache)) throw invalidArg('kvCache', 'a KVCache', kvCache)
    const tokens = checkIds('ids', ids, this.config.vocabSize, (length) => this.#checkLength(kvCache.getPos() + length, kvCache.maxSeqLen))
    const sequence = kvCache.lock(this.backend)
    const before = sequence.length
    try {
      const missing = Int32Array.from([...kvCache.ids.slice(before), ...tokens])
      const logits = await this.#append(sequence, missing, 'last', new Float32Array(this.config.vocabSize))
      for (const id of tokens) kvCache.ids.push(id)
      return logits
    } catch (error) {
      if (sequence.length > before) sequence.truncate(before)
      throw error
    } finally {
      kvCache.unlock()
    }
  }

  /** Logits of every position of `ids`, (T, V) row-major; row t predicts id t + 1. Rejects as `forward`. */
  async logits(ids: Ids): Promise<Float32Array> {
    this.#checkAlive()
    const tokens = checkIds('ids', ids, this.config.vocabSize, (length) => this.#checkLength(length, this.#maxPositions))
    const out = newLogits(tokens.length, this.config.vocabSize)
    return this.#withSequence((sequence) => this.#append(sequence, tokens, 'all', out))
  }

  /** Pending calls reject with ERR_DISPOSED; resolves when the memory is free. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= (async () => {
      const passes = [...this.#passes]
      for (const { cancel } of passes) cancel.abort(disposedError())
      await Promise.allSettled(passes.map(({ end }) => end))
      await this.#end()
    })()
    return this.#disposing
  }

  get #maxPositions(): number {
    return positionsPerSequenceLen * this.config.sequenceLen
  }

  #checkAlive(): void {
    if (this.#disposing) throw disposedError()
  }

  #checkLength(length: number, limit: number): void {
    if (length > limit) {
      throw new NanochatError('ERR_CONTEXT_OVERFLOW',
        `Expected at most ${limit} tokens in one sequence but received ${length}. Pass fewer, or truncate the cache first.`)
    }
  }

  async #withSequence<T>(use: (sequence: Sequence) => Promise<T>): Promise<T> {
    const sequence = this.backend.newSequence()
    try {
      return await use(sequence)
    } finally {
      sequence.dispose()
    }
  }

  /** Appends `tokens` in chunks and fills `out`, (1, V) for 'last' and (T, V) for 'all'. */
  async #append(sequence: Sequence, tokens: Int32Array, logits: 'last' | 'all', out: Float32Array): Promise<Float32Array> {
    const V = this.config.vocabSize, { passTokens = prefillChunk } = this.backend
    for (let start = 0; start < tokens.length; start += passTokens) {
      const end = Math.min(start + passTokens, tokens.length)
      const wanted = logits === 'all' ? 'all' : end === tokens.length ? 'last' : 'none'
      const chunkOut = logits === 'all' ? out.subarray(start * V, end * V) : out
      await this.backend.forward([{ sequence, tokens: tokens.subarray(start, end), logits: wanted }], { out: chunkOut })
    }
    return out
  }

  /** What `start` resolves to; the signal it gets aborts also when the model is disposed. */
  async #pass<T>(outer: AbortSignal | undefined, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#checkAlive()
    outer?.throwIfAborted()
    const { controller: cancel, unlink } = linkedAbort(outer)
    const end = start(cancel.signal)
    const pass = { cancel, end }
    this.#passes.add(pass)
    try {
      return await end
    } catch (error) {
      throw this.#disposing ? disposedError() : error
    } finally {
      this.#passes.delete(pass)
      unlink()
    }
  }
}

/**
 * A copy of `ids`, checked: at least one, each an integer from 0 to V - 1. Throws ERR_INVALID_ARG. `checkLength` sees the
 * length before anything of that size is allocated.
 */
export function checkIds(name: string, ids: Ids, vocabSize: number, checkLength: (length: number) => void): Int32Array {
  const length: unknown = typeof ids === 'object' && ids !== null ? ids.length : undefined
  if (!Number.isInteger(length) || (length as number) < 1) throw invalidArg(name, 'a non-empty list of token ids', ids)
  checkLength(length as number)
  const tokens = new Int32Array(length as number)
  for (let i = 0; i < tokens.length; i++) {
    const id = ids[i] as number
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) throw invalidArg(`${name}[${i}]`, `a token id from 0 to ${vocabSize - 1}`, id)
    tokens[i] = id
  }
  return tokens
}

function newLogits(T: number, V: number): Float32Array {
  try {
    return new Float32Array(T * V)
  } catch (cause) {
    throw new NanochatError('ERR_OUT_OF_MEMORY',
      `Logits of ${T} positions are ${4 * T * V} bytes, more than could be allocated. Score fewer tokens at a time.`, { cause })
  }
}

function disposedError(): NanochatError {
  return new NanochatError('ERR_DISPOSED', 'The model is disposed. Load it again.')
}
