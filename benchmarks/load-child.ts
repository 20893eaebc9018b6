// One measurement of bench load, in a process that has done nothing before: its argument is a LoadRequest, its one line of
// output a LoadResult or { error }.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { NanochatError } from '../lib/errors.js'
import { loadGPT, type LoadOptions } from '../lib/load.js'
import { otherLoad } from './machine.js'

export type LoadRequest = { kind: 'read', files: string[] } | { kind: 'load', dir: string, dtype: string, threads: number | null }

export interface LoadResult {
  seconds: number                  // read: all bytes in fresh memory; load: to the first token
  loadedSeconds: number            // of them, until loadGPT returned
  startBytes: number               // resident before
  peakBytes: number                // resident at most, pages of mapped files included
  bytes: number                    // read: of the files; load: of the weights in memory
  otherLoad: number                // processors that other processes kept busy meanwhile
  firstToken?: number
}

const prompt = [1, 2, 3, 5, 8, 13, 21, 34]

async function measure(request: LoadRequest): Promise<LoadResult> {
  const startBytes = process.memoryUsage.rss()
  const others = otherLoad(), start = performance.now()
  const { bytes, ...more } = request.kind === 'read' ? readFiles(request.files) : await firstToken(request, start)
  const seconds = (performance.now() - start) / 1000
  return { seconds, loadedSeconds: seconds, ...more, startBytes, peakBytes: process.resourceUsage().maxRSS * 1024, bytes, otherLoad: others() }
}

/** read() into memory that nobody has touched. */
function readFiles(files: readonly string[]): { bytes: number } {
  const buffers = files.map((path) => {
    const fd = openSync(path, 'r')
    const buffer = Buffer.allocUnsafeSlow(fstatSync(fd).size)
    for (let at = 0; at < buffer.length;) at += readSync(fd, buffer, at, Math.min(buffer.length - at, 1 << 30), at)
    closeSync(fd)
    return buffer
  })
  return { bytes: buffers.reduce((sum, { length }) => sum + length, 0) }
}

async function firstToken({ dir, dtype, threads }: Extract<LoadRequest, { kind: 'load' }>, start: number): Promise<{ bytes: number, loadedSeconds: number, firstToken: number }> {
  // note: loadGPT checks the type; this process only passes on what the user wrote.
  const model = await loadGPT(dir, { dtype: dtype as LoadOptions['dtype'], ...(threads === null ? {} : { threads }) })
  const loadedSeconds = (performance.now() - start) / 1000
  const logits = await model.forward(prompt.map((id) => id % model.config.vocabSize))
  return { bytes: model.memoryBytes, loadedSeconds, firstToken: logits.indexOf(logits.reduce((most, logit) => Math.max(most, logit), -Infinity)) }
}

try {
  console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? '') as LoadRequest)))
} catch (error) {
  console.log(JSON.stringify({ error: NanochatError.is(error) ? { code: error.code, message: error.message } : { message: String(error) } }))
}
process.exit()   // note: freeing the model is not measured
