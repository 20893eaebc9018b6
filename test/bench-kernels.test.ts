// alone: it measures the machine
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { kernelCases } from '../benchmarks/kernel-cases.js'
import { compareRows, type Comparison } from '../benchmarks/kernel-ratios.js'
import { run, type KernelRow } from '../benchmarks/kernels.js'
import { lastLevelCacheBytes } from '../benchmarks/machine.js'
import { codeOf } from './support/error-code.js'

interface Document { benchmark: string, rows: KernelRow[], roofs: { isa: string, measured: unknown[] }[], comparison?: Comparison }
const kernels = async (...args: string[]): Promise<Document> => await run([...args, '-r', '3']) as Document

const cases = suite('bench kernels: the cases')

cases('every layer of d12 and d20 is there with 1, 8 and 512 rows, and no row twice', () => {
  const all = [...kernelCases(['float32', 'bfloat16'])]
  const names = all.map(({ kernel, shape, dtype }) => `${kernel} ${shape} ${dtype}`)
  assert.is(new Set(names).size, names.length)
  for (const name of ['qkv d12 rows 1, 768 -> 2304', 'c_proj d20 rows 8, 1280 -> 1280', 'mlp c_fc d12 rows 512, 768 -> 3072', 'mlp c_proj d20 rows 1, 5120 -> 1280', 'lm_head d20 rows 512, 1280 -> 32768',
    'flash attention H6 D128 T2048 causal', 'flash attention H6 D128 T2048 causal, window 512', 'decode attention H6 D128 S256', 'decode attention H6 D128 S2048']) {
    for (const dtype of ['float32', 'bfloat16']) assert.ok(names.includes(`${name} ${dtype}`), `${name} ${dtype}`)
  }
  for (const kernel of ['rotary', 'rmsNorm', 'gatedValueEmbedding', 'appendKvCache', 'mix']) assert.ok(all.some((one) => one.kernel === kernel), kernel)
})

cases('what a run costs is what its shape says', () => {
  const all = [...kernelCases(['bfloat16'])]
  const of = (kernel: string, rows: number): { bytes: number, flops: number } | undefined => all.find((one) => one.kernel === kernel && one.rows === rows)
  assert.is(of('qkv', 8)?.bytes, 768 * 2304 * 2)
  assert.is(of('qkv', 8)?.flops, 2 * 8 * 768 * 2304)
  assert.is(of('decode attention', 1)?.bytes, 2 * 256 * 768 * 2)
  assert.is(of('flash attention', 2048)?.flops, 4 * 768 * (2048 * 2049 / 2))
  const windowed = all.find(({ shape }) => shape.includes('window'))
  assert.is(windowed?.flops, 4 * 768 * (513 * 514 / 2 + (2048 - 513) * 513), 'a query sees itself and 512 keys')
  assert.ok(lastLevelCacheBytes() >= 2 ** 18)
})

cases.run()

const rows = suite('bench kernels: the rows')

rows('each has a time, a rate, a share of what bounds it and an error', async () => {
  const weights = await kernels('--filter', 'c_proj d12 768', '--dtype', 'float32')
  assert.equal(weights.rows.map(({ kernel, rows }) => [kernel, rows]), [['c_proj', 1], ['c_proj', 8], ['c_proj', 512], ['mlp c_proj', 1], ['mlp c_proj', 8], ['mlp c_proj', 512]])
  assert.is(weights.roofs[0]?.measured.length, 7, 'the machine is measured around every row')
  const keys = await kernels('--filter', 'decode S256 bfloat16')
  const cached = await kernels('--filter', 'rows 1 appendKvCache')
  assert.equal(cached.rows.map(({ dtype }) => dtype), ['float32', 'bfloat16'])
  for (const row of [...weights.rows, ...keys.rows, ...cached.rows]) {
    const name = `${row.kernel} ${row.shape}`
    assert.ok(row.us > 0 && row.spread[0] <= row.us && row.us <= row.spread[1], `${name}: ${row.spread[0]} ${row.us} ${row.spread[1]}`)
    assert.is(row.samples, 3)
    // note: 8 rows wait for the memory of one machine and for the multiply-adds of another
    const bounds = row.kernel === 'appendKvCache' ? ['cache'] : row.rows === 512 ? ['compute'] : row.rows === 8 ? ['memory', 'compute'] : ['memory']
    assert.ok(bounds.includes(row.bound), `${name}: ${row.bound}`)
    assert.is(row.gbPerSecond === undefined, row.bound === 'compute', name)
    assert.is(row.gflopsPerSecond === undefined, row.bound !== 'compute', name)
    // note: a shared machine's memory has been seen at twice its speed a second later
    assert.ok(row.percentOfPeak > 1 && (row.bound === 'cache' || row.percentOfPeak < 220), `${name}: ${row.percentOfPeak} %`)
    assert.ok(row.maxError >= 0 && row.maxError < (row.dtype === 'float32' ? 1e-5 : 1e-2), `${name}: ${row.maxError}`)
  }
  assert.ok(weights.rows.some(({ maxError }) => maxError > 0), 'sums in another order differ somewhere')
  assert.match(weights.rows.find(({ rows }) => rows === 512)?.checked ?? '', /^\d+ of 512 rows$/)
})

rows('an instruction set can be chosen, and more than one', async () => {
  const { rows: measured } = await kernels('--filter', 'mix rows 1', '--isa', 'plain,plain')
  assert.equal(measured.map(({ isa, kernel }) => [isa, kernel]), [['plain', 'mix'], ['plain', 'mix']])
})

rows.run()

const comparing = suite('bench kernels --compare')

comparing('prints the ratio old over new, and what only one run has', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-test-'))
  try {
    const file = join(dir, 'old.txt')
    const { rows: [mix] } = await kernels('--filter', 'mix rows 1')
    assert.ok(mix)
    const old = [{ ...mix, us: 50 }, { ...mix, shape: 'd12 rows 1, gone', us: 1 }, { ...mix, shape: 'd12 rows 7', us: 1 }]
    writeFileSync(file, `a table\n${JSON.stringify({ benchmark: 'kernels', rows: old })}\n`)
    const { rows: [again], comparison } = await kernels('--filter', 'mix rows 1', '--compare', file)
    assert.ok(again && comparison)
    assert.equal(comparison.ratios.map(({ oldUs, newUs, ratio }) => [oldUs, newUs, ratio]), [[50, again.us, 50 / again.us]])
    assert.equal(comparison.onlyOld, [`mix d12 rows 1, gone float32 ${mix.isa}`], 'of the rows that the filter wants')
    assert.equal(compareRows([], [again]).onlyNew, [`mix d12 rows 1 float32 ${again.isa}`])
    writeFileSync(file, '{"benchmark":"decode","rows":[]}')
    assert.is(await codeOf(() => run(['--compare', file])), 'ERR_INVALID_ARG')
    assert.is(await codeOf(() => run(['--compare', join(dir, 'none')])), 'ERR_INVALID_ARG')
  } finally {
    rmSync(dir, { recursive: true })
  }
})

comparing('names a wrong option', async () => {
  for (const args of [['--dtype', 'int3'], ['--isa', 'sse9'], ['--filter', 'no such kernel'], ['-r', '0'], ['--threads', '2'], ['extra']]) {
    assert.is(await codeOf(() => run(args)), 'ERR_INVALID_ARG', args.join(' '))
  }
})

comparing.run()
