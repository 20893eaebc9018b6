// alone: it measures the machine
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run, type KernelRow } from '../benchmarks/kernels.js'

interface Document { rows: KernelRow[], roofs: { measured: unknown[] }[] }
const kernels = async (...args: string[]): Promise<Document> => await run([...args, '-r', '3']) as Document

const rows = suite('bench kernels: the rows, measured')

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

rows.run()
