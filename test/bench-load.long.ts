// alone: it measures the machine
import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run, type LoadRow } from '../benchmarks/load.js'

const load = suite('bench load, files that it writes')
const temporaryFolders = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('nanochat-bench-'))

load('writes a checkpoint of a depth first, and removes it', async () => {
  const before = temporaryFolders()
  const { rows } = await run(['--depth', '2', '--dtype', 'float32,bfloat16', '--threads', '1', '-r', '1']) as { rows: LoadRow[] }
  assert.equal(rows.map(({ model, dtype, threads }) => [model, dtype, threads]), [['d2', 'float32', 1], ['d2', 'bfloat16', 1]])
  assert.ok((rows[0]?.weightBytes ?? 0) > (rows[1]?.weightBytes ?? Infinity))
  assert.equal(temporaryFolders(), before)
})

load('converts to a packed file first, and removes it', async () => {
  const before = temporaryFolders()
  const { rows } = await run(['--packed', '--dtype', 'int8,float32', '--threads', '1', '-r', '1']) as { rows: LoadRow[] }
  assert.equal(rows.map(({ dtype }) => dtype), ['int8', 'float32'])
  assert.ok((rows[0]?.fileBytes ?? Infinity) < (rows[1]?.fileBytes ?? 0), 'it reads the packed files')
  assert.ok((rows[0]?.weightBytes ?? Infinity) < (rows[1]?.weightBytes ?? 0))
  assert.equal(temporaryFolders(), before)
})

load.run()
