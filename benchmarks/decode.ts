// Prefill and decode speed, with nanochat's infer_bench as the model for the card and the table. Timed regions:
//   TTFT     a fresh sequence, forward of the prompt in the engine's chunks, argmax of the last logits
//   TPOT     one step of all rows, a pass and the argmax of each row's logits, in the addon's decode with the engine's limits:
//            a burst of steps from JavaScript and back, divided by its steps
//   prefill  as TTFT, of --prefill-tokens
// Every row of a batch has keys and values of its own, as rows of different conversations have. A step of the roof reads
// all matrices once and each row's visible keys and values, at the read bandwidth that the same number of threads reached
// just before or after the repetition, or does its multiply-adds at their peak of the run, whichever takes longer. Shares
// of the roof are medians of the repetitions' shares. Of a GPU the roof is what the backend's own probe read and multiplied.
import { readCheckpoint } from '../lib/checkpoint/checkpoint.js'
import { nativeSampler } from '../lib/cpu-backend.js'
import { passTokens } from '../lib/cuda-backend.js'
import { burst, prefillChunk } from '../lib/decode.js'
import { chooseDevice } from '../lib/device.js'
import { invalidArg } from '../lib/errors.js'
import { native, type ModelSpec, type NativeJob, type NativeLoadOptions, type NativeModel, type NativeSequence, type WeightDtype } from '../lib/native.js'
import { newSampler } from '../lib/sampling.js'
import { costOf, countParameters, depthSpec, type Cost } from './cost.js'
import { cpuName, otherLoad, Roofs, type Roof } from './machine.js'
import { depthOf, integer, integers, parseOptions } from './options.js'
import { progress } from './progress.js'
import { median, percentile, sum } from './statistics.js'

const usage = `bench decode [options]
  --depth N             shapes of nanochat's d<N> with seeded weights, N even (default 12)
  --model DIR           a checkpoint instead
  --dtype LIST          bfloat16, float32, int8, int4 (default bfloat16)
  --threads LIST        thread counts (default: physical cores)
  --batch-sizes LIST    rows that decode together (default 1,8)
  --prompt-tokens N     context before decoding (default 224)
  --decode-tokens N     steps per repetition (default 64)
  --prefill-tokens N    prompt of the prefill figure (default 512)
  -r, --repetitions N   medians over N (default 5)
  --device NAME         cpu, cuda or cuda:N (default cpu); a GPU takes no --threads and --isa
  --isa NAME            instruction set (default: the best)`

type Dtype = WeightDtype

interface Options {
  depth: number | null
  dir: string | null
  dtypes: Dtype[]
  threads: number[]
  batches: number[]
  promptTokens: number
  decodeTokens: number
  prefillTokens: number
  repetitions: number
  isa: string | undefined
  device: string
}

/** One line of the table. Times are milliseconds, rates are per second and for all rows together. */
export interface DecodeRow {
  model: string
  device: string
  depth: number
  dtype: Dtype
  threads: number
  isa: string
  batch: number
  context: number                  // in the middle of the timed steps
  ttftMs: number
  tpotMs: { p50: number, p99: number, least: number }
  tokensPerSecond: number
  tokensPerSecondRange: [number, number]   // of the repetitions
  roofTokensPerSecond: number
  roofBy: 'memory' | 'compute'
  percentOfRoof: number            // median of the repetitions' shares
  percentOfBestRoof: number        // of the fastest memory that the whole run has seen
  percentOfMedianRoof: number      // of what reading keeps up, the median of its trials; NaN of a GPU
  bytesPerStep: number
  prefillTokens: number
  prefillTokensPerSecond: number
  prefillPercentOfPeak: number
  otherLoad: number                // processors that other processes kept busy meanwhile
  memoryChange: number             // above 1.2 the memory changed its speed during the run: measure again
}

/** Runs the benchmark; undefined when only help was wanted. Throws ERR_INVALID_ARG. */
export async function run(args: string[]): Promise<unknown> {
  const options = readOptions(args)
  if (options === null) return console.log(usage)
  const rows: DecodeRow[] = []
  const machines: unknown[] = []
  const model = await describeModel(options)
  const place = await placeOf(options.device)
  for (const dtype of options.dtypes) {
    for (const threads of options.threads) {
      const measured = await measureModel(model, dtype, threads, place, options)
      rows.push(...measured.rows)
      machines.push({ dtype, roof: measured.roof, measured: measured.roofs.measured })
    }
  }
  return {
    benchmark: 'decode', date: new Date().toISOString(), cpu: cpuName(), device: place.name, node: process.version, platform: `${process.platform}-${process.arch}`,
    model: { name: model.name, ...model.spec, parameters: model.parameters }, options, roofs: machines, rows
  }
}

interface Model {
  name: string
  spec: ModelSpec
  windows: number[]
  parameters: number
  start(options: NativeLoadOptions): NativeJob<NativeModel>
}

async function describeModel({ depth, dir }: Options): Promise<Model> {
  if (dir === null) {
    const spec = depthSpec(depth ?? 12)
    const description = native().describe(spec)
    return { name: `d${depth} (seeded)`, spec, windows: description.windows, parameters: countParameters(description), start: (options) => native().seeded(spec, 1, options) }
  }
  const { spec, tensors, files, packed } = await readCheckpoint(dir)
  const description = native().describe(spec)
  return { name: dir, spec, windows: description.windows, parameters: countParameters(description), start: (options) => native().load(spec, tensors, files, { ...options, packed: packed !== undefined }) }
}

/** Where the model runs: `cudaDevice` null is the CPU. */
interface Place { device: string, cudaDevice: number | null, name: string }

async function placeOf(device: string): Promise<Place> {
  const { cudaDevice } = await chooseDevice(device, { isForCpu: false })
  if (cudaDevice === null) return { device: 'cpu', cudaDevice, name: cpuName() }
  return { device: `cuda:${cudaDevice}`, cudaDevice, name: (await native().cudaDevices()).devices[cudaDevice]?.name ?? '' }
}

async function measureModel(described: Model, dtype: Dtype, threads: number, place: Place, options: Options): Promise<{ rows: DecodeRow[], roof: Roof, roofs: Roofs }> {
  const { promptTokens, decodeTokens, prefillTokens, batches, repetitions, isa } = options
  const { cudaDevice } = place
  progress(`loading ${described.name}, ${dtype}, ${cudaDevice === null ? plural(threads, 'thread') : place.name}`)
  const model = await described.start({ dtype, threads, ...(isa === undefined ? {} : { isa }), ...(cudaDevice === null ? {} : { cudaDevice }) }).promise
  try {
    const cost = costOf(described.spec, described.windows, model.matrixBytes, model.kvBytesPerToken)
    const roofs = cudaDevice === null ? Roofs.ofCpu(threads, isa, cost.weightBytesPerStep) : Roofs.ofCuda(cudaDevice)
    const runner = new Runner(model, described.spec.vocabSize, cudaDevice === null ? prefillChunk : passTokens)
    progress('warming up')
    for (const batch of batches) await runner.prepare(batch, promptTokens)
    for (const batch of batches) await runner.decode(batch, Math.min(4, decodeTokens))
    await runner.prefill(prefillTokens)

    const prefills: number[] = []
    const ttfts: number[] = []
    const steps = new Map<number, number[][]>(batches.map((batch) => [batch, []]))
    const load = otherLoad()
    for (let r = 0; r < repetitions; r++) {
      progress(`${dtype}, ${plural(threads, 'thread')}, repetition ${r + 1} of ${repetitions}`)
      await roofs.measure()
      prefills.push(await runner.prefill(prefillTokens))
      ttfts.push(await runner.prefill(promptTokens))
      for (const batch of batches) steps.get(batch)?.push(await runner.decode(batch, decodeTokens))
    }
    await roofs.measure()
    const others = load()
    progress('')

    const roof = roofs.best
    const peak = peakOf(roof, dtype)
    const prefillSeconds = median(prefills) / 1000
    const context = promptTokens + Math.ceil(decodeTokens / 2)
    const rows = batches.map((batch): DecodeRow => {
      const repetitionsMs = steps.get(batch) ?? []
      const rates = repetitionsMs.map((ms) => batch * ms.length / sum(ms) * 1000)
      const around = rates.map((_, r) => roofs.around(r))
      const limits = around.map((of) => roofOf(cost, batch, context, of, peak).tokensPerSecond)
      const kept = around.map((of) => roofOf(cost, batch, context, { ...of, readBytesPerSecond: of.readMedianBytesPerSecond }, peak).tokensPerSecond)
      const medianShare = (of: number[]): number => median(rates.map((rate, r) => 100 * rate / (of[r] ?? NaN)))
      const strictest = roofOf(cost, batch, context, roof, peak)
      return {
        model: described.name, device: place.device, depth: described.spec.nLayer, dtype, threads, isa: model.isa, batch, context,
        ttftMs: median(ttfts),
        tpotMs: { p50: median(repetitionsMs.flat()), p99: percentile(repetitionsMs.flat(), 0.99), least: Math.min(...repetitionsMs.flat()) },
        tokensPerSecond: median(rates), tokensPerSecondRange: [Math.min(...rates), Math.max(...rates)],
        roofTokensPerSecond: median(limits), roofBy: strictest.by, bytesPerStep: strictest.bytes,
        percentOfRoof: medianShare(limits),
        percentOfBestRoof: 100 * median(rates) / strictest.tokensPerSecond,
        percentOfMedianRoof: medianShare(kept),
        prefillTokens, prefillTokensPerSecond: prefillTokens / prefillSeconds, prefillPercentOfPeak: 100 * cost.prefillFlops(prefillTokens) / prefillSeconds / peak,
        otherLoad: others, memoryChange: roofs.memoryChange
      }
    })
    printCard(described, dtype, model, place, cost, roof, peak, context)
    printRows(rows)
    return { rows, roof, roofs }
  } finally {
    await model.dispose()
  }
}

/** The most tokens per second of all rows together, by memory or by multiply-adds at `peak`, and the bytes that one step reads. */
export function roofOf(cost: Cost, batch: number, context: number, roof: Roof, peak: number): { tokensPerSecond: number, by: 'memory' | 'compute', bytes: number } {
  const bytes = cost.weightBytesPerStep + batch * cost.kvBytesPerStep(context)
  const memorySeconds = bytes / roof.readBytesPerSecond, computeSeconds = batch * cost.decodeFlops(context) / peak
  return { tokensPerSecond: batch / Math.max(memorySeconds, computeSeconds), by: memorySeconds > computeSeconds ? 'memory' : 'compute', bytes }
}

/** The multiply-adds that products of this type could do; int4 is computed as int8. */
export function peakOf(roof: Roof, dtype: Dtype): number {
  return dtype === 'float32' ? roof.float32FlopsPerSecond : dtype === 'bfloat16' ? roof.bfloat16FlopsPerSecond : roof.int8OpsPerSecond
}

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 0 }

/** Rows of a model whose prompts are prefilled once and that decode again and again from there. */
export class Runner {
  readonly #model: NativeModel
  readonly #vocabSize: number
  readonly #passTokens: number
  readonly #rows: { sequence: NativeSequence, next: number, start: number }[] = []
  readonly #out: Float32Array

  constructor(model: NativeModel, vocabSize: number, passTokens = prefillChunk) {
    this.#model = model
    this.#passTokens = passTokens
    this.#vocabSize = vocabSize
    this.#out = new Float32Array(vocabSize)
  }

  /** Makes sure that `batch` rows have their prompts in their caches, each a different one. */
  async prepare(batch: number, promptTokens: number): Promise<void> {
    while (this.#rows.length < batch) {
      const sequence = this.#model.newSequence()
      this.#rows.push({ sequence, next: await this.#append(sequence, randomIds(promptTokens, this.#vocabSize, this.#rows.length)), start: promptTokens })
    }
  }

  /** Milliseconds of each of `count` greedy steps, those of one burst alike, of the first `batch` rows, which are then back at their prompts. */
  async decode(batch: number, count: number): Promise<number[]> {
    const rows = this.#rows.slice(0, batch)
    const sequences = rows.map(({ sequence }) => sequence)
    const samplers = rows.map((_, row) => nativeSampler(newSampler(greedy, row, this.#vocabSize, [])))
    let tokens = Int32Array.from(rows, ({ next }) => next)
    const counts = new Int32Array(batch).fill(1), pauseIds = new Int32Array(0)
    const ms: number[] = []
    while (ms.length < count) {
      const maxSteps = Math.min(burst.maxSteps, count - ms.length)
      const start = performance.now()
      const ids = await this.#model.decode(sequences, tokens, counts, samplers, pauseIds, maxSteps, burst.budgetMs).promise
      const steps = ids.length / batch
      const stepMs = (performance.now() - start) / steps
      for (let step = 0; step < steps; step++) ms.push(stepMs)
      tokens = ids.slice(-batch)
    }
    for (const { sequence, start } of rows) sequence.truncate(start)
    return ms
  }

  /** Milliseconds from nothing to the first token of a prompt. */
  async prefill(promptTokens: number): Promise<number> {
    const ids = randomIds(promptTokens, this.#vocabSize, 0)
    const start = performance.now()
    const sequence = this.#model.newSequence()
    await this.#append(sequence, ids)
    const ms = performance.now() - start
    sequence.dispose()
    return ms
  }

  async #append(sequence: NativeSequence, ids: Int32Array): Promise<number> {
    for (let at = 0; at < ids.length; at += this.#passTokens) {
      const chunk = ids.subarray(at, at + this.#passTokens)
      await this.#model.forward([sequence], chunk, Int32Array.of(chunk.length), Uint8Array.of(at + chunk.length === ids.length ? 1 : 0), this.#out).promise
    }
    return argmax(this.#out, 0, this.#vocabSize)
  }
}

export function argmax(logits: Float32Array, at: number, count: number): number {
  let best = at
  let largest = logits[at] ?? NaN
  for (let i = at + 1; i < at + count; i++) {
    const logit = logits[i] as number
    if (logit > largest) { largest = logit; best = i }
  }
  return best - at
}

/** Ids that look random and are the same in every run. */
export function randomIds(count: number, vocabSize: number, seed: number): Int32Array {
  let state = seed + 1
  return Int32Array.from({ length: count }, () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0
    return (state >>> 8) % vocabSize
  })
}

function printCard({ name, spec, parameters }: Model, dtype: Dtype, model: NativeModel, { cudaDevice, name: machine }: Place, cost: Cost, roof: Roof, peak: number, context: number): void {
  const line = '='.repeat(110)
  const limits = `read ${giga(roof.readBytesPerSecond)} GB/s | peak ${giga(peak)} GFLOP/s ${dtype}`
  const step = cost.weightBytesPerStep + cost.kvBytesPerStep(context)
  console.log([
    line,
    `Model: ${name} | depth ${spec.nLayer}, dim ${spec.nEmbd}, heads ${spec.nHead}, kv heads ${spec.nKvHead} | ${dtype}, ${cudaDevice === null ? `${plural(model.threads, 'thread')}, ` : ''}${model.isa}`,
    cudaDevice === null ? `CPU: ${machine} | ${limits} | ${plural(roof.threads, 'thread')} = ${roof.cores.toFixed(1)} cores`
      : `GPU: ${machine} | ${limits}${dtype === 'bfloat16' ? ' (mma.sync)' : ''}`,
    `Parameters: ${parameters.toLocaleString('en')} | ${mebi(model.memoryBytes)} MiB in memory, ${mebi(cost.weightBytesPerStep)} MiB of it read per step`,
    `KV cache: ${model.kvBytesPerToken.toLocaleString('en')} bytes/token stored | ${cost.kvBytesPerStep(context).toLocaleString('en')} bytes read/step at context ${context} (window pattern ${spec.windowPattern})`,
    `Decode ceiling at batch 1: ${(roof.readBytesPerSecond / step).toFixed(1)} tok/s`,
    line
  ].join('\n'))
}

function printRows(rows: DecodeRow[]): void {
  const [first] = rows
  if (first === undefined) return
  console.log(`Prefill (${first.prefillTokens} tokens): ${first.prefillTokensPerSecond.toFixed(0)} tok/s | ${first.prefillPercentOfPeak.toFixed(1)} % of the peak`)
  console.log(['batch', 'TTFT ms', 'TPOT p50', 'p99', 'tok/s', 'roof', '% of roof'].map((title) => title.padStart(10)).join(''))
  for (const { batch, ttftMs, tpotMs, tokensPerSecond, roofTokensPerSecond, percentOfRoof, roofBy } of rows) {
    const cells = [String(batch), ttftMs.toFixed(1), tpotMs.p50.toFixed(2), tpotMs.p99.toFixed(2), tokensPerSecond.toFixed(1), roofTokensPerSecond.toFixed(1), percentOfRoof.toFixed(1)]
    console.log(cells.map((cell) => cell.padStart(10)).join('') + `  (${roofBy})`)
  }
  if (first.memoryChange > 1.2) console.log(`note: the memory's bandwidth changed by a factor of ${first.memoryChange.toFixed(2)} between two measurements: measure again`)
  if (first.otherLoad > 0.1) console.log(`note: other processes kept ${first.otherLoad.toFixed(1)} processors busy meanwhile`)
}

export const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`
export const giga = (value: number): string => (value / 1e9).toFixed(value < 1e11 ? 1 : 0)
const mebi = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)

function readOptions(args: string[]): Options | null {
  const values = parse(args)
  if (values.help) return null
  checkDevice(values)
  if (values.model !== undefined && values.depth !== undefined) throw invalidArg('--depth', 'no value beside --model', values.depth)
  return {
    depth: values.model === undefined ? depthOf(values.depth ?? '12') : null,
    dir: values.model ?? null,
    dtypes: values.dtype.split(',').map(dtypeOf),
    threads: integers('--threads', values.threads ?? String(native().info().physicalCores)),
    batches: integers('--batch-sizes', values['batch-sizes']),
    promptTokens: integer('--prompt-tokens', values['prompt-tokens'], 1),
    decodeTokens: integer('--decode-tokens', values['decode-tokens'], 1),
    prefillTokens: integer('--prefill-tokens', values['prefill-tokens'], 1),
    repetitions: integer('--repetitions', values.repetitions, 1),
    isa: values.isa,
    device: values.device
  }
}

/** What the CPU alone has goes with no GPU. */
function checkDevice({ device, threads, isa, dtype }: ReturnType<typeof parse>): void {
  if (!/^(?:cpu|cuda(?::\d{1,3})?)$/.test(device)) throw invalidArg('--device', 'cpu, cuda or cuda:N', device)
  if (device === 'cpu') return
  for (const [name, value] of [['--threads', threads], ['--isa', isa]] as const) if (value !== undefined) throw invalidArg(name, `no value with --device ${device}`, value)
  if (/int/.test(dtype)) throw invalidArg('--dtype', `bfloat16 or float32 with --device ${device}`, dtype)
}

function parse(args: string[]) {
  return parseOptions(args, {
    depth: { type: 'string' }, model: { type: 'string' }, dtype: { type: 'string', default: 'bfloat16' }, threads: { type: 'string' },
    'batch-sizes': { type: 'string', default: '1,8' }, 'prompt-tokens': { type: 'string', default: '224' },
    'decode-tokens': { type: 'string', default: '64' }, 'prefill-tokens': { type: 'string', default: '512' },
    repetitions: { type: 'string', short: 'r', default: '5' }, isa: { type: 'string' }, device: { type: 'string', default: 'cpu' },
    help: { type: 'boolean', short: 'h', default: false }
  })
}

function dtypeOf(name: string): Dtype {
  const dtype = (['bfloat16', 'float32', 'int8', 'int4'] as const).find((known) => known === name)
  if (dtype === undefined) throw invalidArg('--dtype', 'bfloat16, float32, int8, int4 or several with commas', name)
  return dtype
}
