import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { appendKvCache, flashAttention, isas, type Dtype, type Elements, type FlashAttentionOptions } from '../lib/kernels.js'
import { firstDifference, firstError, inDtype, randomElements, randomFloats, toFloats } from './support/random-arrays.js'
import { someOf } from './support/some-of.js'

const test = suite('kernels: attention')
const dtypes: readonly Dtype[] = ['float32', 'bfloat16']
const positions = [0, 1, 60, 63, 64, 127, 500, 20_000]

/** Values from -1 to 1. bfloat16 rounds the weights and the result to 8 bits each. */
const tolerances = { float32: { absolute: 3e-6, relative: 0 }, bfloat16: { absolute: 2 ** -8, relative: 2 ** -8 } }

interface Case { headDim: number, window: number | undefined, group: number, kvHeads: number, queries: number, firstPosition: number, dtype: Dtype }

/** Each window with each head size, type and position; groups and numbers of queries in turn. */
function cases(): Case[] {
  const all = [2, 6, 16, 30, 64, 96, 128, 130].flatMap((headDim) => [0, 1, 63, 64, 65, 500, undefined].flatMap((window) =>
    positions.filter((position) => window !== undefined || position < 1000).map((firstPosition) => ({ headDim, window, firstPosition }))))
  const groups = [1, 2, 3, 6, 7, 13], counts = [1, 2, 5, 7, 12, 13, 70]
  return someOf(all.flatMap((c, i) => dtypes.map((dtype) => ({ ...c, dtype, group: groups[i % 6] ?? 1, queries: counts[i % 7] ?? 1, kvHeads: 1 + i % 2 }))))
}

/** q, k and v of a case: exactly the keys that its queries see. */
function inputs(c: Case, seed: number): { q: Elements, k: Elements, v: Elements, options: FlashAttentionOptions } {
  const { kvHeads, headDim, queries, firstPosition, window } = c, heads = kvHeads * c.group
  const firstKey = window === undefined ? 0 : Math.max(0, firstPosition - window), keys = firstPosition + queries - firstKey
  const elements = (offset: number, length: number): Elements => randomElements(3 * seed + offset, length, c.dtype)
  return {
    q: elements(0, queries * heads * headDim), k: elements(1, keys * kvHeads * headDim), v: elements(2, keys * kvHeads * headDim),
    options: { heads, kvHeads, headDim, queries, keys, firstPosition, firstKey, ...(window !== undefined && { window }) },
  }
}

const label = (isa: string, c: Case): string => `${isa} ${JSON.stringify(c)}`

test('every instruction set agrees with the reference', () => {
  for (const [seed, c] of cases().entries()) {
    const { q, k, v, options } = inputs(c, seed)
    const expected = flashAttention(q, k, v, { ...options, isa: 'reference' })
    for (const isa of isas()) {
      assert.is(firstError(flashAttention(q, k, v, { ...options, isa }), expected, tolerances[c.dtype]), null, label(isa, c))
    }
  }
})

test('large and equal scores: the softmax neither overflows nor loses a key', () => {
  const headDim = 64, keys = 200
  for (const dtype of dtypes) {
    for (const [isa, scale] of ['reference', ...isas()].flatMap((isa) => [-40, 0, 40].map((scale) => [isa, scale] as const))) {
      const q = randomElements(1, headDim, dtype), k = randomElements(2, keys * headDim, dtype), v = randomElements(3, keys * headDim, dtype)
      const options = { heads: 1, headDim, queries: 1, keys, scale, isa }
      assert.is(firstError(flashAttention(q, k, v, options), equation(q, k, v, scale, headDim, dtype), { ...tolerances[dtype], absolute: dtype === 'float32' ? 1e-4 : 2 ** -7 }), null, `${isa} ${dtype} ${scale}`)
    }
  }
})

test('scores that rise and fall from page to page, by less and by more than the softmax lets stand', () => {
  const headDim = 64, keys = 64 * 6 + 17, queries = 15
  for (const dtype of dtypes) {
    for (const step of [3, 7.5, 8.5, 40, -9]) {
      const q = inDtype(new Float32Array(queries * headDim).fill(1), dtype)
      const height = (j: number): number => step * Math.floor(j / 64) + (j % 5)
      const k = inDtype(Float32Array.from({ length: keys * headDim }, (_, i) => height(Math.floor(i / headDim)) / headDim), dtype)
      const v = randomElements(7, keys * headDim, dtype)
      for (const [isa, count] of ['reference', ...isas()].flatMap((isa) => [1, queries].map((count) => [isa, count] as const))) {
        const options = { heads: 1, headDim, queries: count, keys, firstPosition: keys - count, scale: 1, isa }
        const out = flashAttention(q.subarray(0, count * headDim), k, v, options)
        for (const query of new Set([0, count - 1])) {
          const seen = (keys - count + query + 1) * headDim
          const expected = equation(q.subarray(0, headDim), k.subarray(0, seen), v.subarray(0, seen), 1, headDim, dtype)
          assert.is(firstError(out.subarray(query * headDim, (query + 1) * headDim), expected, { ...tolerances[dtype], absolute: dtype === 'float32' ? 1e-5 : 2 ** -7 }), null, `${isa} ${dtype} step ${step} query ${query} of ${count}`)
        }
      }
    }
  }
})

/** One query over all keys, as MODEL.md has it. */
function equation(q: Elements, k: Elements, v: Elements, scale: number, headDim: number, dtype: Dtype): Elements {
  const [query, keys, values] = [toFloats(q), toFloats(k), toFloats(v)]
  const dot = (j: number): number => query.reduce((sum, x, d) => sum + x * (keys[j * headDim + d] ?? NaN), 0)
  const scores = Array.from({ length: keys.length / headDim }, (_, j) => scale * dot(j))
  const largest = Math.max(...scores), p = scores.map((score) => Math.exp(score - largest)), sum = p.reduce((a, b) => a + b)
  return inDtype(Float32Array.from({ length: headDim }, (_, d) => p.reduce((out, pj, j) => out + pj * (values[j * headDim + d] ?? NaN), 0) / sum), dtype)
}

test('a query alone is bitwise the query among others, wherever its tile begins', () => {
  for (const [seed, c] of cases().entries()) {
    if (c.queries === 1 || seed % 3 !== 0) continue
    const { q, k, v, options } = inputs(c, seed), row = q.length / c.queries
    for (const isa of isas()) {
      const all = flashAttention(q, k, v, { ...options, isa })
      for (const first of [0, 1, 2, 3, 5, c.queries - 1].filter((query) => query < c.queries)) {
        for (const queries of new Set([1, c.queries - first])) {
          const part = flashAttention(q.subarray(first * row, (first + queries) * row), k, v, { ...options, queries, firstPosition: c.firstPosition + first, isa })
          assert.is(firstDifference(part, all.subarray(first * row, (first + queries) * row)), null, `${label(isa, c)} queries ${first}+${queries}`)
        }
      }
    }
  }
})

test('heads are independent: each alone gives the bits it gives in its group', () => {
  const headDim = 30, keys = 150
  for (const dtype of dtypes) {
    for (const group of [2, 3, 6, 7, 12, 13]) {
      const q = randomElements(4, group * headDim, dtype), k = randomElements(5, keys * headDim, dtype), v = randomElements(6, keys * headDim, dtype)
      for (const isa of isas()) {
        const all = flashAttention(q, k, v, { heads: group, kvHeads: 1, headDim, queries: 1, keys, isa })
        for (let h = 0; h < group; h++) {
          const alone = flashAttention(q.subarray(h * headDim, (h + 1) * headDim), k, v, { heads: 1, headDim, queries: 1, keys, isa })
          assert.is(firstDifference(alone, all.subarray(h * headDim, (h + 1) * headDim)), null, `${isa} ${dtype} head ${h} of ${group}`)
        }
      }
    }
  }
})

test('what lies outside the window, or after the query, is never seen: NaN there changes no bit', () => {
  for (const [seed, c] of cases().entries()) {
    const { q, k, v, options } = inputs(c, seed), row = c.kvHeads * c.headDim
    const { keys, firstKey = 0 } = options
    // keys before the window come from position 0 or some pages back; a bf16 pair that is partly seen must stay finite
    const before = Math.min(firstKey, 130), beforePair = firstKey % 2 === 1 && c.dtype === 'bfloat16' ? 1 : 0
    const after = 70, afterPair = (firstKey + keys) % 2 === 1 && c.dtype === 'bfloat16' ? 1 : 0
    const surround = (x: Elements): Elements => {
      const floats = new Float32Array((before + keys + after) * row).fill(NaN)
      floats.fill(1e30, (before - Math.min(before, beforePair)) * row, (before + keys + afterPair) * row)
      floats.set(toFloats(x), before * row)
      return inDtype(floats, c.dtype)
    }
    for (const isa of isas()) {
      const expected = flashAttention(q, k, v, { ...options, isa })
      const poisoned = flashAttention(q, surround(k), surround(v), { ...options, firstKey: firstKey - before, keys: before + keys + after, isa })
      assert.is(firstDifference(poisoned, expected), null, label(isa, c))
    }
  }
})

test('appendKvCache: pages equal the reference bit for bit, at every slot', () => {
  for (const headDim of [2, 6, 16, 30, 64, 96, 128, 130]) {
    for (const [keys, firstSlot, kvHeads] of [[1, 0, 1], [1, 1, 2], [1, 63, 1], [2, 63, 3], [65, 0, 1], [130, 7, 2]] as const) {
      const k = randomFloats(7, keys * kvHeads * headDim), v = randomFloats(8, keys * kvHeads * headDim)
      for (const dtype of dtypes) {
        const options = { keys, firstSlot, kvHeads, headDim, dtype }
        const expected = appendKvCache(k, v, { ...options, isa: 'reference' })
        for (const isa of isas()) assert.is(firstDifference(appendKvCache(k, v, { ...options, isa }), expected), null, `${isa} ${JSON.stringify(options)}`)
      }
    }
  }
})

test('appendKvCache: keys by dimension, values by slot, pairs in bfloat16', () => {
  const k = Float32Array.of(1, 2), v = Float32Array.of(3, 4)
  const float32 = toFloats(appendKvCache(k, v, { keys: 1, kvHeads: 1, headDim: 2, firstSlot: 5 }))
  assert.equal([float32[5], float32[64 + 5], float32[128 + 5 * 16], float32[128 + 5 * 16 + 1]], [1, 2, 3, 4])
  const bfloat16 = toFloats(appendKvCache(k, v, { keys: 1, kvHeads: 1, headDim: 2, firstSlot: 5, dtype: 'bfloat16' }))
  assert.equal([bfloat16[10], bfloat16[11], bfloat16[128 + 2 * 32 + 1], bfloat16[128 + 2 * 32 + 3]], [1, 2, 3, 4])
  for (const pages of [float32, bfloat16]) assert.is(pages.filter((x) => x !== 0).length, 4)
})

test.run()
