import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import type { Backend, BackendDecodeOptions, BackendDecodeRow } from './backend.js'
import { forget, logprobs, observe, sample } from './sampling.js'
import type { Sampler } from './sampling.js'

/** Tokens one pass takes of prompts where the backend does not say. */
export const prefillChunk = 256

/** How far rows run ahead at most before JavaScript sees their tokens and other calls get their turn. */
export const burst = { maxSteps: 64, budgetMs: 16 } as const

/** A row to continue. */
export interface DecodeRow extends BackendDecodeRow {
  maxSteps: number                 // tokens to draw at most
  logprobs: number | null          // alternatives per token; null: none wanted
}

/** The tokens drawn for one row, at least one, and the log-probabilities asked for. All but the last are in the sequence. */
export interface Run {
  ids: number[]
  logprobs: TokenLogprobs[]
}

export interface TokenLogprobs { token: number, top: { id: number, logprob: number }[] }

export interface DecodeOptions extends BackendDecodeOptions {
  out?: Float32Array               // (rows, V), scratch
}

/**
 * Draws as many tokens for one row as for the others, all rows in one pass per step: until one of them
 * has to stop, after a pause id or at its own maxSteps, for `maxSteps` steps or to the end of the step that passes
 * `budgetMs`. None runs ahead alone, because a pass for one row costs about as much as one for all. When it rejects, with
 * `signal.reason` or the backend's error, every sequence and sampler is as it was; else the samplers have seen the draws.
 */
export async function decode(backend: Backend, rows: readonly DecodeRow[], options: DecodeOptions): Promise<Run[]> {
  const maxSteps = Math.min(options.maxSteps, ...rows.map((row) => row.maxSteps))
  if (!backend.decode || rows.some(({ logprobs }) => logprobs !== null)) return decodeByForward(backend, rows, { ...options, maxSteps })
  const { pauseIds, budgetMs, signal } = options
  const runs = await backend.decode(rows, { pauseIds, maxSteps, budgetMs, signal })
  rows.forEach(({ sampler }, i) => { for (const id of runs[i] as number[]) observe(sampler, id) })
  return runs.map((ids) => ({ ids, logprobs: [] }))
}

/** The steps one by one: what every backend's own `decode` must give. Takes `maxSteps` of the options only. */
export async function decodeByForward(backend: Backend, rows: readonly Omit<DecodeRow, 'maxSteps'>[], { pauseIds, maxSteps, budgetMs, signal, out }: DecodeOptions): Promise<Run[]> {
  const V = backend.vocabSize
  const before = rows.map(({ sequence, sampler }) => ({ length: sequence.length, seen: sampler.seen?.ids.length ?? 0 }))
  const runs: Run[] = rows.map(() => ({ ids: [], logprobs: [] }))
  const startedAt = performance.now()
  let tokens = rows.map((row) => row.tokens)
  try {
    for (let step = 0, stops = false; step < maxSteps && !stops; step++) {
      const passRows = rows.map(({ sequence }, i) => ({ sequence, tokens: tokens[i] as Int32Array, logits: 'last' as const }))
      const logits = await backend.forward(passRows, out ? { signal, out } : { signal })
      const draws = await draw(rows.map((row, i) => ({ ...row, logits: logits.subarray(i * V, (i + 1) * V), position: row.sequence.length })))
      draws.forEach(({ id, logprobs }, i) => {
        runs[i]?.ids.push(id)
        if (logprobs) runs[i]?.logprobs.push(logprobs)
        observe((rows[i] as BackendDecodeRow).sampler, id)
      })
      tokens = draws.map(({ id }) => Int32Array.of(id))
      stops = performance.now() - startedAt >= budgetMs || draws.some(({ id }) => pauseIds.includes(id))
    }
  } catch (error) {
    rows.forEach(({ sequence, sampler }, i) => {
      const { length, seen } = before[i] as { length: number, seen: number }
      if (sequence.length > length) sequence.truncate(length)
      forget(sampler, seen)
    })
    throw error
  }
  return runs
}

export interface DrawRow { sampler: Sampler, logits: Float32Array, position: number, logprobs: number | null }

export interface Drawn { id: number, logprobs: TokenLogprobs | null }

/** One token for each of `rows`, from the logits (V) of the position before `position`. */
export async function draw(rows: readonly DrawRow[]): Promise<Drawn[]> {
  const draws: Drawn[] = []
  let sliceStart = performance.now()
  for (const row of rows) {
    const id = sample(row.sampler, row.logits, row.position)
    draws.push({ id, logprobs: row.logprobs === null ? null : logprobs(row.logits, id, row.logprobs) })
    if (performance.now() - sliceStart < eventLoopBudgetMs) continue
    await eventLoopTurn()
    sliceStart = performance.now()
  }
  return draws
}

// Sampling many rows of a large vocabulary takes tens of milliseconds: timers and I/O get their turn in between.
const eventLoopBudgetMs = 5
