import type { Backend, Sequence } from './backend.js'
import { NanochatError, invalidArg } from './errors.js'

/**
 * Keys and values of one token sequence of one model, kept by the caller between calls. Made by `GPT.newCache` and
 * `Engine.prefill`. It may hold ids whose keys and values the next call computes first (the last token of an output).
 */
export class KVCache implements Disposable {
  /** Positions it may hold, 10 * sequenceLen at most; memory is taken as it fills. */
  readonly maxSeqLen: number
  /** @internal The model it belongs to. */
  readonly backend: Backend
  /** @internal All tokens; the first `sequence.length` of them are computed. */
  ids: number[] = []
  readonly #sequence: Sequence
  #inUse = false
  #disposed = false

  /** @internal */
  static create(backend: Backend, maxSeqLen: number): KVCache {
    return new KVCache(backend, maxSeqLen, backend.newSequence())
  }

  private constructor(backend: Backend, maxSeqLen: number, sequence: Sequence) {
    this.backend = backend
    this.maxSeqLen = maxSeqLen
    this.#sequence = sequence
  }

  /** Tokens it holds. */
  getPos(): number {
    return this.ids.length
  }

  /** Forgets everything from position `pos` on. Throws ERR_INVALID_ARG, also while a call uses the cache, and ERR_DISPOSED. */
  truncate(pos: number): void {
    this.#checkFree()
    this.#checkPos(pos)
    this.ids.length = pos
    if (this.#sequence.length > pos) this.#sequence.truncate(pos)
  }

  /** Forgets everything. Throws as `truncate`. */
  reset(): void {
    this.truncate(0)
  }

  /**
   * Another cache with the first `pos` tokens, all of them by default. It costs next to nothing: the memory is shared until one of them
   * writes, so any number of calls can go on from one prefix at a time. Throws as `truncate`.
   */
  fork(pos: number = this.ids.length): KVCache {
    this.#checkFree()
    this.#checkPos(pos)
    const forked = new KVCache(this.backend, this.maxSeqLen, this.#sequence.fork())
    forked.ids = this.ids.slice()
    forked.truncate(pos)
    return forked
  }

  /** Frees it; a call that is using it goes on, and it is freed after that. */
  [Symbol.dispose](): void {
    if (this.#disposed) return
    this.#disposed = true
    if (!this.#inUse) this.#sequence.dispose()
  }

  /** @internal Takes the cache for one call of the model `backend`; `unlock` gives it back. */
  lock(backend: Backend): Sequence {
    this.#checkFree()
    if (backend !== this.backend) throw invalidArg('kvCache', 'a cache of this model', 'a cache of another model')
    this.#inUse = true
    return this.#sequence
  }

  /** @internal */
  unlock(): void {
    this.#inUse = false
    if (this.#disposed) this.#sequence.dispose()
  }

  #checkPos(pos: number): void {
    const length = this.ids.length
    if (!Number.isInteger(pos) || pos < 0 || pos > length) throw invalidArg('pos', `an integer from 0 to ${length}`, pos)
  }

  #checkFree(): void {
    if (this.#disposed) {
      throw new NanochatError('ERR_DISPOSED', 'The KVCache is disposed. Make another with model.newCache() or engine.prefill().')
    }
    if (this.#inUse) throw invalidArg('kvCache', 'a cache that no running call uses', 'one that is in use')
  }
}

/** How many leading tokens the two lists share. */
export function commonPrefix(ids: readonly number[], tokens: ArrayLike<number>): number {
  const limit = Math.min(ids.length, tokens.length)
  let n = 0
  while (n < limit && ids[n] === tokens[n]) n++
  return n
}
