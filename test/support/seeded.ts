// Seeded models (fixtures/README.md) behind the backend interface, and passes over them.
import type { Backend, ForwardRow, Sequence } from '../../lib/backend.js'
import { cpuBackend, runJob } from '../../lib/cpu-backend.js'
import { native, type ModelSpec, type NativeLoadOptions } from '../../lib/native.js'

/** Runs `use` with a model whose weights are the formula of fixtures/README.md. Default: 2 threads. */
export async function withSeeded<T>(spec: ModelSpec, options: Partial<NativeLoadOptions> & Pick<NativeLoadOptions, 'dtype'>, use: (backend: Backend) => Promise<T>): Promise<T> {
  const model = await runJob(() => native().seeded(spec, 1, { threads: 2, ...options }), undefined)
  try {
    return await use(cpuBackend(model, spec.vocabSize))
  } finally {
    await model.dispose()
  }
}

export async function append(backend: Backend, sequence: Sequence, tokens: Int32Array, logits: ForwardRow['logits'] = 'all'): Promise<Float32Array> {
  return backend.forward([{ sequence, tokens, logits }])
}

/** Logits of every position, (T, V), in one pass over a new sequence. */
export async function wholePass(backend: Backend, tokens: Int32Array): Promise<Float32Array> {
  const sequence = backend.newSequence()
  try {
    return await append(backend, sequence, tokens)
  } finally {
    sequence.dispose()
  }
}

/** Row t of logits (T, V). */
export function rowOf(logits: Float32Array, t: number, V: number): Float32Array {
  return logits.subarray(t * V, (t + 1) * V)
}

/** id_t = lowbias32(t + s) mod vocab, the prompt of the seeded fixtures. */
export function formulaPrompt(length: number, vocabSize: number, seed = 1): Int32Array {
  let hash = 0x811c9dc5
  for (const c of Buffer.from('prompt')) hash = Math.imul(hash ^ c, 0x01000193)
  const s = Math.imul(hash ^ seed, 0x9e3779b9)
  return Int32Array.from({ length }, (_, t) => lowbias32(t + s) % vocabSize)
}

function lowbias32(i: number): number {
  let x = i >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}
