// alone: it measures peak memory and how fast a load aborts
import { execFile } from 'node:child_process'
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NanochatError, type ErrorCode } from '../lib/errors.js'
import type { GPTConfig } from '../lib/gpt.js'
import { loadGPT, loadModel, loadModelFromDir, seededGPT, type LoadOptions } from '../lib/load.js'
import { native, type ModelSpec } from '../lib/native.js'
import { loader, programPath } from './support/program.js'
import { tinyMeta, tinySpec, withDir, writeHf, writeTiny } from './support/tiny-checkpoint.js'
import { ptBytes, type StoredTensor } from './support/write-pt.js'

const MB = 1 << 20
const demoTokenizer = fileURLToPath(new URL('./fixtures/demo/tokenizer/', import.meta.url))
const test = suite('load')

async function rejectsWith(code: ErrorCode, pattern: RegExp, promise: Promise<unknown>): Promise<void> {
  const error: unknown = await promise.then(() => undefined, (reason: unknown) => reason)
  assert.ok(NanochatError.is(error), `expected ${code}, got ${String(error)}`)
  assert.is(error.code, code, error.message)
  assert.match(error.message, pattern)
}

/** fp32 matrices and bfloat16 tables of `spec`, all of one bit pattern: only sizes matter. */
function largeTensors(spec: ModelSpec): StoredTensor[] {
  return native().describe(spec).tensors.map(({ name, shape }) => {
    const dtype = /wte|value_embeds/.test(name) ? 'bfloat16' : 'float32'
    return { name, dtype, shape, data: Buffer.alloc(shape.reduce((product, n) => product * n, dtype === 'float32' ? 4 : 2), 0x3c) }
  })
}

test('the demo model is the default', async () => {
  await using loaded = await loadModel()
  assert.is(loaded.model.config.generation, 'G6')
  assert.is(loaded.model.dtype, 'bfloat16')
  assert.is(loaded.model.device, (await native().cudaDevices()).devices.length > 0 ? 'cuda:0' : 'cpu')
  assert.is(loaded.model.numParams, 5_243_010)
  assert.is(loaded.tokenizer.getVocabSize(), loaded.model.config.vocabSize)
  assert.is(loaded.meta.step, 2814)
})

test('nanochat\'s directories: sources, tags, steps and the tokenizer two levels up', () => withDir(async (baseDir) => {
  const spec = { ...tinySpec, vocabSize: 2048 }
  for (const tag of ['d2', 'd10', 'notes']) await mkdir(join(baseDir, 'chatsft_checkpoints', tag), { recursive: true })
  await cp(demoTokenizer, join(baseDir, 'tokenizer'), { recursive: true })
  const dir = join(baseDir, 'chatsft_checkpoints', 'd10')
  const tensors = largeTensors(spec)
  await writeTiny(dir, { tensors, meta: tinyMeta(spec), step: '000003' })
  await writeTiny(dir, { tensors, meta: { ...tinyMeta(spec), step: 20 }, step: '000020' })
  await using last = await loadModel('sft', { baseDir })
  assert.is(last.meta.step, 20)
  await using chosen = await loadModel('sft', { baseDir, modelTag: 'd10', step: 3 })
  assert.is(chosen.meta.step, 7)
  await using direct = await loadModelFromDir(dir)
  assert.is(direct.tokenizer.getVocabSize(), 2048)
  await rejectsWith('ERR_CHECKPOINT_NOT_FOUND', /steps 3, 20/, loadModel('sft', { baseDir, step: 4 }))
  await rejectsWith('ERR_CHECKPOINT_NOT_FOUND', /base_checkpoints/, loadModel('base', { baseDir }))
}))

test('a path that is no model is named, not the tokenizer that it would have had', () => withDir(async (dir) => {
  const nowhere = join(dir, 'checkpoints', 'd24')
  await rejectsWith('ERR_CHECKPOINT_NOT_FOUND', /d24 does not exist/, loadModelFromDir(nowhere))
  await writeTiny(dir)
  await rejectsWith('ERR_CHECKPOINT_NOT_FOUND', /tokenizer\.pkl or tokenizer\.json/, loadModelFromDir(dir))
}))

test('a tokenizer of another size is refused', () => withDir(async (dir) => {
  await writeTiny(dir)
  await rejectsWith('ERR_TOKENIZER_MISMATCH', /2048 tokens and the model 64/, loadModelFromDir(dir, { tokenizerDir: demoTokenizer }))
}))

test('options that are unknown or wrong are errors', async () => {
  const wrong: [object, ErrorCode][] = [
    [{ devise: 'cpu' }, 'ERR_INVALID_ARG'], [{ threads: 0 }, 'ERR_INVALID_ARG'], [{ threads: 1.5 }, 'ERR_INVALID_ARG'], [{ dtype: 'int3' }, 'ERR_INVALID_ARG'],
    [{ dtype: 'float16' }, 'ERR_INVALID_ARG'], [{ isa: 'sse9' }, 'ERR_INVALID_ARG'], [{ signal: {} }, 'ERR_INVALID_ARG'], [{ onProgress: 1 }, 'ERR_INVALID_ARG'],
    [{ device: 'cuda:99' }, 'ERR_DEVICE_UNAVAILABLE'], [{ device: 'cuda:x' }, 'ERR_INVALID_ARG'], [{ device: 1 }, 'ERR_INVALID_ARG'], [{ device: 'tpu' }, 'ERR_INVALID_ARG'],
    [{ device: 'cuda', dtype: 'int8' }, 'ERR_INVALID_ARG'], [{ device: 'cuda:1', dtype: 'int4' }, 'ERR_INVALID_ARG'],
    [{ modelTag: 'd12' }, 'ERR_INVALID_ARG'], [{ softcap: -1 }, 'ERR_INVALID_ARG'], [{ windowPattern: 'X' }, 'ERR_INVALID_ARG'], [{ ropeTable: 'int8' }, 'ERR_INVALID_ARG']
  ]
  for (const [options, code] of wrong) await rejectsWith(code, /./, loadModel('demo', options as LoadOptions))
  const elsewhere = { tokenizerDir: '/nonexistent' } as LoadOptions
  for (const loading of [loadModel('demo', elsewhere), loadModel('sft', elsewhere), loadGPT('/nonexistent', elsewhere), seededGPT({ ...tinySpec }, 1, elsewhere)]) {
    await rejectsWith('ERR_INVALID_ARG', /"tokenizerDir"/, loading)
  }
  await rejectsWith('ERR_INVALID_ARG', /config/, seededGPT(null as unknown as GPTConfig, 1))
  await rejectsWith('ERR_INVALID_ARG', /source/, loadModel('tiny' as 'demo'))
  await rejectsWith('ERR_INVALID_ARG', /seed/, seededGPT({ ...tinySpec }, -1))
  await rejectsWith('ERR_CHECKPOINT_ARCH', /n_head/, seededGPT({ ...tinySpec, nKvHead: 3 }, 1))
})

test('undefined options are defaults', async () => {
  await using loaded = await loadModel('demo', { threads: undefined, dtype: undefined, signal: undefined, onProgress: undefined })
  assert.is(loaded.model.dtype, 'bfloat16')
})

test('progress rises to the total', async () => {
  const seen: number[] = []
  let total = 0
  await using loaded = await loadModel('demo', { dtype: 'float32', onProgress: (p) => { assert.is(p.phase, 'convert'); seen.push(p.bytes); total = p.total } })
  assert.ok(seen.length > 0)
  assert.equal(seen, [...seen].sort((a, b) => a - b))
  assert.is(seen.at(-1), total)
  assert.is(total, loaded.model.memoryBytes)
})

test('what onProgress throws ends the loading, at its first call and at its last', async () => {
  for (const at of ['first', 'last']) {
    const onProgress: LoadOptions['onProgress'] = ({ bytes, total }) => { if (at === 'first' || bytes === total) throw new Error(at) }
    assert.is(await loadModel('demo', { onProgress }).then(() => 'loaded', (e: Error) => e.message), at)
  }
})

test('a seeded model is of the newest generation, whatever else its config carries', async () => {
  await using plain = await seededGPT({ ...tinySpec }, 1)
  await using same = await seededGPT({ ...tinySpec, generation: 'G1', mlpHidden: 8 } as GPTConfig, 1)
  assert.is(same.config.generation, 'G6')
  assert.is(same.numParams, plain.numParams)
})

test('abort before and during a load rejects with the reason', async () => {
  const before = new AbortController()
  before.abort(new Error('early'))
  assert.is(await loadModel('demo', { signal: before.signal }).catch((e: Error) => e.message), 'early')
  const during = new AbortController()
  const config = { sequenceLen: 2048, vocabSize: 32768, nLayer: 12, nHead: 6, nKvHead: 6, nEmbd: 768, windowPattern: 'SSSL' }
  const loading = seededGPT(config, 1, { signal: during.signal })
  const started = performance.now()
  setTimeout(() => during.abort(new Error('late')), 50)
  assert.is(await loading.then(() => 'loaded', (e: Error) => e.message), 'late')
  assert.ok(performance.now() - started < 1000)
})

test('a file that shrinks after its headers were read is an error', () => withDir(async (dir) => {
  await writeTiny(dir)
  const path = join(dir, 'model_000007.pt')
  const bytes = await readFile(path)
  await writeFile(path, bytes.subarray(0, bytes.length / 2))
  await rejectsWith('ERR_CHECKPOINT_FORMAT', /./, loadGPT(dir))
}))

test('a Hugging Face directory loads', () => withDir(async (dir) => {
  await writeHf(dir)
  await using model = await loadGPT(dir, { dtype: 'float32' })
  assert.is(model.config.generation, 'HF')
  assert.is((await model.logits([1, 2, 3])).length, 3 * 64)
}))

test('a disposed model says so, and disposing twice is legal', async () => {
  const { model } = await loadModel()
  const pending = model.logits(new Array<number>(400).fill(1))
  await Promise.all([rejectsWith('ERR_DISPOSED', /./, pending), model[Symbol.asyncDispose](), model[Symbol.asyncDispose]()])
  await rejectsWith('ERR_DISPOSED', /./, model.forward([1]))
})

test('a model larger than the memory is refused before it is built', () =>
  rejectsWith('ERR_OUT_OF_MEMORY', /MB/, seededGPT({ sequenceLen: 2048, vocabSize: 1 << 20, nLayer: 200, nHead: 64, nKvHead: 64, nEmbd: 8192, windowPattern: 'L' }, 1)))

const large: ModelSpec = { generation: 'G6', sequenceLen: 2048, vocabSize: 16384, nLayer: 8, nHead: 4, nKvHead: 4, nEmbd: 512, windowPattern: 'SSSL' }

test('peak memory while loading is at most 1.3 times the final size plus 64 MB', () => withDir(async (dir) => {
  if (process.platform !== 'linux') return console.log('not measured: /proc/self/status is Linux only')
  await writeFile(join(dir, 'model_000001.pt'), ptBytes(largeTensors(large)))
  await writeFile(join(dir, 'meta_000001.json'), JSON.stringify(tinyMeta(large)))
  for (const dtype of ['float32', 'bfloat16']) {
    const { stdout } = await promisify(execFile)(process.execPath, [...loader, programPath('support/load-child'), dir, dtype])
    const { before, peak, memoryBytes } = JSON.parse(stdout) as { before: number, peak: number, memoryBytes: number }
    const rise = peak - before
    console.log(`  ${dtype}: ${(memoryBytes / MB).toFixed(0)} MB held, peak ${(rise / MB).toFixed(0)} MB above the start`)
    assert.ok(rise <= 1.3 * memoryBytes + 64 * MB, `peak ${rise} of ${memoryBytes}`)
  }
}))

test.run()
