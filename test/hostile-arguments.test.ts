// The addon's functions with single arguments that are wrong: a coded error or a TypeError, never a crash.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { flashAttention, matmul, mix, rmsNorm, rotary, rotaryTable } from '../lib/kernels.js'
import { native, type ModelSpec, type NativeModel } from '../lib/native.js'

const test = suite('hostile arguments of native functions')
const spec: ModelSpec = { generation: 'G6', sequenceLen: 16, vocabSize: 64, nLayer: 2, nHead: 2, nKvHead: 1, nEmbd: 32, windowPattern: 'SL' }
const newModel = (): Promise<NativeModel> => native().seeded(spec, 1, { dtype: 'float32', threads: 1 }).promise
const refused = (message: RegExp) => (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'ERR_INVALID_ARG' && message.test(error.message)
const prototypeOf = (value: object): object => Object.getPrototypeOf(value) as object
const constructorOf = (value: object): new (...args: unknown[]) => object => value.constructor as new (...args: unknown[]) => object

test('an object that only claims to be a sequence or a model', async () => {
  const model = await newModel(), sequence = model.newSequence()
  const forward = (value: unknown): unknown => model.forward([value as typeof sequence], Int32Array.of(1), Int32Array.of(1), Uint8Array.of(0), new Float32Array(0))
  const impostor = await newModel()
  const own = prototypeOf(impostor)
  Object.setPrototypeOf(impostor, prototypeOf(sequence))
  for (const value of [impostor, Object.create(prototypeOf(sequence)), Object.setPrototypeOf({}, prototypeOf(sequence)), model, {}, null]) {
    assert.throws(() => forward(value), refused(/sequences of newSequence/))
  }
  const length = Object.getOwnPropertyDescriptor(prototypeOf(sequence), 'length')?.get
  assert.throws(() => length?.call(model), refused(/sequences of newSequence/))
  assert.throws(() => Reflect.apply(model.newSequence, sequence, []), /Illegal invocation|a model of load/)
  Object.setPrototypeOf(impostor, own)
  await Promise.all([model.dispose(), impostor.dispose()])
})

test('the constructors take nothing that a script can have', async () => {
  const model = await newModel(), sequence = model.newSequence()
  const handle = native().kernels.packMatrix(8, 4, new Float32Array(32), 'float32')
  for (const argument of [handle, model, sequence, {}, 1, undefined]) {
    assert.throws(() => new (constructorOf(model))(argument), refused(/made by load/))
    assert.throws(() => new (constructorOf(sequence))(argument), refused(/made by newSequence/))
  }
  await model.dispose()
})

test('a getter among the sequences that starts a pass with one of them', async () => {
  const model = await newModel(), first = model.newSequence(), second = model.newSequence()
  const almostFull = 10 * spec.sequenceLen - 1
  let inner: Promise<void> | undefined
  const sequences = Object.defineProperty([first, second], 1, {
    get: () => {
      inner ??= model.forward([first], new Int32Array(almostFull), Int32Array.of(almostFull), Uint8Array.of(0), new Float32Array(0)).promise
      return second
    }
  })
  assert.throws(() => model.forward(sequences, new Int32Array(almostFull + 1), Int32Array.of(almostFull, 1), Uint8Array.of(0, 0), new Float32Array(0)), refused(/in a pass/))
  await inner
  assert.is(first.length, almostFull)
  await model.dispose()
})

test('kernels take arrays on shared and on growable memory', () => {
  const shared = (values: Float32Array): Float32Array => { const copy = new Float32Array(new SharedArrayBuffer(values.byteLength)); copy.set(values); return copy }
  const x = Float32Array.from({ length: 96 }, (_, i) => Math.sin(i))
  const { cos, sin } = rotaryTable({ rows: 3, headDim: 8 })
  for (const run of [
    (a: Float32Array) => rmsNorm(a, { rows: 3, width: 32 }), (a: Float32Array) => mix(a, a, { residLambda: 1, x0Lambda: 2 }),
    (a: Float32Array) => matmul(a, a, { rows: 3, k: 32, outputs: 3 }), (a: Float32Array) => rotary(a.subarray(0, 48), cos, sin, { rows: 3, heads: 2, headDim: 8 }),
    (a: Float32Array) => flashAttention(a, a, a, { heads: 4, headDim: 8, queries: 3, keys: 3 })
  ]) assert.equal(run(shared(x)), run(x))
})

test('lists without end', () => {
  const sampler = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0, row: 0, biasIds: new Int32Array(0), biases: new Float32Array(0), seen: new Int32Array(2 ** 24 + 1) }
  assert.throws(() => native().sample(sampler, 64, 0, new Float32Array(64)), refused(/at most 16777216 elements for seen/))
  assert.throws(() => native().probe(new Array<number>(65).fill(1)), refused(/at most 64/))
  assert.throws(() => native().kernels.packMatrix(2 ** 24, 2 ** 24, new Float32Array(1), 'float32'), refused(/Expected 281474976710656 elements/))
})

if (process.platform === 'linux') {
  test('a pipe in the place of a checkpoint does not hold up the process', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nanochat-test-')), pipe = join(dir, 'pipe')
    execFileSync('mkfifo', [pipe])
    const tensors = native().describe(spec).tensors.map(({ name, shape }) => ({ name, dtype: 'float32' as const, shape, file: 0, offset: 0 }))
    const error: unknown = await native().load(spec, tensors, [pipe], { dtype: 'float32', threads: 1 }).promise.catch((reason: unknown) => reason)
    assert.match(String(error), /to be a file with content/)
    rmSync(dir, { recursive: true })
  })
}

test.run()
