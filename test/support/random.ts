/** Whole numbers from 0 to below - 1. */
export type Random = (below: number) => number

/** mulberry32. */
export function generator(seed: number): Random {
  let state = Math.imul(seed, 0x9e3779b9) >>> 0
  return (below) => {
    state = state + 0x6d2b79f5 >>> 0
    let x = Math.imul(state ^ state >>> 15, state | 1)
    x = x + Math.imul(x ^ x >>> 7, x | 61) ^ x
    return ((x ^ x >>> 14) >>> 0) % below
  }
}
