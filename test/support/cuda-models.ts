// Whole models on a CUDA device, the emulated one where test/cuda-emulation-models.long.ts starts this: every generation's fixtures,
// chunks and forks, tokens drawn on the device, the engine. Prints uvu's summary; exits with 1 when anything fails.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Backend, Sequence } from '../../lib/backend.js'
import { drawsAlone } from '../../lib/cuda-backend.js'
import { decode } from '../../lib/decode.js'
import { Engine } from '../../lib/engine.js'
import { NanochatError } from '../../lib/errors.js'
import type { GPT } from '../../lib/gpt.js'
import { loadGPT, loadModel, seededGPT, seededModel, type LoadOptions } from '../../lib/load.js'
import { native, type ModelSpec } from '../../lib/native.js'
import { newSampler, type SamplingParams } from '../../lib/sampling.js'
import type { GenerateOptions } from '../../lib/types.js'
import { codeOf } from './error-code.js'
import { fixtures, largestDifference, others, reference, storedLogits, withBf16Rope } from './golden-fixtures.js'
import { argmax, relativeError } from './logits.js'
import { formulaPrompt } from './seeded.js'

const test = suite('cuda models')

process.removeAllListeners('warning')  // g4a-mid-nowindow warns that its meta has no window_pattern, as it must
process.on('warning', () => {})

async function withFixture<T>(name: string, options: LoadOptions, use: (model: GPT) => Promise<T>): Promise<T> {
  await using model = await loadGPT(fixtures + name, { device: 'cuda', threads: 1, ...options })
  assert.is(model.device, 'cuda:0')
  return await use(model)
}

interface Answer { logits: Float32Array, ids: number[], margins: number[] }

/** Logits of the whole prompt, (T, V), then greedy tokens, and for each how far the best logit was above the second. */
async function answer(model: GPT, prompt: number[], count: number): Promise<Answer> {
  const { backend } = model, V = backend.vocabSize, sequence = backend.newSequence()
  const logits = await append(backend, sequence, Int32Array.from(prompt)), ids: number[] = [], margins: number[] = []
  let last = logits.subarray(-V)
  while (ids.length < count) {
    const [best = 0, second = 0] = Float32Array.from(last).sort().slice(-2).reverse()
    margins.push(best - second)
    ids.push(argmax(last))
    last = await backend.forward([{ sequence, tokens: Int32Array.of(ids.at(-1) ?? 0), logits: 'last' }])
  }
  sequence.dispose()
  return { logits, ids, margins }
}

async function append(backend: Backend, sequence: Sequence, tokens: Int32Array): Promise<Float32Array> {
  return backend.forward([{ sequence, tokens, logits: 'all' }])
}

for (const name of [...withBf16Rope, ...others]) {
  const hasRounded = withBf16Rope.includes(name), file = hasRounded ? 'logits_rope_fp32.f32' : 'logits.f32'
  const { prompt, greedy_tokens: tokens } = reference(name)

  test(`${name}: float32 logits within 1e-4, greedy tokens with the rope tables of its time`, async () => {
    await withFixture(name, { dtype: 'float32', ropeTable: hasRounded ? 'bfloat16' : 'float32' }, async (model) => {
      const { logits, ids } = await answer(model, prompt, tokens.length)
      const difference = largestDifference(logits, storedLogits(name, 'logits.f32'))
      assert.ok(difference <= 1e-4, `largest |dlogit| ${difference}`)
      assert.equal(ids, tokens)
    })
    if (!hasRounded) return
    await withFixture(name, { dtype: 'float32' }, async (model) => {
      const difference = largestDifference(await model.logits(prompt), storedLogits(name, file))
      assert.ok(difference <= 1e-4, `largest |dlogit| ${difference} with float32 tables`)
    })
  })

  test(`${name}: bfloat16 as near to float32 as on the CPU, greedy tokens equal where the margin is clear`, () => withFixture(name, { dtype: 'bfloat16' }, async (model) => {
    const expected = storedLogits(name, file)
    await using cpu = await loadGPT(fixtures + name, { device: 'cpu', dtype: 'bfloat16', threads: 1 })
    const here = await answer(model, prompt, 8), there = await answer(cpu, prompt, 8)
    const error = relativeError(here.logits, there.logits)
    assert.ok(error <= 1e-2, `relative error to the CPU's bfloat16 ${error}`)
    const rounding = relativeError(there.logits, expected)
    assert.ok(relativeError(here.logits, expected) <= Math.max(1e-2, 1.1 * rounding), `relative error to float32 ${relativeError(here.logits, expected)}, the CPU's ${rounding}`)
    const unclear = there.margins.findIndex((margin) => margin < 0.05), compared = unclear < 0 ? 8 : unclear
    assert.equal(here.ids.slice(0, compared), there.ids.slice(0, compared))
  }))
}

const shape = { sequenceLen: 128, vocabSize: 130, nLayer: 3, windowPattern: 'SSL' }
/** Every generation; groups of 1, 2, 3 and 6; odd sizes; head dimensions of 6 to 128. */
const specs: readonly ModelSpec[] = [
  { ...shape, generation: 'G1', nHead: 4, nKvHead: 2, nEmbd: 64, windowPattern: 'L' },
  { ...shape, generation: 'G3', nHead: 3, nKvHead: 1, nEmbd: 48 },
  { ...shape, generation: 'G4', nHead: 6, nKvHead: 1, nEmbd: 96, sequenceLen: 130 },
  { ...shape, generation: 'G5', nHead: 7, nKvHead: 1, nEmbd: 42 },
  { ...shape, generation: 'G6', nHead: 2, nKvHead: 2, nEmbd: 256, vocabSize: 65 },
  { ...shape, generation: 'HF', nHead: 4, nKvHead: 4, nEmbd: 24, mlpHidden: 77, normEps: 1e-6, windowPattern: 'L' }
]
const T = 300

async function withSpec(spec: ModelSpec, options: LoadOptions, use: (backend: Backend) => Promise<void>): Promise<void> {
  await using model = await seededModel(spec, 1, { device: 'cuda', threads: 1, ...options })
  await use(model.backend)
}

for (const spec of specs) {
  for (const dtype of ['float32', 'bfloat16'] as const) {
    const tolerance = dtype === 'float32' ? 1e-5 : 1e-2, V = spec.vocabSize

    test(`${spec.generation} ${dtype}: as on the CPU; chunked, forked, truncated and batched = whole`, () => withSpec(spec, { dtype }, async (backend) => {
      const tokens = formulaPrompt(T, V)
      await using cpu = await seededModel(spec, 1, { device: 'cpu', dtype, threads: 1 })
      const first = backend.newSequence(), whole = await append(backend, first, tokens)
      const near = (got: Float32Array, from: number, what: string): void => {
        const error = relativeError(got, whole.subarray(from * V, from * V + got.length))
        assert.ok(error <= tolerance, `${what}: relative error ${error}`)
      }
      near(await cpu.logits(tokens), 0, 'the CPU')

      const chunked = backend.newSequence()
      for (const count of [1, 3, 4, 5, 60, 64, 65, 1, 1, 70]) {
        const from = chunked.length
        near(await append(backend, chunked, tokens.subarray(from, from + count)), from, `chunk ${from}+${count}`)
      }
      const at = 131, other = tokens.map((id) => (id + 1) % V)
      chunked.truncate(at)
      const fork = chunked.fork(), spare = chunked.fork()
      await append(backend, chunked, other.subarray(at, at + 40))
      near(await append(backend, fork, tokens.subarray(at, at + 30)), at, 'a fork')
      chunked.truncate(at)
      const [a, b] = [chunked, spare]
      const both = await backend.forward([
        { sequence: first, tokens: Int32Array.of(0), logits: 'none' }, { sequence: a, tokens: tokens.subarray(at, at + 1), logits: 'last' },
        { sequence: b, tokens: tokens.subarray(at, at + 6), logits: 'last' }
      ])
      near(both.subarray(0, V), at, 'a token in a batch')
      near(both.subarray(V), at + 5, 'a chunk in a batch')
      assert.equal([first.length, a.length, b.length, fork.length], [T + 1, at + 1, at + 6, at + 30])
      for (const sequence of [first, a, b, fork]) sequence.dispose()
    }))
  }
}

const params: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 2 ** 40 + 7 }

test('tokens drawn on the device are those that JavaScript draws, all rows in step, over captured steps', () => withSpec({ ...shape, generation: 'G6', nHead: 2, nKvHead: 1, nEmbd: 64 }, { dtype: 'float32' }, async (backend) => {
  const V = shape.vocabSize
  const simple: Partial<SamplingParams>[] = [{}, { temperature: 0 }, { topK: 5 }, { topK: 1 }, { topP: 0.83 }, { minP: 0.07 }, { temperature: 0.3, topK: 50, topP: 0.91, minP: 0.001 }]
  const others: Partial<SamplingParams>[] = [{ repetitionPenalty: 1.5 }, { logitBias: [[7, 2]] }]
  const rowsOf = (variants: Partial<SamplingParams>[]): Parameters<typeof decode>[1][number][] => variants.map((variant, row) => {
    const prompt = formulaPrompt(row + 1, V, row + 1)
    return { sequence: backend.newSequence(), tokens: prompt, sampler: newSampler({ ...params, ...variant }, row, V, prompt), maxSteps: 21, logprobs: null }
  })
  assert.equal(rowsOf([...simple, ...others]).map(({ sampler }) => drawsAlone(sampler)), [...simple.map(() => true), ...others.map(() => false)])
  let passes = 0
  const forward: Backend['forward'] = (...args) => { passes++; return backend.forward(...args) }
  const { device, kvBytesPerToken } = backend
  const hostOnly: Backend = { device, vocabSize: V, kvBytesPerToken, newSequence: () => backend.newSequence(), forward }
  const outcome = async (on: Backend, variants: Partial<SamplingParams>[], pauseIds: number[], budgetMs = 1e6): Promise<unknown> => {
    const rows = rowsOf(variants), runs = await decode(on, rows, { pauseIds, maxSteps: 20, budgetMs })
    const lengths = rows.map(({ sequence }) => sequence.length)
    for (const { sequence } of rows) sequence.dispose()
    return { ids: runs.map(({ ids }) => ids), lengths }
  }
  const free = await outcome(hostOnly, simple, []) as { ids: number[][] }
  assert.is(passes, 20)
  assert.equal(await outcome(backend, simple, []), free)
  assert.equal(await outcome(backend, simple, []), free, 'replayed')
  for (const step of [2, 17]) {
    const pauseIds = [free.ids[0]?.[step] ?? 0]
    assert.equal(await outcome(backend, simple, pauseIds), await outcome(hostOnly, simple, pauseIds), `a pause id in step ${step} or before`)
  }
  assert.equal(await outcome(backend, simple, [], 0), await outcome(hostOnly, simple, [], 0), 'no time: one step')
  const mixed = [...simple, ...others]
  assert.equal(await outcome(backend, mixed, []), await outcome(hostOnly, mixed, []), 'rows that the device cannot draw')
}))

test('the engine: same text as on the CPU, rows of one prompt, tool calls, abort', async () => {
  await using cuda = await loadModel('demo', { device: 'cuda', dtype: 'float32', threads: 1 })
  await using cpu = await loadModel('demo', { device: 'cpu', dtype: 'float32', threads: 1 })
  const answer = async ({ model, tokenizer }: typeof cuda): Promise<unknown> => {
    await using engine = new Engine(model, tokenizer)
    const tokens = tokenizer.renderForCompletion([{ role: 'user', content: 'What is 12 * 34?' }])
    const { results, masks, finishReasons } = await engine.generateBatch(tokens, { numSamples: 2, temperature: 0.5, topK: 20, maxTokens: 40, tool: () => '408' })
    return { results, masks, finishReasons }
  }
  assert.equal(await answer(cuda), await answer(cpu))
  await using engine = new Engine(cuda.model, cuda.tokenizer)
  const controller = new AbortController()
  const columns = engine.generate([1, 2, 3], { maxTokens: 60, signal: controller.signal })
  await columns.next()
  controller.abort(new Error('enough'))
  assert.is(await columns.next().then(() => 'a column', (error: Error) => error.message), 'enough')
})

test('a row that waits for its tool leaves the batch, the others go on; calls with other options beside it change nothing', async () => {
  await using cuda = await loadModel('demo', { device: 'cuda', dtype: 'float32', threads: 1 })
  await using cpu = await loadModel('demo', { device: 'cpu', dtype: 'float32', threads: 1 })
  const prompt = cuda.tokenizer.renderForCompletion([{ role: 'user', content: 'What is 12 * 34?' }])
  const others: GenerateOptions[] = [{ topP: 0.9, minP: 0.01 }, { stop: '4' }, { logprobs: 1 }, { repetitionPenalty: 1.2 }]
  const sampled = { numSamples: 3, temperature: 0.5, topK: 20, maxTokens: 30 }
  const beside = (engine: Engine): Promise<unknown> => Promise.all(others.map(async (options) => (await engine.generateBatch(prompt, { maxTokens: 12, tool: null, ...options })).results))
  await using engine = new Engine(cuda.model, cuda.tokenizer)
  await using reference = new Engine(cpu.model, cpu.tokenizer)
  const expected = await reference.generateBatch(prompt, { ...sampled, tool: () => '408' })

  let answer: (text: string) => void = () => undefined
  const late = new Promise<string>((resolve) => { answer = resolve })
  const concurrent = beside(engine)
  const rows: number[][] = [[], [], []], finished: boolean[] = []
  let columnsWithoutFirst = 0
  for await (const column of engine.generate(prompt, { ...sampled, tool: (_, { row }) => row === 0 ? late : '408' })) {
    column.tokenColumn.forEach((id, row) => { if (id >= 0) rows[row]?.push(id) })
    column.finished.forEach((reason, row) => { finished[row] = reason !== null })
    if (column.tokenColumn[0] === -1 && !finished[0]) columnsWithoutFirst++
    if (finished[1] && finished[2]) answer('408')
  }
  assert.ok(columnsWithoutFirst > 3, `${columnsWithoutFirst} columns without the row that waits`)
  rows.forEach((ids, row) => {
    const kept = expected.finishReasons[row] === 'stop' ? ids.slice(0, -1) : ids
    assert.equal([...prompt, ...kept], [...expected.results[row] ?? []], `row ${row}`)
  })
  assert.equal(await concurrent, await beside(reference))
})

test('what the device cannot do is an error with its code, or falls back', async () => {
  assert.is(await codeOf(() => loadModel('demo', { device: 'cuda:7' })), 'ERR_DEVICE_UNAVAILABLE')
  const wide: ModelSpec = { ...shape, generation: 'G6', nHead: 1, nKvHead: 1, nEmbd: 256 }
  assert.is(await codeOf(() => seededGPT(wide, 1, { device: 'cuda' })), 'ERR_DEVICE_UNAVAILABLE')
  await using fallen = await seededGPT(wide, 1, { device: 'auto' })
  assert.is(fallen.device, 'cpu')
  await using taken = await seededGPT({ ...wide, nHead: 4, nKvHead: 4 }, 1, { device: 'auto' })
  assert.is(taken.device, 'cuda:0')
  assert.is((await native().cudaDevices()).devices.length, 1)
  for (const dtype of ['int8', 'int4'] as const) {
    assert.is(await codeOf(() => loadModel('demo', { device: 'cuda', dtype })), 'ERR_INVALID_ARG')
    await using quantized = await loadModel('demo', { dtype, threads: 1 })
    assert.is(quantized.model.device, 'cpu')
  }
})

test('a kernel that fails rejects with its name; the sequence is as it was, this model and others go on', async () => {
  await using model = await seededGPT({ ...shape, nHead: 2, nKvHead: 1, nEmbd: 64 }, 1, { device: 'cuda', threads: 1 })
  await using other = await seededGPT({ ...shape, nHead: 2, nKvHead: 1, nEmbd: 64 }, 2, { device: 'cuda', threads: 1 })
  const { backend } = model, sequence = backend.newSequence(), prompt = formulaPrompt(20, shape.vocabSize)
  const expected = await append(backend, sequence, prompt)
  for (const kernel of ['embed', 'attention_decode', 'gemv', 'sample']) {
    process.env.NANOCHAT_EMULATION_FAIL = kernel
    const row = { sequence, tokens: Int32Array.of(1), sampler: newSampler({ ...params, temperature: 0 }, 0, shape.vocabSize, []), maxSteps: 3, logprobs: null }
    const error: unknown = await decode(backend, [row], { pauseIds: [], maxSteps: 3, budgetMs: 1e6 }).catch((e: unknown) => e)
    delete process.env.NANOCHAT_EMULATION_FAIL
    assert.ok(NanochatError.is(error), String(error))
    assert.is(error.code, 'ERR_CUDA')
    assert.match(error.message, kernel)
    assert.is(sequence.length, 20)
    assert.is((await decode(backend, [row], { pauseIds: [], maxSteps: 3, budgetMs: 1e6 }))[0]?.ids.length, 3)
    sequence.truncate(20)
  }
  const again = backend.newSequence()
  assert.equal(await append(backend, again, prompt), expected)
  assert.is((await other.logits([1, 2])).length, 2 * shape.vocabSize)
  again.dispose()
  sequence.dispose()
})

test('disposing frees the device\'s memory and rejects what runs', async () => {
  const model = await seededGPT({ ...shape, nHead: 2, nKvHead: 1, nEmbd: 64 }, 1, { device: 'cuda' })
  const cache = model.newCache()
  const pending = codeOf(() => model.forward(formulaPrompt(200, shape.vocabSize), cache))
  await model[Symbol.asyncDispose]()
  assert.is(await pending, 'ERR_DISPOSED')
  assert.is(await codeOf(() => model.logits([1])), 'ERR_DISPOSED')
  cache[Symbol.dispose]()
})

test.run()
