import { NanochatError } from '../errors.js'
import { native, type ModelDescription, type ModelSpec, type TensorSource, type WeightDtype } from '../native.js'

const veGate = /^transformer\.h\.\d+\.attn\.ve_gate\.weight$/

/**
 * Which of nanochat's generations wrote these tensors, by what they are called (MODEL.md 2, in its order).
 * Throws ERR_CHECKPOINT_ARCH for the experiments that lived a day or two.
 */
export function detectGeneration(tensors: readonly TensorSource[], hasWindowPattern: boolean, fileName: string): ModelSpec['generation'] {
  const names = new Set(tensors.map((tensor) => tensor.name))
  const veGateChannels = tensors.find((tensor) => veGate.test(tensor.name))?.shape[1]
  if (names.has('smear_lambda')) return 'G6'
  if (veGateChannels === 12) return 'G5'
  if (names.has('bigram_lambdas')) {
    throw refusedExperiment(fileName, [...names].filter((name) => name.startsWith('bigram_')), '2026-01-27/28 only (engram experiment)')
  }
  if (veGateChannels === 32) return 'G4'
  const oneDay = ['value_embed_A.weight', 'value_embed_B.weight', 'value_embed.weight', 'v0_lambdas']
  if (oneDay.some((name) => name !== 'value_embed_B.weight' && names.has(name))) {
    throw refusedExperiment(fileName, oneDay.filter((name) => names.has(name)), '2026-01-16 only (value embedding experiments)')
  }
  if (names.has('resid_lambdas')) return hasWindowPattern ? 'G3' : 'G2'
  return 'G1'
}

/**
 * Requires exactly the tensors of `spec`, in name and shape (MODEL.md 2). The vocabulary tables may all have rows up to
 * the next multiple of 64. `nameInFile` gives the name a message should show. Throws ERR_CHECKPOINT_ARCH.
 */
export function requireTensors(
  spec: ModelSpec, tensors: readonly TensorSource[], fileName: string, nameInFile = (name: string): string => name
): void {
  const expected = new Map(describeSpec(spec, fileName).tensors.map((tensor) => [tensor.name, tensor.shape]))
  const found = new Map(tensors.map((tensor) => [tensor.name, tensor.shape]))
  const unknown = [...found.keys()].filter((name) => !expected.has(name))
  if (unknown.length > 0) throw unknownTensors(fileName, unknown.map(nameInFile))
  const missing = [...expected.keys()].filter((name) => !found.has(name))
  if (missing.length > 0) {
    throw new NanochatError('ERR_CHECKPOINT_ARCH',
      `${fileName} lacks tensors of a ${spec.generation} model with ${spec.nLayer} layers: ${someNames(missing.map(nameInFile))}.`)
  }

  const paddedRows = Math.ceil(spec.vocabSize / 64) * 64
  const fileRows = found.get('transformer.wte.weight')?.[0]
  const vocabRows = fileRows === paddedRows ? paddedRows : spec.vocabSize
  for (const [name, shape] of expected) {
    const rows = isVocabularyTable(name) ? vocabRows : shape[0]
    const wanted = [rows, ...shape.slice(1)].join(', ')
    const actual = (found.get(name) ?? []).join(', ')
    if (wanted !== actual) {
      throw new NanochatError('ERR_CHECKPOINT_ARCH',
        `${fileName}: expected ${nameInFile(name)} to be (${wanted}) but it is (${actual}). `
        + 'The model\'s configuration and its tensors disagree.')
    }
  }
}

export function unknownTensors(fileName: string, names: readonly string[]): NanochatError {
  return new NanochatError('ERR_CHECKPOINT_ARCH', `${fileName} has tensors this version does not know: ${someNames(names)}.\n`
    + '  Supported: nanochat checkpoints since 2025-10-13 and their Hugging Face form (NanoChatForCausalLM).')
}

function refusedExperiment(fileName: string, names: readonly string[], when: string): NanochatError {
  return new NanochatError('ERR_CHECKPOINT_ARCH', `${fileName} has tensors this version does not know: ${someNames(names)}.\n`
    + `  nanochat had them on ${when}. Supported: every other checkpoint since 2025-10-13.`)
}

/** The addon checks how the numbers of a configuration fit together; its message gets the file's name. */
export function describeSpec(spec: ModelSpec, fileName: string, packedDtype?: WeightDtype): ModelDescription {
  const addon = native()
  try {
    return addon.describe(spec, packedDtype)
  } catch (cause) {
    throw new NanochatError('ERR_CHECKPOINT_ARCH', `${fileName}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}

export function isVocabularyTable(name: string): boolean {
  return name === 'transformer.wte.weight' || name === 'lm_head.weight' || name.startsWith('value_embeds.')
}

function someNames(names: readonly string[]): string {
  const shown = names.slice(0, 6).map((name) => name.slice(0, 100)).join(', ')
  return names.length > 6 ? `${shown} and ${names.length - 6} more` : shown
}
