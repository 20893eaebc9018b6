// alone: it measures the machine
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { depthSpec } from '../benchmarks/cost.js'
import { run, type LoadRow } from '../benchmarks/load.js'
import { writeCheckpoint } from '../benchmarks/write-checkpoint.js'
import { readCheckpoint } from '../lib/checkpoint/checkpoint.js'
import { loadGPT } from '../lib/load.js'
import { native } from '../lib/native.js'
import { codeOf } from './support/error-code.js'

const load = suite('bench load')
const dir = mkdtempSync(join(tmpdir(), 'nanochat-test-'))

load.after(() => rmSync(dir, { recursive: true }))

load('times the demo model against reading its file', async () => {
  const { rows: [row] } = await run(['-r', '2']) as { rows: LoadRow[] }
  assert.ok(row)
  assert.match(row.model, /demo$/)
  assert.is(row.fileBytes, statSync('models/demo/' + (readdirSync('models/demo').find((name) => name.endsWith('.pt')) ?? '')).size)
  assert.ok(row.readSeconds > 0 && row.readSeconds < row.secondsToFirstToken, 'ten megabytes are read faster than a model starts')
  assert.ok(row.loadSeconds < row.secondsToFirstToken)
  assert.ok(row.ratioRange[0] <= row.ratio && row.ratio <= row.ratioRange[1])
  assert.ok(row.peakBytes > row.startBytes && row.readPeakBytes > row.fileBytes)
})

load('says what loadGPT says', async () => {
  assert.is(await codeOf(() => run(['--dtype', 'int3', '-r', '1'])), 'ERR_INVALID_ARG')
  assert.is(await codeOf(() => run(['--model', join(dir, 'nowhere')])), 'ERR_CHECKPOINT_NOT_FOUND')
  for (const args of [['--depth', '3'], ['--depth', '2', '--model', 'models/demo'], ['-r', 'x'], ['--batch-sizes', '1']]) {
    assert.is(await codeOf(() => run(args)), 'ERR_INVALID_ARG', args.join(' '))
  }
})

load('the checkpoint it writes is one that CUDA training stores', async () => {
  const model = join(dir, 'd4')
  mkdirSync(model)
  await writeCheckpoint(model, depthSpec(4))
  const { spec, tensors, files } = await readCheckpoint(model)
  assert.equal(spec, depthSpec(4))
  assert.equal(tensors.length, native().describe(spec).tensors.length)
  for (const { name, dtype, offset } of tensors) {
    assert.is(dtype, /wte|value_embeds/.test(name) ? 'bfloat16' : 'float32', name)
    assert.is(offset % 64, 0, name)
  }
  const gpt = await loadGPT(model, { dtype: 'float32' })
  assert.ok((await gpt.forward([1, 2, 3])).every(Number.isFinite))
  await gpt[Symbol.asyncDispose]()

  const [file = ''] = files
  const python = spawnSync('python3', ['-c', 'import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).testzip())', file], { encoding: 'utf8' })
  if (python.error !== undefined) return console.log('SKIP part of bench load: no python3 to test the archive with')
  assert.is(python.stdout.trim(), 'None', `${python.stderr}: every checksum holds`)
})

load.run()
