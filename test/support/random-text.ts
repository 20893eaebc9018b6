// Seeded random numbers, and text that is hard on a tokenizer.

/** Integers from 0 to n - 1. */
export function randomInts(seed: number): (n: number) => number {
  let state = seed >>> 0
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor(((t ^ (t >>> 14)) >>> 0) / 2 ** 32 * n)
  }
}

const pools = [
  '\'sdmtlvreSDMTLVRE\u017f\u212a', ' \t\n\r\u000b\f\u001c\u001f\u0085\u00a0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u205f\u3000\ufeff',
  'abcdeABC\u00e9\u00df\u01c5\u0130\u0131\u4e2d\u65e5\ud55c\u0414\u03b1\u0639', '0123456789\u00bd\u00b2\u2167\u0663\u2462', '!.,;:-_(){}"#$%&*+=<|>\u0301\u200d\u2019\ue000\u0378\ufffd',
].map((pool) => [...pool])
const words = ['the', ' and', 'don\'t', 'WE\'VE', '\'s', '  ', '\n\n', ' \n ', '\r\n', '   x', '<|bos|>', '<|python_start|>', '\u{1f469}\u200d\u{1f467}', 'e\u0301', '12345']

/** `length` draws from traps, ordinary words and all planes of Unicode; never a lone surrogate. */
export function randomText(random: (n: number) => number, length: number): string {
  return Array.from({ length }, () => {
    const kind = random(10)
    if (kind < 6) return pick(random, pick(random, pools))
    if (kind < 8) return pick(random, words)
    const codePoint = random(kind === 8 ? 0x3000 : 0x110000)
    return codePoint >= 0xd800 && codePoint < 0xe000 ? '\u{1f642}' : String.fromCodePoint(codePoint)
  }).join('')
}

export function pick<T>(random: (n: number) => number, from: readonly T[]): T {
  return from[random(from.length)] as T
}
