// Each kernel by itself, on one thread, at the shapes of nanochat's models. What counts is the kernel's time inside the
// addon; packing, allocation and checks are not in it. The machine is measured between the rows, and a row's share is of the
// better of the measurements before and after it. Weights of a product, and keys and values of decode attention, come from
// memory: copies take turns that together are four times the last-level cache.
import { invalidArg } from '../lib/errors.js'
import { isas } from '../lib/kernels.js'
import { kernelCases, weightTypes, type KernelCase } from './kernel-cases.js'
import { compareRows, printComparison, readRows, type Comparison } from './kernel-ratios.js'
import { cpuName, otherLoad, Roofs, type Roof } from './machine.js'
import { integer, parseOptions } from './options.js'
import { progress } from './progress.js'
import { median, percentile } from './statistics.js'

const usage = `bench kernels [options]
  --dtype LIST          ${Object.keys(weightTypes).join(', ')} (default float32,bfloat16)
  --isa LIST            instruction sets (default: the best)
  --filter TEXT         only rows with every word of it in kernel, shape and type, such as "lm_head d12 rows 1"
  --compare FILE        an earlier run's output: prints the ratio of the old time to the new for each row
  -r, --repetitions N   samples per row, of some milliseconds each (default 15)`

interface Options {
  dtypes: string[]
  isas: string[]
  filter: string
  compare: string | null
  repetitions: number
}

/** One line of the table. */
export interface KernelRow {
  kernel: string
  model: string | null
  rows: number
  shape: string
  dtype: string
  isa: string
  us: number                       // median of the samples
  spread: [number, number]         // their 10th and 90th percentile
  samples: number
  gbPerSecond?: number             // of what is bound by memory or lies in the cache
  gflopsPerSecond?: number         // of what is bound by multiply-adds
  bound: 'memory' | 'compute' | 'cache'
  percentOfPeak: number            // bound 'cache': of the memory's read bandwidth, so it may pass 100
  maxError: number                 // the largest difference from the reference, over the reference's largest magnitude
  checked: string                  // how much of the result that is
}

/** Runs the benchmark; undefined when only help was wanted. Throws ERR_INVALID_ARG. */
export async function run(args: string[]): Promise<unknown> {
  const options = readOptions(args)
  if (options === null) return console.log(usage)
  const old = options.compare === null ? null : readRows(options.compare).filter((row) => isWanted(row, options) && options.dtypes.includes(row.dtype) && options.isas.includes(row.isa))
  const rows: KernelRow[] = []
  const roofs: { isa: string, roof: Roof, measured: unknown }[] = []
  const load = otherLoad()
  for (const isa of options.isas) {
    const measured = await measureIsa(isa, options)
    rows.push(...measured.rows)
    roofs.push({ isa, roof: measured.roofs.best, measured: measured.roofs.measured })
  }
  const others = load()
  if (others > 0.1) console.log(`note: other processes kept ${others.toFixed(1)} processors busy meanwhile`)
  const comparison: Comparison | null = old === null ? null : compareRows(old, rows)
  if (comparison !== null) printComparison(comparison)
  return {
    benchmark: 'kernels', date: new Date().toISOString(), cpu: cpuName(), node: process.version, platform: `${process.platform}-${process.arch}`,
    options, otherLoad: others, roofs, rows, ...(comparison === null ? {} : { comparison })
  }
}

async function measureIsa(isa: string, options: Options): Promise<{ rows: KernelRow[], roofs: Roofs }> {
  const roofs = Roofs.ofCpu(1, isa)
  const cases = [...kernelCases(options.dtypes)].filter((kernelCase) => isWanted(kernelCase, options))
  if (cases.length === 0) throw invalidArg('--filter', 'words of a kernel, a shape and a type', options.filter)
  const rows: KernelRow[] = []
  await roofs.measure()
  printHead(isa, roofs.best)
  while (cases.length > 0) {
    const [kernelCase] = cases.splice(0, 1)   // note: nothing may hold on to the data of a case that is done
    if (kernelCase === undefined) break
    progress(`${isa}, ${kernelCase.kernel} ${kernelCase.shape} ${kernelCase.dtype}, ${cases.length} to go`)
    const nanoseconds = sample(kernelCase, isa, options.repetitions)
    const { maxError, checked } = kernelCase.check(isa)
    await roofs.measure()
    const row = rowOf(kernelCase, isa, nanoseconds, roofs.around(rows.length), { maxError, checked })
    progress('')
    printRow(row)
    rows.push(row)
  }
  return { rows, roofs }
}

function sample(kernelCase: KernelCase, isa: string, count: number): number[] {
  kernelCase.sample(isa)
  return Array.from({ length: count }, () => kernelCase.sample(isa))
}

function rowOf({ kernel, model, rows, shape, dtype, bytes, inCache, flops, peak }: KernelCase, isa: string, nanoseconds: number[], roof: Roof, error: { maxError: number, checked: string }): KernelRow {
  const nanosecondsOf = (share: number): number => percentile(nanoseconds, share)
  const time = median(nanoseconds)
  const memory = bytes / roof.readBytesPerSecond * 1e9, compute = flops / roof[peak] * 1e9
  const bound = inCache ? 'cache' : memory >= compute ? 'memory' : 'compute'
  return {
    kernel, model, rows, shape, dtype, isa, us: time / 1000, spread: [nanosecondsOf(0.1) / 1000, nanosecondsOf(0.9) / 1000], samples: nanoseconds.length,
    ...(bound === 'compute' ? { gflopsPerSecond: flops / time } : { gbPerSecond: bytes / time }),
    bound, percentOfPeak: 100 * Math.max(memory, compute) / time, ...error
  }
}

function isWanted({ kernel, shape, dtype }: Pick<KernelRow, 'kernel' | 'shape' | 'dtype'>, { filter }: Options): boolean {
  const words = `${kernel} ${shape} ${dtype}`.toLowerCase().split(/[\s,]+/)
  return filter.toLowerCase().split(/\s+/).every((word) => word === '' || words.includes(word))
}

const columns = [['kernel', -20], ['shape', -32], ['dtype', -9], ['us', 10], ['p10', 10], ['p90', 10], ['rate', 14], ['% of peak', 10], ['bound', -8], ['max error', 10]] as const

function printHead(isa: string, roof: Roof): void {
  console.log(`${cpuName()} | ${isa}, 1 thread | read ${(roof.readBytesPerSecond / 1e9).toFixed(1)} GB/s | peak ${(roof.float32FlopsPerSecond / 1e9).toFixed(0)} GFLOP/s float32, ${(roof.bfloat16FlopsPerSecond / 1e9).toFixed(0)} bfloat16`)
  printCells(columns.map(([title]) => title))
}

function printRow({ kernel, shape, dtype, us, spread, gbPerSecond, gflopsPerSecond, percentOfPeak, bound, maxError, checked }: KernelRow): void {
  const rate = gflopsPerSecond === undefined ? `${(gbPerSecond ?? NaN).toFixed(1)} GB/s` : `${gflopsPerSecond.toFixed(0)} GFLOP/s`
  const checkedPart = checked === 'all' ? '' : `  of ${checked}`
  printCells([kernel, shape, dtype, us.toFixed(2), spread[0].toFixed(2), spread[1].toFixed(2), rate, percentOfPeak.toFixed(1), bound, maxError.toExponential(1) + checkedPart])
}

function printCells(cells: readonly string[]): void {
  console.log(cells.map((cell, i) => {
    const width = columns[i]?.[1] ?? 0
    return width < 0 ? cell.padEnd(-width) : cell.padStart(width)
  }).join(' ').trimEnd())
}

function readOptions(args: string[]): Options | null {
  const values = parseOptions(args, {
    dtype: { type: 'string', default: 'float32,bfloat16' }, isa: { type: 'string' }, filter: { type: 'string', default: '' }, compare: { type: 'string' },
    repetitions: { type: 'string', short: 'r', default: '15' }, help: { type: 'boolean', short: 'h', default: false }
  })
  if (values.help) return null
  return {
    dtypes: names('--dtype', values.dtype, Object.keys(weightTypes)),
    isas: names('--isa', values.isa ?? isas().slice(0, 1).join(), isas()),
    filter: values.filter.trim(),
    compare: values.compare ?? null,
    repetitions: integer('--repetitions', values.repetitions, 1)
  }
}

function names(option: string, list: string, known: string[]): string[] {
  const wrong = list.split(',').find((name) => !known.includes(name))
  if (wrong !== undefined) throw invalidArg(option, `${known.join(', ')}, with commas between,`, wrong)
  return list.split(',')
}
