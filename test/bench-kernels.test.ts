// alone: it measures the machine
// What every row says is checked in bench-kernels.long.ts.
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
