import { basename } from 'node:path'
import { NanochatError, describe } from '../errors.js'
import type { ModelSpec, TensorSource, WeightDtype } from '../native.js'
import type { Checkpoint } from './checkpoint.js'
import { describeSpec, isVocabularyTable } from './detect.js'
import { damaged, isRecord } from './file.js'
import { dimension, isWindowPattern } from './meta.js'
import { readSafetensorsWithBytes } from './safetensors.js'

const format = 'nanochat-node packed'
const version = '1'
const matrixAlignment = 64
const generations = ['G1', 'G2', 'G3', 'G4', 'G5', 'G6', 'HF'] as const
const dtypes = ['float32', 'bfloat16', 'int8', 'int4'] as const

/** What a packed file says of itself in `__metadata__`, as JSON: all that its tensors do not. */
export function packedMetadata(spec: ModelSpec, dtype: WeightDtype, meta: Record<string, unknown>): string {
  const { softcap, ropeBase } = describeSpec(spec, 'the model')
  const whole: ModelSpec = { softcap, ropeBase, normEps: 2 ** -23, mlpHidden: 4 * spec.nEmbd, ropeTable: 'float32', ...spec }
  return JSON.stringify({ format, version, dtype, spec: JSON.stringify(whole), meta: JSON.stringify(meta) })
}

/** Whether a packed file has this tensor in panels. */
export function isMatrix(name: string): boolean {
  return name === 'lm_head.weight' || /\.(?:c_qkv|c_proj|c_fc)\.weight$/.test(name)
}

/** Reads the header of a file that `nanochat-node quantize` wrote. Throws ERR_CHECKPOINT_FORMAT and, for one of another version, ERR_CHECKPOINT_ARCH. */
export async function readPacked(path: string): Promise<Checkpoint> {
  const fileName = basename(path)
  const { tensors, metadata } = await readSafetensorsWithBytes(path)
  if (!isRecord(metadata) || metadata.format !== format) {
    throw new NanochatError('ERR_CHECKPOINT_FORMAT', `${fileName} is not a file that nanochat-node quantize wrote. A Hugging Face model needs its config.json beside it.`)
  }
  if (metadata.version !== version) throw otherVersion(fileName, `version ${describe(metadata.version)} of its format; this one reads version "${version}"`)
  const dtype = dtypes.find((known) => known === metadata.dtype)
  if (dtype === undefined) throw otherVersion(fileName, `the dtype ${describe(metadata.dtype)}`)
  const spec = readSpec(jsonRecord(metadata.spec, 'spec', fileName), fileName)
  requirePackedTensors(spec, dtype, tensors, fileName)
  return { spec, tensors, files: [path], packed: dtype, meta: jsonRecord(metadata.meta, 'meta', fileName), warnings: [] }
}

function otherVersion(fileName: string, what: string): NanochatError {
  return new NanochatError('ERR_CHECKPOINT_ARCH', `${fileName} has ${what}. Write it again from the checkpoint with nanochat-node quantize.`)
}

function jsonRecord(text: unknown, key: string, fileName: string): Record<string, unknown> {
  let value: unknown
  try {
    value = typeof text === 'string' ? JSON.parse(text) : undefined
  } catch (cause) {
    throw damaged(fileName, `expected JSON for ${key} in its metadata`, cause)
  }
  if (!isRecord(value)) throw damaged(fileName, `expected a JSON object for ${key} in its metadata`)
  return value
}

function readSpec(stored: Record<string, unknown>, fileName: string): ModelSpec {
  const number = (key: string): number => {
    const value = stored[key]
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    throw damaged(fileName, `expected ${key} to be a positive number but found ${describe(value)}`)
  }
  const size = (key: string): number => dimension(stored, key, fileName)
  const { windowPattern, ropeTable } = stored
  const generation = generations.find((known) => known === stored.generation)
  if (generation === undefined) throw otherVersion(fileName, `the generation ${describe(stored.generation)}`)
  if (!isWindowPattern(windowPattern)) throw damaged(fileName, `expected windowPattern to be letters S and L but found ${describe(windowPattern)}`)
  if (ropeTable !== 'float32' && ropeTable !== 'bfloat16') throw damaged(fileName, `expected ropeTable to be float32 or bfloat16 but found ${describe(ropeTable)}`)
  const spec: Required<ModelSpec> = {
    generation, sequenceLen: size('sequenceLen'), vocabSize: size('vocabSize'), nLayer: size('nLayer'), nHead: size('nHead'), nKvHead: size('nKvHead'), nEmbd: size('nEmbd'),
    windowPattern, mlpHidden: size('mlpHidden'), softcap: number('softcap'), ropeBase: number('ropeBase'), normEps: number('normEps'), ropeTable
  }
  const unknown = Object.keys(stored).filter((key) => !Object.hasOwn(spec, key))
  if (unknown.length > 0) throw otherVersion(fileName, `settings this version does not know: ${unknown.slice(0, 6).map((key) => key.slice(0, 100)).join(', ')}`)
  return spec
}

/** Requires exactly the tensors that the addon would write, in name, type and shape, matrices at multiples of 64 bytes. */
function requirePackedTensors(spec: ModelSpec, dtype: WeightDtype, tensors: readonly TensorSource[], fileName: string): void {
  const expected = new Map(describeSpec(spec, fileName, dtype).tensors.map((tensor) => [tensor.name, tensor]))
  const isTable = (name: string): boolean => isVocabularyTable(name) && !isMatrix(name)
  const text = ({ dtype = '', shape }: { dtype?: string, shape: readonly number[] }): string => `${dtype} (${shape.join(', ')})`
  for (const tensor of tensors) {
    const wanted = expected.get(tensor.name)
    if (wanted === undefined) throw otherVersion(fileName, `a tensor this version does not know: ${tensor.name.slice(0, 100)}`)
    expected.delete(tensor.name)
    const isWideTable = dtype === 'float32' && isTable(tensor.name) && tensor.dtype === 'float32'
    const actual = isWideTable ? { ...tensor, dtype: wanted.dtype ?? tensor.dtype } : tensor
    if (text(actual) !== text(wanted)) throw otherVersion(fileName, `${tensor.name} as ${text(tensor)}, not ${text(wanted)}`)
    const alignment = isMatrix(tensor.name) ? matrixAlignment : 4
    if (tensor.offset % alignment !== 0) throw damaged(fileName, `expected ${tensor.name} at a multiple of ${alignment} bytes but it is at ${tensor.offset}`)
  }
  const [missing] = expected.keys()
  if (missing !== undefined) throw damaged(fileName, `tensor ${missing} is missing`)
}
