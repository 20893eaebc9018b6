import { access, copyFile, mkdir, open, realpath, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { isPackedPath } from './checkpoint/find.js'
import { runJob } from './cpu-backend.js'
import { NanochatError, invalidArg } from './errors.js'
import { checkOptions, checkPath, checkpointOptions, findTokenizer, reporting, type LoadOptions } from './load.js'
import { native, type WeightDtype } from './native.js'

/** Those of loading that apply, where `dtype` is the file's: 'auto' is 'bfloat16'. What a checkpoint may not record is recorded. */
export interface ConvertOptions extends Pick<LoadOptions, 'step' | 'dtype' | 'threads' | 'softcap' | 'windowPattern' | 'ropeTable' | 'onProgress' | 'signal'> {
  /** Default: where loading looks for it. */
  tokenizerDir?: string | undefined
}

/** What was written. */
export interface Converted {
  /** Its path. */
  file: string
  /** Its size. */
  bytes: number
  /** Of its matrices. */
  dtype: WeightDtype
  /** The copy beside the file; null when the checkpoint has no tokenizer near it. */
  tokenizer: string | null
}

const convertKeys = ['step', 'dtype', 'threads', 'softcap', 'windowPattern', 'ropeTable', 'onProgress', 'signal', 'tokenizerDir']

/**
 * Converts the checkpoint in `dir` to one safetensors file that loads without conversion: `out` itself when it ends with .safetensors, else
 * model-<dtype>.safetensors in the directory `out`. The tokenizer is copied beside it. A file that is there already is replaced,
 * at the end and at once. Rejects as `loadModel`, and with ERR_CHECKPOINT_WRITE.
 */
export async function convertCheckpoint(dir: string, out: string, options: ConvertOptions = {}): Promise<Converted> {
  checkPath('dir', dir)
  checkPath('out', out)
  checkOptions(options, convertKeys)
  const { onProgress, tokenizerDir } = options
  const dtype = options.dtype === undefined || options.dtype === 'auto' ? 'bfloat16' : options.dtype
  options.signal?.throwIfAborted()
  const [{ readCheckpoint }, { packedMetadata }] = await Promise.all([import('./checkpoint/checkpoint.js'), import('./checkpoint/packed.js')])
  const { spec, tensors, files, packed, meta, warnings } = await readCheckpoint(dir, checkpointOptions(options))
  if (packed !== undefined) throw invalidArg('dir', `a checkpoint as it was trained, not one that is packed as ${packed} already,`, dir)
  if (tokenizerDir !== undefined) await (await import('./tokenizer.js')).loadTokenizer(tokenizerDir)
  for (const warning of warnings) process.emitWarning(warning, 'NanochatWarning')
  const metadata = packedMetadata(spec, dtype, meta)

  const file = isPackedPath(out) ? out : join(out, `model-${dtype}.safetensors`)
  await writable(() => mkdir(dirname(file), { recursive: true }))
  await refuseSource(file, files)
  await replaced(file, (temporary) => reporting(onProgress, options.signal, async (report, signal) => {
    const reported = report === undefined ? {} : { onProgress: report }
    const model = await runJob(() => native().load(spec, tensors, files, { dtype, threads: options.threads ?? 0, ...reported }), signal)
    try {
      await runJob(() => model.save(temporary, metadata, report), signal)
    } finally {
      await model.dispose()
    }
    signal?.throwIfAborted()                     // came too late for the job, but the file is not in its place yet
  }))
  return { file, bytes: (await stat(file)).size, dtype, tokenizer: await copyTokenizer(tokenizerDir ?? await findTokenizer(dir), dirname(file)) }
}

/** Has `write` fill a new file and puts it in the place of `file` when it is whole and on the disk; otherwise nothing is left. */
async function replaced(file: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const { randomUUID } = await import('node:crypto')
  const temporary = `${file}.${randomUUID()}.tmp`
  try {
    await write(temporary)
    await writable(async () => {
      const handle = await open(temporary, 'r+')
      await handle.sync().finally(() => handle.close())
    })
    await writable(() => rename(temporary, file))
  } finally {
    await rm(temporary, { force: true }).catch(() => {})   // note: what failed before is what to report
  }
}

async function copyTokenizer(from: string, to: string): Promise<string | null> {
  for (const name of ['tokenizer.pkl', 'tokenizer.json']) {
    const source = join(from, name), copy = join(to, name)
    if (!await access(source).then(() => true, () => false)) continue
    if (await isSameFile(source, copy)) return copy
    await replaced(copy, (temporary) => writable(() => copyFile(source, temporary)))
    return copy
  }
  return null
}

/** A checkpoint is never replaced by its own conversion. */
async function refuseSource(file: string, sources: readonly string[]): Promise<void> {
  for (const source of sources) {
    if (await isSameFile(file, source)) throw invalidArg('out', `another file than the checkpoint's own ${basename(source)}`, file)
  }
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [pathA, pathB] = await Promise.all([a, b].map((path) => realpath(path).catch(() => null)))
  return pathA !== null && pathA === pathB
}

async function writable<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (cause) {
    throw new NanochatError('ERR_CHECKPOINT_WRITE', `Could not write the converted model: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause })
  }
}
