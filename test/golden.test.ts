// Every generation against the logits and tokens of the original programs (fixtures/README.md).
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { GPT } from '../lib/gpt.js'
import { loadGPT, type LoadOptions } from '../lib/load.js'
import { fixtures, largestDifference, others, reference, storedLogits, withBf16Rope } from './support/golden-fixtures.js'
import { testedIsas } from './support/isas.js'
import { argmax, relativeError, topAgreement } from './support/logits.js'
import { shortOf } from './support/some-of.js'

const test = suite('golden')
const isShort = (name: string): boolean => reference(name).prompt.length < 200
const withTwoTables = shortOf(withBf16Rope, isShort), withOne = shortOf(others, isShort)

process.removeAllListeners('warning')  // g4a-mid-nowindow warns that its meta has no window_pattern, as it must
process.on('warning', () => {})

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

for (const isa of testedIsas()) {
  for (const name of withTwoTables) {
    test(`${name} ${isa}: float32 logits with float32 rope tables`, () => checkFloat32(name, 'logits_rope_fp32.f32', { isa }))
    test(`${name} ${isa}: float32 logits with bfloat16 rope tables`, () => checkFloat32(name, 'logits.f32', { isa, ropeTable: 'bfloat16' }))
  }
  for (const name of withOne) test(`${name} ${isa}: float32 logits`, () => checkFloat32(name, 'logits.f32', { isa }))
}

for (const name of [...withTwoTables, ...withOne]) {
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
