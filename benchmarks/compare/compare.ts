// Decode and prefill of other engines that npm installs, beside ours: the same matrices, prompts and numbers of threads, each
// engine in a process of its own, one computing at a time, turn by turn in every round. A ratio is the median of the rounds'.
import { fork, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { invalidArg } from '../../lib/errors.js'
import { native } from '../../lib/native.js'
import { costOf, depthSpec, matrixElements, type Cost } from '../cost.js'
import { giga, peakOf, plural, roofOf } from '../decode.js'
import { cpuName, otherLoad, Roofs } from '../machine.js'
import { depthOf, integer, integers, parseOptions } from '../options.js'
import { progress } from '../progress.js'
import { median } from '../statistics.js'
import type { Contender, FromWorker, Ready, Repetition, Task } from './contender.js'
import { ggufFormats, writeGguf } from './gguf.js'
import { onnxBytesPerWeight, writeOnnx } from './onnx.js'

const usage = `npm run bench -- compare [options]; before it: npm install --prefix benchmarks/compare --ignore-scripts
  --depth N             shapes of nanochat's d<N>, N even (default 12)
  --dtype LIST          bfloat16, int8, int4, float32 (default bfloat16,float32)
  --threads LIST        thread counts (default: physical cores)
  --batch-sizes LIST    rows that decode together (default 1,8)
  --prompt-tokens N     context before decoding (default 240)
  --decode-tokens N     steps per repetition (default 32)
  --prefill-tokens N    prompt of the prefill figure (default 512)
  -r, --repetitions N   rounds, medians over N (default 5)`

/** Who competes with weights of that size. The first is what the others are compared with. */
const contenders = {
  bfloat16: [{ engine: 'nanochat-node', format: 'bfloat16' }, { engine: 'node-llama-cpp', format: 'BF16' }],
  int8: [{ engine: 'nanochat-node', format: 'int8' }, { engine: 'node-llama-cpp', format: 'Q8_0' }, { engine: 'onnxruntime-node', format: 'int8' }],
  int4: [{ engine: 'nanochat-node', format: 'int4' }, { engine: 'node-llama-cpp', format: 'Q4_0' }, { engine: 'onnxruntime-node', format: 'int4' }],
  float32: [{ engine: 'nanochat-node', format: 'float32' }, { engine: 'onnxruntime-node', format: 'fp32' }, { engine: 'node-llama-cpp', format: 'F32' }]
} satisfies Record<string, Contender[]>

type Dtype = keyof typeof contenders

const stoodIn = 'a stand-in with the same matrices: no value embeddings, gates or smear, one norm less per head and layer; every layer sees all keys'
const notes: Record<Contender['engine'], string[]> = {
  'nanochat-node': ['the logits come to JavaScript, whose argmax is timed too'],
  'node-llama-cpp': [stoodIn, 'through its evaluate(), with its greedy sampler; bits per weight: 16, 8.5 (Q8_0), 4.5 (Q4_0), lm_head included'],
  'onnxruntime-node': [stoodIn, 'run() computes on the JavaScript thread and copies every output, the cache of all rows too; bits per weight: 32, 9 (int8), 5 (int4)']
}

interface Options extends Task {
  threadCounts: number[]
  dtypes: Dtype[]
  repetitions: number
}

export interface CompareRow {
  measure: 'decode' | 'prefill'
  depth: number
  dtype: Dtype
  threads: number
  engine: Contender['engine']
  format: string
  batch: number                    // 1 for prefill
  tokensPerSecond: number          // of all rows together
  tokensPerSecondRange: [number, number]
  percentOfRoof: number            // decode: what this engine has to read; prefill: multiply-adds at the peak of float32 or bfloat16
  ratio: number | null             // the first contender's speed over this one's; null for the first
  processors: number               // busy in this process meanwhile
  settings: string
}

/** Runs the benchmark; undefined when only help was wanted. Throws ERR_INVALID_ARG. */
export async function run(args: string[]): Promise<unknown> {
  const options = readOptions(args)
  if (options === null) return console.log(usage)
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-compare-'))
  const cleanUp = (): void => { rmSync(dir, { recursive: true, force: true }) }
  const interrupted = (): void => { process.exit(1) }
  process.once('exit', cleanUp)
  for (const signal of signals) process.once(signal, interrupted)
  try {
    const rows: CompareRow[] = []
    const roofs: unknown[] = []
    for (const dtype of options.dtypes) {
      const models = contenders[dtype].map((contender: Contender) => ({ contender, file: writeModel(dir, contender, options.depth) }))
      for (const threads of options.threadCounts) {
        const measured = await compare(dtype, models, { ...options, threads })
        rows.push(...measured.rows)
        roofs.push({ dtype, threads, otherLoad: measured.otherLoad, roof: measured.roofs.best, measured: measured.roofs.measured })
      }
      for (const { file } of models) for (const path of [file, `${file}.data`]) rmSync(path, { force: true })
    }
    for (const [engine, lines] of Object.entries(notes)) console.log([engine, ...lines].join('\n  - '))
    return { benchmark: 'compare', date: new Date().toISOString(), cpu: cpuName(), node: process.version, platform: `${process.platform}-${process.arch}`, options, notes, roofs, rows }
  } finally {
    cleanUp()
    process.off('exit', cleanUp)
    for (const signal of signals) process.off(signal, interrupted)
  }
}

const signals = ['SIGINT', 'SIGTERM'] as const

/** The path of a contender's stand-in, empty for ours. */
function writeModel(dir: string, { engine, format }: Contender, depth: number): string {
  if (engine === 'nanochat-node') return ''
  progress(`writing a d${depth} in ${format} for ${engine}`)
  const file = join(dir, engine === 'node-llama-cpp' ? `${format}.gguf` : `${format}.onnx`)
  if (engine === 'node-llama-cpp') writeGguf(file, depthSpec(depth), format)
  else writeOnnx(file, depthSpec(depth), format)
  return file
}

async function compare(dtype: Dtype, models: { contender: Contender, file: string }[], options: Options): Promise<{ rows: CompareRow[], roofs: Roofs, otherLoad: number }> {
  const { threads, repetitions } = options
  const workers: Worker[] = []
  try {
    for (const { contender, file } of models) {
      progress(`loading ${contender.engine} ${contender.format}, ${plural(threads, 'thread')}`)
      workers.push(await Worker.start(contender, options, file))
    }
    const roofs = Roofs.ofCpu(threads, undefined)
    const load = otherLoad()
    let ownProcessorMs = 0
    const start = performance.now()
    for (let r = 0; r < repetitions; r++) {
      progress(`${dtype}, ${plural(threads, 'thread')}, round ${r + 1} of ${repetitions}`)
      await roofs.measure()
      for (let i = 0; i < workers.length; i++) {
        const worker = workers[(r + i) % workers.length] as Worker
        await sleep(settleMs)
        ownProcessorMs += await worker.repeat()
      }
    }
    await roofs.measure()
    const others = load() - ownProcessorMs / (performance.now() - start)
    progress('')
    const rows = rowsOf(dtype, workers, roofs, options)
    printRows(rows, roofs, others)
    return { rows, roofs, otherLoad: Math.max(0, others) }
  } finally {
    for (const worker of workers) worker.stop()
  }
}

// The threads of the engine before may spin for a while after their last step.
const settleMs = 100

class Worker {
  readonly contender: Contender
  readonly repetitions: Repetition[] = []
  readonly #process: ChildProcess
  #ready: Ready = { settings: '', kvBytesPerToken: 0, matrixBytes: 0 }

  private constructor(contender: Contender, task: Task, file: string) {
    this.contender = contender
    this.#process = fork(join(import.meta.dirname, 'worker.ts'), [JSON.stringify([contender, task, file])], { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  }

  static async start(contender: Contender, { depth, threads, batches, promptTokens, decodeTokens, prefillTokens }: Task, file: string): Promise<Worker> {
    const worker = new Worker(contender, { depth, threads, batches, promptTokens, decodeTokens, prefillTokens }, file)
    const message = await worker.#next()
    if (!('ready' in message)) throw new Error(`${contender.engine} sent a repetition that nobody asked for`)
    worker.#ready = message.ready
    return worker
  }

  get ready(): Ready {
    return this.#ready
  }

  /** One repetition; the processor milliseconds it took. */
  async repeat(): Promise<number> {
    const answer = this.#next()
    this.#process.send('repeat')
    const message = await answer
    if (!('repetition' in message)) throw new Error(`${this.contender.engine} loaded twice`)
    this.repetitions.push(message.repetition)
    const { decode, prefill } = message.repetition
    return [prefill, ...decode].reduce((total, { seconds, processors }) => total + seconds * processors * 1000, 0)
  }

  stop(): void {
    this.#process.kill('SIGKILL')   // nothing to save, and some engines take seconds to free their memory
  }

  async #next(): Promise<Exclude<FromWorker, { error: string }>> {
    const message = await new Promise<FromWorker>((resolve, reject) => {
      const ended = (code: number | null, signal: string | null): void => reject(new Error(`${this.contender.engine} ended with ${signal ?? code}`))
      this.#process.once('exit', ended)
      this.#process.once('message', (received) => {
        this.#process.off('exit', ended)
        resolve(received as FromWorker)
      })
    })
    if ('error' in message) throw new Error(`${this.contender.engine}: ${message.error}`)
    return message
  }
}

/** What this contender cannot do without: its own bytes per weight and per key, the windows of our model only. */
function costOfContender({ contender, ready }: Worker, depth: number): Cost {
  const spec = depthSpec(depth)
  if (contender.engine === 'nanochat-node') return costOf(spec, native().describe(spec).windows, ready.matrixBytes, ready.kvBytesPerToken)
  return costOf(spec, Array.from({ length: spec.nLayer }, () => -1), matrixElements(spec) * bytesPerWeight(contender), ready.kvBytesPerToken)
}

function bytesPerWeight(contender: Exclude<Contender, { engine: 'nanochat-node' }>): number {
  if (contender.engine === 'onnxruntime-node') return onnxBytesPerWeight(contender.format)
  const { bytes, elements } = ggufFormats[contender.format].blocks
  return bytes / elements
}

function rowsOf(dtype: Dtype, workers: Worker[], roofs: Roofs, { depth, threads, batches, promptTokens, decodeTokens, prefillTokens }: Options): CompareRow[] {
  const { best } = roofs
  const peak = peakOf(best, dtype)
  const context = promptTokens + Math.ceil(decodeTokens / 2)
  const measures = [...batches.map((batch) => ({ measure: 'decode' as const, batch })), { measure: 'prefill' as const, batch: 1 }]
  return measures.flatMap(({ measure, batch }) => {
    const timesOf = (worker: Worker) => worker.repetitions.map(({ decode, prefill }) => measure === 'prefill' ? prefill : decode.find((row) => row.batch === batch) ?? prefill)
    const tokens = measure === 'prefill' ? prefillTokens : batch * decodeTokens
    const first = workers[0] === undefined ? [] : timesOf(workers[0])
    return workers.map((worker, i): CompareRow => {
      const cost = costOfContender(worker, depth)
      const times = timesOf(worker)
      const rates = times.map(({ seconds }) => tokens / seconds)
      const roof = (r: number): number => measure === 'prefill' ? prefillTokens * peak / cost.prefillFlops(prefillTokens) : roofOf(cost, batch, context, roofs.around(r), peak).tokensPerSecond
      return {
        measure, depth, dtype, threads, engine: worker.contender.engine, format: worker.contender.format, batch,
        tokensPerSecond: median(rates), tokensPerSecondRange: [Math.min(...rates), Math.max(...rates)],
        percentOfRoof: median(rates.map((rate, r) => 100 * rate / roof(r))),
        ratio: i === 0 ? null : median(times.map(({ seconds }, r) => seconds / (first[r]?.seconds ?? NaN))),
        processors: median(times.map(({ processors }) => processors)), settings: worker.ready.settings
      }
    })
  })
}

function printRows(rows: CompareRow[], roofs: Roofs, others: number): void {
  const [row] = rows
  if (row === undefined) return
  const { readBytesPerSecond, float32FlopsPerSecond, bfloat16FlopsPerSecond, cores } = roofs.best
  console.log(`d${row.depth}, ${row.dtype}, ${plural(row.threads, 'thread')} = ${cores.toFixed(1)} cores | read ${giga(readBytesPerSecond)} GB/s | peak ${giga(float32FlopsPerSecond)} GFLOP/s float32, ${giga(bfloat16FlopsPerSecond)} bfloat16`)
  console.log(`${''.padEnd(14)}${'engine'.padEnd(28)}${['tok/s', 'least', 'most', '% of roof', 'ratio', 'processors'].map((title) => title.padStart(12)).join('')}`)
  let above = ''
  for (const { measure, batch, engine, format, tokensPerSecond, tokensPerSecondRange: [least, most], percentOfRoof, ratio, processors } of rows) {
    const name = measure === 'prefill' ? measure : `decode x ${batch}`
    const cells = [tokensPerSecond.toFixed(1), least.toFixed(1), most.toFixed(1), percentOfRoof.toFixed(0), ratio === null ? '' : ratio.toFixed(2), processors.toFixed(2)]
    console.log(`${(name === above ? '' : name).padEnd(14)}${`${engine} ${format}`.padEnd(28)}${cells.map((cell) => cell.padStart(12)).join('')}`)
    above = name
  }
  console.log(`ratio: tok/s of ${row.engine} over those of the line`)
  if (row.engine !== 'nanochat-node') console.log(`note: nanochat-node has no ${row.dtype} here; the peers are compared with one another`)
  if (row.dtype === 'bfloat16') console.log('note: onnxruntime-node is missing: ONNX Runtime multiplies no bfloat16 on a CPU')
  if (others > 0.1) console.log(`note: other processes kept ${others.toFixed(1)} processors busy meanwhile`)
}

function readOptions(args: string[]): Options | null {
  const values = parseOptions(args, {
    depth: { type: 'string', default: '12' }, dtype: { type: 'string', default: 'bfloat16,float32' }, threads: { type: 'string' },
    'batch-sizes': { type: 'string', default: '1,8' }, 'prompt-tokens': { type: 'string', default: '240' }, 'decode-tokens': { type: 'string', default: '32' },
    'prefill-tokens': { type: 'string', default: '512' }, repetitions: { type: 'string', short: 'r', default: '5' }, help: { type: 'boolean', short: 'h', default: false }
  })
  if (values.help) return null
  const depth = depthOf(values.depth)
  return {
    depth, threads: 0,
    dtypes: values.dtype.split(',').map(dtypeOf),
    threadCounts: integers('--threads', values.threads ?? String(native().info().physicalCores)),
    batches: integers('--batch-sizes', values['batch-sizes']),
    promptTokens: integer('--prompt-tokens', values['prompt-tokens'], 1),
    decodeTokens: integer('--decode-tokens', values['decode-tokens'], 1),
    prefillTokens: integer('--prefill-tokens', values['prefill-tokens'], 1),
    repetitions: integer('--repetitions', values.repetitions, 1)
  }
}

function dtypeOf(name: string): Dtype {
  if (Object.hasOwn(contenders, name)) return name as Dtype
  throw invalidArg('--dtype', `some of ${Object.keys(contenders).join(', ')}, with commas`, name)
}
