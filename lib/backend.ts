import type { Sampler } from './sampling.js'

/** What computes: logits from tokens, over sequences whose keys and values it keeps. The engine knows no other device than this. */
export interface Backend {
  readonly device: string
  readonly vocabSize: number
  /** Bytes that one cached position of one sequence costs. */
  readonly kvBytesPerToken: number
  /** Tokens of prompts that one pass takes, so that running rows keep stepping between passes; default 256. */
  readonly passTokens?: number
  /** What the keys and values of all rows may take where the caller does not say; default a quarter of the host's free memory. */
  readonly kvCacheBytes?: number
  newSequence(): Sequence
  /**
   * One pass over a ragged batch: appends each row's tokens to its sequence. Resolves to the logits asked for, (n, V)
   * row-major, in row order. `out` is filled and returned when it is given and large enough. A sequence may be in one
   * pass at a time. When the pass fails or `signal` aborts (rejects with `signal.reason`), no sequence has changed.
   */
  forward(rows: readonly ForwardRow[], options?: { signal?: AbortSignal | undefined, out?: Float32Array }): Promise<Float32Array>
  /**
   * What lib/decode.ts does with `forward` and its sampler, for a backend that draws the same tokens without JavaScript in
   * every step: one token per step and row, in all rows, until one is a pause id, for `maxSteps` steps or to the end of the
   * step that passes `budgetMs` (with CUDA about there, at most 16 steps later). Resolves to each row's tokens, at least one; all but the last are in the sequence. When it
   * fails or `signal` aborts, no sequence has changed.
   */
  decode?(rows: readonly BackendDecodeRow[], options: BackendDecodeOptions): Promise<number[][]>
}

export interface BackendDecodeRow {
  sequence: Sequence
  tokens: Int32Array               // (T), T >= 1, not in the sequence yet
  sampler: Sampler
}

export interface BackendDecodeOptions {
  pauseIds: readonly number[]
  maxSteps: number
  budgetMs: number
  signal?: AbortSignal | undefined
}

export interface ForwardRow {
  sequence: Sequence
  tokens: Int32Array               // (T), T >= 1
  logits: 'none' | 'last' | 'all'  // 0, 1 or T rows of the result
}

/** One row's cached keys and values. Positions 0..length-1 are cached. */
export interface Sequence {
  readonly length: number
  /** Another sequence with the same prefix; cheap, the memory is shared until one of them writes. */
  fork(): Sequence
  /** Forgets everything from `length` on. */
  truncate(length: number): void
  dispose(): void
}
