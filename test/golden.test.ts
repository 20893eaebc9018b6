// Every generation against the logits and tokens of the original programs (fixtures/README.md).
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { GPT } from '../lib/gpt.js'
import { loadGPT, type LoadOptions } from '../lib/load.js'
import { native } from '../lib/native.js'
import { argmax, relativeError, topAgreement } from './support/logits.js'

interface Reference { prompt: number[], greedy_tokens: number[], rope_tables?: string }

const fixtures = fileURLToPath(new URL('./fixtures/nanochat/', import.meta.url))
const withBf16Rope = ['g1a-initial', 'g2-origmod-cudatag', 'g3-window-s1024', 'g4a-mid-nowindow', 'g4a-ve32-s1024']
const others = ['g5-auto1', 'g6-auto2', 'g6-auto2-s1024', 'g6-mha-SSL', 'hf-nanochat']
const test = suite('golden')

process.removeAllListeners('warning')  // g4a-mid-nowindow warns that its meta has no window_pattern, as it must
process.on('warning', () => {})

function reference(name: string): Reference {
  return JSON.parse(readFileSync(`${fixtures}${name}/reference.json`, 'utf8')) as Reference
}

function storedLogits(name: string, file: string): Float32Array {
  const bytes = readFileSync(`${fixtures}${name}/${file}`)
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.is(a.length, b.length)
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - (b[i] ?? NaN))), 0)
}

async function withModel<T>(name: string, options: LoadOptions, use: (model: GPT) => Promise<T>): Promise<T> {
  const model = await loadGPT(fixtures + name, options)
  try {
    return await use(model)
  } finally {
    await model[Symbol.asyncDispose]()
  }
}

async function greedy(model: GPT, prompt: number[], count: number): Promise<number[]> {
  using cache = model.newCache()
  const tokens: number[] = []
  let logits = await model.forward(prompt, cache)
  while (tokens.length < count) {
    tokens.push(argmax(logits))
    logits = await model.forward([tokens.at(-1) ?? 0], cache)
  }
  return tokens
}

async function checkFloat32(name: string, file: string, options: LoadOptions): Promise<void> {
  await withModel(name, { dtype: 'float32', ...options }, async (model) => {
    const difference = largestDifference(await model.logits(reference(name).prompt), storedLogits(name, file))
    assert.ok(difference <= 1e-4, `largest |dlogit| ${difference} of ${file}`)
  })
}

for (const isa of native().info().isas) {
  for (const name of withBf16Rope) {
    test(`${name} ${isa}: float32 logits with float32 rope tables`, () => checkFloat32(name, 'logits_rope_fp32.f32', { isa }))
    test(`${name} ${isa}: float32 logits with bfloat16 rope tables`, () => checkFloat32(name, 'logits.f32', { isa, ropeTable: 'bfloat16' }))
  }
  for (const name of others) test(`${name} ${isa}: float32 logits`, () => checkFloat32(name, 'logits.f32', { isa }))
}

for (const name of [...withBf16Rope, ...others]) {
  test(`${name}: greedy tokens`, async () => {
    const { prompt, greedy_tokens: expected } = reference(name)
    const ropeTable = withBf16Rope.includes(name) ? 'bfloat16' : 'float32'
    assert.equal(await withModel(name, { dtype: 'float32', ropeTable }, (model) => greedy(model, prompt, expected.length)), expected)
  })

  test(`${name}: bfloat16 stays near float32`, async () => {
    const expected = storedLogits(name, withBf16Rope.includes(name) ? 'logits_rope_fp32.f32' : 'logits.f32')
    await withModel(name, { dtype: 'bfloat16' }, async (model) => {
      const logits = await model.logits(reference(name).prompt)
      const error = relativeError(logits, expected)
      const agreement = topAgreement(logits, expected, model.config.vocabSize)
      assert.ok(error <= 3e-2, `relative L2 error ${error}`)
      assert.ok(agreement >= 0.95, `top-1 agreement ${agreement}`)
    })
  })
}

test.run()
