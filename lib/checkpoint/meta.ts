import { describe } from '../errors.js'
import type { ModelSpec } from '../native.js'
import { damaged, isRecord } from './file.js'

/** The numbers of an architecture, as every layout of a checkpoint states them. */
export type Dimensions = Pick<ModelSpec, 'sequenceLen' | 'vocabSize' | 'nLayer' | 'nHead' | 'nKvHead' | 'nEmbd'>

/** `model_config` of a meta file (MODEL.md 3). How the numbers fit together is the addon's to check. Throws ERR_CHECKPOINT_FORMAT. */
export function modelConfig(
  meta: Record<string, unknown>, fileName: string
): { dimensions: Dimensions, windowPattern: string | undefined } {
  const config = meta.model_config
  if (!isRecord(config)) throw damaged(fileName, `expected model_config to be an object but found ${describe(config)}`)
  return {
    dimensions: {
      sequenceLen: dimension(config, 'sequence_len', fileName), vocabSize: dimension(config, 'vocab_size', fileName),
      nLayer: dimension(config, 'n_layer', fileName), nHead: dimension(config, 'n_head', fileName),
      nKvHead: dimension(config, 'n_kv_head', fileName), nEmbd: dimension(config, 'n_embd', fileName)
    },
    windowPattern: windowPattern(config.window_pattern, fileName)
  }
}

/**
 * The softcap of G4 is not in the file: it rose from 15 to 20 together with the evaluation tokens of base training
 * (MODEL.md 2). undefined: the generation's default.
 */
export function softcapOf(generation: ModelSpec['generation'], meta: Record<string, unknown>): number | undefined {
  const { user_config: userConfig } = meta
  return generation === 'G4' && isRecord(userConfig) && userConfig.eval_tokens === 41_943_040 ? 20 : undefined
}

/** A size of the model: a whole number from 1 to 2^24. */
export function dimension(config: Record<string, unknown>, key: string, fileName: string): number {
  const value = config[key]
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 1 << 24) return value
  throw damaged(fileName, `expected ${key} to be a whole number from 1 to ${1 << 24} but found ${describe(value)}`)
}

export function isWindowPattern(value: unknown): value is string {
  return typeof value === 'string' && /^[SL]{1,1024}$/i.test(value)
}

function windowPattern(value: unknown, fileName: string): string | undefined {
  if (value === undefined || value === null) return undefined
  if (!isWindowPattern(value)) throw damaged(fileName, `expected window_pattern to be letters S and L but found ${describe(value)}`)
  return value
}
