// A checkpoint converted to one packed file: the same logits bit for bit, and nothing but typed errors for what is wrong.
import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { convertCheckpoint, type ConvertOptions } from '../lib/convert.js'
import { loadGPT, loadModelFromDir, type LoadOptions } from '../lib/load.js'
import { native, type ModelSpec } from '../lib/native.js'
import { loader, programPath } from './support/program.js'
import { rejects, tinyMeta, tinySpec, tinyTensors, withDir, writeHf, writeTiny } from './support/tiny-checkpoint.js'
import { ptBytes } from './support/write-pt.js'

const dtypes = ['float32', 'bfloat16', 'int8', 'int4'] as const
const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url))
const demo = path('../models/demo')
const fixtures = ['g1a-initial', 'g2-origmod-cudatag', 'g3-window-s1024', 'g4a-mid-nowindow', 'g4a-ve32-s1024', 'g5-auto1', 'g6-auto2', 'g6-mha-SSL', 'hf-nanochat']
const prompt = Array.from({ length: 40 }, (_, i) => i * 7 % 64)

process.removeAllListeners('warning')  // g4a-mid-nowindow warns that its meta has no window_pattern, as it must
process.on('warning', () => {})

const trip = suite('packed file')

async function logitsOf(dir: string, options: LoadOptions): Promise<Float32Array> {
  await using model = await loadGPT(dir, options)
  return await model.logits(prompt)
}

const sameBits = (a: Float32Array, b: Float32Array): boolean => Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

for (const [name, dir] of [['demo', demo], ...fixtures.map((name) => [name, path(`./fixtures/nanochat/${name}`)])] as [string, string][]) {
  trip(`${name}: logits of every dtype are those of the model converted at load`, () => withDir(async (out) => {
    for (const dtype of dtypes) {
      const { file } = await convertCheckpoint(dir, join(out, dtype), { dtype })
      assert.is(file, join(out, dtype, `model-${dtype}.safetensors`))
      const expected = await logitsOf(dir, { dtype })
      assert.ok(expected.every(Number.isFinite))
      assert.ok(sameBits(await logitsOf(join(out, dtype), {}), expected), dtype)
      assert.ok(sameBits(await logitsOf(file, { dtype, threads: 1 }), expected), `${dtype} by its path`)
    }
  }))
}

trip('what the options said at conversion is in the file, and can still be changed', () => withDir(async (out) => {
  const dir = path('./fixtures/nanochat/g4a-ve32-s1024')
  const constants = { softcap: 20, ropeTable: 'bfloat16', windowPattern: 'SL' } as const
  const { file } = await convertCheckpoint(dir, join(out, 'a.safetensors'), { dtype: 'float32', ...constants })
  assert.ok(sameBits(await logitsOf(file, {}), await logitsOf(dir, { dtype: 'float32', ...constants })))
  assert.ok(sameBits(await logitsOf(file, { softcap: 15, ropeTable: 'float32' }), await logitsOf(dir, { dtype: 'float32', windowPattern: 'SL' })))
}))

trip('odd widths: panels that are not full, a vocabulary that is no multiple of 64', () => withDir(async (dir) => {
  const spec: ModelSpec = { ...tinySpec, vocabSize: 70, nEmbd: 36, nHead: 3, nKvHead: 1 }
  await writeTiny(dir, { tensors: tinyTensors(spec), meta: tinyMeta(spec) })
  for (const dtype of dtypes) {
    const { file } = await convertCheckpoint(dir, join(dir, 'out'), { dtype })
    assert.ok(sameBits(await logitsOf(file, {}), await logitsOf(dir, { dtype })), dtype)
  }
}))

trip('every instruction set reads the same file', () => withDir(async (out) => {
  for (const dtype of dtypes) {
    const { file } = await convertCheckpoint(demo, out, { dtype })
    for (const isa of native().info().isas) assert.ok(sameBits(await logitsOf(file, { isa }), await logitsOf(demo, { dtype, isa })), `${dtype} ${isa}`)
  }
}))

trip('tokenizer and meta come along; progress is converted, written, read', () => withDir(async (out) => {
  const phases: string[] = []
  const onProgress: LoadOptions['onProgress'] = ({ phase }) => { if (phases.at(-1) !== phase) phases.push(phase) }
  const { file, bytes, dtype, tokenizer } = await convertCheckpoint(demo, out, { dtype: 'int8', onProgress })
  assert.is(bytes, (await readFile(file)).length)
  assert.is(dtype, 'int8')
  assert.is(tokenizer, join(out, 'tokenizer.pkl'))
  assert.equal((await readdir(out)).sort(), ['model-int8.safetensors', 'tokenizer.pkl'])
  for (const from of [out, file]) {
    await using loaded = await loadModelFromDir(from, { onProgress })
    assert.is(loaded.model.dtype, 'int8')
    assert.is(loaded.meta.step, 2814)
    assert.is(loaded.tokenizer.getVocabSize(), 2048)
  }
  assert.equal(phases, ['convert', 'write', 'read'])
  await convertCheckpoint(demo, out, { dtype: 'int8' })
  assert.equal((await readdir(out)).length, 2, 'it replaces what was there')
}))

trip('matrices lie at multiples of 64 bytes, the header is padded, no gaps', () => withDir(async (out) => {
  for (const dtype of dtypes) {
    const { file } = await convertCheckpoint(demo, out, { dtype })
    const bytes = await readFile(file)
    const { start, header } = parse(bytes)
    assert.is(start % 64, 0)
    let end = 0
    for (const [name, { dtype: type, data_offsets: [from, to] }] of Object.entries(header).filter(isTensor)) {
      assert.is(from, end)
      if (/c_qkv|c_proj|c_fc|lm_head/.test(name)) {
        assert.is(from % 64, 0, name)
        assert.is(type, dtype === 'float32' ? 'F32' : dtype === 'bfloat16' ? 'BF16' : 'U8', name)
      }
      end = to
    }
    assert.is(start + end, bytes.length)
  }
}))

trip('a dtype other than the file has is refused; a step, a conversion of a packed file, too', () => withDir(async (out) => {
  const { file } = await convertCheckpoint(demo, out, { dtype: 'int4' })
  await rejects(() => loadGPT(out, { dtype: 'bfloat16' }), 'ERR_INVALID_ARG', /'auto' or 'int4', which .*model-int4\.safetensors was packed as/)
  await rejects(() => loadGPT(file, { step: 1 }), 'ERR_INVALID_ARG', /no step for a packed file/)
  await rejects(() => convertCheckpoint(file, out), 'ERR_INVALID_ARG', /packed as int4 already/)
  await convertCheckpoint(demo, out, { dtype: 'int8' })
  await rejects(() => loadGPT(out), 'ERR_CHECKPOINT_NOT_FOUND', /one packed file .* found model-int4\.safetensors, model-int8\.safetensors/)
}))

trip('wrong arguments', () => withDir(async (dir) => {
  await writeHf(dir)
  await rejects(() => convertCheckpoint(dir, join(dir, 'model.safetensors')), 'ERR_INVALID_ARG', /another file than the checkpoint's own model\.safetensors/)
  await rejects(() => convertCheckpoint(dir, ''), 'ERR_INVALID_ARG', /a path for out/)
  for (const options of [{ dtype: 'int3' }, { device: 'cpu' }, { isa: 'avx2' }, { threads: 0 }]) {
    await rejects(() => convertCheckpoint(dir, join(dir, 'out'), options as ConvertOptions), 'ERR_INVALID_ARG', /./)
  }
  await rejects(() => convertCheckpoint(dir, join(dir, 'out'), { tokenizerDir: dir }), 'ERR_CHECKPOINT_NOT_FOUND', /tokenizer\.pkl/)
  assert.equal((await readdir(dir)).sort(), ['config.json', 'model.safetensors'])
}))

trip.run()

const failures = suite('packed file: nothing half-written')
const large: ModelSpec = { ...tinySpec, vocabSize: 16384, nLayer: 4, nHead: 4, nKvHead: 4, nEmbd: 256 }

failures('an abort at any time leaves no file', () => withDir(async (dir) => {
  const from = join(dir, 'from'), out = join(dir, 'out')
  await mkdir(from)
  await writeTiny(from, { tensors: tinyTensors(large), meta: tinyMeta(large) })
  for (const phase of ['convert', 'write']) {
    const abort = new AbortController()
    const converting = convertCheckpoint(from, out, { dtype: 'float32', signal: abort.signal, onProgress: (p) => { if (p.phase === phase && p.bytes < p.total) abort.abort(new Error(phase)) } })
    assert.is(await converting.then(() => 'converted', (error: Error) => error.message), phase)
    assert.equal(await readdir(out), [], phase)
  }
  const late = new AbortController()
  const written = convertCheckpoint(from, out, { dtype: 'float32', signal: late.signal, onProgress: (p) => { if (p.phase === 'write' && p.bytes === p.total) late.abort(new Error('late')) } })
  assert.is(await written.then(() => 'converted', (error: Error) => error.message), 'late')
  assert.equal(await readdir(out), [], 'late')
  await rejects(() => loadGPT(out), 'ERR_CHECKPOINT_NOT_FOUND', /It is empty/)
}))

failures('a place that cannot be written to', () => withDir(async (dir) => {
  await writeFile(join(dir, 'file'), '')
  await mkdir(join(dir, 'taken.safetensors'))
  await rejects(() => convertCheckpoint(demo, join(dir, 'file')), 'ERR_CHECKPOINT_WRITE', /EEXIST|ENOTDIR/)
  await rejects(() => convertCheckpoint(demo, join(dir, 'file', 'below')), 'ERR_CHECKPOINT_WRITE', /ENOTDIR|EEXIST/)
  await rejects(() => convertCheckpoint(demo, join(dir, 'taken.safetensors')), 'ERR_CHECKPOINT_WRITE', /EISDIR|ENOTEMPTY|EEXIST|EPERM/)
  assert.equal((await readdir(dir)).sort(), ['file', 'taken.safetensors'])
}))

failures('a disk that is full', () => withDir(async (dir) => {
  if (process.platform !== 'linux') return console.log('SKIP a disk that is full: the test limits file sizes as Linux does')
  const script = `import { convertCheckpoint } from ${JSON.stringify(programPath('../lib/convert'))}
    console.log(await convertCheckpoint(${JSON.stringify(demo)}, ${JSON.stringify(dir)}).then(() => 'written', (error) => error.code + ' ' + error.message))`
  const { stdout } = await promisify(execFile)('sh', ['-c', 'trap "" XFSZ; ulimit -f 2000; exec "$0" "$@"', process.execPath, ...loader, '--input-type=module', '-e', script])
  assert.match(stdout, /^ERR_CHECKPOINT_WRITE Could not write .*File too large/)
  assert.equal(await readdir(dir), [])
}))

failures('a file that is cut off while it is in use is an error, not the end of the process', () => withDir(async (dir) => {
  if (process.platform === 'win32') return console.log('SKIP a file that is cut off: Windows refuses to')
  const { file } = await convertCheckpoint(demo, dir, { dtype: 'int8' })
  const whole = join(dir, 'whole')
  await copyFile(file, whole)
  const { stdout } = await promisify(execFile)(process.execPath, [...loader, programPath('support/cut-off-child'), file, whole])
  assert.equal(JSON.parse(stdout), ['ok', 'ERR_CHECKPOINT_FORMAT', 'ERR_CHECKPOINT_FORMAT', 'restored'])
}))

failures('a checkpoint that is cut off while it is converted is an error, too', () => withDir(async (dir) => {
  if (process.platform === 'win32') return console.log('SKIP a checkpoint that is cut off: Windows refuses to')
  const spec: ModelSpec = { ...large, nLayer: 12 }
  await writeFile(join(dir, 'model_000001.pt'), ptBytes(tinyTensors(spec)))
  await writeFile(join(dir, 'meta_000001.json'), JSON.stringify(tinyMeta(spec)))
  const { stdout } = await promisify(execFile)(process.execPath, [...loader, programPath('support/cut-off-child'), dir])
  assert.equal(JSON.parse(stdout), ['ERR_CHECKPOINT_FORMAT'])
}))

failures.run()

interface Entry { dtype: string, shape: number[], data_offsets: [number, number] }
type Header = Record<string, Entry | Record<string, string>>
const isTensor = (entry: [string, Entry | Record<string, string>]): entry is [string, Entry] => entry[0] !== '__metadata__'

function parse(bytes: Buffer): { start: number, header: Header } {
  const start = 8 + Number(bytes.readBigUInt64LE())
  return { start, header: JSON.parse(bytes.toString('utf8', 8, start)) as Header }
}

/** The same data behind a header that `change` has changed, padded to `multiple`. */
function withHeader(bytes: Buffer, change: (header: Header, metadata: Record<string, string>) => void, multiple = 64): Buffer {
  const { start, header } = parse(bytes)
  change(header, header.__metadata__ as Record<string, string>)
  const json = JSON.stringify(header)
  const padded = Buffer.from(json + ' '.repeat((multiple - (json.length + 8) % multiple) % multiple))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  return Buffer.concat([length, padded, bytes.subarray(start)])
}

const hostile = suite('packed file: hostile headers')

hostile('each is refused with what is wrong', () => withDir(async (dir) => {
  await writeTiny(dir)
  const { file } = await convertCheckpoint(dir, join(dir, 'out'), { dtype: 'int8' })
  const good = await readFile(file)
  const qkv = 'transformer.h.0.attn.c_qkv.weight'
  const spec = (change: Record<string, unknown>) => (_: Header, metadata: Record<string, string>): void => {
    metadata.spec = JSON.stringify({ ...JSON.parse(metadata.spec ?? '') as object, ...change })
  }
  const renamed = (header: Header): void => {
    for (const [name, entry] of Object.entries(header)) {
      delete header[name]
      header[name === qkv ? 'transformer.h.0.attn.c_x.weight' : name] = entry
    }
  }
  const cases: [Buffer, 'ERR_CHECKPOINT_FORMAT' | 'ERR_CHECKPOINT_ARCH', RegExp][] = [
    [withHeader(good, (_, m) => { m.version = '2' }), 'ERR_CHECKPOINT_ARCH', /version "2" of its format; this one reads version "1"/],
    [withHeader(good, (_, m) => { m.dtype = 'int2' }), 'ERR_CHECKPOINT_ARCH', /the dtype "int2"/],
    [withHeader(good, (_, m) => { m.dtype = 'int4' }), 'ERR_CHECKPOINT_ARCH', /c_qkv\.weight as uint8 .*, not uint8/],
    [withHeader(good, (_, m) => { m.format = 'pt' }), 'ERR_CHECKPOINT_FORMAT', /not a file that nanochat-node quantize wrote/],
    [withHeader(good, (header) => { delete header.__metadata__ }), 'ERR_CHECKPOINT_FORMAT', /not a file that nanochat-node quantize wrote/],
    [withHeader(good, (_, m) => { m.spec = '{' }), 'ERR_CHECKPOINT_FORMAT', /expected JSON for spec/],
    [withHeader(good, (_, m) => { m.meta = '[]' }), 'ERR_CHECKPOINT_FORMAT', /expected a JSON object for meta/],
    [withHeader(good, spec({ generation: 'G7' })), 'ERR_CHECKPOINT_ARCH', /the generation "G7"/],
    [withHeader(good, spec({ generation: 'G5' })), 'ERR_CHECKPOINT_ARCH', /a tensor this version does not know: smear_gate/],
    [withHeader(good, spec({ nLayer: 3 })), 'ERR_CHECKPOINT_ARCH', /a tensor this version does not know: value_embeds\.1/],
    [withHeader(good, spec({ nLayer: 4 })), 'ERR_CHECKPOINT_ARCH', /resid_lambdas as float32 \(2\), not float32 \(4\)/],
    [withHeader(good, spec({ nLayer: 1 << 20 })), 'ERR_CHECKPOINT_ARCH', /n_layer/],
    [withHeader(good, (header) => { delete header.smear_lambda; (header.backout_lambda as Entry).data_offsets[0] -= 4; (header.backout_lambda as Entry).shape = [2] }), 'ERR_CHECKPOINT_ARCH', /backout_lambda as float32 \(2\)/],
    [withHeader(good, spec({ vocabSize: 65 })), 'ERR_CHECKPOINT_ARCH', /lm_head\.weight as uint8 \(1, .*, not uint8 \(2,/],
    [withHeader(good, spec({ nHead: 3 })), 'ERR_CHECKPOINT_ARCH', /n_head/],
    [withHeader(good, spec({ softcap: -1 })), 'ERR_CHECKPOINT_FORMAT', /softcap to be a positive number/],
    [withHeader(good, spec({ windowPattern: 'X' })), 'ERR_CHECKPOINT_FORMAT', /windowPattern/],
    [withHeader(good, spec({ ropeTable: 'int8' })), 'ERR_CHECKPOINT_FORMAT', /ropeTable/],
    [withHeader(good, spec({ experts: 8 })), 'ERR_CHECKPOINT_ARCH', /settings this version does not know: experts/],
    [withHeader(good, renamed), 'ERR_CHECKPOINT_ARCH', /a tensor this version does not know: transformer\.h\.0\.attn\.c_x\.weight/],
    [withHeader(good, (header) => { (header[qkv] as Entry).shape.reverse() }), 'ERR_CHECKPOINT_ARCH', /c_qkv\.weight as uint8/],
    [withHeader(good, (header) => { (header[qkv] as Entry).data_offsets[1] -= 1 }), 'ERR_CHECKPOINT_FORMAT', /elements but its data_offsets/],
    [withHeader(good, (header) => { (header['transformer.wte.weight'] as Entry).dtype = 'F16' }), 'ERR_CHECKPOINT_ARCH', /wte\.weight as float16/],
    [withHeader(good, () => {}, 8 + 64 * 3), 'ERR_CHECKPOINT_FORMAT', /at a multiple of 64 bytes/],
    [good.subarray(0, -1), 'ERR_CHECKPOINT_FORMAT', /bytes but the file has/],
    [Buffer.concat([good, Buffer.alloc(64)]), 'ERR_CHECKPOINT_FORMAT', /bytes but the file has/],
    [Buffer.alloc(0), 'ERR_CHECKPOINT_FORMAT', /it has 0 bytes/]
  ]
  for (const [bytes, code, message] of cases) {
    await writeFile(file, bytes)
    await rejects(() => loadGPT(file), code, message)
  }
  await writeFile(file, good)
  await (await loadGPT(file))[Symbol.asyncDispose]()
}))

hostile('the addon checks for itself what it is handed', () => withDir(async (dir) => {
  await writeTiny(dir)
  const { file } = await convertCheckpoint(dir, join(dir, 'out'), { dtype: 'int8' })
  const { readCheckpoint } = await import('../lib/checkpoint/checkpoint.js')
  const { spec, tensors, files } = await readCheckpoint(file)
  const load = (change: (tensor: typeof tensors[number]) => Partial<typeof tensors[number]>, dtype: typeof dtypes[number] = 'int8', paths = files): Promise<unknown> =>
    native().load(spec, tensors.map((tensor) => ({ ...tensor, ...change(tensor) })), paths, { dtype, threads: 1, packed: true }).promise
  const codeOf = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => 'loaded', (error: { code: string }) => error.code)
  assert.is(await codeOf(load(() => ({}), 'int4')), 'ERR_CHECKPOINT_ARCH')
  assert.is(await codeOf(load(({ name, offset }) => name === 'transformer.wte.weight' ? { offset: offset + 2 } : {})), 'ERR_CHECKPOINT_ARCH')
  assert.is(await codeOf(load(({ name }) => name === 'transformer.wte.weight' ? { dtype: 'uint8' } : {})), 'ERR_CHECKPOINT_ARCH')
  assert.is(await codeOf(load(({ name, offset }) => name === 'lm_head.weight' ? { offset: offset + (1 << 20) } : {})), 'ERR_CHECKPOINT_FORMAT')
  assert.is(await codeOf(load(({ name }) => name === 'lm_head.weight' ? { name: 'lm_tail.weight' } : {})), 'ERR_CHECKPOINT_ARCH')
  assert.throws(() => load(() => ({}), 'int8', [file, file]), /one file/)
}))

hostile.run()
