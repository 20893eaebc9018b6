// Calls every function of the addon and every kernel's wrapper with arguments that were right and of which some were broken.
// Each call must return, or fail with a coded error or a TypeError; after each round the model must still compute the same.
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import * as wrappers from '../../lib/kernels.js'
import { native, type ModelSpec, type NativeJob, type NativeModel, type NativeSequence } from '../../lib/native.js'
import { brokenArray, hostile, nearby, thrown } from './hostile-values.js'
import { generator, type Random } from './random.js'

/** One function: its name and arguments that it accepts. `call` gets them broken. */
interface Target { name: string, args: () => unknown[], call: (args: unknown[]) => unknown }

const V = 64
const spec: ModelSpec = { generation: 'G6', sequenceLen: 32, vocabSize: V, nLayer: 2, nHead: 2, nKvHead: 1, nEmbd: 32, windowPattern: 'SL' }
const mostElements = 1 << 20       // of a model that is made
const mostRepeats = 3
const nothing = join(tmpdir(), 'nanochat-nothing', 'here')   // no such folder: nothing is written, started or removed

export interface FuzzCounts { calls: number, returned: number, refused: number }

type Call = (...args: unknown[]) => unknown
const floats = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => (i % 13 - 6) / 8)
const bits = (n: number): Uint16Array => Uint16Array.from({ length: n }, (_, i) => 0x3f00 + i % 64)
const options = (): object => ({ dtype: 'float32', threads: 1 })
const sampler = (): object => ({ temperature: 1, topK: 5, topP: 0.9, minP: 0.01, repetitionPenalty: 1.1, seed: 3, row: 0, biasIds: Int32Array.of(1), biases: Float32Array.of(2), seen: Int32Array.of(4, 5) })

export async function fuzzNative(seed: number, calls: number, trace?: (call: string) => void): Promise<FuzzCounts> {
  const random = generator(seed)
  const model = await native().seeded(spec, 1, { dtype: (['float32', 'bfloat16', 'int8', 'int4'] as const)[seed % 4] ?? 'float32', threads: 1 + seed % 2 }).promise
  const other = await native().seeded(spec, 2, { dtype: 'float32', threads: 1 }).promise
  const disposed = await native().seeded(spec, 2, { dtype: 'float32', threads: 1 }).promise
  const objects = [model, other, disposed, model.newSequence(), model.newSequence(), other.newSequence(), disposed.newSequence(),
    native().kernels.packMatrix(8, 4, floats(32), 'float32'), native().kernels.packMatrix(70, 64, floats(70 * 64), 'int4')]
  await disposed.dispose()
  ;(objects[6] as NativeSequence).dispose()
  const expected = await logitsOf(model)
  const targets = [...bindingTargets(), ...kernelTargets(), ...wrapperTargets(), ...modelTargets(model, objects), ...sandboxTargets()]
  const counts: FuzzCounts = { calls, returned: 0, refused: 0 }
  const running: Promise<unknown>[] = []
  for (let i = 0; i < calls; i++) {
    const target = targets[random(targets.length)] as Target
    const args = argumentsFor(random, target, objects)
    trace?.(`${seed}.${i} ${target.name}`)
    try {
      const result = target.call(args)
      running.push(settled(random, result, `${target.name} in call ${i} of seed ${seed}`))
      counts.returned++
    } catch (error) {
      assert.ok(isTyped(error), `${target.name} in call ${i} of seed ${seed}: ${String(error)}`)
      counts.refused++
    }
    if (running.length >= 8) await Promise.all(running.splice(0))
  }
  await Promise.all(running)
  assert.equal(await logitsOf(model), expected, `the model computes something else after seed ${seed}`)
  await Promise.all([model.dispose(), other.dispose()])
  return counts
}

async function logitsOf(model: NativeModel): Promise<Float32Array> {
  const out = new Float32Array(V), sequence = model.newSequence()
  await model.forward([sequence], Int32Array.of(1, 2, 3), Int32Array.of(3), Uint8Array.of(1), out).promise
  sequence.dispose()
  return out
}

/** Waits for a job or a promise, at times after a cancel, and checks how it ended; a model that came of it is freed. */
async function settled(random: Random, result: unknown, label: string): Promise<void> {
  const job = typeof result === 'object' && result !== null && 'promise' in result && 'cancel' in result ? result as NativeJob<unknown> : undefined
  if (job !== undefined && random(3) === 0) job.cancel()
  try {
    const value = await (job?.promise ?? result)
    if (typeof value === 'object' && value !== null && 'newSequence' in value && job !== undefined) await (value as NativeModel).dispose()
  } catch (error) {
    assert.ok(isTyped(error), `${label}: ${String(error)}`)
  }
}

function isTyped(error: unknown): boolean {
  return error === thrown || error instanceof TypeError || (error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('ERR_'))
}

function argumentsFor(random: Random, target: Target, objects: readonly unknown[]): unknown[] {
  for (;;) {
    try {
      const args = broken(random, target.args(), objects)
      limitWork(target.name, args)
      return args
    } catch {
      continue                     // broken twice, and this code could not read it either
    }
  }
}

/** One to three arguments, or fields of arguments, replaced; now and then too few or too many. */
function broken(random: Random, args: unknown[], objects: readonly unknown[]): unknown[] {
  for (let n = random(8) === 0 ? 0 : 1 + random(3); n > 0 && args.length > 0; n--) {
    const at = random(args.length)
    args[at] = brokenValue(random, args[at], objects)
  }
  if (random(20) === 0) args.length = random(args.length + 1)
  if (random(20) === 0) args.push(hostile(random, objects))
  return args
}

function brokenValue(random: Random, value: unknown, objects: readonly unknown[]): unknown {
  if (random(3) === 0) return hostile(random, objects)
  if (typeof value === 'number') return nearby(random, value)
  if (value instanceof Float32Array || value instanceof Uint16Array || value instanceof Int32Array || value instanceof Uint8Array) return brokenArray(random, value)
  if (Array.isArray(value) && value.length > 0 && value.length < 1000) {
    const copy = [...value] as unknown[]
    const at = random(copy.length)
    copy[at] = brokenValue(random, copy[at], objects)
    return copy
  }
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    const keys = Object.keys(value)
    const key = keys[random(keys.length)] ?? 'x'
    if (random(8) === 0) return Object.defineProperty({ ...value }, key, { get: () => { throw thrown } })
    return { ...value, [key]: brokenValue(random, (value as Record<string, unknown>)[key], objects) }
  }
  return hostile(random, objects)
}

/** Turns requests that are right and would take minutes or gigabytes into ones that are wrong. */
function limitWork(name: string, args: unknown[]): void {
  if (name.startsWith('kernels.') && typeof args[1] === 'number' && args[1] > mostRepeats) args[1] = 2 ** 41
  if (name === 'save' && typeof args[0] === 'string') args[0] = join(nothing, args[0])
  if (name === 'probe' && Array.isArray(args[0]) && args[0].length < 1000 && args[0].every((n) => Number.isInteger(n) && n >= 1 && n <= 1024)) args[0] = [0]
  if (name === 'wrapper rotaryTable' && typeof args[0] === 'object' && args[0] !== null && (Object.getOwnPropertyDescriptor(args[0], 'rows')?.value as number) > 64) args.length = 0
  if (name === 'seeded' && elementsOf(args[0]) > mostElements) args[0] = undefined
  if ((name === 'seeded' || name === 'load') && typeof args.at(-1) === 'object' && args.at(-1) !== null) {
    const last = Object.getOwnPropertyDescriptor(args.at(-1), 'threads')
    if (typeof last?.value === 'number' && last.value > 4) args[args.length - 1] = { ...options(), threads: 1025 }
  }
}

function elementsOf(spec: unknown): number {
  try {
    return native().describe(spec as ModelSpec).tensors.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0)
  } catch {
    return 0
  }
}

function bindingTargets(): Target[] {
  const addon = native() as unknown as Record<string, Call>
  const target = (name: string, args: () => unknown[]): Target => ({ name, args, call: (broken) => addon[name]?.(...broken) })
  const tensors = (): object[] => native().describe(spec).tensors.map(({ name, shape }) => ({ name, dtype: 'float32', shape, file: 0, offset: 0 }))
  return [
    target('info', () => []), target('cudaDevices', () => []), target('describe', () => [{ ...spec }, 'int8']), target('seeded', () => [{ ...spec }, 1, options()]),
    target('load', () => [{ ...spec }, tensors(), ['/nonexistent'], { ...options(), packed: false }]), target('load', () => [{ ...spec }, tensors(), [process.execPath], options()]),
    target('probe', () => [[0], 'plain']), target('sample', () => [sampler(), V, 3, floats(V)]),
  ]
}

let sandboxThread: Record<string, Call> | undefined

function sandboxTargets(): Target[] {
  const start = (native() as unknown as Record<string, Call>).startSandboxThread
  if (start === undefined) return []
  sandboxThread ??= start(() => {}) as Record<string, Call>
  const args: Record<string, () => unknown[]> = { spawn: () => [1, nothing, ['a', 'b'], ['X=1']], kill: () => [1], remove: () => [2, nothing] }
  return Object.keys(args).map((name) => ({
    name: `sandbox ${name}`, args: args[name] as () => unknown[],
    call: (broken) => sandboxThread?.[name]?.(...broken.map((value, i) => i === 1 && typeof value === 'string' ? `${nothing}/${value}` : value))
  }))
}

function kernelTargets(): Target[] {
  const kernels = native().kernels as unknown as Record<string, Call>
  const { isa } = native().info()
  const handle = native().kernels.packMatrix(8, 4, floats(32), 'float32')
  const int8 = native().kernels.packMatrix(70, 64, floats(70 * 64), 'int8')
  const table: Record<string, () => unknown[]> = {
    packMatrix: () => [8, 4, floats(32), 'int8'], 'matmul float32': () => [isa, 1, 2, 0, 15, handle, floats(8), floats(16)],
    'matmul int8': () => [isa, 1, 2, 2, 15, int8, floats(128), floats(140)],
    flashAttention: () => [isa, 1, 4, 2, 8, 3, 5, 2, 0, -1, 0.3, floats(96), floats(80), floats(80), floats(96)],
    'flashAttention bfloat16': () => [isa, 1, 4, 2, 8, 1, 70, 69, 0, 20, 0.3, bits(32), bits(1120), bits(1120), bits(32)],
    appendKvCache: () => [isa, 1, 3, 2, 8, 63, floats(48), floats(48), floats(2 * 2 * 64 * (8 + Math.ceil(8 / 64) * 64))],
    rotary: () => [isa, 1, 3, 2, 8, 1e-6, 1, floats(48), floats(12), floats(12), floats(48)], rmsNorm: () => [isa, 1, 3, 33, 1e-6, floats(99), bits(99)],
    embed: () => [isa, 1, 3, 33, 1e-6, bits(99), floats(99)], mix: () => [isa, 1, 33, 1, 0.5, floats(33), floats(33), floats(33)],
    gatedValueEmbedding: () => [isa, 1, 3, 2, 8, 12, 3, floats(48), bits(48), floats(24), bits(36), floats(48)], convert: () => [isa, 1, 33, floats(33), bits(33)],
  }
  return Object.entries(table).map(([name, args]) => ({ name: `kernels.${name}`, args, call: (broken) => kernels[name.split(' ')[0] ?? '']?.(...broken) }))
}

function wrapperTargets(): Target[] {
  const functions = wrappers as unknown as Record<string, Call>
  const packed = wrappers.packMatrix(floats(32), { outputs: 8, k: 4 })
  const table: Record<string, () => unknown[]> = {
    packMatrix: () => [floats(32), { outputs: 8, k: 4, dtype: 'int8' }], matmul: () => [floats(8), packed, { rows: 2, epilogue: 'add', y: floats(16) }],
    flashAttention: () => [floats(96), floats(80), floats(80), { heads: 4, kvHeads: 2, headDim: 8, queries: 3, keys: 5, window: 4, firstKey: 0 }],
    timeKernel: () => [() => 1, 1], isas: () => [],
    rmsNorm: () => [floats(99), { rows: 3, width: 33 }], rotary: () => [floats(48), floats(12), floats(12), { rows: 3, heads: 2, headDim: 8 }],
    toBfloat16: () => [floats(33), {}], rotaryTable: () => [{ rows: 3, headDim: 8 }], embed: () => [bits(99), { rows: 3, width: 33 }], mix: () => [floats(33), floats(33), { residLambda: 1, x0Lambda: 0.5 }],
    gatedValueEmbedding: () => [floats(48), bits(48), floats(24), bits(36), { rows: 3, kvHeads: 2, headDim: 8 }],
    appendKvCache: () => [floats(48), floats(48), { keys: 3, kvHeads: 2, headDim: 8 }],
  }
  return Object.keys(functions).filter((name) => table[name] !== undefined).map((name) => ({ name: `wrapper ${name}`, args: table[name] as () => unknown[], call: (broken) => functions[name]?.(...broken) }))
}

function modelTargets(model: NativeModel, objects: readonly unknown[]): Target[] {
  const pass = (): unknown[] => [[model.newSequence(), model.newSequence()], Int32Array.of(1, 2, 3), Int32Array.of(1, 2)]
  const methods: Record<string, () => unknown[]> = {
    newSequence: () => [], forward: () => [...pass(), Uint8Array.of(1, 2), new Float32Array(3 * V)],
    decode: () => [...pass(), [sampler(), sampler()], Int32Array.of(7), 4, 5], save: () => ['x', '{}', () => {}],
    fork: () => [], truncate: () => [0], length: () => [], memoryBytes: () => [], numParams: () => [], isa: () => [],
  }
  const receiver = (random: number): unknown => objects[random % objects.length]
  let turn = 0
  const on = (name: string): Target => ({
    name, args: methods[name] as () => unknown[],
    call: (args) => {
      const found = method(model, name) ?? method(objects[3], name)
      const self = turn++ % 4 === 0 ? receiver(turn) : method(model, name) ? model : (model.newSequence() as unknown)
      return found?.apply(self, args)
    }
  })
  const construct = (name: string, of: unknown): Target => ({ name, args: () => [objects[7]], call: (args) => new ((of as object).constructor as new (...a: unknown[]) => unknown)(...args) })
  return [...Object.keys(methods).map(on), construct('new NativeModel', model), construct('new NativeSequence', objects[3])]
}

/** A method, or the getter of a property, without its object. */
function method(object: unknown, name: string): Call | undefined {
  const property = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(object) as object, name)
  return (property?.value ?? property?.get) as Call | undefined
}
