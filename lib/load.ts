import { access } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import binding from './binding.cjs'
import type { Checkpoint, CheckpointOptions } from './checkpoint/checkpoint.js'
import { findCheckpoint, isPackedPath } from './checkpoint/find.js'
import { cpuBackend, runJob, typed } from './cpu-backend.js'
import { cudaBackend } from './cuda-backend.js'
import { chooseDevice, defaultCacheBytes, fallBack } from './device.js'
import { NanochatError, invalidArg } from './errors.js'
import { GPT, type GPTConfig } from './gpt.js'
import { linkedAbort } from './linked-abort.js'
import { native, type ModelSpec, type NativeJob, type NativeLoadOptions, type NativeModel, type NativeProgress, type WeightDtype } from './native.js'
import { checkInteger, checkKnown, checkSignal } from './options.js'
import type { Tokenizer } from './tokenizer.js'

// note: what reads files is imported when one is loaded: a third of the time that importing the package takes

/** Which checkpoint, and how it is held in memory. An option that is not known is ERR_INVALID_ARG. */
export interface LoadOptions {
  /** 'd24'; default: the largest d<N> on disk. Not with a directory, nor with the demo model. */
  modelTag?: string | undefined
  /** Training step, the number in model_<step>.pt; default: the last one. */
  step?: number | undefined
  /** Default: $NANOCHAT_BASE_DIR, else ~/.cache/nanochat. */
  baseDir?: string | undefined
  /** 'auto' takes a GPU where one works, else the CPU; an explicit device never falls back. */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | undefined
  /** Weights as held in memory; auto = bfloat16, as trained, or what a packed file has. int8 and int4 are rounded while loading, and for the CPU only. */
  dtype?: 'auto' | WeightDtype | undefined
  /** CPU threads; default: physical cores available to this process. */
  threads?: number | undefined
  /** CPU instruction set to use, one that `nanochat-node/kernels` lists; default: the best. */
  isa?: string | undefined
  /** Of the logits, where the checkpoint does not record it (MODEL.md 2); default: its generation's. */
  softcap?: number | undefined
  /** S and L for the windows of layers in turn, where the meta file misses it (MODEL.md 1); default: the meta file's, else 'L' with a warning. */
  windowPattern?: string | undefined
  /** Precision of the cosines and sines of RoPE; 'bfloat16' rounds them as nanochat did up to G4. Default 'float32'. */
  ropeTable?: 'float32' | 'bfloat16' | undefined
  /** Called a few dozen times while the weights are converted, or read from a packed file, in bytes. */
  onProgress?: ((progress: LoadProgress) => void) | undefined
  /** Ends the loading, which rejects with `signal.reason`. */
  signal?: AbortSignal | undefined
}

/** How far loading or converting is. */
export interface LoadProgress {
  /** 'read' and 'convert' weights, 'upload' to a GPU, 'write' while a checkpoint is converted to a file. */
  phase: 'read' | 'convert' | 'upload' | 'write'
  /** Done in this phase. */
  bytes: number
  /** Bytes of this phase. */
  total: number
}

/** A model with its tokenizer. Disposing it disposes the model. */
export interface Loaded extends AsyncDisposable {
  /** Computes logits. */
  model: GPT
  /** Of as many tokens as the model's vocabulary. */
  tokenizer: Tokenizer
  /** The checkpoint's meta file, or a Hugging Face directory's config.json. */
  meta: Record<string, unknown>
}

const loadKeys = ['modelTag', 'step', 'baseDir', 'device', 'dtype', 'threads', 'isa', 'softcap', 'windowPattern', 'ropeTable', 'onProgress', 'signal']

/**
 * Loads the `source`: the demo model of the package, or what nanochat's training left in its base directory, {base,chatsft,chatrl}_checkpoints.
 * Rejects with ERR_CHECKPOINT_NOT_FOUND, ERR_CHECKPOINT_FORMAT, ERR_CHECKPOINT_ARCH, ERR_TOKENIZER_FORMAT, ERR_TOKENIZER_MISMATCH,
 * ERR_OUT_OF_MEMORY, ERR_DEVICE_UNAVAILABLE, ERR_INVALID_ARG.
 */
export async function loadModel(source: 'demo' | 'base' | 'sft' | 'rl' = 'demo', options: LoadOptions = {}): Promise<Loaded> {
  checkOptions(options)
  if (source === 'demo') {
    for (const key of ['modelTag', 'baseDir'] as const) {
      if (options[key] !== undefined) throw invalidArg(key, "no value for source 'demo'", options[key])
    }
    return loadModelFromDir(join(binding.packageRoot, 'models', 'demo'), options)
  }
  if (source !== 'base' && source !== 'sft' && source !== 'rl') throw invalidArg('source', "'demo', 'base', 'sft' or 'rl'", source)
  const { modelTag, baseDir, ...rest } = options
  const { checkpointDir, tokenizerDir } = await findCheckpoint(source, { ...(modelTag === undefined ? {} : { modelTag }), ...(baseDir === undefined ? {} : { baseDir }) })
  return loadModelFromDir(checkpointDir, { ...rest, tokenizerDir })
}

/**
 * Loads `dir`: a directory with model_<step>.pt and meta_<step>.json, a Hugging Face one, or a file of {@link convertCheckpoint} by its
 * path or alone in a directory. The tokenizer is looked for in `tokenizerDir`, else in the directory itself, else where nanochat's layout
 * has it, ../../tokenizer. Rejects as `loadModel`.
 */
export async function loadModelFromDir(dir: string, options: LoadOptions & { tokenizerDir?: string | undefined } = {}): Promise<Loaded> {
  checkPath('dir', dir)
  checkOptions(options, [...loadKeys, 'tokenizerDir'])
  const { tokenizerDir, ...rest } = options
  const checkpoint = await openCheckpoint(dir, rest)
  const { loadTokenizer } = await import('./tokenizer.js')
  const tokenizer = await loadTokenizer(tokenizerDir ?? await findTokenizer(dir))
  const size = tokenizer.getVocabSize(), { vocabSize } = checkpoint.spec
  if (size !== vocabSize) throw new NanochatError('ERR_TOKENIZER_MISMATCH', `The tokenizer has ${size} tokens and the model ${vocabSize}. Pass the tokenizerDir that this model was trained with.`)
  const model = await loadWeights(checkpoint, rest)
  return { model, tokenizer, meta: checkpoint.meta, [Symbol.asyncDispose]: () => model[Symbol.asyncDispose]() }
}

/** Loads the model in `checkpointDir` alone, as {@link loadModelFromDir}; no tokenizer is needed. Rejects as `loadModel`. */
export async function loadGPT(checkpointDir: string, options: LoadOptions = {}): Promise<GPT> {
  checkPath('checkpointDir', checkpointDir)
  checkOptions(options)
  return loadWeights(await openCheckpoint(checkpointDir, options), options)
}

/**
 * A model of the newest generation, G6, of any shape `config`, whose weights are a formula of `seed` (an integer below 2^32), built in
 * memory: for benchmarks and tests of real sizes without a file. The formula is in docs/api.md. Rejects with ERR_INVALID_ARG,
 * ERR_OUT_OF_MEMORY, ERR_DEVICE_UNAVAILABLE.
 */
export async function seededGPT(config: GPTConfig, seed: number, options: LoadOptions = {}): Promise<GPT> {
  checkOptions(options)
  if (typeof config !== 'object' || config === null) throw invalidArg('config', 'an object of sizes', config)
  if (!(Number.isInteger(seed) && seed >= 0 && seed <= 0xffffffff)) throw invalidArg('seed', 'an integer from 0 to 4294967295', seed)
  for (const key of ['modelTag', 'step', 'baseDir'] as const) {
    if (options[key] !== undefined) throw invalidArg(key, 'no value for a seeded model', options[key])
  }
  const { softcap, windowPattern = config.windowPattern, ropeTable } = options
  const { sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd } = config
  return seededModel({
    generation: 'G6', sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd, windowPattern,
    ...(softcap === undefined ? {} : { softcap }), ...(ropeTable === undefined ? {} : { ropeTable })
  }, seed, options)
}

/** The same of any generation, for the tests. @internal */
export function seededModel(spec: ModelSpec, seed: number, options: LoadOptions): Promise<GPT> {
  return newGPT(spec, options, (nativeOptions) => native().seeded(spec, seed, nativeOptions))
}

/** What its headers and meta file say; no weights are read. */
async function openCheckpoint(dir: string, options: LoadOptions): Promise<Checkpoint> {
  const { modelTag, baseDir } = options
  if (modelTag !== undefined || baseDir !== undefined) throw invalidArg('modelTag and baseDir', 'no value when a directory is given', modelTag ?? baseDir)
  options.signal?.throwIfAborted()
  const { readCheckpoint } = await import('./checkpoint/checkpoint.js')
  const checkpoint = await readCheckpoint(dir, checkpointOptions(options))
  for (const warning of checkpoint.warnings) process.emitWarning(warning, 'NanochatWarning')
  return checkpoint
}

async function loadWeights({ spec, tensors, files, packed }: Checkpoint, options: LoadOptions): Promise<GPT> {
  const { dtype = 'auto' } = options
  if (packed !== undefined && dtype !== 'auto' && dtype !== packed) throw invalidArg('dtype', `'auto' or '${packed}', which ${files.join(', ')} was packed as,`, dtype)
  return newGPT(spec, packed === undefined ? options : { ...options, dtype: packed },
    (nativeOptions) => native().load(spec, tensors, files, { ...nativeOptions, packed: packed !== undefined }), packed !== undefined)
}

/** Of the options those that say how a checkpoint is read. */
export function checkpointOptions({ step, softcap, windowPattern, ropeTable }: LoadOptions): CheckpointOptions {
  return {
    ...(step === undefined ? {} : { step }), ...(softcap === undefined ? {} : { softcap }),
    ...(windowPattern === undefined ? {} : { windowPattern }), ...(ropeTable === undefined ? {} : { ropeTable })
  }
}

async function newGPT(spec: ModelSpec, options: LoadOptions, startJob: (options: NativeLoadOptions) => NativeJob<NativeModel>, isForCpu = false): Promise<GPT> {
  const { isa, signal } = options
  const dtype = options.dtype === undefined || options.dtype === 'auto' ? 'bfloat16' : options.dtype
  const nativeOptions: NativeLoadOptions = {
    dtype, threads: options.threads ?? 0, ...(isa === undefined ? {} : { isa }),
  }
  const start = (more: NativeLoadOptions): Promise<NativeModel> => reporting(options.onProgress, signal,
    (onProgress, signal) => runJob(() => startJob({ ...more, ...(onProgress === undefined ? {} : { onProgress }) }), signal), (model) => model.dispose())
  const { generation, sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd, windowPattern } = spec
  typed(() => native().describe(spec))
  const onCpu = () => start(nativeOptions)
  const onCuda = (cudaDevice: number) => start({ ...nativeOptions, cudaDevice })
  const choice = await chooseDevice(options.device ?? 'auto', { isForCpu: isForCpu || isa !== undefined || isCpuOnly(dtype) })
  const { model, device } = choice.cudaDevice === null ? { model: await onCpu(), device: 'cpu' }
    : await onCuda(choice.cudaDevice).then((model) => ({ model, device: choice.name }), (error: unknown) => fallBack(choice, error, onCpu))
  const backend = device === 'cpu' || choice.cudaDevice === null ? cpuBackend(model, vocabSize)
    : cudaBackend(model, vocabSize, device, await defaultCacheBytes(choice.cudaDevice, native().cudaNeeds(spec, dtype, [])).catch(async (error: unknown) => {
      await model.dispose()
      throw error
    }))
  return GPT.create({
    backend,
    config: { generation, sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd, windowPattern },
    device, dtype, numParams: model.numParams, memoryBytes: model.memoryBytes, dispose: () => model.dispose()
  })
}

/**
 * What `run` makes, where `report` calls `onProgress`. When that throws, the signal ends the work, and it rejects with what was thrown,
 * also at the end: `discard` then takes what was made.
 */
export async function reporting<T>(
  onProgress: LoadOptions['onProgress'], outer: AbortSignal | undefined,
  run: (report: NativeProgress | undefined, signal: AbortSignal | undefined) => Promise<T>, discard?: (made: T) => Promise<void>
): Promise<T> {
  if (onProgress === undefined) return run(undefined, outer)
  const { controller, unlink } = linkedAbort(outer)
  const thrown: unknown[] = []
  const report: NativeProgress = (phase, bytes, total) => {
    try {
      onProgress({ phase, bytes, total })
    } catch (error) {
      thrown.push(error)
      controller.abort(error)
    }
  }
  try {
    const made = await run(report, controller.signal)
    if (thrown.length === 0) return made
    await discard?.(made)
    throw thrown[0]
  } finally {
    unlink()
  }
}

/** The directory itself (or a packed file's) when it holds a tokenizer, else nanochat's place for it. */
export async function findTokenizer(checkpoint: string): Promise<string> {
  const dir = isPackedPath(checkpoint) ? dirname(checkpoint) : checkpoint
  for (const name of ['tokenizer.pkl', 'tokenizer.json']) {
    try {
      await access(join(dir, name))
      return dir
    } catch {
      continue
    }
  }
  return join(dir, '..', '..', 'tokenizer')
}

/** Throws ERR_INVALID_ARG. */
export function checkPath(name: string, path: unknown): void {
  if (typeof path !== 'string' || path === '') throw invalidArg(name, 'a path', path)
}

/** Throws ERR_INVALID_ARG, also for an option that is not in `keys`. */
export function checkOptions(options: LoadOptions, keys: readonly string[] = loadKeys): void {
  checkKnown(options, keys)
  checkSignal(options.signal)
  if (options.threads !== undefined) checkInteger('threads', options.threads, 1, 1024)
  for (const [key, value] of Object.entries(options)) if (value !== undefined) checkOption(key, value)
  if (isCpuOnly(options.dtype) && options.device?.startsWith('cuda')) throw invalidArg('dtype', `'auto', 'float32' or 'bfloat16' with device '${options.device}'`, options.dtype)
}

function isCpuOnly(dtype: LoadOptions['dtype']): boolean {
  return dtype === 'int8' || dtype === 'int4'
}

function checkOption(key: string, value: unknown): void {
  if (['modelTag', 'baseDir', 'tokenizerDir', 'isa'].includes(key) && typeof value !== 'string') throw invalidArg(key, 'a string', value)
  if (key === 'onProgress' && typeof value !== 'function') throw invalidArg(key, 'a function', value)
  if (key === 'dtype' && !['auto', 'float32', 'bfloat16', 'int8', 'int4'].includes(String(value))) throw invalidArg(key, "'auto', 'float32', 'bfloat16', 'int8' or 'int4'", value)
  if (key === 'device' && !(typeof value === 'string' && /^(?:auto|cpu|cuda|cuda:\d{1,3})$/.test(value))) throw invalidArg(key, "'auto', 'cpu', 'cuda' or 'cuda:<n>'", value)
}
