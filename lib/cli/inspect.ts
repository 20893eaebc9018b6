import { stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import binding from '../binding.cjs'
import { findCheckpoint, readCheckpoint } from '../checkpoint/checkpoint.js'
import { isPackedPath } from '../checkpoint/find.js'
import { isMatrix } from '../checkpoint/packed.js'
import { itemSize, numElements } from '../checkpoint/tensor.js'
import { cudaMemory, rowsThatFit, type DeviceMemory } from '../device.js'
import { NanochatError } from '../errors.js'
import { checkpointOptions } from '../load.js'
import { native, type CudaNeeds, type ModelSpec, type TensorSource, type WeightDtype } from '../native.js'
import { loadTokenizer } from '../tokenizer.js'
import type { Command } from './args.js'
import { jsonLine, short, withoutControls } from './terminal.js'

type BytesByType = Partial<Record<WeightDtype, number>>

/** `needs` by type, none where the kernels take no such model. `rows` of a full context fit beside it on that device. */
export interface CudaFit {
  needs: Partial<Record<WeightDtype, CudaNeeds>>
  devices: (DeviceMemory & { rows: BytesByType })[]
  reason: string | null
}

/** What `inspect` knows of a checkpoint. Sizes are bytes; a window of -1 is none. */
export interface Inspection {
  directory: string
  files: string[]
  generation: string
  config: { sequenceLen: number, vocabSize: number, nLayer: number, nHead: number, nKvHead: number, nEmbd: number, windowPattern: string }
  constants: { softcap: number, ropeBase: number, qkScale: number, maxPositions: number, windows: number[] }
  tensors: number
  parameters: number
  storedBytes: number
  fileBytes: number
  /** The dtype of a packed file, which loads as nothing else. */
  packed: WeightDtype | null
  /**
   * Weights alone; alignment adds a few per cent. Embedding tables stored as bfloat16 stay so in a float32 model. Of a packed file only
   * the matrices: its tables stay in the file.
   */
  weightBytes: BytesByType
  kvBytesPerToken: BytesByType
  /** On a CUDA device. */
  cuda: CudaFit
  tokenizer: { vocabSize: number } | { error: string }
  step: unknown
  warnings: string[]
}

/** Prints what the command's checkpoint is. Throws as `loadModel`. */
export async function inspect(command: Command): Promise<void> {
  const inspection = await inspectCheckpoint(command)
  process.stdout.write(command.json ? jsonLine(inspection) : withoutControls(asText(inspection)))
}

/** Reads headers only, no weights; a tokenizer that is missing or does not fit is reported, not thrown. */
async function inspectCheckpoint({ model, load }: Command): Promise<Inspection> {
  const { directory, tokenizerDirs } = await locate(model, load.modelTag)
  const { spec, tensors, files, packed, meta, warnings } = await readCheckpoint(directory, checkpointOptions(load))
  const description = native().describe(spec)
  const { generation, sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd } = spec
  const parameters = sum(description.tensors.map(({ shape }) => numElements(shape) ?? 0))
  const narrowTables = new Set(tensors.filter(({ name, dtype }) => dtype === 'bfloat16' && /wte|value_embeds/.test(name)).map(({ name }) => name))
  const cached = 2 * nLayer * nKvHead * (nEmbd / nHead)
  return {
    directory, files, generation,
    config: { sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd, windowPattern: spec.windowPattern },
    constants: {
      softcap: description.softcap, ropeBase: description.ropeBase, qkScale: description.qkScale,
      maxPositions: description.maxPositions, windows: description.windows
    },
    tensors: tensors.length,
    parameters,
    storedBytes: sum(tensors.map(storedSize)),
    fileBytes: sum(await Promise.all(files.map(async (file) => (await stat(file)).size))),
    packed: packed ?? null,
    weightBytes: packed !== undefined ? { [packed]: sum(tensors.filter(({ name }) => isMatrix(name)).map(storedSize)) } : {
      float32: sum(description.tensors.map(({ name, shape }) => (narrowTables.has(name) ? 2 : 4) * (numElements(shape) ?? 0))),
      bfloat16: 2 * parameters
    },
    cuda: await cudaFit(spec, packed === undefined, [...narrowTables]),
    kvBytesPerToken: { ...(packed === undefined || packed === 'float32' ? { float32: 4 * cached } : {}), ...(packed === 'float32' ? {} : { bfloat16: 2 * cached }) },
    tokenizer: await inspectTokenizer(tokenizerDirs, vocabSize),
    step: meta.step ?? null,
    warnings
  }
}

async function cudaFit(spec: ModelSpec, isForCuda: boolean, narrow: string[]): Promise<CudaFit> {
  const needs: CudaFit['needs'] = {}
  for (const dtype of isForCuda ? ['float32', 'bfloat16'] as const : []) {
    const ofType = native().cudaNeeds(spec, dtype, narrow)
    if (ofType !== null) needs[dtype] = ofType
  }
  const { devices, reason } = await cudaMemory()
  const rowsOn = (freeBytes: number): BytesByType => Object.fromEntries(Object.entries(needs).map(([dtype, ofType]) => [dtype, rowsThatFit(ofType, spec.sequenceLen, freeBytes)]))
  return { needs, devices: devices.map((device) => ({ ...device, rows: rowsOn(device.freeBytes) })), reason }
}

/** Where the command's checkpoint is, and where its tokenizer may be. */
export async function locate(model: Command['model'], modelTag: string | undefined): Promise<{ directory: string, tokenizerDirs: string[] }> {
  if ('dir' in model) {
    const near = isPackedPath(model.dir) ? dirname(model.dir) : model.dir
    return { directory: model.dir, tokenizerDirs: model.tokenizerDir === undefined ? [near, join(near, '..', '..', 'tokenizer')] : [model.tokenizerDir] }
  }
  if (model.source === 'demo') {
    const directory = join(binding.packageRoot, 'models', 'demo')
    return { directory, tokenizerDirs: [directory] }
  }
  const { checkpointDir, tokenizerDir } = await findCheckpoint(model.source, modelTag === undefined ? {} : { modelTag })
  return { directory: checkpointDir, tokenizerDirs: [tokenizerDir] }
}

async function inspectTokenizer(dirs: readonly string[], vocabSize: number): Promise<Inspection['tokenizer']> {
  let missing = 'none'
  for (const dir of dirs) {
    try {
      const size = (await loadTokenizer(dir)).getVocabSize()
      return size === vocabSize ? { vocabSize: size } : { error: `ERR_TOKENIZER_MISMATCH: it has ${size} tokens and the model ${vocabSize}.` }
    } catch (error) {
      if (!NanochatError.is(error)) throw error
      missing = `${error.code}: ${error.message}`
      if (error.code !== 'ERR_CHECKPOINT_NOT_FOUND') break
    }
  }
  return { error: missing }
}

function asText(inspection: Inspection): string {
  const { config, constants, weightBytes, kvBytesPerToken, tokenizer } = inspection
  const byType = (bytes: BytesByType, times = 1): string => Object.entries(bytes).reverse().map(([dtype, count]) => `${short(times * count, 'B')} as ${dtype}`).join(', ')
  const rows: [string, string][] = [
    ['directory', inspection.directory],
    ['generation', `${inspection.generation}${inspection.step === null ? '' : `, step ${String(inspection.step)}`}`],
    ['shape', `${config.nLayer} layers, n_embd ${config.nEmbd}, ${config.nHead} heads of ${config.nEmbd / config.nHead}, ${config.nKvHead} of keys and values, vocabulary ${config.vocabSize}`],
    ['context', `${config.sequenceLen} tokens, ${constants.maxPositions} positions at most`],
    ['windows', `${config.windowPattern}: ${constants.windows.map((window) => window < 0 ? 'all' : window).join(' ')}`],
    ['constants', `softcap ${constants.softcap}, rope base ${constants.ropeBase}, q and k x ${Number(constants.qkScale.toPrecision(6))}`],
    ['parameters', `${short(inspection.parameters)} in ${inspection.tensors} tensors`],
    ['stored', `${short(inspection.storedBytes, 'B')} of weights, ${short(inspection.fileBytes, 'B')} in ${inspection.files.length} file${inspection.files.length === 1 ? '' : 's'}`],
    ['in memory', `${byType(weightBytes)}${inspection.packed === null ? '' : ', packed; the embedding tables stay in the file'}`],
    ['KV per token', byType(kvBytesPerToken)],
    ['KV per context', byType(kvBytesPerToken, config.sequenceLen)],
    ...cudaRows(inspection),
    ['tokenizer', 'error' in tokenizer ? tokenizer.error : `${tokenizer.vocabSize} tokens`],
    ...inspection.warnings.map((warning): [string, string] => ['warning', warning])
  ]
  return rows.map(([name, value]) => `${name.padEnd(16)}${value}\n`).join('')
}

function cudaRows({ cuda: { needs, devices, reason }, packed, config: { sequenceLen } }: Inspection): [string, string][] {
  const types = Object.entries(needs).reverse()
  const none = packed !== null ? 'a packed file is for the CPU' : 'heads of more than 128 are for the CPU'
  const each = types.map(([dtype, { weightBytes, workingBytes, kvBytesPerToken }]) => `${short(weightBytes + workingBytes, 'B')} as ${dtype} and ${short(kvBytesPerToken * sequenceLen, 'B')} per context`)
  return [
    ['on CUDA', types.length === 0 ? none : each.join(', ')],
    ...types.length === 0 ? [] : reason !== null ? [['  no device', reason] as [string, string]] : devices.map(({ device, name, freeBytes, totalBytes, rows }): [string, string] => [
      `  ${device}`, `${name}, ${short(freeBytes, 'B')} free of ${short(totalBytes, 'B')}: ${types.map(([dtype]) => `${rows[dtype as WeightDtype] ?? 0} rows of ${sequenceLen} tokens as ${dtype}`).join(', ')}`
    ])
  ]
}

function storedSize({ shape, dtype }: TensorSource): number {
  return (numElements(shape) ?? 0) * itemSize[dtype]
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, n) => total + n, 0)
}
