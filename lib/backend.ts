import type { DecodeRow, Run } from './decode.js'

/** What computes: logits from tokens, over sequences whose keys and values it keeps (ARCHITECTURE.md 1 and 2). */
export interface Backend {
  readonly device: string
  readonly vocabSize: number
  /** Bytes that one cached position of one sequence costs. */
  readonly kvBytesPerToken: number
  newSequence(): Sequence
  /**
   * One pass over a ragged batch: appends each row's tokens to its sequence. Resolves to the logits asked for, (n, V)
   * row-major, in row order. `out` is filled and returned when it is given and large enough. A sequence may be in one
   * pass at a time. When the pass fails or `signal` aborts (rejects with `signal.reason`), no sequence has changed.
   */
  forward(rows: readonly ForwardRow[], options?: { signal?: AbortSignal | undefined, out?: Float32Array }): Promise<Float32Array>
  /**
   * Draws for every row up to `maxSteps` tokens, its own or the call's, by the formula of MODEL.md 5, without JavaScript in
   * between; a row stops after one of `pauseIds`. Only where the backend does that, and for rows that `drawsAlone` says
   * need nothing else. All tokens but a row's last are in its sequence. A failure changes no sequence.
   */
  decode?(rows: readonly DecodeRow[], options: { pauseIds: readonly number[], maxSteps: number, signal?: AbortSignal | undefined }): Promise<Run[]>
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
