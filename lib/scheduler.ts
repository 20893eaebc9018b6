import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import type { Backend, Sequence } from './backend.js'
import { decode, prefillChunk } from './decode.js'
import type { DecodeRow, Run } from './decode.js'
import { NanochatError } from './errors.js'
import { linkedAbort } from './linked-abort.js'

export interface SchedulerOptions {
  maxRows: number
  kvCacheBytes: number
  pauseIds: readonly number[]
  maxSteps: number                 // of one decoding; 1 where sampling is JavaScript's
  budgetMs: number                 // what arrives meanwhile waits as long, or for one step
}

/** Rows and bytes of KV cache that a call holds. */
export interface Reservation {
  /** Gives back `rows` of them. */
  release(rows: number): void
}

/**
 * Shares one backend among all calls of an engine: a few steps that continue every row that asked for it, then
 * one pass over pieces of prompts, and again. Prompts take turns; short ones share a pass, which reads the weights once. A pass
 * of prompts obeys their signals at once: the others go again. A decoding of several calls is short and runs to its end.
 */
export class Scheduler {
  readonly #backend: Backend
  readonly #options: SchedulerOptions
  readonly #prefills: PrefillJob[] = []
  readonly #decodes: DecodeJob[] = []
  readonly #admissions: Admission[] = []
  #freeRows: number
  #freeBytes: number
  #running = false
  #out = new Float32Array(0)

  constructor(backend: Backend, options: SchedulerOptions) {
    this.#backend = backend
    this.#options = options
    this.#freeRows = options.maxRows
    this.#freeBytes = options.kvCacheBytes
  }

  /**
   * Resolves when `rows` rows of up to `length` tokens fit beside what runs, first come first served. Every row is counted
   * at full length, because rows that share a prefix part as they grow. Rejects with ERR_OUT_OF_MEMORY when they never will.
   */
  async reserve(rows: number, length: number, signal: AbortSignal): Promise<Reservation> {
    signal.throwIfAborted()
    const bytesPerRow = length * this.#backend.kvBytesPerToken
    const { maxRows, kvCacheBytes } = this.#options
    if (rows > maxRows || rows * bytesPerRow > kvCacheBytes) {
      throw new NanochatError('ERR_OUT_OF_MEMORY',
        `${rows} rows of up to ${length} tokens need ${rows * bytesPerRow} bytes of KV cache; `
        + `the engine has ${maxRows} rows and kvCacheBytes ${kvCacheBytes}. Lower maxTokens or numSamples, or raise kvCacheBytes.`)
    }
    try {
      await new Promise<void>((resolve, reject) => {
        this.#admissions.push(cancellable(this.#admissions, { rows, bytes: rows * bytesPerRow }, signal, resolve, reject))
        this.#admit()
      })
    } catch (error) {
      this.#admit()                            // the next in line may fit where this one did not
      throw error
    }
    return {
      release: (count) => {
        this.#freeRows += count
        this.#freeBytes += count * bytesPerRow
        this.#admit()
      }
    }
  }

  /**
   * Appends `tokens` to `sequence` in pieces. Resolves to the logits of the last position, (V), or to an empty array when
   * `logits` is 'none'. When it rejects, the pieces that were done stay in the sequence.
   */
  prefill(sequence: Sequence, tokens: Int32Array, logits: 'last' | 'none', signal: AbortSignal): Promise<Float32Array> {
    return new Promise((resolve, reject) => {
      this.#prefills.push(cancellable(this.#prefills, { sequence, tokens, logits }, signal, resolve, reject))
      this.#wake()
    })
  }

  /** Continues `rows`, together with those of other calls. When it rejects, sequences and samplers may have gone on. */
  decode(rows: readonly DecodeRow[], signal: AbortSignal): Promise<Run[]> {
    return new Promise((resolve, reject) => {
      this.#decodes.push(cancellable(this.#decodes, { rows }, signal, resolve, reject))
      this.#wake()
    })
  }

  #admit(): void {
    for (;;) {
      const next = this.#admissions[0]
      if (!next || next.rows > this.#freeRows || next.bytes > this.#freeBytes) return
      this.#freeRows -= next.rows
      this.#freeBytes -= next.bytes
      this.#admissions.shift()
      next.resolve()
    }
  }

  #wake(): void {
    if (this.#running) return
    this.#running = true
    void this.#run()
  }

  async #run(): Promise<void> {
    for (;;) {
      await eventLoopTurn()                    // calls whose rows were just served ask for their next steps: the same passes for all
      const jobs = this.#decodes.splice(0)
      if (jobs.length > 0) await this.#decodePass(jobs)
      const pieces = this.#nextPieces()
      if (pieces.length > 0) await this.#prefillPass(pieces)
      if (this.#decodes.length + this.#prefills.length + jobs.length + pieces.length === 0) break
    }
    this.#running = false
  }

  /** The beginnings of the first prompts in line, as many tokens as a pass takes. */
  #nextPieces(): Piece[] {
    const pieces: Piece[] = []
    let room = this.#backend.passTokens ?? prefillChunk
    while (room > 0) {
      const job = this.#prefills.shift()
      if (!job) break
      const tokens = job.tokens.subarray(0, room)
      pieces.push({ job, tokens, isLast: tokens.length === job.tokens.length })
      room -= tokens.length
    }
    return pieces
  }

  async #prefillPass(pieces: readonly Piece[]): Promise<void> {
    const { controller, unlink } = linkedAbort(...pieces.map(({ job }) => job.signal))
    try {
      const rows = pieces.map(({ job: { sequence, logits }, tokens, isLast }) => ({ sequence, tokens, logits: isLast ? logits : 'none' } as const))
      const logits = await this.#backend.forward(rows, { signal: controller.signal })
      let first = 0
      for (const { job, tokens, isLast } of pieces) {
        const size = isLast && job.logits === 'last' ? this.#backend.vocabSize : 0
        const own = logits.subarray(first, first += size)
        job.tokens = job.tokens.subarray(tokens.length)
        if (job.signal.aborted) job.reject(job.signal.reason)
        else if (isLast) job.resolve(own)
        else this.#prefills.push(job)
      }
    } catch (error) {
      const others = pieces.filter(({ job }) => !job.signal.aborted)
      for (const { job } of pieces) if (job.signal.aborted) job.reject(job.signal.reason)
      if (others.length < pieces.length) this.#prefills.unshift(...others.map(({ job }) => job))
      else if (pieces.length === 1) pieces[0]?.job.reject(error)
      else for (const piece of pieces) await this.#prefillPass([piece])   // what one prompt can't have must not end the others
    } finally {
      unlink()
    }
  }

  async #decodePass(jobs: readonly DecodeJob[]): Promise<void> {
    const rows = jobs.flatMap((job) => job.rows)
    const only = jobs.length === 1 ? jobs[0] : undefined
    try {
      const { pauseIds, maxSteps, budgetMs } = this.#options
      const runs = await decode(this.#backend, rows, { pauseIds, maxSteps, budgetMs, signal: only?.signal, out: this.#outFor(rows.length) })
      let first = 0
      for (const job of jobs) {
        const own = runs.slice(first, first += job.rows.length)
        if (job.signal.aborted) job.reject(job.signal.reason)
        else job.resolve(own)
      }
    } catch (error) {
      if (only) only.reject(error)
      else for (const job of jobs) await this.#decodePass([job])   // what one call can't have must not end the others
    }
  }

  #outFor(rows: number): Float32Array {
    const size = rows * this.#backend.vocabSize
    if (this.#out.length < size) this.#out = new Float32Array(size)
    return this.#out
  }
}

interface Cancellable<T> { signal: AbortSignal, resolve(value: T): void, reject(reason: unknown): void }
interface Admission extends Cancellable<void> { rows: number, bytes: number }
interface PrefillJob extends Cancellable<Float32Array> { sequence: Sequence, tokens: Int32Array, logits: 'last' | 'none' }
interface Piece { job: PrefillJob, tokens: Int32Array, isLast: boolean }
interface DecodeJob extends Cancellable<Run[]> { rows: readonly DecodeRow[] }

/** A job that leaves `queue` and rejects when `signal` aborts; one that is in a pass by then is left to the pass. */
function cancellable<T, J>(
  queue: (J & Cancellable<T>)[], job: J, signal: AbortSignal, resolve: (value: T) => void, reject: (reason: unknown) => void
): J & Cancellable<T> {
  const settled = (): void => signal.removeEventListener('abort', leave)
  const whole: J & Cancellable<T> = {
    ...job, signal,
    resolve: (value: T) => { settled(); resolve(value) },
    reject: (reason: unknown) => { settled(); reject(reason) }
  }
  const leave = (): void => {
    const at = queue.indexOf(whole)
    if (at < 0) return
    queue.splice(at, 1)
    whole.reject(signal.reason)
  }
  signal.addEventListener('abort', leave)
  return whole
}
