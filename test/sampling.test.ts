import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { philox, philoxKey } from '../lib/philox.js'
import { logprobs, newSampler, observe, sample } from '../lib/sampling.js'
import type { SamplingParams } from '../lib/sampling.js'

const defaults: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 42 }
const f32 = Math.fround

/** Uniform numbers in [0, 1) from a small generator that has nothing to do with Philox. */
function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ state >>> 15, state | 1)
    t ^= t + Math.imul(t ^ t >>> 7, t | 61)
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32
  }
}

function randomLogits(V: number, spread: number, seed: number, steps = 0): Float32Array {
  const next = uniform(seed)
  return Float32Array.from({ length: V }, () => {
    const normal = Math.sqrt(-2 * Math.log(next() + 1e-12)) * Math.cos(2 * Math.PI * next())
    return steps ? Math.round(normal * spread * steps) / steps : normal * spread
  })
}

/** MODEL.md 5, slow and obvious: the ids kept with their probabilities, descending, and the values they have. */
function filtered(params: SamplingParams, logits: Float32Array, seen: readonly number[]): { id: number, value: number, p: number }[] {
  const values = [...logits]
  for (const [id, bias] of params.logitBias) values[id] = f32((values[id] as number) + f32(bias))
  for (const id of new Set(seen)) {
    const value = values[id] as number
    values[id] = f32(value > 0 ? value / f32(params.repetitionPenalty) : value * f32(params.repetitionPenalty))
  }
  let kept = values.map((value, id) => ({ id, value: f32(value / f32(params.temperature)), p: 0 })).sort((a, b) => b.value - a.value || a.id - b.id)
  if (params.topK > 0) kept = kept.slice(0, params.topK)
  const max = kept[0]?.value ?? 0
  const normalise = (): void => {
    const total = kept.reduce((sum, { value }) => sum + Math.exp(value - max), 0)
    for (const entry of kept) entry.p = Math.exp(entry.value - max) / total
  }
  normalise()
  if (params.topP < 1) {
    let sum = 0
    const n = kept.findIndex(({ p }) => (sum += p) >= params.topP)
    if (n >= 0) kept = kept.slice(0, n + 1)
  }
  kept = kept.filter(({ value }) => Math.exp(value - max) >= params.minP)
  normalise()
  return kept
}

function gumbel(seed: number, id: number, row: number, position: number): number {
  const out = new Uint32Array(4)
  philox(out, philoxKey(seed % 2 ** 32, Math.floor(seed / 2 ** 32)), Math.floor(id / 4), row, position, 0)
  return f32(-Math.log(-Math.log(((out[id % 4] as number) + 0.5) * 2 ** -32)))
}

function naiveSample(params: SamplingParams, row: number, logits: Float32Array, seen: readonly number[], position: number): number {
  let best = -Infinity, bestId = -1
  for (const { id, value } of filtered(params, logits, seen).sort((a, b) => a.id - b.id)) {
    const noisy = f32(value + gumbel(params.seed, id, row, position))
    if (noisy > best || bestId < 0) { best = noisy; bestId = id }
  }
  return bestId
}

const variants: [string, Partial<SamplingParams>, number[]?][] = [
  ['no filter', {}],
  ['temperature 0.6', { temperature: 0.6 }],
  ['temperature 2', { temperature: 2 }],
  ['topK 5', { topK: 5 }],
  ['topK 1', { topK: 1 }],
  ['topP 0.7', { topP: 0.7 }],
  ['topP 0', { topP: 0 }],
  ['topP 0.999', { topP: 0.999 }],
  ['minP 0.1', { minP: 0.1 }],
  ['repetitionPenalty 1.5', { repetitionPenalty: 1.5 }, [0, 3, 3, 7, 11]],
  ['repetitionPenalty 0.8', { repetitionPenalty: 0.8 }, [1, 2, 30]],
  ['logitBias', { logitBias: [[2, 1.5], [5, -Infinity], [9, -0.7]] }],
  ['temperature 0.6, topK 10', { temperature: 0.6, topK: 10 }],
  ['topK 20, topP 0.8', { topK: 20, topP: 0.8 }],
  ['topP 0.9, minP 0.05', { topP: 0.9, minP: 0.05 }],
  ['everything', { temperature: 1.3, topK: 15, topP: 0.95, minP: 0.02, repetitionPenalty: 1.2, logitBias: [[4, 2], [8, -1]], seed: 2 ** 40 + 17 }, [4, 8, 15]]
]

const test = suite('sampling')

for (const [name, change, seen = []] of variants) {
  test(`${name}: draws follow the softmax of what is kept (chi-square)`, () => {
    const params = { ...defaults, ...change }
    const logits = randomLogits(40, 1.5, 7)
    const expected = filtered(params, logits, seen)
    const sampler = newSampler(params, 3, logits.length, seen)
    const draws = 20_000
    const counts = new Int32Array(logits.length)
    for (let position = 0; position < draws; position++) {
      const id = sample(sampler, logits, position)
      counts[id] = (counts[id] as number) + 1
    }

    assert.is(expected.reduce((sum, { id }) => sum + (counts[id] as number), 0), draws, 'only kept ids are drawn')
    let chiSquare = 0, cells = 0, restExpected = 0, restCount = 0
    for (const { id, p } of expected) {
      if (p * draws >= 10) {
        chiSquare += ((counts[id] as number) - p * draws) ** 2 / (p * draws)
        cells++
      } else {                                 // rare ids share a cell, so that the statistic is chi-square distributed
        restExpected += p * draws
        restCount += counts[id] as number
      }
    }
    if (restExpected >= 10) {
      chiSquare += (restCount - restExpected) ** 2 / restExpected
      cells++
    }
    const freedom = cells - 1
    assert.ok(chiSquare <= chiSquareQuantile(freedom), `chi-square ${chiSquare.toFixed(1)} with ${freedom} degrees of freedom`)
  })
}

/** Wilson-Hilferty: the 1 - 1e-5 quantile; sharp enough to fail for probabilities that are wrong by a few per cent. */
function chiSquareQuantile(freedom: number): number {
  if (freedom === 0) return 0
  const h = 2 / (9 * freedom)
  return freedom * (1 - h + 4.265 * Math.sqrt(h)) ** 3
}

test('equals the slow form token by token: every filter, ties, several sizes', () => {
  for (const V of [1, 3, 4, 41, 600]) {
    for (const [spread, steps] of [[0, 0], [0.3, 0], [2, 4], [6, 0], [12, 2]] as const) {
      const logits = randomLogits(V, spread, V + 31 * spread, steps)
      for (const [name, change, seen = []] of variants) {
        const params = { ...defaults, ...change, logitBias: (change.logitBias ?? []).filter(([id]) => id < V), seed: change.seed ?? V }
        const prompt = seen.filter((id) => id < V)
        const sampler = newSampler(params, 1, V, prompt)
        for (let position = 0; position < 12; position++) {
          assert.is(sample(sampler, logits, position), naiveSample(params, 1, logits, prompt, position), `${name}, V ${V}, spread ${spread}, position ${position}`)
        }
      }
    }
  }
})

test('equals the slow form at vocabulary size: peaked, flat and capped logits', () => {
  const V = 8192
  for (const spread of [0, 1, 5, 15]) {
    const logits = randomLogits(V, spread, spread)
    for (const change of [{}, { topK: 50 }, { topP: 0.9 }, { topP: 0.99, minP: 1e-3 }, { temperature: 0.6, topK: 4000, topP: 0.5 }] satisfies Partial<SamplingParams>[]) {
      const params = { ...defaults, ...change }
      const sampler = newSampler(params, 0, V, [])
      for (let position = 0; position < 3; position++) assert.is(sample(sampler, logits, position), naiveSample(params, 0, logits, [], position), JSON.stringify({ spread, change }))
    }
  }
})

test('temperature 0 takes the largest logit after bias and penalty, the lower id of equals, and ignores filters', () => {
  const greedy = (change: Partial<SamplingParams>, logits: number[], prompt: number[] = []): number =>
    sample(newSampler({ ...defaults, temperature: 0, ...change }, 0, logits.length, prompt), Float32Array.from(logits), 0)
  assert.is(greedy({}, [1, 3, 3, 2]), 1)
  assert.is(greedy({ topK: 1, topP: 0.1, minP: 1 }, [-5, -5, -6]), 0)
  assert.is(greedy({ logitBias: [[3, 2]] }, [1, 3, 3, 2]), 3)
  assert.is(greedy({ logitBias: [[1, -Infinity]] }, [1, 3, 2, 2]), 2)
  assert.is(greedy({ repetitionPenalty: 2 }, [1, 3, 2, 2], [1]), 2)
  assert.is(greedy({ repetitionPenalty: 2 }, [-3, -1, -2.5], [1]), 1, 'negative logits are multiplied: -1 -> -2')
  assert.is(greedy({ logitBias: [[0, -Infinity], [1, -Infinity]] }, [1, 3]), 0, 'everything banned')
})

test('the order is bias, penalty, temperature, top-k', () => {
  const params = { ...defaults, topK: 1, repetitionPenalty: 4, logitBias: [[0, 3]] as const }
  const sampler = newSampler(params, 0, 3, [0])
  assert.is(sample(sampler, Float32Array.of(-1, 0.6, 0.4), 0), 1, '(-1 + 3) / 4 = 0.5 is under 0.6; -1 * 4 + 3 would be too, -1 / 4 + 3 would win')
  assert.is(sample(sampler, Float32Array.of(-1, 0.4, 0.3), 0), 0)
})

test('the penalty counts an id once, whether it came in the prompt or later', () => {
  const params = { ...defaults, temperature: 0, repetitionPenalty: 1.5 }
  const sampler = newSampler(params, 0, 3, [1, 1, 1])
  assert.is(sample(sampler, Float32Array.of(1, 1.6, 0), 0), 1, '1.6 / 1.5 > 1')
  observe(sampler, 0)
  observe(sampler, 0)
  assert.is(sample(sampler, Float32Array.of(1.4, 1.5, 0.9), 0), 1, '1.4 / 1.5 < 1.5 / 1.5 and > 0.9')
})

test('a draw depends on seed, row and position and on nothing else', () => {
  const logits = randomLogits(500, 0.1, 3)
  const draw = (seed: number, row: number, position: number): number => sample(newSampler({ ...defaults, seed }, row, 500, []), logits, position)
  const copy = logits.slice()
  assert.is(draw(1, 0, 9), draw(1, 0, 9))
  assert.equal(logits, copy, 'the logits stay as they are')
  for (const other of [draw(2, 0, 9), draw(1 + 2 ** 32, 0, 9), draw(1, 1, 9), draw(1, 0, 10)]) assert.is.not(other, draw(1, 0, 9))
})

test('logprobs are the log-softmax of the raw logits, top n by (logit, lower id)', () => {
  const logits = Float32Array.of(1, 3, 3, -2, 0.5)
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0)
  const { token, top } = logprobs(logits, 4, 3)
  assert.ok(Math.abs(token - Math.log(Math.exp(0.5) / total)) < 1e-12)
  assert.equal(top.map(({ id }) => id), [1, 2, 0])
  assert.ok(Math.abs((top[2]?.logprob ?? 0) - Math.log(Math.exp(1) / total)) < 1e-12)
  assert.equal(logprobs(logits, 0, 0).top, [])
  assert.is(logprobs(logits, 0, 99).top.length, 5)
})

test.run()
