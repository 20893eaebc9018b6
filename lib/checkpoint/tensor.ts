import type { TensorSource } from '../native.js'

/** Bytes of one element, as stored. */
export const itemSize: Record<TensorSource['dtype'], number> = { float32: 4, bfloat16: 2, float16: 2, uint8: 1 }

/** Product of the dimensions; undefined when one is no size or the product is not exact. */
export function numElements(shape: readonly number[]): number | undefined {
  let count = 1
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) return undefined
    count *= n
    if (!Number.isSafeInteger(count)) return undefined
  }
  return count
}

export function isShape(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= 8 && value.every((n) => Number.isSafeInteger(n) && n >= 0)
}
