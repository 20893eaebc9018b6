import { readdir } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { NanochatError } from '../errors.js'

export function isPackedPath(path: string): boolean {
  return path.endsWith('.safetensors')
}

const sourceDirs = { base: 'base_checkpoints', sft: 'chatsft_checkpoints', rl: 'chatrl_checkpoints' }

/**
 * Where nanochat keeps a model: `<base>/{base,chatsft,chatrl}_checkpoints/<tag>`, the largest `d<N>` when no tag is given,
 * and `<base>/tokenizer`; `<base>` is baseDir, $NANOCHAT_BASE_DIR or ~/.cache/nanochat (MODEL.md 3).
 * Throws ERR_CHECKPOINT_NOT_FOUND with the tags that are there.
 */
export async function findCheckpoint(
  source: 'base' | 'sft' | 'rl', options: { modelTag?: string, baseDir?: string } = {}
): Promise<{ checkpointDir: string, tokenizerDir: string }> {
  const baseDir = options.baseDir ?? (process.env.NANOCHAT_BASE_DIR || join(homedir(), '.cache', 'nanochat'))
  const sourceDir = join(baseDir, sourceDirs[source])
  const tags = await listDirectory(sourceDir, 'Set NANOCHAT_BASE_DIR or pass baseDir, or load a directory by its path.')
  const tag = options.modelTag ?? largestTag(tags)
  if (tag === undefined || !tags.includes(tag)) {
    throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND',
      `No model ${tag ?? 'd<N>'} in ${sourceDir}. `
        + (tags.length > 0 ? `Pass one of these as modelTag: ${tags.join(', ')}.` : 'It is empty.'))
  }
  return { checkpointDir: join(sourceDir, tag), tokenizerDir: join(baseDir, 'tokenizer') }
}

/** The step's files among `names`: the last step when none is asked for. Throws ERR_CHECKPOINT_NOT_FOUND with the steps that are there. */
export function chooseStep(dir: string, names: readonly string[], step: number | undefined): { model: string, meta: string } {
  const steps = names.flatMap((name) => /^model_(\d{1,15})\.pt$/.exec(name)?.[1] ?? []).sort((a, b) => Number(a) - Number(b))
  const chosen = step === undefined ? steps.at(-1) : steps.find((digits) => Number(digits) === step)
  if (chosen === undefined) {
    throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND', `No step ${step} in ${dir}. It has the steps ${steps.map(Number).join(', ')}.`)
  }
  const meta = `meta_${chosen}.json`
  if (!names.includes(meta)) {
    throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND',
      `${dir} has model_${chosen}.pt but not ${meta}, which nanochat writes beside it. Copy both.`)
  }
  return { model: `model_${chosen}.pt`, meta }
}

/** Names in `dir`, sorted. Throws ERR_CHECKPOINT_NOT_FOUND with `hint`. */
export async function listDirectory(dir: string, hint: string): Promise<string[]> {
  try {
    return (await readdir(dir)).sort()
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
    const what = code === 'ENOENT' ? 'does not exist'
      : code === 'ENOTDIR' ? 'is a file; pass the directory it is in' : `cannot be read (${code})`
    throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND', `${dir} ${what}. ${hint}`, { cause })
  }
}

function largestTag(tags: readonly string[]): string | undefined {
  return tags.filter((tag) => /^d\d{1,6}$/.test(tag)).sort((a, b) => Number(a.slice(1)) - Number(b.slice(1))).at(-1)
}
