import { join } from 'node:path'
import { NanochatError, invalidArg } from '../errors.js'
import type { ModelSpec, TensorSource, WeightDtype } from '../native.js'
import { detectGeneration, requireTensors } from './detect.js'
import { isRecord, readJsonObject } from './file.js'
import { chooseStep, isPackedPath, listDirectory } from './find.js'
import { readHf } from './hf.js'
import { isWindowPattern, modelConfig, softcapOf } from './meta.js'
import { readPacked } from './packed.js'
import { readPt } from './pt.js'

export { findCheckpoint } from './find.js'

/** A checkpoint, understood but not loaded: what it computes and where each tensor lies. */
export interface Checkpoint {
  spec: ModelSpec
  tensors: TensorSource[]          // exactly those of the spec, names as nanochat's
  files: string[]                  // TensorSource.file is an index into these
  packed?: WeightDtype             // of a packed file, whose tensors are the addon's own
  meta: Record<string, unknown>    // the meta file, or config.json of a Hugging Face directory
  warnings: string[]
}

/** What a checkpoint may not record (MODEL.md 2), and which of its steps. */
export interface CheckpointOptions {
  step?: number                    // default: the last one
  softcap?: number
  windowPattern?: string
  ropeTable?: 'float32' | 'bfloat16'
}

const maxMetaBytes = 1 << 20       // nanochat's are about 2 KB

/**
 * Reads the headers of a checkpoint directory, nanochat's (model_<step>.pt and meta_<step>.json) or a Hugging Face one, or of a
 * packed file, by its path or alone in a directory; never tensor data. Executes nothing. Throws ERR_CHECKPOINT_NOT_FOUND, ERR_CHECKPOINT_FORMAT (damaged), ERR_CHECKPOINT_ARCH (not
 * a model this version computes) and ERR_INVALID_ARG.
 */
export async function readCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions(options)
  if (isPackedPath(dir)) return withPackedOptions(await readPacked(dir), options)
  const names = await listDirectory(dir, 'Pass a directory with model_<step>.pt and meta_<step>.json, or a Hugging Face one.')
  if (names.some((name) => /^model_\d+\.pt$/.test(name))) return readNanochat(dir, names, options)
  if (!names.includes('config.json')) return withPackedOptions(await readPacked(join(dir, onlyPacked(dir, names))), options)

  if (options.step !== undefined) throw invalidArg('step', 'no step for a Hugging Face directory', options.step)
  const { checkpoint, fileName, nameInFile } = await readHf(dir, names)
  const spec = withOptions(checkpoint.spec, options)
  requireTensors(spec, checkpoint.tensors, fileName, nameInFile)
  return { ...checkpoint, spec }
}

async function readNanochat(dir: string, names: readonly string[], options: CheckpointOptions): Promise<Checkpoint> {
  const files = chooseStep(dir, names, options.step)
  const meta = await readJsonObject(join(dir, files.meta), maxMetaBytes)
  const { dimensions, windowPattern } = modelConfig(meta, files.meta)
  const path = join(dir, files.model)
  const tensors = await readPt(path, 0)
  const generation = detectGeneration(tensors, (windowPattern ?? options.windowPattern) !== undefined, files.model)
  const hasWindows = generation !== 'G1' && generation !== 'G2'
  const isPatternKnown = !hasWindows || windowPattern !== undefined || options.windowPattern !== undefined
  const softcap = softcapOf(generation, meta)
  const spec = withOptions({
    generation, ...dimensions, windowPattern: hasWindows ? windowPattern ?? 'L' : 'L', ...(softcap === undefined ? {} : { softcap })
  }, options)
  requireTensors(spec, tensors, files.model)
  return { spec, tensors, files: [path], meta, warnings: isPatternKnown ? [] : [noWindowPattern(files.meta, meta)] }
}

function withPackedOptions(checkpoint: Checkpoint, options: CheckpointOptions): Checkpoint {
  if (options.step !== undefined) throw invalidArg('step', 'no step for a packed file', options.step)
  return { ...checkpoint, spec: withOptions(checkpoint.spec, options) }
}

function onlyPacked(dir: string, names: readonly string[]): string {
  const [first, ...others] = names.filter(isPackedPath)
  if (first === undefined) throw nothingToLoad(dir, names)
  if (others.length === 0) return first
  throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND', `Expected one packed file in ${dir} but found ${[first, ...others].slice(0, 10).join(', ')}. Pass the path of one of them.`)
}

function checkOptions({ step, softcap, windowPattern, ropeTable }: CheckpointOptions): void {
  if (step !== undefined && !(Number.isSafeInteger(step) && step >= 0)) throw invalidArg('step', 'a whole number', step)
  if (softcap !== undefined && !(typeof softcap === 'number' && softcap > 0 && softcap < 1e6)) {
    throw invalidArg('softcap', 'a positive number', softcap)
  }
  if (windowPattern !== undefined && !isWindowPattern(windowPattern)) {
    throw invalidArg('windowPattern', 'letters S and L', windowPattern)
  }
  if (ropeTable !== undefined && ropeTable !== 'float32' && ropeTable !== 'bfloat16') {
    throw invalidArg('ropeTable', "'float32' or 'bfloat16'", ropeTable)
  }
}

function withOptions(spec: ModelSpec, { softcap, windowPattern, ropeTable }: CheckpointOptions): ModelSpec {
  const hasWindows = spec.generation !== 'G1' && spec.generation !== 'G2' && spec.generation !== 'HF'
  if (windowPattern !== undefined && !hasWindows) {
    throw invalidArg('windowPattern', `no pattern for a ${spec.generation} model, which has no windows,`, windowPattern)
  }
  return {
    ...spec,
    ...(softcap === undefined ? {} : { softcap }),
    ...(windowPattern === undefined ? {} : { windowPattern }),
    ...(ropeTable === undefined ? {} : { ropeTable })
  }
}

function noWindowPattern(metaName: string, { user_config: userConfig }: Record<string, unknown>): string {
  const pattern = isRecord(userConfig) ? userConfig.window_pattern : undefined
  const trained = isWindowPattern(pattern) ? ` (its user_config says "${pattern.slice(0, 40)}")` : ''
  return `${metaName} has no window_pattern in model_config${trained}: read as "L", as nanochat does. Pass windowPattern to use another.`
}

function nothingToLoad(dir: string, names: readonly string[]): NanochatError {
  const tags = names.filter((name) => /^d\d+$/.test(name))
  const found = tags.length > 0 ? `It has the model tags ${tags.slice(0, 20).join(', ')}: pass one of these directories.`
    : names.length > 10 ? `Found ${names.slice(0, 10).join(', ')}, and ${names.length - 10} more.`
      : names.length > 0 ? `Found ${names.join(', ')}.` : 'It is empty.'
  return new NanochatError('ERR_CHECKPOINT_NOT_FOUND',
    `Expected model_<step>.pt and meta_<step>.json, or a Hugging Face config.json, in ${dir}. ${found}`)
}
