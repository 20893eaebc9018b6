import { typed } from './cpu-backend.js'
import { NanochatError, describe, invalidArg } from './errors.js'
import { native } from './native.js'
import { checkInteger } from './options.js'

/** float32 as it is, bfloat16 as its 16 bits. */
export type Elements = Float32Array | Uint16Array
/** Of the elements a kernel works on. */
export type Dtype = 'float32' | 'bfloat16'

/** What timeKernel hands to a kernel: how often to run, and the time that took. */
export interface Timer {
  /** How often the kernel runs. */
  repeat: number
  /** Of all runs together, once the kernel has returned. */
  nanoseconds: number
}

/** What every kernel takes. */
export interface KernelOptions {
  /** One of isas(), or 'reference': the equation in float64. Default: what the model would use here. */
  isa?: string
  /** From {@link timeKernel}. */
  timer?: Timer
}

export const maxHeads = 4096
export const maxPositions = 10 * 2 ** 24

/** Calls the native kernel with the options that all kernels share, and keeps its time. */
export function run({ isa, timer }: KernelOptions, kernel: (isa: string, repeat: number) => number): void {
  const { isa: best, isas } = native().info()
  const known = [...isas, 'reference']
  if (isa !== undefined && !known.includes(isa)) throw invalidArg('isa', `one of ${known.join(', ')}`, isa)
  if (timer !== undefined) checkInteger('timer.repeat', timer.repeat, 1, 2 ** 40)
  const nanoseconds = typed(() => kernel(isa ?? best, timer?.repeat ?? 1))
  if (timer !== undefined) timer.nanoseconds = nanoseconds
}

export function dtypeOf(elements: Elements): Dtype {
  return elements instanceof Uint16Array ? 'bfloat16' : 'float32'
}

export function allocate(length: number, dtype: 'float32'): Float32Array
export function allocate(length: number, dtype: 'bfloat16'): Uint16Array
export function allocate(length: number, dtype: Dtype): Elements
export function allocate(length: number, dtype: Dtype): Elements {
  try {
    // note: written once, because the first touch of fresh memory costs page faults, which are not the kernel's time.
    return (dtype === 'float32' ? new Float32Array(length) : new Uint16Array(length)).fill(0)
  } catch (cause) {
    throw new NanochatError('ERR_OUT_OF_MEMORY', `Not enough memory for a result of ${length} elements. Use a smaller shape.`, { cause })
  }
}

export function checkShape(sizes: Record<string, number>, most = 2 ** 31): void {
  for (const [name, size] of Object.entries(sizes)) checkInteger(name, size, 1, most)
}

export function checkHeads(heads: number, headDim: number): void {
  checkInteger('the number of heads', heads, 1, maxHeads)
  checkInteger('headDim', headDim, 2, 1024)
  if (headDim % 2 !== 0) throw invalidArg('headDim', 'an even number', headDim)
}

export function checkNorm(rows: number, width: number, eps: number): void {
  checkShape({ rows })
  checkShape({ width }, 2 ** 24)
  checkNumber('eps', eps, 0, 1)
}

export function checkDtype(name: string, dtype: unknown): void {
  if (dtype !== 'float32' && dtype !== 'bfloat16') throw invalidArg(name, 'float32 or bfloat16', dtype)
}

export function checkNumber(name: string, value: unknown, least: number, most: number): void {
  if (!(typeof value === 'number' && value >= least && value <= most)) throw invalidArg(name, `a number from ${least} to ${most}`, value)
}

/** `elements` has the shape, and the type where one is asked for. */
export function checkElements(name: string, elements: unknown, shape: number[], dtype?: Dtype): void {
  if (dtype !== undefined) checkDtype('dtype', dtype)
  const array = dtype === 'float32' ? 'a Float32Array' : dtype === 'bfloat16' ? 'a Uint16Array' : 'a Float32Array or a Uint16Array'
  const isFloat32 = elements instanceof Float32Array, isBfloat16 = elements instanceof Uint16Array
  const length = shape.reduce((product, size) => product * size, 1)
  if ((dtype !== 'bfloat16' && isFloat32) || (dtype !== 'float32' && isBfloat16)) {
    if (elements.length === length) return
    throw new NanochatError('ERR_INVALID_ARG', `Expected ${length} elements, (${shape.join(', ')}), for ${name} but received ${describe(elements)}.`)
  }
  throw invalidArg(name, `${array} of (${shape.join(', ')})`, elements)
}
