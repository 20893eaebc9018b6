// Values that no function of the addon expects, and broken versions of those that it does.
import type { Random } from './random.js'

/** What the hostile values' own getters throw: it may come through any function, as it is. */
export const thrown = new Error('thrown on purpose')

const numbers = [NaN, Infinity, -Infinity, -0, 0, -1, 1, 0.5, 2, 3, 7, 64, 255, 1024, 65_535, 2 ** 20, 2 ** 24, 2 ** 24 + 1, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), 2 ** 32 - 1, 2 ** 32, 2 ** 40,
  2 ** 40 + 1, 2 ** 53, 2 ** 53 - 1, 2 ** 63, 1e300, -1e300, 5e-324]
const strings = ['', 'x', 'float32', 'bfloat16', 'int8', 'int4', 'uint8', 'plain', 'reference', 'G1', 'HF', '\0', 'a\0b', '\ud800', '../..', '/nonexistent/x', '__proto__', 'x'.repeat(70_000)]
const arrayTypes = [Float32Array, Float64Array, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, BigInt64Array, BigUint64Array] as const
const lengths = [0, 1, 2, 3, 31, 64, 100, 4096]

export function hostile(random: Random, objects: readonly unknown[]): unknown {
  const kinds: (() => unknown)[] = [
    () => numbers[random(numbers.length)], () => numbers[random(numbers.length)], () => strings[random(strings.length)],
    () => [undefined, null, true, false, 5n, 2n ** 70n, Symbol('s'), () => 1, class {}, new Date(NaN), /x/, new Map(), Promise.resolve()][random(13)],
    () => typedArray(random, random(lengths.length)), () => typedArray(random, random(lengths.length)), () => otherBuffer(random),
    () => objects[random(objects.length)], () => objects[random(objects.length)], () => hostileObject(random, objects), () => hostileArray(random, objects),
  ]
  return (kinds[random(kinds.length)] as () => unknown)()
}

/** A number near `n`, or one far from everything. */
export function nearby(random: Random, n: number): number {
  const near = [n + 1, n - 1, n * 2, n / 2, -n, n + 0.5, n + 64, 1 - n]
  return (random(2) ? near[random(near.length)] : numbers[random(numbers.length)]) as number
}

/** The same type, with another length or on another kind of memory; `how` 0 to 7. */
export function brokenArray(random: Random, array: Float32Array | Uint16Array | Int32Array | Uint8Array): unknown {
  const Type = array.constructor as Float32ArrayConstructor
  const bytes = array.BYTES_PER_ELEMENT
  const breakings: (() => unknown)[] = [
    () => new Type(Math.max(0, array.length - 1)), () => new Type(array.length + 1), () => new Type(0),
    () => { const copy = Type.from(array); structuredClone(copy.buffer, { transfer: [copy.buffer] }); return copy },
    () => { const shared = new Type(new SharedArrayBuffer(array.byteLength)); shared.set(array); return shared },
    () => { const whole = resizable(array.byteLength + bytes); const view = new Type(whole, bytes, array.length); whole.resize(bytes); return view },
    () => { const whole = resizable(array.byteLength * 2); const tracking = new Type(whole); whole.resize(random(2) ? array.byteLength : bytes * random(array.length + 1)); return tracking },
    () => { const wide = new Type(array.length + 1); wide.set(array, 1); return wide.subarray(1) },
    () => Object.setPrototypeOf(Type.from(array), random(2) ? null : Map.prototype),
    () => Object.create(array) as unknown, () => new Proxy(array, {}), () => new DataView(array.buffer), () => Array.from(array), () => array.fill(NaN),
  ]
  return (breakings[random(breakings.length)] as () => unknown)()
}

interface Resizable extends ArrayBuffer { resize(bytes: number): void }

function resizable(bytes: number): Resizable {
  const Constructor = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => Resizable
  return new Constructor(bytes, { maxByteLength: 2 * bytes + 64 })
}

function typedArray(random: Random, length: number): unknown {
  const Type = arrayTypes[random(arrayTypes.length)] as Float32ArrayConstructor
  return new Type(lengths[length] ?? 0)
}

function otherBuffer(random: Random): unknown {
  const bytes = lengths[random(lengths.length)] ?? 0
  return [new ArrayBuffer(bytes), new SharedArrayBuffer(bytes), resizable(bytes), new DataView(new ArrayBuffer(bytes)), Buffer.alloc(bytes)][random(5)]
}

function hostileObject(random: Random, objects: readonly unknown[]): unknown {
  const prototypes = [null, Array.prototype, Float32Array.prototype, ...objects.map((object) => Object.getPrototypeOf(Object(object)) as object)]
  const makers: (() => unknown)[] = [
    () => Object.create(prototypes[random(prototypes.length)] ?? null),
    () => { try { return Object.setPrototypeOf({}, prototypes[random(prototypes.length)] ?? null) } catch { return {} } },
    () => new Proxy({}, { get: () => { throw thrown } }), () => new Proxy([], {}),
    () => ({ get length() { throw thrown }, valueOf() { throw thrown }, toString() { throw thrown } }),
    () => ({ length: numbers[random(numbers.length)] }), () => ({ valueOf: () => 1, toString: () => 'float32' }),
  ]
  return (makers[random(makers.length)] as () => unknown)()
}

function hostileArray(random: Random, objects: readonly unknown[]): unknown {
  const one = objects[random(objects.length)]
  const makers: (() => unknown)[] = [
    () => [], () => [undefined], () => new Array(2 ** 32 - 1), () => [1, , 3], () => [one, one], () => [one], () => [NaN], () => [-1], () => ['x'], () => [[]],
    () => Object.defineProperty([1], 0, { get: () => { throw thrown } }), () => [Symbol('s')],
  ]
  return (makers[random(makers.length)] as () => unknown)()
}
