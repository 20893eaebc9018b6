// alone: it measures the machine
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { costOf, countParameters, depthSpec } from '../benchmarks/cost.js'
import { run, type DecodeRow } from '../benchmarks/decode.js'
import { Roofs } from '../benchmarks/machine.js'
import { median, percentile } from '../benchmarks/statistics.js'
import { NanochatError } from '../lib/errors.js'
import { native } from '../lib/native.js'

const exec = promisify(execFile)
const bench = (...args: string[]): Promise<{ stdout: string }> => exec(process.execPath, ['--import', 'tsx', 'benchmarks/main.ts', ...args])

const counting = suite('what a model costs')

counting('d12 has the parameters and the bytes that its shapes say', () => {
  const spec = depthSpec(12)
  const description = native().describe(spec)
  assert.is(countParameters(description), 286_261_730)
  const cost = costOf(spec, description.windows, 220_200_960, 2 * 12 * 768 * 2)
  assert.is(cost.weightBytesPerStep, (12 * 12 * 768 * 768 + 32768 * 768) * 2)
  assert.is(cost.kvBytesPerStep(256), 256 * 36_864, 'no window binds at 256')
  assert.is(cost.kvBytesPerStep(2000), (9 * 513 + 3 * 2000) * 36_864 / 12, 'S layers see 513 keys')
  const linear = 2 * (512 * 12 * 12 * 768 * 768 + 32768 * 768)
  assert.is(cost.prefillFlops(512), linear + 12 * 4 * 768 * (512 * 513 / 2), 'causal attention sees half the square')
})

counting('medians and percentiles', () => {
  assert.is(median([3, 1, 2]), 2)
  assert.is(median([4, 1, 2, 3]), 2.5)
  assert.is(percentile(Array.from({ length: 100 }, (_, i) => i + 1), 0.99), 99)
  assert.is(percentile([7], 0.99), 7)
})

counting('roofs: the better bandwidth beside a repetition, and how much it changed from one measurement to the next', async () => {
  const bandwidths = [50, 60, 45, 54]
  const limits = (threads: number, readBytesPerSecond: number) => ({ threads, readBytesPerSecond, readMedianBytesPerSecond: readBytesPerSecond - 1, float32FlopsPerSecond: threads, bfloat16FlopsPerSecond: 1, int8OpsPerSecond: 1 })
  const roofs = new Roofs(2, () => Promise.resolve([limits(1, 1), limits(2, bandwidths.shift() ?? NaN)]))
  assert.is(roofs.memoryChange, 1)
  for (let i = 0; i < 4; i++) await roofs.measure()
  assert.equal([roofs.around(0), roofs.around(2), roofs.best].map(({ readBytesPerSecond }) => readBytesPerSecond), [60, 54, 60])
  assert.is(roofs.around(2).readMedianBytesPerSecond, 53)
  assert.ok(Math.abs(roofs.memoryChange - 60 / 45) < 1e-12, String(roofs.memoryChange))
})

counting.run()

const machine = suite('the machine')

machine('its limits are measured for every instruction set, off the JavaScript thread', async () => {
  let ticks = 0
  const timer = setInterval(() => ticks++, 5)
  for (const isa of native().info().isas) {
    const [limits] = await native().probe([1], isa)
    assert.ok(limits)
    assert.is(limits.threads, 1)
    assert.ok(limits.readBytesPerSecond > 1e8 && limits.readBytesPerSecond < 1e12, `${isa} reads ${limits.readBytesPerSecond}`)
    assert.ok(limits.readMedianBytesPerSecond > 1e8 && limits.readMedianBytesPerSecond <= limits.readBytesPerSecond, `${isa} keeps up ${limits.readMedianBytesPerSecond}`)
    for (const flops of [limits.float32FlopsPerSecond, limits.bfloat16FlopsPerSecond, limits.int8OpsPerSecond]) assert.ok(flops > 1e8 && flops < 1e13, `${isa} computes ${flops}`)
  }
  clearInterval(timer)
  assert.ok(ticks > 5, `the event loop turned ${ticks} times`)
})

machine('a probe says what it cannot do', () => {
  assert.throws(() => native().probe([0]), /Expected an integer from 1 to 1024 for threads/)
  assert.throws(() => native().probe([1], 'no-such-isa'), /instruction set of this machine/)
  for (const bytes of [2 ** 28 - 1, 2 ** 30 + 1, 2 ** 28 + 0.5]) assert.throws(() => native().probe([1], undefined, bytes), /Expected an integer from 268435456 to 1073741824 for readBytes/)
})

machine('as many bytes are read as what is compared reads, from 256 MB to 1 GB', async () => {
  const asked: unknown[] = []
  for (const bytes of [1e6, 4e8, 1e10]) {
    const roofs = Roofs.ofCpu(2, 'plain', bytes, async (...args) => (asked.push(args), []))
    await roofs.measure()
  }
  assert.equal(asked, [[[1, 2], 'plain', 2 ** 28], [[1, 2], 'plain', 4e8], [[1, 2], 'plain', 2 ** 30]])
  await native().probe([1], undefined, 2 ** 29)
  assert.ok(process.resourceUsage().maxRSS > 2 ** 19, `${process.resourceUsage().maxRSS} kB were in memory`)
})

machine.run()

const decode = suite('bench decode')

decode('prints a document with a roof that it does not pass', async () => {
  const { stdout } = await bench('decode', '--depth', '8', '--threads', '1', '--batch-sizes', '1,2', '--prompt-tokens', '40',
    '--decode-tokens', '6', '--prefill-tokens', '64', '-r', '1')
  const document = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as { benchmark: string, rows: DecodeRow[], roofs: { measured: unknown[] }[] }
  assert.is(document.benchmark, 'decode')
  assert.is(document.roofs[0]?.measured.length, 2, 'the machine is measured before and after')
  assert.equal(document.rows.map(({ batch }) => batch), [1, 2])
  for (const row of document.rows) {
    assert.is(row.depth, 8)
    assert.is(row.dtype, 'bfloat16')
    assert.is(row.threads, 1)
    assert.is(row.context, 43)
    for (const rate of [row.tokensPerSecond, row.roofTokensPerSecond, row.prefillTokensPerSecond, row.ttftMs, row.tpotMs.p50]) assert.ok(rate > 0 && Number.isFinite(rate))
    assert.ok(row.tpotMs.p99 >= row.tpotMs.p50 && row.tpotMs.p50 >= row.tpotMs.least)
    assert.ok(row.percentOfRoof > 1 && row.percentOfRoof < 115, `${row.percentOfRoof} % of the roof`)
    assert.ok(row.percentOfMedianRoof >= row.percentOfRoof, `${row.percentOfMedianRoof} % of what reading keeps up`)
    assert.ok(row.prefillPercentOfPeak > 1 && row.prefillPercentOfPeak < 105, `${row.prefillPercentOfPeak} % of the peak`)
  }
})

decode('takes a checkpoint directory', async () => {
  const document = await run(['--model', 'models/demo', '--dtype', 'float32', '--threads', '1', '--batch-sizes', '1', '--decode-tokens', '2',
    '--prompt-tokens', '8', '--prefill-tokens', '8', '-r', '1']) as { rows: DecodeRow[] }
  assert.is(document.rows[0]?.depth, 4)
  assert.is(document.rows[0]?.dtype, 'float32')
})

decode('names a wrong option', async () => {
  for (const args of [['--depth', '13'], ['--depth', '12', '--model', 'models/demo'], ['--dtype', 'int3'], ['--batch-sizes', '1,x'], ['--no-such-option'], ['-r', '0'], ['--device', 'gpu'], ['--device', 'cuda', '--threads', '2'], ['--device', 'cuda', '--dtype', 'int8']]) {
    try {
      await run(args)
      assert.unreachable(args.join(' '))
    } catch (error) {
      assert.ok(NanochatError.is(error) && error.code === 'ERR_INVALID_ARG', args.join(' '))
    }
  }
})

decode('lists the commands', async () => {
  const { stdout } = await bench('--help')
  for (const name of ['decode', 'kernels', 'load', 'quality', 'sandbox']) assert.match(stdout, new RegExp(`^ {2}${name} `, 'm'))
})

decode.run()
