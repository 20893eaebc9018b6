import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import type { Backend, Sequence } from './backend.js'
import { logprobs, sample } from './sampling.js'
import type { Sampler } from './sampling.js'

/** Tokens one pass takes of a prompt, so that running rows keep stepping between the pieces. */
export const prefillChunk = 256

/** A row to continue: its tokens that are not in its sequence yet, and how the next ones are drawn. */
export interface DecodeRow {
  sequence: Sequence
  tokens: Int32Array               // (T), T >= 1
  sampler: Sampler
  maxSteps: number                 // tokens to draw at most
  logprobs: number | null          // alternatives per token; null: none wanted
}

/** The tokens drawn for one row, at least one, and the log-probabilities asked for. All but the last are in the sequence. */
export interface Run {
  ids: number[]
  logprobs: TokenLogprobs[]
}

/** Tokens a row runs ahead where the backend draws them. */
export const decodeAhead = 16

export interface TokenLogprobs { token: number, top: { id: number, logprob: number }[] }

export interface DecodeOptions {
  pauseIds: readonly number[]      // a row stops after one of these: what follows is not the model's to say alone
  maxSteps: number
  signal?: AbortSignal | undefined
  out?: Float32Array               // (rows, V), scratch
}

/**
 * Draws up to `maxSteps` tokens for every row, all rows in one pass per step (ARCHITECTURE.md 1): in the backend where it
 * draws and the row needs no more than that, else here, one step where the backend has rows of its own to go on with. When
 * it rejects, with `signal.reason` or the backend's error, every sequence is as it was.
 */
export async function decode(backend: Backend, rows: readonly DecodeRow[], options: DecodeOptions): Promise<Run[]> {
  const lengths = rows.map(({ sequence }) => sequence.length)
  const runs: Run[] = rows.map(() => ({ ids: [], logprobs: [] }))
  const there = rows.map((row) => backend.decode !== undefined && drawsAlone(row))
  try {
    const here = rows.flatMap((row, i) => there[i] ? [] : [{ row, run: runs[i] as Run, tokens: row.tokens }])
    const ahead = rows.filter((_, i) => there[i])
    await decodeHere(backend, here, ahead.length > 0 ? { ...options, maxSteps: 1 } : options)
    const drawn = ahead.length > 0 ? await backend.decode?.(ahead, options) ?? [] : []
    runs.forEach((run, i) => { if (there[i]) run.ids = drawn.shift()?.ids ?? [] })
  } catch (error) {
    rows.forEach(({ sequence }, i) => { if (sequence.length > (lengths[i] as number)) sequence.truncate(lengths[i] as number) })
    throw error
  }
  return runs
}

/** Whether temperature and top-k are all that the row's sampler does. */
export function drawsAlone({ sampler: { params, seen }, logprobs }: DecodeRow): boolean {
  return logprobs === null && seen === null && params.topP >= 1 && params.minP === 0 && params.logitBias.length === 0
}

interface Going { row: DecodeRow, run: Run, tokens: Int32Array }

async function decodeHere(backend: Backend, rows: readonly Going[], { pauseIds, maxSteps, signal, out }: DecodeOptions): Promise<void> {
  const V = backend.vocabSize
  let going = [...rows]
  for (let step = 0; step < maxSteps && going.length > 0; step++) {
    const passRows = going.map(({ row, tokens }) => ({ sequence: row.sequence, tokens, logits: 'last' as const }))
    const logits = await backend.forward(passRows, out ? { signal, out } : { signal })
    const draws = await draw(going.map(({ row }, i) => {
      return { ...row, logits: logits.subarray(i * V, (i + 1) * V), position: row.sequence.length }
    }))
    going.forEach((entry, i) => {
      const drawn = draws[i] as Drawn
      entry.run.ids.push(drawn.id)
      if (drawn.logprobs) entry.run.logprobs.push(drawn.logprobs)
      entry.tokens = Int32Array.of(drawn.id)
    })
    going = going.filter(({ row, run }) => run.ids.length < row.maxSteps && !pauseIds.includes(run.ids.at(-1) as number))
  }
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
