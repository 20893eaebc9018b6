import type { Backend, ForwardRow, Sequence } from './backend.js'
import { NanochatError, invalidArg, type ErrorCode } from './errors.js'
import type { NativeJob, NativeModel, NativeSampler, NativeSequence } from './native.js'
import type { Sampler } from './sampling.js'

const wantedLogits = { none: 0, last: 1, all: 2 } as const

/** The CPU backend of the addon behind the backend interface. */
export function cpuBackend(model: NativeModel, vocabSize: number): Backend & Required<Pick<Backend, 'decode'>> {
  return {
    device: 'cpu',
    vocabSize,
    kvBytesPerToken: model.kvBytesPerToken,
    newSequence: () => new CpuSequence(typed(() => model.newSequence())),
    async forward(rows, { signal, out } = {}) {
      signal?.throwIfAborted()
      const positions = rows.reduce((sum, row) => sum + (row.logits === 'none' ? 0 : row.logits === 'last' ? 1 : row.tokens.length), 0)
      const logits = out !== undefined && out.length >= positions * vocabSize ? out : new Float32Array(positions * vocabSize)
      await runJob(() => startPass(model, rows, logits), signal)
      return logits
    },
    async decode(rows, { pauseIds, maxSteps, budgetMs, signal }) {
      signal?.throwIfAborted()
      const { sequences, tokens, counts } = passOf(rows)
      const samplers = rows.map(({ sampler }) => nativeSampler(sampler))
      const ids = await runJob(() => model.decode(sequences, tokens, counts, samplers, Int32Array.from(pauseIds), maxSteps, budgetMs), signal)
      return rows.map((_, row) => Array.from(ids.filter((_, i) => i % rows.length === row)))
    }
  }
}

/** A sampler as the addon's decode wants it. */
export function nativeSampler({ params, row, seen }: Sampler): NativeSampler {
  const { temperature, topK, topP, minP, repetitionPenalty, seed, logitBias } = params
  return {
    temperature, topK, topP, minP, repetitionPenalty, seed, row,
    biasIds: Int32Array.from(logitBias, ([id]) => id),
    biases: Float32Array.from(logitBias, ([, bias]) => bias),
    seen: Int32Array.from(seen?.ids ?? [])
  }
}

/** Runs a native job under a signal: rejects with `signal.reason` when it aborts, with a NanochatError when the job fails. */
export async function runJob<T>(start: () => NativeJob<T>, signal: AbortSignal | undefined): Promise<T> {
  const job = typed(start)
  const cancel = (): void => job.cancel()
  signal?.addEventListener('abort', cancel, { once: true })
  try {
    return await job.promise
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    throw typedError(error)
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}

/** Calls into the addon; its coded errors become NanochatErrors with this call's stack. */
export function typed<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw typedError(error)
  }
}

class CpuSequence implements Sequence {
  constructor(readonly native: NativeSequence) {}

  get length(): number {
    return typed(() => this.native.length)
  }

  fork(): Sequence {
    return new CpuSequence(typed(() => this.native.fork()))
  }

  truncate(length: number): void {
    typed(() => this.native.truncate(length))
  }

  dispose(): void {
    this.native.dispose()
  }
}

function startPass(model: NativeModel, rows: readonly ForwardRow[], out: Float32Array): NativeJob<void> {
  const { sequences, tokens, counts } = passOf(rows)
  return model.forward(sequences, tokens, counts, Uint8Array.from(rows, (row) => wantedLogits[row.logits]), out)
}

function passOf(rows: readonly { sequence: Sequence, tokens: Int32Array }[]): { sequences: NativeSequence[], tokens: Int32Array, counts: Int32Array } {
  const counts = Int32Array.from(rows, (row) => row.tokens.length)
  const tokens = new Int32Array(counts.reduce((sum, count) => sum + count, 0))
  let begin = 0
  for (const row of rows) {
    tokens.set(row.tokens, begin)
    begin += row.tokens.length
  }
  const sequences = rows.map((row) => {
    if (row.sequence instanceof CpuSequence) return row.sequence.native
    throw invalidArg('sequence', 'a sequence of this backend', row.sequence)
  })
  return { sequences, tokens, counts }
}

function typedError(error: unknown): unknown {
  if (NanochatError.is(error) || !(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return error
  return error.code.startsWith('ERR_') ? new NanochatError(error.code as ErrorCode, error.message, { cause: error }) : error
}
