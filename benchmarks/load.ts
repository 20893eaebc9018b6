// From a checkpoint on disk, in the page cache, to the first token, against reading the same files into fresh memory. Each
// measurement is a process of its own, the two kinds in turn; a process's start and the loading of its code are not in it.
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import binding from '../lib/binding.cjs'
import { readCheckpoint } from '../lib/checkpoint/checkpoint.js'
import { convertCheckpoint } from '../lib/convert.js'
import { NanochatError, invalidArg, type ErrorCode } from '../lib/errors.js'
import type { LoadOptions } from '../lib/load.js'
import { native } from '../lib/native.js'
import { depthSpec } from './cost.js'
import type { LoadRequest, LoadResult } from './load-child.js'
import { cpuName } from './machine.js'
import { depthOf, integer, parseOptions } from './options.js'
import { progress } from './progress.js'
import { median } from './statistics.js'
import { writeCheckpoint } from './write-checkpoint.js'

const usage = `bench load [options]
  --model DIR           a checkpoint directory (default: the demo model)
  --depth N             instead: shapes of nanochat's d<N>, N even, written to a temporary folder first (d12: 0.8 GB)
  --packed              each type converted to a packed file first, in a temporary folder
  --dtype LIST          of the weights in memory, as loadGPT knows them (default auto)
  --threads N           default: physical cores
  -r, --repetitions N   medians over N (default 7)`

interface Options {
  dir: string | null
  depth: number                    // where dir is null
  packed: boolean
  dtypes: string[]
  threads: number | null
  repetitions: number
}

/** One line of the table. `peakBytes` counts pages of mapped files, which the system can take back. */
export interface LoadRow {
  model: string
  dtype: string
  threads: number
  fileBytes: number
  readSeconds: number
  readRange: [number, number]
  secondsToFirstToken: number
  range: [number, number]
  loadSeconds: number              // of them, until loadGPT returned
  ratio: number                    // median of the pairs' ratios, first token over read
  ratioRange: [number, number]
  weightBytes: number
  startBytes: number               // resident before loading: Node and the code
  peakBytes: number
  readPeakBytes: number            // of the process that reads
  firstToken: number
  otherLoad: number                // processors that other processes kept busy while loading
}

/** Runs the benchmark; undefined when only help was wanted. Throws ERR_INVALID_ARG and what loadGPT throws. */
export async function run(args: string[]): Promise<unknown> {
  const options = readOptions(args)
  if (options === null) return console.log(usage)
  if (options.dir !== null && !options.packed) return measure(options.dir, null, options)
  const dir = await mkdtemp(join(tmpdir(), 'nanochat-bench-'))
  const remove = (): Promise<void> => rm(dir, { recursive: true, force: true })
  const interrupted = (): void => { void remove().then(() => process.exit(130)) }
  process.once('SIGINT', interrupted)
  try {
    if (options.dir === null) {
      progress(`writing a d${options.depth} checkpoint`)
      await writeCheckpoint(dir, depthSpec(options.depth))
    }
    return await measure(options.dir ?? dir, options.packed ? join(dir, 'packed') : null, options)
  } finally {
    process.off('SIGINT', interrupted)
    await remove()
  }
}

async function measure(dir: string, packedDir: string | null, options: Options): Promise<unknown> {
  const rows: LoadRow[] = []
  console.log(`${cpuName()} | page cache warm | seconds`)
  console.log(['dtype', 'file MB', 'read', 'first token', 'ratio', 'loaded', 'peak MB', 'weights MB'].map((title) => title.padStart(12)).join(''))
  for (const dtype of options.dtypes) {
    const measured = packedDir === null ? dir : await packed(dir, packedDir, dtype, options)
    const { files } = await readCheckpoint(measured)
    const row = await measureType(measured, files, dtype, options)
    if (packedDir !== null) await rm(measured)
    const cells = [dtype, mega(row.fileBytes), row.readSeconds.toFixed(3), row.secondsToFirstToken.toFixed(3), row.ratio.toFixed(2), row.loadSeconds.toFixed(3), mega(row.peakBytes), mega(row.weightBytes)]
    console.log(cells.map((cell) => cell.padStart(12)).join(''))
    if (row.otherLoad > 0.1) console.log(`note: other processes kept ${row.otherLoad.toFixed(1)} processors busy meanwhile`)
    rows.push(row)
  }
  return { benchmark: 'load', date: new Date().toISOString(), cpu: cpuName(), node: process.version, platform: `${process.platform}-${process.arch}`, options, rows }
}

/** Each dtype has a file of its own: as large as the model, so one at a time. */
async function packed(dir: string, packedDir: string, dtype: string, { threads }: Options): Promise<string> {
  progress(`${dtype}: converting`)
  // note: convertCheckpoint checks the type.
  return (await convertCheckpoint(dir, packedDir, { dtype: dtype as LoadOptions['dtype'], ...(threads === null ? {} : { threads }) })).file
}

async function measureType(dir: string, files: string[], dtype: string, { dir: givenDir, depth, threads, repetitions }: Options): Promise<LoadRow> {
  const read = (): Promise<LoadResult> => inChild({ kind: 'read', files })
  const load = (): Promise<LoadResult> => inChild({ kind: 'load', dir, dtype, threads })
  progress(`${dtype}: warming up`)
  await read()
  await load()
  const reads: LoadResult[] = [], loads: LoadResult[] = []
  for (let r = 0; r < repetitions; r++) {
    progress(`${dtype}: repetition ${r + 1} of ${repetitions}`)
    reads.push(await read())
    loads.push(await load())
  }
  progress('')
  const of = (results: LoadResult[], key: 'seconds' | 'loadedSeconds' | 'startBytes' | 'peakBytes' | 'bytes' | 'otherLoad' | 'firstToken'): number[] => results.map((result) => result[key] ?? NaN)
  const readSeconds = of(reads, 'seconds'), seconds = of(loads, 'seconds')
  const ratios = seconds.map((value, r) => value / (readSeconds[r] ?? NaN))
  return {
    model: givenDir ?? `d${depth}`, dtype, threads: threads ?? native().info().physicalCores, fileBytes: median(of(reads, 'bytes')),
    readSeconds: median(readSeconds), readRange: range(readSeconds), secondsToFirstToken: median(seconds), range: range(seconds), loadSeconds: median(of(loads, 'loadedSeconds')),
    ratio: median(ratios), ratioRange: range(ratios), weightBytes: median(of(loads, 'bytes')), startBytes: median(of(loads, 'startBytes')),
    peakBytes: median(of(loads, 'peakBytes')), readPeakBytes: median(of(reads, 'peakBytes')), firstToken: median(of(loads, 'firstToken')), otherLoad: median(of(loads, 'otherLoad'))
  }
}

async function inChild(request: LoadRequest): Promise<LoadResult> {
  const script = fileURLToPath(new URL(`./load-child${extname(import.meta.url)}`, import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, [...process.execArgv, script, JSON.stringify(request)])
  const result = JSON.parse(stdout) as LoadResult | { error: { code?: ErrorCode, message: string } }
  if (!('error' in result)) return result
  const { code, message } = result.error
  throw code === undefined ? new Error(message) : new NanochatError(code, message)
}

const range = (values: readonly number[]): [number, number] => [Math.min(...values), Math.max(...values)]
const mega = (bytes: number): string => (bytes / 1e6).toFixed(0)

function readOptions(args: string[]): Options | null {
  const values = parseOptions(args, {
    model: { type: 'string' }, depth: { type: 'string' }, dtype: { type: 'string', default: 'auto' }, threads: { type: 'string' }, packed: { type: 'boolean', default: false },
    repetitions: { type: 'string', short: 'r', default: '7' }, help: { type: 'boolean', short: 'h', default: false }
  })
  if (values.help) return null
  if (values.model !== undefined && values.depth !== undefined) throw invalidArg('--depth', 'no value beside --model', values.depth)
  return {
    dir: values.depth === undefined ? values.model ?? join(binding.packageRoot, 'models', 'demo') : null,
    depth: depthOf(values.depth ?? '12'),
    packed: values.packed,
    dtypes: values.dtype.split(','),
    threads: values.threads === undefined ? null : integer('--threads', values.threads, 1),
    repetitions: integer('--repetitions', values.repetitions, 1)
  }
}
