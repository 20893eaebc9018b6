const M0 = 0xd2511f53
const M1 = 0xcd9e8d57
const W0 = 0x9e3779b9
const W1 = 0xbb67ae85
const rounds = 10

/** The 20 round keys (10 pairs) of one Philox4x32-10 key. */
export type PhiloxKey = Int32Array

/** The key schedule of (k0, k1): k0 grows by W0 and k1 by W1 each round. */
export function philoxKey(k0: number, k1: number): PhiloxKey {
  const key = new Int32Array(2 * rounds)
  for (let r = 0; r < rounds; r++) {
    key[2 * r] = k0 + r * W0
    key[2 * r + 1] = k1 + r * W1
  }
  return key
}

/**
 * One block of Philox4x32-10 (Salmon et al. 2011): the counter (c0, c1, c2, c3) under `key`, four 32-bit words into
 * `out`. Words go in and out as signed or unsigned alike; an Int32Array receives them signed.
 */
export function philox(out: Int32Array | Uint32Array, key: PhiloxKey, c0: number, c1: number, c2: number, c3: number): void {
  c0 |= 0
  c1 |= 0
  c2 |= 0
  c3 |= 0
  for (let r = 0; r < 2 * rounds; r += 2) {
    const hi0 = mulHigh(c0, M0 >>> 16, M0 & 0xffff)
    const hi1 = mulHigh(c2, M1 >>> 16, M1 & 0xffff)
    const lo0 = Math.imul(c0, M0)
    const lo1 = Math.imul(c2, M1)
    c0 = hi1 ^ c1 ^ (key[r] as number)
    c1 = lo1
    c2 = hi0 ^ c3 ^ (key[r + 1] as number)
    c3 = lo0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
}

/** The high 32 bits of the unsigned 64-bit product of `a` and `bHigh * 2^16 + bLow`, from 16-bit limbs. */
function mulHigh(a: number, bHigh: number, bLow: number): number {
  const aHigh = a >>> 16, aLow = a & 0xffff
  const low = Math.imul(aLow, bLow) >>> 16
  const middle = Math.imul(aHigh, bLow) + low | 0
  const carry = Math.imul(aLow, bHigh) + (middle & 0xffff) | 0
  return Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16) | 0
}
