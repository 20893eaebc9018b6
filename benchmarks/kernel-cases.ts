import { appendKvCache, flashAttention, gatedValueEmbedding, matmul, mix, packMatrix, rmsNorm, rotary, rotaryTable, timeKernel, toBfloat16, type Elements, type Epilogue, type PackedMatrix, type Timer } from '../lib/kernels.js'
import type { MachineLimits } from '../lib/native.js'
import { lastLevelCacheBytes } from './machine.js'

/** One kernel at one shape and in one type. Nothing is allocated before `sample` or `check`. */
export interface KernelCase {
  kernel: string
  model: string | null             // the depth whose shape it is; null: the same in all
  rows: number                     // new tokens
  shape: string
  dtype: string
  /** What one run reads from memory; of a kernel whose data lie in the cache, what it reads and writes. */
  bytes: number
  inCache: boolean
  flops: number                    // two per multiply-add
  peak: keyof MachineLimits
  /** Nanoseconds of one run, averaged over the runs of a few milliseconds. */
  sample(isa: string): number
  /** The largest difference from the reference, over the largest magnitude of the reference's result. */
  check(isa: string): { maxError: number, checked: string }
}

type Run = (isa: string, timer: Timer) => unknown
interface MatrixShape { outputs: number, k: number }
interface WeightType { bytesPerWeight: number, peak: keyof MachineLimits, x: ActivationType, pack(shape: MatrixShape): PackedMatrix }

const activationTypes = ['float32', 'bfloat16'] as const
type ActivationType = typeof activationTypes[number]
const bytesPerElement = { float32: 4, bfloat16: 2 }
const peaks = { float32: 'float32FlopsPerSecond', bfloat16: 'bfloat16FlopsPerSecond' } as const

/** What the weights of a matrix product may be. */
export const weightTypes: Record<string, WeightType> = {
  float32: { bytesPerWeight: 4, peak: peaks.float32, x: 'float32', pack: (shape) => packMatrix(random(shape.outputs * shape.k, 'float32', 3), shape) },
  bfloat16: { bytesPerWeight: 2, peak: peaks.bfloat16, x: 'bfloat16', pack: (shape) => packMatrix(random(shape.outputs * shape.k, 'bfloat16', 3), shape) },
  int8: { bytesPerWeight: 1 + 2 / 64, peak: 'int8OpsPerSecond', x: 'float32', pack: (shape) => packMatrix(random(shape.outputs * shape.k, 'float32', 3), { ...shape, dtype: 'int8' }) },
  int4: { bytesPerWeight: 1 / 2 + 2 / 32, peak: 'int8OpsPerSecond', x: 'float32', pack: (shape) => packMatrix(random(shape.outputs * shape.k, 'float32', 3), { ...shape, dtype: 'int4' }) }
}

const sampleNanoseconds = 3e6
const attentionPasses = 16           // note: the first finds the newest keys in the cache, where packing left them
const checkedMultiplyAdds = 2 ** 26  // by the reference, about 0.1 s
const V = 32768, H = 6, D = 128, C = H * D

/** All cases of these types, in the order of the table. Kernels that know one type only come once. */
export function* kernelCases(dtypes: readonly string[]): Generator<KernelCase> {
  const types = activationTypes.filter((dtype) => dtypes.includes(dtype))
  for (const [model, width] of [['d12', 768], ['d20', 1280]] as const) for (const dtype of dtypes) yield* matrixProducts(model, width, dtype)
  for (const dtype of types) for (const window of [undefined, 512]) yield causalAttention(2048, window, dtype)
  for (const dtype of types) for (const S of [256, 2048]) yield decodeAttention(S, dtype)
  for (const rows of [1, 512]) {
    yield rotaryCase(rows)
    yield mixCase(rows)
    for (const dtype of types) yield* cacheCases(rows, dtype)
  }
}

/** The linear layers of nanochat's d<N> with 1, 8 and 512 rows. */
function* matrixProducts(model: string, width: number, dtype: string): Generator<KernelCase> {
  const layers: [string, number, number, Epilogue][] = [
    ['qkv', 3 * width, width, 'store'], ['c_proj', width, width, 'add'], ['mlp c_fc', 4 * width, width, 'relu2'],
    ['mlp c_proj', width, 4 * width, 'add'], ['lm_head', V, width, 'softcap']
  ]
  for (const [kernel, outputs, k, epilogue] of layers) {
    const copies = once(() => packedCopies({ outputs, k }, dtype))
    for (const rows of [1, 8, 512]) yield matrixProduct(kernel, model, rows, { outputs, k }, epilogue, dtype, copies)
  }
}

/** note: a step finds no weights in the cache, so every run takes the next of copies that the cache cannot hold. */
function packedCopies(shape: MatrixShape, dtype: string): PackedMatrix[] {
  const { bytesPerWeight, pack } = weightType(dtype)
  return Array.from({ length: Math.ceil(4 * lastLevelCacheBytes() / (shape.outputs * shape.k * bytesPerWeight)) }, () => pack(shape))
}

function matrixProduct(kernel: string, model: string, rows: number, { outputs, k }: MatrixShape, epilogue: Epilogue, dtype: string, copies: () => PackedMatrix[]): KernelCase {
  const { bytesPerWeight, peak, x: xType } = weightType(dtype)
  const input = once(() => ({ x: random(rows * k, xType), y: random(rows * outputs, 'float32') }))
  const product = (w: PackedMatrix, firstRow: number, isa: string, timer?: Timer): Elements => {
    const { x, y } = input()
    return matmul(x.subarray(firstRow * k), w, {
      rows: rows - firstRow, epilogue, isa, ...(epilogue === 'add' ? { y: y.subarray(firstRow * outputs) } : {}), ...(timer === undefined ? {} : { timer })
    })
  }
  let next = 0
  return {
    kernel, model, rows, shape: `${model} rows ${rows}, ${k} -> ${outputs}`, dtype, bytes: outputs * k * bytesPerWeight, inCache: false, flops: 2 * rows * outputs * k, peak,
    sample: (isa) => {
      const all = copies()
      let total = 0, runs = 0
      while (total < sampleNanoseconds && runs < all.length) {
        total += timeKernel((timer) => product(at(all, next), 0, isa, timer))
        next = (next + 1) % all.length
        runs++
      }
      return total / runs
    },
    check: (isa) => {
      const firstRow = rows - Math.min(rows, Math.max(1, Math.floor(checkedMultiplyAdds / (outputs * k)))), w = at(copies(), 0)
      return { maxError: largestError(product(w, 0, isa).subarray(firstRow * outputs), product(w, firstRow, 'reference')), checked: part('rows', rows - firstRow, rows) }
    }
  }
}

/** T queries over their own T keys; a window is the number of keys before the query. */
function causalAttention(T: number, window: number | undefined, dtype: ActivationType): KernelCase {
  const input = once(() => ({ q: random(T * C, dtype), k: random(T * C, dtype, 1), v: random(T * C, dtype, 2) }))
  const attention = (queries: number, isa: string, timer?: Timer): Elements => {
    const { q, k, v } = input()
    return flashAttention(q.subarray((T - queries) * C), k, v, { heads: H, headDim: D, queries, keys: T, dtype, isa, ...(window === undefined ? {} : { window }), ...(timer === undefined ? {} : { timer }) })
  }
  let keysSeen = 0
  for (let t = 0; t < T; t++) keysSeen += Math.min(t, window ?? t) + 1
  return {
    kernel: 'flash attention', model: null, rows: T, shape: `H${H} D${D} T${T} causal${window === undefined ? '' : `, window ${window}`}`, dtype,
    bytes: 2 * T * C * bytesPerElement[dtype], inCache: false, flops: 4 * H * D * keysSeen, peak: peaks[dtype],
    sample: (isa) => timeKernel((timer) => attention(T, isa, timer)),
    check: (isa) => {
      const queries = Math.floor(checkedMultiplyAdds / (2 * C * Math.min(T, (window ?? T) + 1)))
      return { maxError: largestError(attention(T, isa).subarray((T - queries) * C), attention(queries, 'reference')), checked: part('queries', queries, T) }
    }
  }
}

/** One query over S keys, of so many sequences, side by side as heads, that the cache cannot hold their keys and values. */
function decodeAttention(S: number, dtype: ActivationType): KernelCase {
  const bytes = 2 * S * C * bytesPerElement[dtype]
  const sequences = Math.ceil(4 * lastLevelCacheBytes() / bytes)
  const input = once(() => ({ q: random(sequences * C, dtype), k: random(sequences * S * C, dtype, 1), v: random(sequences * S * C, dtype, 2) }))
  const attention = (count: number, isa: string, timer?: Timer): Elements => {
    const { q, k, v } = input()
    const keys = count * S * C
    return flashAttention(q.subarray(0, count * C), k.subarray(0, keys), v.subarray(0, keys), { heads: count * H, headDim: D, queries: 1, keys: S, dtype, isa, ...(timer === undefined ? {} : { timer }) })
  }
  return {
    kernel: 'decode attention', model: null, rows: 1, shape: `H${H} D${D} S${S}`, dtype, bytes, inCache: false, flops: 4 * C * S, peak: peaks[dtype],
    sample: (isa) => timeKernel((timer) => attention(sequences, isa, timer), attentionPasses) / sequences,
    check: (isa) => ({ maxError: largestError(attention(1, isa), attention(1, 'reference')), checked: part('sequences', 1, sequences) })
  }
}

function rotaryCase(rows: number): KernelCase {
  const input = once(() => ({ x: random(rows * C, 'float32'), ...rotaryTable({ rows, headDim: D, firstPosition: 256 }) }))
  return inCache('rotary', rows, 'float32', 4 * rows * (2 * C + D), (isa, timer) => {
    const { x, cos, sin } = input()
    return rotary(x, cos, sin, { rows, heads: H, headDim: D, isa, timer })
  })
}

function mixCase(rows: number): KernelCase {
  const input = once(() => ({ x: random(rows * C, 'float32'), x0: random(rows * C, 'float32', 1) }))
  return inCache('mix', rows, 'float32', 4 * rows * 3 * C, (isa, timer) => mix(input().x, input().x0, { residLambda: 0.9, x0Lambda: 0.1, isa, timer }))
}

function* cacheCases(rows: number, dtype: ActivationType): Generator<KernelCase> {
  const size = bytesPerElement[dtype], gateChannels = 12
  const input = once(() => ({
    x: random(rows * C, 'float32'), y: random(rows * C, 'float32', 1),
    valueEmbeds: random(rows * C, dtype), gate: random(H * gateChannels, 'float32'), n: random(rows * gateChannels, dtype, 1)
  }))
  yield inCache('rmsNorm', rows, dtype, rows * C * (4 + size), (isa, timer) => rmsNorm(input().x, { rows, width: C, dtype, isa, timer }))
  yield inCache('gatedValueEmbedding', rows, dtype, rows * C * (8 + size), (isa, timer) => {
    const { x, valueEmbeds, gate, n } = input()
    return gatedValueEmbedding(x, valueEmbeds, gate, n, { rows, kvHeads: H, headDim: D, gateChannels, isa, timer })
  })
  yield inCache('appendKvCache', rows, dtype, 2 * rows * C * (4 + size), (isa, timer) => appendKvCache(input().x, input().y, { keys: rows, kvHeads: H, headDim: D, dtype, isa, timer }))
}

/** A kernel over activations that were written just before. */
function inCache(kernel: string, rows: number, dtype: ActivationType, bytes: number, run: Run): KernelCase {
  let repeat = 0
  return {
    kernel, model: 'd12', rows, shape: `d12 rows ${rows}`, dtype, bytes, inCache: true, flops: 0, peak: peaks[dtype],
    sample: (isa) => {
      repeat ||= Math.ceil(sampleNanoseconds / timeKernel((timer) => run(isa, timer), 10))
      return timeKernel((timer) => run(isa, timer), repeat)
    },
    check: (isa) => {
      const once = (by: string): Elements => run(by, { repeat: 1, nanoseconds: 0 }) as Elements
      return { maxError: largestError(once(isa), once('reference')), checked: 'all' }
    }
  }
}

function weightType(dtype: string): WeightType {
  const type = weightTypes[dtype]
  if (type === undefined) throw new Error(`no weights of type ${dtype}`)
  return type
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined
  return () => (made ??= { value: make() }).value
}

/** Numbers from -1 to 1 that look random: a prime number of them, again and again. */
function random(length: number, dtype: 'float32', seed?: number): Float32Array
function random(length: number, dtype: ActivationType, seed?: number): Elements
function random(length: number, dtype: ActivationType, seed = 0): Elements {
  const period = Math.min(length, 65_521)
  let state = seed + 1
  const first = Float32Array.from({ length: period }, () => {
    state = Math.imul(state, 1664525) + 1013904223 | 0
    return state / 2 ** 31
  })
  const out = dtype === 'float32' ? new Float32Array(length) : new Uint16Array(length)
  out.set(dtype === 'float32' ? first : toBfloat16(first))
  for (let filled = period; filled < length; filled *= 2) out.copyWithin(filled, 0, filled)
  return out
}

function largestError(actual: Elements, expected: Elements): number {
  const a = toFloats(actual), e = toFloats(expected)
  let error = 0, magnitude = 0
  for (let i = 0; i < e.length; i++) {
    error = Math.max(error, Math.abs((a[i] as number) - (e[i] as number)))
    magnitude = Math.max(magnitude, Math.abs(e[i] as number))
  }
  return error / magnitude
}

function toFloats(elements: Elements): Float32Array {
  return elements instanceof Float32Array ? elements : new Float32Array(Uint32Array.from(elements, (bits) => bits << 16).buffer)
}

const part = (noun: string, count: number, all: number): string => count === all ? 'all' : `${count} of ${all} ${noun}`

function at<T>(list: readonly T[], i: number): T {
  const item = list[i]
  if (item === undefined) throw new RangeError(`no item ${i}`)
  return item
}
