import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import binding from './binding.cjs'
import { NanochatError } from './errors.js'
import type { GPTConfig, Generation } from './gpt.js'

/** Architecture as the addon wants it; the addon derives windows, scales and tables from it (MODEL.md 2). */
export interface ModelSpec extends GPTConfig {
  generation: Generation           // windowPattern is 'L' where it has no windows
  mlpHidden?: number               // default 4 * nEmbd; HF takes it from the tensor
  softcap?: number                 // default by generation
  ropeBase?: number                // default by generation
  normEps?: number                 // default 2^-23
  ropeTable?: 'float32' | 'bfloat16'
}

/** What a spec means: the constants in force and exactly the tensors a checkpoint must have. */
export interface ModelDescription {
  softcap: number
  ropeBase: number
  qkScale: number
  windows: number[]                // per layer, in keys before the query; -1 = no window
  maxPositions: number             // 10 * sequenceLen
  tensors: { name: string, shape: number[], dtype?: TensorSource['dtype'] }[]   // nanochat's names; rows of vocabulary tables may be padded in the file
}

/** One tensor of a checkpoint: raw little-endian row-major data at `offset` of `files[file]`. */
export interface TensorSource {
  name: string                     // nanochat's name, without _orig_mod.
  dtype: 'float32' | 'bfloat16' | 'float16' | 'uint8'   // uint8: a packed matrix
  shape: number[]
  file: number
  offset: number
}

/** Of the matrices in memory. With int8 and int4 activations are rounded to int8 for each product, and the KV cache is bfloat16. */
export type WeightDtype = 'float32' | 'bfloat16' | 'int8' | 'int4'

export interface NativeSequence {
  readonly length: number
  fork(): NativeSequence
  truncate(length: number): void
  dispose(): void
}

/** A Sampler (lib/sampling.ts) as the addon wants it. */
export interface NativeSampler {
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  seed: number
  row: number
  biasIds: Int32Array
  biases: Float32Array
  seen: Int32Array                 // each id once; of use to the repetition penalty only
}

export interface NativeModel {
  readonly memoryBytes: number
  /** Bytes of the matrices, which a decoding step reads once for all rows. */
  readonly matrixBytes: number
  readonly numParams: number
  readonly threads: number
  readonly isa: string
  /** Bytes one cached position costs, all layers, keys and values. */
  readonly kvBytesPerToken: number
  newSequence(): NativeSequence
  /**
   * Appends `tokens[i]` (all tokens of row i, concatenated in `tokens`, `counts[i]` of them) to `sequences[i]`.
   * `logits[i]`: 0 none, 1 the last position, 2 every position. `out` receives the logits in row order, (n, V).
   * Rejects with code ERR_ABORTED after `cancel()`; the sequences are then as they were.
   */
  forward(sequences: NativeSequence[], tokens: Int32Array, counts: Int32Array, logits: Uint8Array, out: Float32Array): NativeJob<void>
  /** Writes a new file that loads with `packed`. `metadata` is a JSON object of strings, for its header. */
  save(path: string, metadata: string, onProgress?: NativeProgress): NativeJob<void>
  /**
   * Appends tokens as `forward` does, then draws one token per step for every row and appends the draws of the step before,
   * until one of them is in `pauseIds`, for `maxSteps` steps, or to the end of the step that passes `budgetMs`. Resolves to
   * the draws, (steps, rows); those of the last step are not in the sequences. Rejects as `forward`.
   */
  decode(sequences: NativeSequence[], tokens: Int32Array, counts: Int32Array, samplers: NativeSampler[], pauseIds: Int32Array,
    maxSteps: number, budgetMs: number): NativeJob<Int32Array>
  /** Stops the inference thread, then frees everything. Sequences become unusable. */
  dispose(): Promise<void>
}

export interface NativeJob<T> {
  promise: Promise<T>
  cancel(): void
}

export interface NativeLoadOptions {
  dtype: WeightDtype
  threads: number                  // 0 = physical cores available to the process
  isa?: string                     // force one of info().isas
  packed?: boolean                 // the tensors are those of describe(spec, dtype), in one file
  cudaDevice?: number              // on this one of cudaDevices(); default: the CPU
  onProgress?: NativeProgress
}

export type NativeProgress = (phase: 'read' | 'convert' | 'upload' | 'write', bytes: number, total: number) => void

/** What the machine reaches at most with this many threads, measured; see benchmarks/. */
export interface MachineLimits {
  threads: number
  readBytesPerSecond: number
  readMedianBytesPerSecond: number // of the same trials the middle one: what reading keeps up
  float32FlopsPerSecond: number
  bfloat16FlopsPerSecond: number   // bf16 products, float32 sums
  int8OpsPerSecond: number         // int8 products, int32 sums
}

/** Any of the two types of data a kernel works on; bfloat16 travels as its 16 bits. */
type Elements = Float32Array | Uint16Array

/**
 * The kernels one by one. Each runs `repeat` times on this thread, fills its last argument and returns the nanoseconds
 * that took; every length is checked (ERR_INVALID_ARG). lib/kernels.ts has the shapes.
 */
export interface NativeKernels {
  packMatrix(outputs: number, k: number, w: Elements, dtype: WeightDtype): object
  matmul(isa: string, repeat: number, rows: number, epilogue: number, softcap: number, packed: object, x: Elements, y: Elements): number
  flashAttention(isa: string, repeat: number, heads: number, kvHeads: number, headDim: number, queries: number, keys: number, firstPosition: number,
    firstKey: number, window: number, scale: number, q: Elements, k: Elements, v: Elements, out: Elements): number
  appendKvCache(isa: string, repeat: number, keys: number, kvHeads: number, headDim: number, firstSlot: number, k: Float32Array, v: Float32Array, pages: Elements): number
  rotary(isa: string, repeat: number, rows: number, heads: number, headDim: number, eps: number, scale: number, x: Float32Array, cos: Float32Array, sin: Float32Array, out: Float32Array): number
  rmsNorm(isa: string, repeat: number, rows: number, width: number, eps: number, x: Float32Array, out: Elements): number
  embed(isa: string, repeat: number, rows: number, width: number, eps: number, table: Elements, out: Float32Array): number
  mix(isa: string, repeat: number, count: number, residLambda: number, x0Lambda: number, x: Float32Array, x0: Float32Array, out: Float32Array): number
  gatedValueEmbedding(isa: string, repeat: number, rows: number, kvHeads: number, headDim: number, gateChannels: number, gateScale: number,
    v: Float32Array, valueEmbeds: Elements, veGate: Float32Array, n: Elements, out: Float32Array): number
  convert(isa: string, repeat: number, count: number, x: Float32Array, out: Elements): number
}

/** The CUDA devices of this machine, or why none can be used. `isBroken`: driver and library are there and do not work. */
export interface CudaDevices {
  devices: { name: string, bytes: number }[]
  reason: string | null
  isBroken: boolean
}

/** What a device reaches at most, measured; products of bfloat16 with mma.sync. */
export type CudaLimits = Pick<MachineLimits, 'readBytesPerSecond' | 'float32FlopsPerSecond' | 'bfloat16FlopsPerSecond'>

/** Bytes on a device. */
export interface CudaNeeds {
  weightBytes: number
  kvBytesPerToken: number
  workingBytes: number             // of the largest pass of prompts
}

export interface NativeBinding {
  info(): { isa: string, isas: string[], physicalCores: number }
  /** Bytes; a very large number where the system does not say. */
  availableMemory(): number
  /** Asks the driver once, off the JavaScript thread. */
  cudaDevices(): Promise<CudaDevices>
  /** Bytes that can be allocated on this one of `cudaDevices()` now. Starts to use it, which takes some of them. */
  cudaFreeMemory(device: number): Promise<number>
  /** Measures it, in about a fifth of a second. */
  cudaProbe(device: number): Promise<CudaLimits>
  /** `narrow`: names of the tables stored as bfloat16. null where the kernels take no such model. */
  cudaNeeds(spec: ModelSpec, dtype: WeightDtype, narrow: string[]): CudaNeeds | null
  /** With a dtype `tensors` are those of a packed file, in its order; a float32 model's tables may be float32, too. */
  describe(spec: ModelSpec, dtype?: WeightDtype): ModelDescription
  load(spec: ModelSpec, tensors: TensorSource[], files: string[], options: NativeLoadOptions): NativeJob<NativeModel>
  seeded(spec: ModelSpec, seed: number, options: NativeLoadOptions): NativeJob<NativeModel>
  /** Measures for each number of threads, about a quarter of a second each, off the JavaScript thread, reading 2^28 (the default) to 2^30 bytes. */
  probe(threads: number[], isa?: string, readBytes?: number): Promise<MachineLimits[]>
  /** The token that `decode` draws for absolute index `position` from `logits` (V), which stay as they are. */
  sample(sampler: NativeSampler, vocabSize: number, position: number, logits: Float32Array): number
  kernels: NativeKernels
}

/** The loaded addon. Throws ERR_BINDING_NOT_FOUND with what was looked for and what to do. */
export function native(): NativeBinding {
  try {
    return binding.load() as NativeBinding
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
    const place = `${process.platform}-${process.arch}`
    throw new NanochatError('ERR_BINDING_NOT_FOUND',
      `No native addon could be loaded for ${place}, Node ${process.versions.node}: ${reason} `
      + `Looked for build/Release/*.node and prebuilds/${place}/*.node in ${binding.packageRoot}; prebuilt there: ${prebuilt()}. `
      + 'Run `npm rebuild nanochat-node` (it needs python3, make and a C++ compiler where no prebuilt binary fits; npm 12 also wants `npm install-scripts approve nanochat-node`).', { cause })
  }
}

/**
 * Bytes that can be taken without swapping or being ended. process.availableMemory() takes the cache of files in a container for memory in
 * use: it knows almost none after a large file was read.
 */
export function availableMemory(): number {
  return process.platform === 'linux' ? native().availableMemory() : process.availableMemory()
}

function prebuilt(): string {
  try {
    return readdirSync(join(binding.packageRoot, 'prebuilds'), { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.node')).sort().join(', ') || 'none'
  } catch { return 'none' }
}
