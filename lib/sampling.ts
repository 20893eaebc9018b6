import { philox, philoxKey } from './philox.js'
import type { PhiloxKey } from './philox.js'

/** Checked sampling options (MODEL.md 5); `options.ts` makes them from what the caller gave. */
export interface SamplingParams {
  readonly temperature: number                 // 0 = argmax
  readonly topK: number                        // 0 = off
  readonly topP: number                        // 1 = off
  readonly minP: number                        // 0 = off
  readonly repetitionPenalty: number           // 1 = off
  readonly logitBias: readonly (readonly [id: number, bias: number])[]
  readonly seed: number                        // 0 .. 2^53 - 1
}

/** How one row draws: its parameters, its own random stream and, for the repetition penalty, the ids it has seen. */
export interface Sampler {
  readonly params: SamplingParams
  readonly row: number
  readonly key: PhiloxKey
  readonly seen: { readonly flags: Uint8Array, readonly ids: number[] } | null
}

export function newSampler(params: SamplingParams, row: number, vocabSize: number, prompt: ArrayLike<number>): Sampler {
  const key = philoxKey(params.seed % 2 ** 32, Math.floor(params.seed / 2 ** 32))
  const seen = params.repetitionPenalty === 1 ? null : { flags: new Uint8Array(vocabSize), ids: [] }
  const sampler = { params, row, key, seen }
  if (seen) for (let i = 0; i < prompt.length; i++) observe(sampler, prompt[i] as number)
  return sampler
}

/** Tells the repetition penalty that `id` is now part of the row, sampled or forced. */
export function observe({ seen }: Sampler, id: number): void {
  if (!seen || seen.flags[id] === 1) return
  seen.flags[id] = 1
  seen.ids.push(id)
}

/** Takes back what it was told after the first `count` different ids. */
export function forget({ seen }: Sampler, count: number): void {
  for (const id of seen?.ids.splice(count) ?? []) if (seen) seen.flags[id] = 0
}

/**
 * The token for absolute index `position` of the row, from the raw `logits` (V), which stay as they are. Bias, penalty,
 * temperature, top-k, top-p, min-p, then Gumbel-max, in the order and precision of MODEL.md 5: the same arguments give
 * the same token in every implementation. Ids that top-k, top-p and min-p keep are always a prefix of the order (value
 * descending, id ascending); a filter only shortens it.
 */
export function sample(sampler: Sampler, logits: Float32Array, position: number): number {
  const { temperature, topK, topP, minP } = sampler.params
  const V = logits.length
  const adjusted = withBiasAndPenalty(sampler, logits)
  const likeliest = argmax(adjusted)
  if (temperature === 0) return likeliest
  const values = withTemperature(adjusted, temperature)
  const max = values[likeliest] as number
  if (max === -Infinity) return likeliest

  const gumbel: Draw = { sampler, position, values, max, minP }
  if (topK > 0 && topK < V) {
    let n = largest(values, topK)
    if (topP < 1) n = nucleus(n, values, max, topP, massOf(n, values, max))
    return drawFromKeys(gumbel, likeliest, n)
  }
  return drawFromAll(gumbel, likeliest, topP < 1 ? lastKeyOfNucleus(values, max, topP) : Infinity)
}

/** The log-probability of `id` and the `n` most likely ids with theirs: softmax of the raw logits at temperature 1, in fp64. */
export function logprobs(logits: Float32Array, id: number, n: number): { token: number, top: { id: number, logprob: number }[] } {
  const max = logits[argmax(logits)] as number
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i] as number) - max)
  const logSum = max + Math.log(sum)
  const top = []
  const kept = n > 0 ? largest(logits, Math.min(n, logits.length)) : 0
  for (let i = 0; i < kept; i++) {
    const id = idOfKey(keys[i] as number)
    top.push({ id, logprob: (logits[id] as number) - logSum })
  }
  return { token: (logits[id] as number) - logSum, top }
}

interface Draw { sampler: Sampler, position: number, values: Float32Array, max: number, minP: number }

// Scratch of this thread, grown to the largest vocabulary seen: a step allocates nothing of size V.
let adjustedScratch = new Float32Array(0)
let scaledScratch = new Float32Array(0)
let keys = new Float64Array(0)                 // (V), sort keys of candidates, see keyOf
const bucketsPerUnit = 8
const mass = new Float64Array(40 * bucketsPerUnit)   // softmax mass by distance below the maximum; the last bucket takes the rest
const words = new Int32Array(4)
const oneFloat = new Float32Array(1)
const oneInt = new Int32Array(oneFloat.buffer)

function withBiasAndPenalty({ params: { logitBias, repetitionPenalty }, seen }: Sampler, logits: Float32Array): Float32Array {
  if (logitBias.length === 0 && !seen) return logits
  if (adjustedScratch.length < logits.length) adjustedScratch = new Float32Array(logits.length)
  const adjusted = adjustedScratch.subarray(0, logits.length)
  adjusted.set(logits)
  for (const [id, bias] of logitBias) adjusted[id] = (adjusted[id] as number) + Math.fround(bias)
  if (seen) {
    const penalty = Math.fround(repetitionPenalty)
    for (const id of seen.ids) {
      const logit = adjusted[id] as number
      adjusted[id] = logit > 0 ? logit / penalty : logit * penalty
    }
  }
  return adjusted
}

function withTemperature(logits: Float32Array, temperature: number): Float32Array {
  if (temperature === 1) return logits
  if (scaledScratch.length < logits.length) scaledScratch = new Float32Array(logits.length)
  const scaled = scaledScratch.subarray(0, logits.length)
  const divisor = Math.fround(temperature)
  for (let i = 0; i < logits.length; i++) scaled[i] = (logits[i] as number) / divisor
  return scaled
}

function argmax(values: Float32Array): number {
  let best = 0, max = -Infinity
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number
    if (value > max) {
      max = value
      best = i
    }
  }
  return best
}

/** A number that sorts ascending by (value descending, id ascending): the value's 32 bits, reversed, above 21 bits of id. */
function keyOf(value: number, id: number): number {
  oneFloat[0] = value + 0                      // note: -0 becomes 0, they are equal
  const bits = oneInt[0] as number
  const ascending = bits < 0 ? ~bits >>> 0 : (bits | 0x80000000) >>> 0
  return (0xffffffff - ascending) * 2 ** 21 + id
}

function idOfKey(key: number): number {
  return key % 2 ** 21
}

function reserveKeys(n: number): void {
  if (keys.length < n) keys = new Float64Array(n)
}

/** Writes the `k` largest values, sorted, to `keys` and returns k: a heap of the best so far, its root the worst of them. */
function largest(values: Float32Array, k: number): number {
  reserveKeys(k)
  for (let i = 0; i < k; i++) keys[i] = keyOf(values[i] as number, i)
  for (let i = (k >> 1) - 1; i >= 0; i--) siftDown(i, k, keys[i] as number)
  let worst = values[idOfKey(keys[0] as number)] as number
  for (let i = k; i < values.length; i++) {
    const value = values[i] as number
    if (value > worst) {
      siftDown(0, k, keyOf(value, i))
      worst = values[idOfKey(keys[0] as number)] as number
    }
  }
  keys.subarray(0, k).sort()
  return k
}

/** Puts `key` at or below heap node `at` of `keys[0..n)`, greatest key on top. */
function siftDown(at: number, n: number, key: number): void {
  for (;;) {
    let child = 2 * at + 1
    if (child >= n) break
    if (child + 1 < n && (keys[child + 1] as number) > (keys[child] as number)) child++
    if ((keys[child] as number) <= key) break
    keys[at] = keys[child] as number
    at = child
  }
  keys[at] = key
}

/** The softmax mass, relative to the maximum's 1, of the `n` candidates in `keys`. */
function massOf(n: number, values: Float32Array, max: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += Math.exp((values[idOfKey(keys[i] as number)] as number) - max)
  return sum
}

/** How many of the `n` sorted candidates it takes for their probabilities, and `before` them the mass of larger ones, to reach `topP`. */
function nucleus(n: number, values: Float32Array, max: number, topP: number, total: number, before = 0): number {
  let sum = before / total
  for (let i = 0; i < n; i++) {
    sum += Math.exp((values[idOfKey(keys[i] as number)] as number) - max) / total
    if (sum >= topP) return i + 1
  }
  return n
}

/**
 * The last key that top-p keeps of the whole vocabulary: buckets by distance below the maximum are filled and counted in
 * descending order, and only the one in which the sum reaches `topP` has to be sorted.
 */
function lastKeyOfNucleus(values: Float32Array, max: number, topP: number): number {
  let total = 0
  mass.fill(0)
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number
    const exp = Math.exp(value - max)
    const bucket = bucketOf(value, max)
    mass[bucket] = (mass[bucket] as number) + exp
    total += exp
  }
  let before = 0, last = 0
  while (last < mass.length - 1 && (before + (mass[last] as number)) / total < topP) before += mass[last++] as number

  reserveKeys(values.length)
  let n = 0
  for (let i = 0; i < values.length; i++) if (bucketOf(values[i] as number, max) === last) keys[n++] = keyOf(values[i] as number, i)
  keys.subarray(0, n).sort()
  return keys[nucleus(n, values, max, topP, total, before) - 1] as number
}

function bucketOf(value: number, max: number): number {
  return Math.min((max - value) * bucketsPerUnit, mass.length - 1) | 0
}

const gumbelMax = Math.fround(-Math.log(-Math.log((0xffffffff + 0.5) * 2 ** -32)))   // 22.87
const stepsPerUnit = 4
/** `smallestWord[k]`: below this random word g is under k / stepsPerUnit; less 2 for the rounding of this line. */
const smallestWord = Float64Array.from({ length: Math.ceil(gumbelMax * stepsPerUnit) + 1 },
  (_, k) => Math.floor(2 ** 32 * Math.exp(-Math.exp(-k / stepsPerUnit))) - 2)

function gumbelOf(word: number): number {
  return Math.fround(-Math.log(-Math.log((word + 0.5) * 2 ** -32)))
}

/** Gumbel-max over the `n` sorted candidates in `keys`. NaN is never drawn, though it sorts first. */
function drawFromKeys({ sampler: { key, row }, position, values, max, minP }: Draw, likeliest: number, n: number): number {
  let best = -Infinity, bestId = -1
  for (let i = 0; i < n; i++) {
    const id = idOfKey(keys[i] as number)
    const value = values[id] as number
    if (Number.isNaN(value)) continue
    if (Math.fround(value + gumbelMax) < best || (minP > 0 && Math.exp(value - max) < minP)) break
    philox(words, key, id >>> 2, row, position, 0)
    const noisy = Math.fround(value + gumbelOf((words[id & 3] as number) >>> 0))
    if (noisy > best || (noisy === best && id < bestId) || bestId < 0) {
      best = noisy
      bestId = id
    }
  }
  return bestId < 0 ? likeliest : bestId
}

/**
 * Gumbel-max over every id whose key is at most `lastKey`, in id order, one Philox block for four ids. A block is skipped
 * before or after drawing its words when none of its ids could beat the best so far; the likeliest id goes first to make
 * that common.
 */
function drawFromAll({ sampler: { key, row }, position, values, max, minP }: Draw, likeliest: number, lastKey: number): number {
  const V = values.length
  const floor = lastKey === Infinity ? -Infinity : values[idOfKey(lastKey)] as number
  philox(words, key, likeliest >>> 2, row, position, 0)
  let best = Math.fround(max + gumbelOf((words[likeliest & 3] as number) >>> 0)), bestId = likeliest
  let needed = best - roundingMargin(best)     // value + g under this loses whatever float32 rounding adds
  for (let first = 0; first < V; first += 4) {
    const end = first + 4 < V ? first + 4 : V
    let highest = values[first] as number
    for (let id = first + 1; id < end; id++) if ((values[id] as number) > highest) highest = values[id] as number
    const missing = needed - highest
    if (missing > gumbelMax || highest < floor) continue
    philox(words, key, first >>> 2, row, position, 0)
    if (missing > 0) {
      const least = smallestWord[missing * stepsPerUnit | 0] as number
      if ((words[0] as number) >>> 0 < least && (words[1] as number) >>> 0 < least && (words[2] as number) >>> 0 < least
        && (words[3] as number) >>> 0 < least) continue
    }
    for (let id = first; id < end; id++) {
      const value = values[id] as number
      const noisy = Math.fround(value + gumbelOf((words[id - first] as number) >>> 0))
      if (!(noisy > best || (noisy === best && id < bestId)) || value < floor) continue
      if ((lastKey !== Infinity && keyOf(value, id) > lastKey) || (minP > 0 && Math.exp(value - max) < minP)) continue
      best = noisy
      bestId = id
      needed = best - roundingMargin(best)
    }
  }
  return bestId
}

function roundingMargin(value: number): number {
  return 1e-5 + Math.abs(value) * 2 ** -22
}
