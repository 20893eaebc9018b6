import { toBfloat16, type Dtype, type Elements } from '../../lib/kernels.js'

/** Seeded float32 numbers, uniform from -1 to 1. */
export function randomFloats(seed: number, length: number): Float32Array {
  const floats = new Float32Array(length)
  let state = Math.imul(seed + 1, 0x9e3779b9)
  for (let i = 0; i < length; i++) {
    state = Math.imul(state ^ (state >>> 16), 0x21f0aaad) + 0x6d2b79f5 | 0
    floats[i] = (state ^ (state >>> 15)) / 2 ** 31
  }
  return floats
}

/** The same in either type. */
export function randomElements(seed: number, length: number, dtype: Dtype): Elements {
  return inDtype(randomFloats(seed, length), dtype)
}

export function inDtype(floats: Float32Array, dtype: Dtype): Elements {
  return dtype === 'float32' ? floats : toBfloat16(floats, { isa: 'reference' })
}

export function toFloats(elements: Elements): Float32Array {
  if (elements instanceof Float32Array) return elements
  const bits = new Uint32Array(elements.length)
  for (let i = 0; i < bits.length; i++) bits[i] = (elements[i] ?? 0) << 16
  return new Float32Array(bits.buffer)
}

/** Where two arrays differ in a bit, or null: -0 is not 0 here, and a NaN is itself. */
export function firstDifference(a: Elements, b: Elements): string | null {
  if (a.length !== b.length || a.constructor !== b.constructor) return `${a.constructor.name}(${a.length}) and ${b.constructor.name}(${b.length})`
  const bits = (array: Elements): Buffer => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
  if (bits(a).equals(bits(b))) return null
  const at = a.findIndex((x, i) => !Object.is(x, b[i]))
  return `element ${at} of ${a.length}: ${a[at]} and ${b[at]}`
}

/** Where |actual - expected| exceeds absolute + relative * |expected|, or null. */
export function firstError(actual: Elements, expected: Elements, { absolute, relative }: { absolute: number, relative: number }): string | null {
  if (actual.length !== expected.length || actual.constructor !== expected.constructor) return `${actual.constructor.name}(${actual.length}) and ${expected.constructor.name}(${expected.length})`
  const a = toFloats(actual), e = toFloats(expected)
  for (let i = 0; i < a.length; i++) {
    const is = a[i] ?? NaN, should = e[i] ?? NaN
    if (!(Math.abs(is - should) <= absolute + relative * Math.abs(should))) return `element ${i} of ${a.length}: ${is}, expected ${should}`
  }
  return null
}
