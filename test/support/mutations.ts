// Mutations of checkpoint and tokenizer files: each must give a typed error or a valid result, soon and within the file's size.
import { readFileSync } from 'node:fs'
import { mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import * as assert from 'uvu/assert'
import { readCheckpoint } from '../../lib/checkpoint/checkpoint.js'
import { convertCheckpoint } from '../../lib/convert.js'
import { NanochatError, type ErrorCode } from '../../lib/errors.js'
import { native, type ModelSpec, type NativeLoadOptions, type NativeModel, type TensorSource } from '../../lib/native.js'
import { tokenizerFromHuggingFace, tokenizerFromPickle, type Tokenizer } from '../../lib/tokenizer.js'
import { generator, type Random } from './random.js'
import { hfConfig, hfTensors, tinyMeta, tinySpec, tinyTensors, withDir, writeHf, writeTiny } from './tiny-checkpoint.js'
import { itemSizes, ptBytes, safetensorsBytes, stateDictPickle } from './write-pt.js'

interface Target {
  name: string
  original: Uint8Array
  /** Where the structure is; tensor data only dilutes the campaign. */
  offsets: Uint32Array
  dictionary: readonly string[]
  codes: readonly ErrorCode[]
  /** Instead of mutations of the bytes. */
  mutate?: (random: Random) => Uint8Array
  /** Puts the mutated bytes where they are read from; resolves to the size of all files of that checkpoint. */
  write(bytes: Uint8Array): Promise<number>
  /** Throws when they are refused; else gives a check of what was understood. */
  read(bytes: Uint8Array): Promise<() => Promise<void>>
}

interface AddOptions { codes?: ErrorCode[], offsets?: Uint32Array, wrap?: (bytes: Uint8Array) => Uint8Array }

export interface Campaign {
  cases: number
  valid: number
  refused: Record<string, number>  // by code
  slowestMs: number
  largestShare: number             // of memory allocated for refused files above 64 KiB, by their size
}

const maxCaseMs = 2000             // of the processor; a case takes 1 ms, some ten times as long under a sanitizer
const slackBytes = 65_536          // buffers of node's own

/** Runs `cases` mutations, spread evenly over every kind of file. The same seed gives the same mutations. */
export function runCampaign(cases: number, seed: number): Promise<Campaign> {
  return withDir(async (dir) => {
    const targets = await allTargets(dir)
    for (const target of targets.filter(({ mutate }) => !mutate)) {  // what is broken must have been whole
      await target.write(target.original)
      await (await target.read(target.original))()
    }
    const campaign: Campaign = { cases, valid: 0, refused: {}, slowestMs: 0, largestShare: 0 }
    for (let i = 0; i < cases; i++) {
      const target = targets[i % targets.length] as Target
      const random = generator(seed + i)
      const bytes = target.mutate?.(random) ?? mutate(target, random)
      await runCase(target, bytes, `case ${i} of seed ${seed} (${target.name})`, campaign)
    }
    return campaign
  })
}

async function runCase(target: Target, bytes: Uint8Array, label: string, campaign: Campaign): Promise<void> {
  const fileSize = await target.write(bytes)
  const memoryBefore = process.memoryUsage().arrayBuffers
  const started = process.cpuUsage()
  let check: (() => Promise<void>) | undefined
  try {
    check = await target.read(bytes)
  } catch (error) {
    if (!isCoded(error)) throw new Error(`${label}: ${String(error)}`, { cause: error })
    assert.ok(target.codes.includes(error.code), `${label}: ${error.code} ${error.message}`)
    assert.ok(error.message.length < 2000, `${label}: a message of ${error.message.length} characters`)
    campaign.refused[error.code] = (campaign.refused[error.code] ?? 0) + 1
  }
  const { user, system } = process.cpuUsage(started)
  const ms = (user + system) / 1000
  const grown = process.memoryUsage().arrayBuffers - memoryBefore
  campaign.slowestMs = Math.max(campaign.slowestMs, ms)
  assert.ok(ms < maxCaseMs, `${label}: took ${ms} ms`)
  if (check !== undefined) {
    campaign.valid++
    return check()
  }
  if (fileSize > slackBytes) campaign.largestShare = Math.max(campaign.largestShare, grown / fileSize)
  assert.ok(grown <= 2 * fileSize + slackBytes, `${label}: allocated ${grown} bytes for files of ${fileSize}`)
}

/** An error of this package, or of the addon where it is called without the code around it. */
function isCoded(error: unknown): error is Error & { code: ErrorCode } {
  return NanochatError.is(error) || (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_'))
}

async function allTargets(dir: string): Promise<Target[]> {
  const pickleWords = ['cos\nsystem\n', '\x8c\x02os\x8c\x06system\x93', 'ctorch\nHalfStorage\n', 'h\x00', 'h\x05',
    'j\x00\x00\x00\x00', 'R', '(', 't', '\x85', '\x86', '}', ')', 's', 'u', 'b', '.', 'Q', '\x81',
    'X\xff\xff\xff\xff', 'B\xff\xff\xff\x7f', '\x8a\xff', '\x95\xff\xff\xff\xff\xff\xff\xff\xff', 'q\x00', '\x94',
    '\x80\x02', 'N', 'K\x00', 'M\xff\xff', 'J\xff\xff\xff\xff', '((((', 'c\n\n']
  const jsonWords = ['null', '-1', '0', '1e999', '0.5', '99999999999999999999', '[]', '{}', '""', '"x"', 'NaN',
    '-Infinity', 'true', '"__proto__":{},', '[[[[[[[[', '{"a":', '\\', '\u0000', '\ud800', ',', ':', '"', '9007199254740993', '4294967296']
  const zipWords = ['PK\x03\x04', 'PK\x01\x02', 'PK\x05\x06', 'PK\x06\x06', 'PK\x06\x07', '\x01\x00\x10\x00', '../../data.pkl', 'data.pkl']
  const archs: ErrorCode[] = ['ERR_CHECKPOINT_FORMAT', 'ERR_CHECKPOINT_ARCH']
  const targets: Target[] = []
  /** A file of the checkpoint in `here`; `wrap` puts the mutated bytes into it. */
  const add = async (name: string, here: string, file: string, original: Uint8Array, dictionary: readonly string[],
    { codes = archs, offsets = Uint32Array.from(original.keys()), wrap = (bytes) => bytes }: AddOptions = {}): Promise<void> => {
    const others = (await readdir(here)).filter((name) => name !== file)
    const otherSizes = await Promise.all(others.map(async (name) => (await stat(join(here, name))).size))
    const otherBytes = otherSizes.reduce((sum, size) => sum + size, 0)
    targets.push({
      name, original, dictionary, codes, offsets, read: () => readValid(here),
      async write(bytes) {
        const whole = wrap(bytes)
        await writeFile(join(here, file), whole)
        return whole.length + otherBytes
      }
    })
  }
  const newDir = async (name: string): Promise<string> => {
    await mkdir(join(dir, name))
    return join(dir, name)
  }

  const g4: ModelSpec = { ...tinySpec, generation: 'G4' }
  for (const [name, spec, options] of [['G6 .pt', tinySpec, {}], ['G4 .pt in zip64', g4, { zip64: true }]] as const) {
    const here = await newDir(name)
    await writeTiny(here, { tensors: tinyTensors(spec), meta: tinyMeta(spec), options })
    const original = await readFile(join(here, 'model_000007.pt'))
    const { tensors } = await readCheckpoint(here)
    const isData = new Uint8Array(original.length)
    for (const { offset, shape, dtype } of tensors) {
      isData.fill(1, offset, offset + shape.reduce((product, n) => product * n, 1) * itemSizes[dtype])
    }
    await add(name, here, 'model_000007.pt', original, zipWords, { offsets: Uint32Array.from(original.keys()).filter((i) => isData[i] === 0) })
  }

  const wrapped = await newDir('data.pkl')
  await writeTiny(wrapped)
  const inner = tinyTensors()
  await add('data.pkl', wrapped, 'model_000007.pt', stateDictPickle(inner), pickleWords, { wrap: (pickle) => ptBytes(inner, { pickle }) })

  const withMeta = await newDir('meta')
  await writeTiny(withMeta)
  await add('meta.json', withMeta, 'meta_000007.json', await readFile(join(withMeta, 'meta_000007.json')), jsonWords)

  const hf = await newDir('hf')
  await writeHf(hf)
  const safetensors = safetensorsBytes(hfTensors())
  const headerEnd = 8 + Number(new DataView(safetensors.buffer, safetensors.byteOffset).getBigUint64(0, true))
  await add('model.safetensors', hf, 'model.safetensors', safetensors, jsonWords, { offsets: Uint32Array.from({ length: headerEnd }, (_, i) => i) })

  const packed = await newDir('packed')
  await writeTiny(packed)
  const { file } = await convertCheckpoint(packed, packed, { dtype: 'int8' })
  for (const name of ['model_000007.pt', 'meta_000007.json']) await rm(join(packed, name))
  const packedBytes = await readFile(file)
  await add('packed file', packed, basename(file), packedBytes, jsonWords, { offsets: Uint32Array.from({ length: 8 + Number(packedBytes.readBigUInt64LE()) }, (_, i) => i) })

  const withConfig = await newDir('config')
  await writeHf(withConfig)
  await add('config.json', withConfig, 'config.json', Buffer.from(JSON.stringify(hfConfig)), jsonWords)

  const sharded = await newDir('index')
  await writeFile(join(sharded, 'config.json'), JSON.stringify(hfConfig))
  for (const [i, part] of [hfTensors().slice(0, 5), hfTensors().slice(5)].entries()) {
    await writeFile(join(sharded, `part${i}.safetensors`), safetensorsBytes(part))
  }
  const index = { weight_map: Object.fromEntries(hfTensors().map((t, i) => [t.name, i < 5 ? 'part0.safetensors' : 'part1.safetensors'])) }
  const indexName = 'model.safetensors.index.json'
  await add(indexName, sharded, indexName, Buffer.from(JSON.stringify(index)), jsonWords, { codes: [...archs, 'ERR_CHECKPOINT_NOT_FOUND'] })

  const addTokenizer = (name: string, original: Uint8Array, dictionary: readonly string[], read: (bytes: Uint8Array) => Tokenizer): void => {
    targets.push({
      name, original, dictionary, codes: ['ERR_TOKENIZER_FORMAT'], offsets: Uint32Array.from(original.keys()),
      write: (bytes) => Promise.resolve(bytes.length),
      async read(bytes) {
        const tokenizer = read(bytes)
        return async () => assert.is(tokenizer.decode(tokenizer.encode('It is 25 °C.')), 'It is 25 °C.')
      }
    })
  }
  const fixture = (name: string): Uint8Array => readFileSync(new URL(`../fixtures/${name}`, import.meta.url))
  for (const protocol of [2, 4]) addTokenizer(`tokenizer.pkl, protocol ${protocol}`, fixture(`tokenizer/tokenizer_proto${protocol}.pkl`), pickleWords, tokenizerFromPickle)
  addTokenizer('tokenizer.json', smallTokenizerJson(), jsonWords, (bytes) => tokenizerFromHuggingFace(new TextDecoder().decode(bytes)))
  for (const here of [withMeta, hf, packed]) targets.push(await entriesTarget(here))
  return targets
}

/** Reads `dir`; the check is what a caller relies on: exactly the tensors of the spec, each inside its file, and the model loads. */
async function readValid(dir: string): Promise<() => Promise<void>> {
  const { spec, tensors, files, packed } = await readCheckpoint(dir)
  return async () => {
    assert.equal(tensors.map((t) => t.name).sort(), native().describe(spec, packed).tensors.map((t) => t.name).sort())
    const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size))
    for (const { name, shape, dtype, file, offset } of tensors) {
      const end = offset + shape.reduce((product, n) => product * n, 1) * itemSizes[dtype]
      assert.ok(offset >= 0 && end <= (sizes[file] ?? 0), `${name} ends at ${end} of ${sizes[file]}`)
    }
    await useModel(await native().load(spec, tensors, files, { dtype: packed ?? 'float32', threads: 1, packed: packed !== undefined }).promise, spec)
  }
}

/** A pass over a few tokens, the last of the vocabulary among them. */
async function useModel(model: NativeModel, { vocabSize }: ModelSpec): Promise<void> {
  const sequence = model.newSequence(), out = new Float32Array(vocabSize)
  await model.forward([sequence], Int32Array.of(0, vocabSize - 1, 1 % vocabSize), Int32Array.of(3), Uint8Array.of(1), out).promise
  await model.dispose()
}

interface LoadArguments { spec: ModelSpec, tensors: TensorSource[], files: string[], options: NativeLoadOptions }

/** The addon's own loader, given what no reader of files would give it: numbers, names and types changed one by one. */
async function entriesTarget(dir: string): Promise<Target> {
  const { spec, tensors, files, packed } = await readCheckpoint(dir)
  const options: NativeLoadOptions = { dtype: packed ?? 'float32', threads: 1, packed: packed !== undefined }
  const original: LoadArguments = { spec, tensors, files, options }
  return {
    name: `arguments of load, ${basename(dir)}`, original: new Uint8Array(0), offsets: new Uint32Array(1), dictionary: [],
    codes: ['ERR_INVALID_ARG', 'ERR_CHECKPOINT_FORMAT', 'ERR_CHECKPOINT_ARCH', 'ERR_CHECKPOINT_NOT_FOUND', 'ERR_OUT_OF_MEMORY'],
    mutate: (random) => Buffer.from(JSON.stringify(mutateArguments(structuredClone(original), random))),
    write: () => Promise.resolve(1 << 20),
    async read(bytes) {
      const { spec, tensors, files, options } = JSON.parse(String(bytes)) as LoadArguments
      const model = await native().load(spec, tensors, files, options).promise
      return () => useModel(model, spec)
    }
  }
}

function mutateArguments(args: LoadArguments, random: Random): LoadArguments {
  const pick = <T>(values: readonly T[]): T => values[random(values.length)] as T
  const { spec, tensors, options } = args
  const tensor = (): TensorSource => pick(tensors)
  const sizes = [0, 1, 2, 3, 8, 15, 16, 31, 32, 33, 63, 64, 65, 128, 255, 256, 2 ** 20, 2 ** 31, 2 ** 40]
  const numbers = ['sequenceLen', 'vocabSize', 'nLayer', 'nHead', 'nKvHead', 'nEmbd', 'mlpHidden'] as const
  const kinds: (() => void)[] = [
    () => { const { shape } = tensor(); shape[random(shape.length)] = pick(sizes) },
    () => { const one = tensor(); one.shape = one.shape.toReversed() },
    () => { const one = tensor(); one.shape = pick([[], [one.shape.reduce((a, b) => a * b, 1)], [...one.shape, 1], [1, ...one.shape]]) },
    () => { const one = tensor(); one.offset = pick([0, 1, 2, 3, one.offset + 1, one.offset + 2, one.offset + 4, one.offset - 1, one.offset * 2, 2 ** 31, 2 ** 52]) },
    () => { tensor().offset = tensor().offset },
    () => { tensor().dtype = pick(['float32', 'bfloat16', 'float16', 'uint8']) },
    () => { tensor().name = pick([tensor().name, '', 'x']) },
    () => { tensor().file = pick([1, 2, 2 ** 20]) },
    () => { tensors.splice(random(tensors.length), 1) },
    () => { const [a, b] = [tensor(), tensor()]; [a.name, b.name] = [b.name, a.name] },
    () => { spec[pick(numbers)] = pick(sizes.slice(0, -3)) },
    () => { spec.generation = pick(['G1', 'G2', 'G3', 'G4', 'G5', 'G6', 'HF']) },
    () => { spec.windowPattern = pick(['', 'L', 'S', 'SSSL', 'x', 'SL'.repeat(600)]) },
    () => { options.dtype = pick(['float32', 'bfloat16', 'int8', 'int4']) },
    () => { options.packed = !options.packed },
    () => { args.files = pick([[], [...args.files, ...args.files], ['/nonexistent'], ['/'], [process.execPath]]) }
  ]
  for (let n = random(3) ? 1 : 2; n > 0 && tensors.length > 0; n--) pick(kinds)()
  return args
}

/** A byte-level vocabulary of the 256 bytes and a few merges: the demo's has 200 KB, which mutations would hardly ever hit. */
function smallTokenizerJson(): Uint8Array {
  const demo = JSON.parse(readFileSync(new URL('../fixtures/demo/tokenizer/tokenizer.json', import.meta.url), 'utf8')) as {
    model: { vocab: Record<string, number>, merges: string[][] }, added_tokens: { id: number }[]
  }
  const kept = 270
  demo.model.vocab = Object.fromEntries(Object.entries(demo.model.vocab).filter(([, id]) => id < kept))
  demo.model.merges = demo.model.merges.filter((merge) => [...merge, merge.join('')].every((token) => token in demo.model.vocab))
  demo.added_tokens.forEach((token, i) => { token.id = kept + i })
  return Buffer.from(JSON.stringify(demo))
}

function mutate({ original, offsets, dictionary }: Target, random: Random): Uint8Array {
  const place = (): number => offsets[random(offsets.length)] as number
  const word = (): Buffer => Buffer.from(dictionary[random(dictionary.length)] ?? '', 'latin1')
  const splice = (bytes: Uint8Array, at: number, removed: number, added: Uint8Array): Uint8Array =>
    Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(Math.min(bytes.length, at + removed))])
  const span = (): Uint8Array => { const at = place(); return original.subarray(at, at + 1 + random(64)) }
  const kinds: ((bytes: Uint8Array) => Uint8Array)[] = [
    (bytes) => bytes.subarray(0, random(2) ? place() : random(bytes.length)),
    (bytes) => { for (let n = 1 + random(4); n > 0; n--) flip(bytes, place(), 1 << random(8)); return bytes },
    (bytes) => { bytes[place()] = random(256); return bytes },
    (bytes) => { writeLength(bytes, place(), random); return bytes },
    (bytes) => splice(bytes, place(), 1 + random(64), new Uint8Array(0)),
    (bytes) => splice(bytes, place(), 0, span()),
    (bytes) => { const part = span(); return splice(bytes, place(), part.length, part) },
    (bytes) => splice(bytes, place(), 0, word()),
    (bytes) => { const part = word(); return splice(bytes, place(), part.length, part) },
    (bytes) => { const [at, length] = numberAt(bytes, place()); return splice(bytes, at, length, word()) }
  ]
  let bytes: Uint8Array = Uint8Array.from(original)
  for (let n = random(4) ? 1 : 2; n > 0; n--) bytes = (kinds[random(kinds.length)] as (bytes: Uint8Array) => Uint8Array)(bytes)
  return bytes
}

function flip(bytes: Uint8Array, at: number, mask: number): void {
  if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ mask
}

/** A length field of 1, 2, 4 or 8 bytes gets a value that readers get wrong. */
function writeLength(bytes: Uint8Array, at: number, random: Random): void {
  const width = 1 << random(4)
  const size = BigInt(bytes.length)
  const values = [
    0n, 1n, 0x7fn, 0xffn, 0x7fffn, 0xffffn, 
    0x7fffffffn, 0x80000000n, 0xfffffffen, 0xffffffffn, 0x7fffffffffffffffn, 0xffffffffffffffffn, size, size - 1n, size + 1n, size - BigInt(at), 2n ** 53n
  ]
  let value = values[random(values.length)] ?? 0n
  for (let i = at; i < Math.min(at + width, bytes.length); i++, value >>= 8n) bytes[i] = Number(value & 0xffn)
}

/** The run of digits at or after `from`, for JSON numbers and ids. */
function numberAt(bytes: Uint8Array, from: number): [number, number] {
  const isDigit = (i: number): boolean => (bytes[i] ?? 0) >= 48 && (bytes[i] ?? 0) <= 57
  let at = from
  while (at < bytes.length && !isDigit(at)) at++
  let length = 0
  while (isDigit(at + length)) length++
  return [at, length]
}
