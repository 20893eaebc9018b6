// The addon's sampler against lib/sampling.ts: equal logits, equal tokens (MODEL.md 5).
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nativeSampler, typed } from '../lib/cpu-backend.js'
import { native } from '../lib/native.js'
import { newSampler, sample } from '../lib/sampling.js'
import type { Sampler, SamplingParams } from '../lib/sampling.js'
import { codeOf } from './support/error-code.js'
import { randomFloats } from './support/random-arrays.js'

const defaults: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 42 }
const test = suite('sampler in C++')

/** Uniform numbers in [0, 1), the same in every run. */
function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0
    return (state >>> 8) / 2 ** 24
  }
}

function draw(sampler: Sampler, logits: Float32Array, position: number): number {
  return native().sample(nativeSampler(sampler), logits.length, position, logits)
}

/** Logits of many shapes: flat, peaked, with ties, capped, partly banned. */
function randomLogits(next: () => number, V: number): Float32Array {
  const spread = [0, 0.1, 1, 3, 8, 40][Math.floor(next() * 6)] as number
  const steps = [0, 0, 1, 4][Math.floor(next() * 4)] as number
  const banned = next() < 0.2 ? 0.3 : 0
  const power = next() < 0.5 ? 1 : 5             // 5: most in the middle, few far out
  return Float32Array.from(randomFloats(Math.floor(next() * 2 ** 24), V), (value) => {
    if (banned > 0 && next() < banned) return -Infinity
    return 15 * Math.tanh((steps > 0 ? Math.round(value ** power * spread * steps) / steps : value ** power * spread) / 15)
  })
}

function randomParams(next: () => number, V: number): SamplingParams {
  const one = <T>(...values: T[]): T => values[Math.floor(next() * values.length)] as T
  const id = (): number => Math.floor(next() * V)
  return {
    temperature: one(0, 1, 1, 0.6, 0.8, 2, 1e-3, 37),
    topK: one(0, 0, 1, 5, 50, V >> 1, V, V + 9),
    topP: one(1, 1, 0, 0.3, 0.9, 0.95, 0.999),
    minP: one(0, 0, 0.02, 0.3, 1),
    repetitionPenalty: one(1, 1, 1.3, 0.7),
    logitBias: next() < 0.3 ? [[id(), 4 * next()], [id(), -Infinity], [id(), -1]] : [],
    seed: Math.floor(next() * 2 ** 24) * 2 ** (next() < 0.5 ? 29 : 0)
  }
}

test('logits that are not a number, or beyond float32, give an id all the same', () => {
  const V = 70
  for (const topP of [1, 0.9]) {
    for (const [temperature, minP, topK] of [[1, 0.5, 5], [1, 0, 5], [1, 0.5, 0], [1e-30, 0.5, 5], [1e-30, 0, 0]] as const) {
      for (const [name, logits] of Object.entries({
        first: Float32Array.from({ length: V }, (_, i) => i === 0 ? NaN : i / 8), most: Float32Array.from({ length: V }, (_, i) => i === 66 ? 1 : NaN),
        all: new Float32Array(V).fill(NaN), huge: Float32Array.from({ length: V }, (_, i) => 1e20 + i * 1e18), infinite: Float32Array.from({ length: V }, (_, i) => i % 9 ? 1 : Infinity)
      })) {
        const sampler = newSampler({ ...defaults, temperature, topK, topP, minP }, 0, V, [])
        for (const [where, id] of [['C++', draw(sampler, logits, 3)], ['TypeScript', sample(sampler, logits, 3)]] as const) {
          const label = `${where}, ${name}, temperature ${temperature}, minP ${minP}, topK ${topK}, topP ${topP}: ${id}`
          assert.ok(Number.isInteger(id) && id >= 0 && id < V, label)
          assert.ok(name === 'all' || !Number.isNaN(logits[id]), label)
        }
      }
    }
  }
})

test('thousands of random logits and options: the tokens of lib/sampling.ts', () => {
  const next = uniform(7)
  let draws = 0
  for (const [V, count] of [[1, 50], [3, 200], [63, 300], [64, 300], [65, 300], [1000, 1500], [4099, 1000]] as const) {
    for (let i = 0; i < count; i++) {
      const params = randomParams(next, V), logits = randomLogits(next, V)
      const prompt = Array.from({ length: 20 }, () => Math.floor(next() * V))
      const sampler = newSampler(params, Math.floor(next() * 5), V, prompt)
      for (const position of [0, 17, Math.floor(next() * 20_480)]) {
        const copy = logits.slice()
        assert.is(draw(sampler, logits, position), sample(sampler, logits, position), JSON.stringify({ V, i, position, params }))
        assert.equal(logits, copy)
        draws++
      }
    }
  }
  assert.ok(draws > 10_000)
})

test('the vocabularies of real models, every filter', () => {
  const next = uniform(3)
  for (const V of [32_768, 65_536]) {
    for (const spread of [0, 0.3, 2, 6]) {
      const logits = Float32Array.from(randomFloats(V + spread, V), (value) => 15 * Math.tanh(value * spread / 15))
      const variants = [{}, { temperature: 0 }, { temperature: 0.6, topK: 50 }, { topP: 0.9 }, { temperature: 0.8, minP: 0.05 }, { topK: 5000, topP: 0.99 }]
      for (const change of variants) {
        const sampler = newSampler({ ...defaults, ...change, seed: Math.floor(next() * 2 ** 24) }, 1, V, [])
        for (let position = 0; position < 20; position++) {
          assert.is(draw(sampler, logits, position), sample(sampler, logits, position), JSON.stringify({ V, spread, change, position }))
        }
      }
    }
  }
})

test('ties, -0 and logits that are not finite', () => {
  const vectors = [[0, -0, 0], [-0, 0], [-Infinity, -Infinity], [1, 3, 3, 3], Array<number>(130).fill(2), [-Infinity, 5, 5]]
  for (const logits of vectors.map((values) => Float32Array.from(values))) {
    for (const change of [{ temperature: 0 }, {}, { topK: 1 }, { topK: 2 }, { topP: 0 }, { topP: 0.5 }, { minP: 1 }, { temperature: 1e-3, topP: 0.9 }]) {
      const sampler = newSampler({ ...defaults, ...change }, 0, logits.length, [])
      for (let position = 0; position < 40; position++) assert.is(draw(sampler, logits, position), sample(sampler, logits, position), `${logits} ${JSON.stringify(change)} ${position}`)
    }
  }
  for (const bad of [NaN, Infinity]) {
    const logits = Float32Array.from({ length: 200 }, (_, i) => i % 3 === 0 ? bad : i)
    for (const change of [{ temperature: 0 }, {}, { topK: 7, topP: 0.5 }, { topP: 0.5 }, { minP: 0.1 }]) {
      const id = draw(newSampler({ ...defaults, ...change }, 0, 200, []), logits, 1)
      assert.ok(id >= 0 && id < 200, `${bad} ${JSON.stringify(change)} ${id}`)
    }
  }
})

test('a sampler that is none is refused', async () => {
  const sampler = nativeSampler(newSampler(defaults, 0, 4, []))
  const logits = new Float32Array(4)
  const wrong: Record<string, unknown>[] = [
    { temperature: -1 }, { temperature: NaN }, { topK: 0.5 }, { topP: 2 }, { minP: -1 }, { repetitionPenalty: 0 }, { seed: -1 }, { row: 2 ** 32 },
    { seen: Int32Array.of(4) }, { seen: [1] }, { biasIds: Int32Array.of(1) }, { biasIds: Int32Array.of(-1), biases: Float32Array.of(1) }, { biases: null }
  ]
  for (const change of wrong) {
    assert.is(await codeOf(() => typed(() => native().sample({ ...sampler, ...change } as typeof sampler, 4, 0, logits))), 'ERR_INVALID_ARG', JSON.stringify(change))
  }
  assert.is(await codeOf(() => typed(() => native().sample(sampler, 5, 0, logits))), 'ERR_INVALID_ARG')
  assert.is(await codeOf(() => typed(() => native().sample(sampler, 4, -1, logits))), 'ERR_INVALID_ARG')
})

test.run()
