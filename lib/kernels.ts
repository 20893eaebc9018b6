import { typed } from './cpu-backend.js'
import { NanochatError, invalidArg } from './errors.js'
import {
  allocate, checkDtype, checkElements, checkHeads, checkNorm, checkNumber, checkShape, dtypeOf, maxHeads, maxPositions, run,
  type Dtype, type Elements, type KernelOptions, type Timer,
} from './kernel-arguments.js'
import { native, type WeightDtype } from './native.js'
import { checkInteger, checkKnown } from './options.js'

export type { Dtype, Elements, KernelOptions, Timer, WeightDtype }

const normEps = 2 ** -23

/** The instruction sets this machine has kernels for, best first. Throws ERR_BINDING_NOT_FOUND. */
export function isas(): string[] {
  return native().info().isas
}

/**
 * Runs a kernel `repeat` times inside the addon, on this thread, and returns the nanoseconds of one run. What precedes
 * the kernel proper (checks, packing, allocation) is not in it. A result of epilogue 'add' has then been added `repeat` times. Throws ERR_INVALID_ARG, and what `run` throws.
 *
 *     const ns = timeKernel((timer) => matmul(x, packed, { rows: 1, timer }), 1000)
 */
export function timeKernel(run: (timer: Timer) => unknown, repeat = 1): number {
  checkInteger('repeat', repeat, 1, 2 ** 40)
  const timer = { repeat, nanoseconds: NaN }
  run(timer)
  return timer.nanoseconds / repeat
}

/** A linear layer's weights in the order the kernels read them. Its memory is outside the JavaScript heap; garbage collection frees it. */
export class PackedMatrix {
  /** Rows of w: outputs of the layer. */
  readonly outputs: number
  /** Columns of w: inputs of the layer. */
  readonly k: number
  /** As it is held. */
  readonly dtype: WeightDtype
  /** @internal */
  readonly handle: object

  /** w (outputs, k), row-major, rounded to `dtype`. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY. */
  constructor(w: Elements, outputs: number, k: number, dtype: WeightDtype = dtypeOf(w)) {
    checkShape({ outputs, k }, 2 ** 24)
    checkElements('w', w, [outputs, k])
    this.outputs = outputs
    this.k = k
    this.dtype = dtype
    this.handle = typed(() => native().kernels.packMatrix(outputs, k, w, dtype))
    Object.freeze(this)
  }
}

/**
 * Packs w (outputs, k), row-major, so that {@link matmul} need not do it in every call; rounds it to `dtype` where that is
 * not its own type. int8: a scale for each output and 64 k; int4: for each output and 32 k. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function packMatrix(w: Elements, options: { outputs: number, k: number, dtype?: WeightDtype }): PackedMatrix {
  checkKnown(options, ['outputs', 'k', 'dtype'])
  return new PackedMatrix(w, options.outputs, options.k, options.dtype)
}

/** What becomes of a product v: v, y + v, relu(v)^2, or softcap * tanh(v / softcap). */
export type Epilogue = 'store' | 'add' | 'relu2' | 'softcap'
const epilogues: readonly Epilogue[] = ['store', 'add', 'relu2', 'softcap']

/** Shapes and types of {@link matmul}. */
export interface MatmulOptions extends KernelOptions {
  /** Of x, and of the result. */
  rows: number
  /** Columns of w, where it is not packed. */
  k?: number
  /** Rows of w, where it is not packed. */
  outputs?: number
  /** That w is packed as; default its own. */
  dtype?: WeightDtype
  /** Default 'store'. */
  epilogue?: Epilogue
  /** For the epilogue of that name; default 15. */
  softcap?: number
  /** (rows, outputs), for the epilogue 'add'; it is not changed. */
  y?: Float32Array
}

/**
 * y = epilogue(x w^T): the linear layers of MODEL.md 1. x (rows, k), w (outputs, k) of the same type -> (rows, outputs),
 * float32, or the type of x for 'relu2'. Where w is int8 or int4, x is float32 and is rounded to int8 in groups of 64 or 32
 * before the kernel runs, and so is the result of 'relu2'. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function matmul(x: Elements, w: Elements | PackedMatrix, options: MatmulOptions): Elements {
  checkKnown(options, ['rows', 'k', 'outputs', 'dtype', 'epilogue', 'softcap', 'y', 'isa', 'timer'])
  const packed = w instanceof PackedMatrix ? w : packMatrix(w, { outputs: options.outputs ?? NaN, k: options.k ?? NaN, ...(options.dtype === undefined ? {} : { dtype: options.dtype }) })
  const { rows, k = packed.k, outputs = packed.outputs, dtype = packed.dtype, epilogue = 'store', softcap = 15, y } = options
  checkShape({ rows })
  if (k !== packed.k || outputs !== packed.outputs) throw invalidArg('w', `a packed matrix (${outputs}, ${k})`, `(${packed.outputs}, ${packed.k})`)
  if (dtype !== packed.dtype) throw invalidArg('dtype', packed.dtype, dtype)
  const inputs = dtype === 'bfloat16' ? 'bfloat16' : 'float32'
  if (!epilogues.includes(epilogue)) throw invalidArg('epilogue', epilogues.join(', '), epilogue)
  checkNumber('softcap', softcap, 1e-6, 1e6)
  checkElements('x', x, [rows, k], inputs)
  if ((epilogue === 'add') !== (y !== undefined)) throw invalidArg('y', epilogue === 'add' ? 'a Float32Array' : `nothing with the epilogue ${epilogue}`, y)
  const out = allocate(rows * outputs, epilogue === 'relu2' ? inputs : 'float32')
  if (y !== undefined) {
    checkElements('y', y, [rows, outputs], 'float32')
    out.set(y)
  }
  run(options, (isa, repeat) => native().kernels.matmul(isa, repeat, rows, epilogues.indexOf(epilogue), softcap, packed.handle, x, out))
  return out
}

/** Shapes of {@link flashAttention}, and what a query sees. */
export interface FlashAttentionOptions extends KernelOptions {
  /** H: query heads. */
  heads: number
  /** K: heads of keys and values, which divides H; default: heads. */
  kvHeads?: number
  /** D: even, at most 1024. */
  headDim: number
  /** T: rows of q. */
  queries: number
  /** S: rows of k and v. */
  keys: number
  /** Position of the first query; default: the last query is the last key. */
  firstPosition?: number
  /** Position of k[0], default 0; keys before it must be out of the window. */
  firstKey?: number
  /** A query sees itself and this many keys before it; default: all. */
  window?: number
  /** Default 1 / sqrt(headDim). */
  scale?: number
  /** Of q, k and v; default q's. */
  dtype?: Dtype
}

/**
 * softmax(scale * q k^T) v, causal, in pages of 64 keys as the KV cache has them (MODEL.md 1). q (queries, heads, headDim);
 * k, v (keys, kvHeads, headDim), packed before the kernel runs; query head h reads kv head h / (heads / kvHeads) -> like q. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function flashAttention(q: Elements, k: Elements, v: Elements, options: FlashAttentionOptions): Elements {
  checkKnown(options, ['heads', 'kvHeads', 'headDim', 'queries', 'keys', 'firstPosition', 'firstKey', 'window', 'scale', 'dtype', 'isa', 'timer'])
  const { heads, kvHeads = heads, headDim, queries, keys, firstKey = 0, dtype = dtypeOf(q) } = options
  checkHeads(kvHeads, headDim)
  checkShape({ heads }, maxHeads)
  if (heads % kvHeads !== 0) throw invalidArg('heads', `a multiple of kvHeads, ${kvHeads},`, heads)
  checkShape({ queries, keys }, maxPositions)
  checkInteger('firstKey', firstKey, 0, maxPositions)
  const { firstPosition = firstKey + keys - queries, window = -1, scale = 1 / Math.sqrt(headDim) } = options
  checkInteger('firstPosition', firstPosition, 0, maxPositions)
  if (options.window !== undefined) checkInteger('window', window, 0, 2 ** 31 - 1)
  checkNumber('scale', scale, -1e30, 1e30)
  const firstSeen = window < 0 ? 0 : Math.max(0, firstPosition - window)
  if (firstPosition + queries > firstKey + keys || firstSeen < firstKey || firstKey + keys > maxPositions) {
    throw new NanochatError('ERR_INVALID_ARG', `Expected keys for positions ${firstSeen} to ${firstPosition + queries - 1}, which the queries see, but received those of ${firstKey} to ${firstKey + keys - 1}.`)
  }
  checkElements('q', q, [queries, heads, headDim], dtype)
  checkElements('k', k, [keys, kvHeads, headDim], dtype)
  checkElements('v', v, [keys, kvHeads, headDim], dtype)
  const out = allocate(queries * heads * headDim, dtype)
  run(options, (isa, repeat) => native().kernels.flashAttention(isa, repeat, heads, kvHeads, headDim, queries, keys, firstPosition, firstKey, window, scale, q, k, v, out))
  return out
}

/** Shapes of {@link appendKvCache}. */
export interface AppendKvCacheOptions extends KernelOptions {
  /** Rows of k and v. */
  keys: number
  /** K: heads of keys and values. */
  kvHeads: number
  /** D: even, at most 1024. */
  headDim: number
  /** Of the first page, 0 to 63; default 0. */
  firstSlot?: number
  /** Of the cache; default 'float32'. */
  dtype?: Dtype
}

/**
 * Writes k and v (keys, kvHeads, headDim) to new pages of 64 slots, the rest of which is zero. A page is (kvHeads, keys and
 * values): keys (headDim / s, 64, s), values (64 / s, headDim rounded up to 16, s), s = 1 in float32 and 2 in bfloat16. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function appendKvCache(k: Float32Array, v: Float32Array, options: AppendKvCacheOptions): Elements {
  checkKnown(options, ['keys', 'kvHeads', 'headDim', 'firstSlot', 'dtype', 'isa', 'timer'])
  const { keys, kvHeads, headDim, firstSlot = 0, dtype = 'float32' } = options
  checkShape({ keys }, maxPositions)
  checkHeads(kvHeads, headDim)
  checkInteger('firstSlot', firstSlot, 0, 63)
  checkDtype('dtype', dtype)
  checkElements('k', k, [keys, kvHeads, headDim], 'float32')
  checkElements('v', v, [keys, kvHeads, headDim], 'float32')
  const pages = allocate(Math.ceil((firstSlot + keys) / 64) * kvHeads * 64 * (headDim + Math.ceil(headDim / 16) * 16), dtype)
  run(options, (isa, repeat) => native().kernels.appendKvCache(isa, repeat, keys, kvHeads, headDim, firstSlot, k, v, pages))
  return pages
}

/**
 * cos and sin (rows, headDim / 2) of the positions from firstPosition (0) on; `base` 1e5, G6's, where none is given (MODEL.md 1 and 2, RoPE).
 * The angle is rounded to float32 first. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function rotaryTable(options: { rows: number, headDim: number, firstPosition?: number, base?: number }): { cos: Float32Array, sin: Float32Array } {
  checkKnown(options, ['rows', 'headDim', 'firstPosition', 'base'])
  const { rows, headDim, firstPosition = 0, base = 1e5 } = options
  checkShape({ rows }, maxPositions)
  checkHeads(1, headDim)
  checkInteger('firstPosition', firstPosition, 0, maxPositions)
  checkNumber('base', base, 1, 1e12)
  const half = headDim / 2
  const cos = allocate(rows * half, 'float32'), sin = allocate(rows * half, 'float32')
  for (let i = 0; i < half; i++) {
    const inverseFrequency = Math.fround(1 / Math.fround(base ** Math.fround(2 * i / headDim)))
    for (let row = 0; row < rows; row++) {
      const angle = Math.fround((firstPosition + row) * inverseFrequency)
      cos[row * half + i] = Math.cos(angle)
      sin[row * half + i] = Math.sin(angle)
    }
  }
  return { cos, sin }
}

/** Shapes and constants of {@link rotary}. */
export interface RotaryOptions extends KernelOptions {
  /** T: positions. */
  rows: number
  /** H or K. */
  heads: number
  /** D: even, at most 1024. */
  headDim: number
  /** s of MODEL.md 2; default 1. */
  scale?: number
  /** Of the norm; default 2^-23. */
  eps?: number
}

/**
 * scale * norm(rope(x)): queries and keys of MODEL.md 1. x (rows, heads, headDim), cos and sin (rows, headDim / 2) -> like x.
 * Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function rotary(x: Float32Array, cos: Float32Array, sin: Float32Array, options: RotaryOptions): Float32Array {
  checkKnown(options, ['rows', 'heads', 'headDim', 'scale', 'eps', 'isa', 'timer'])
  const { rows, heads, headDim, scale = 1, eps = normEps } = options
  checkShape({ rows })
  checkHeads(heads, headDim)
  checkNumber('scale', scale, -1e30, 1e30)
  checkNumber('eps', eps, 0, 1)
  checkElements('x', x, [rows, heads, headDim], 'float32')
  checkElements('cos', cos, [rows, headDim / 2], 'float32')
  checkElements('sin', sin, [rows, headDim / 2], 'float32')
  const out = allocate(x.length, 'float32')
  run(options, (isa, repeat) => native().kernels.rotary(isa, repeat, rows, heads, headDim, eps, scale, x, cos, sin, out))
  return out
}

/** Shape of {@link rmsNorm} and {@link embed}. */
export interface NormOptions extends KernelOptions {
  /** T: positions. */
  rows: number
  /** C: channels. */
  width: number
  /** Default 2^-23. */
  eps?: number
}

/** norm(x) = x * rsqrt(mean(x^2) + eps), MODEL.md 1. x (rows, width) -> the same in `dtype`, default float32. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY. */
export function rmsNorm(x: Float32Array, options: NormOptions & { dtype?: Dtype }): Elements {
  checkKnown(options, ['rows', 'width', 'eps', 'dtype', 'isa', 'timer'])
  const { rows, width, eps = normEps, dtype = 'float32' } = options
  checkNorm(rows, width, eps)
  checkDtype('dtype', dtype)
  checkElements('x', x, [rows, width], 'float32')
  const out = allocate(x.length, dtype)
  run(options, (isa, repeat) => native().kernels.rmsNorm(isa, repeat, rows, width, eps, x, out))
  return out
}

/** norm(wte[id]), MODEL.md 1: tableRows (rows, width) are the gathered rows of the table, of either type -> float32. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY. */
export function embed(tableRows: Elements, options: NormOptions): Float32Array {
  checkKnown(options, ['rows', 'width', 'eps', 'isa', 'timer'])
  const { rows, width, eps = normEps } = options
  checkNorm(rows, width, eps)
  checkElements('tableRows', tableRows, [rows, width])
  const out = allocate(tableRows.length, 'float32')
  run(options, (isa, repeat) => native().kernels.embed(isa, repeat, rows, width, eps, tableRows, out))
  return out
}

/** residLambda * x + x0Lambda * x0, MODEL.md 1; x and x0 of the same length -> like x. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY. */
export function mix(x: Float32Array, x0: Float32Array, options: KernelOptions & { residLambda: number, x0Lambda: number }): Float32Array {
  checkKnown(options, ['residLambda', 'x0Lambda', 'isa', 'timer'])
  const { residLambda, x0Lambda } = options
  checkNumber('residLambda', residLambda, -1e30, 1e30)
  checkNumber('x0Lambda', x0Lambda, -1e30, 1e30)
  const count = x instanceof Float32Array ? x.length : 0
  checkShape({ 'the length of x': count }, 2 ** 30)
  checkElements('x', x, [count], 'float32')
  checkElements('x0', x0, [count], 'float32')
  const out = allocate(count, 'float32')
  run(options, (isa, repeat) => native().kernels.mix(isa, repeat, count, residLambda, x0Lambda, x, x0, out))
  return out
}

/** Shapes and constants of {@link gatedValueEmbedding}. */
export interface GatedValueOptions extends KernelOptions {
  /** T: positions. */
  rows: number
  /** K: heads of keys and values. */
  kvHeads: number
  /** D: even, at most 1024. */
  headDim: number
  /** g of MODEL.md 2: channels that the gate looks at; default 12. */
  gateChannels?: number
  /** m of MODEL.md 2; default 3. */
  gateScale?: number
}

/**
 * v + gateScale * sigmoid(veGate n) * valueEmbeds (MODEL.md 1, G4 and later). v and the gathered rows of value_embeds
 * (rows, kvHeads, headDim), veGate (kvHeads, gateChannels), n (rows, gateChannels) -> like v. The defaults are G6's. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY.
 */
export function gatedValueEmbedding(v: Float32Array, valueEmbeds: Elements, veGate: Float32Array, n: Elements, options: GatedValueOptions): Float32Array {
  checkKnown(options, ['rows', 'kvHeads', 'headDim', 'gateChannels', 'gateScale', 'isa', 'timer'])
  const { rows, kvHeads, headDim, gateChannels = 12, gateScale = 3 } = options
  checkShape({ rows })
  checkHeads(kvHeads, headDim)
  checkShape({ gateChannels }, 4096)
  checkNumber('gateScale', gateScale, -1e30, 1e30)
  checkElements('v', v, [rows, kvHeads, headDim], 'float32')
  checkElements('valueEmbeds', valueEmbeds, [rows, kvHeads, headDim])
  checkElements('veGate', veGate, [kvHeads, gateChannels], 'float32')
  checkElements('n', n, [rows, gateChannels])
  const out = allocate(v.length, 'float32')
  run(options, (isa, repeat) => native().kernels.gatedValueEmbedding(isa, repeat, rows, kvHeads, headDim, gateChannels, gateScale, v, valueEmbeds, veGate, n, out))
  return out
}

/** x rounded to bfloat16: to the nearest, ties to even. Throws ERR_INVALID_ARG, ERR_OUT_OF_MEMORY. */
export function toBfloat16(x: Float32Array, options: KernelOptions = {}): Uint16Array {
  checkKnown(options, ['isa', 'timer'])
  if (!(x instanceof Float32Array) || x.length === 0) throw invalidArg('x', 'a Float32Array that is not empty', x)
  const out = allocate(x.length, 'bfloat16')
  run(options, (isa, repeat) => native().kernels.convert(isa, repeat, x.length, x, out))
  return out
}
