import { convertCheckpoint } from '../convert.js'
import type { Command } from './args.js'
import { locate } from './inspect.js'
import { progressBar } from './progress.js'
import { jsonLine, short, withoutControls } from './terminal.js'

/** Writes the command's checkpoint as one packed file and says where. Ctrl+C leaves nothing. Throws as `convertCheckpoint`. */
export async function quantize({ model, load, out, json }: Command): Promise<void> {
  const { directory, tokenizerDirs } = await locate(model, load.modelTag)
  const { step, dtype = 'int8', threads, softcap, windowPattern, ropeTable } = load
  const tokenizerDir = tokenizerDirs.length === 1 ? tokenizerDirs[0] : undefined
  const bar = progressBar(process.stderr)
  const abort = new AbortController()
  const interrupt = (): void => abort.abort(new Error('Interrupted; nothing was written.'))
  process.once('SIGINT', interrupt)
  try {
    const converted = await convertCheckpoint(directory, out ?? '', { step, dtype, threads, softcap, windowPattern, ropeTable, tokenizerDir, signal: abort.signal, onProgress: bar.onProgress })
    bar.done()
    const { file, bytes, tokenizer } = converted
    const text = `${file}: ${short(bytes, 'B')}, ${converted.dtype}${tokenizer === null ? '; no tokenizer found: load it with --tokenizer' : `; ${tokenizer}`}\n`
    process.stdout.write(json ? jsonLine(converted) : withoutControls(text))
  } finally {
    process.off('SIGINT', interrupt)
    bar.done()
  }
}
