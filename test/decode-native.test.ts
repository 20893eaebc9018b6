// The CPU backend's own decode against the steps of lib/decode.ts: the same tokens, sequences, columns and caches.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Backend } from '../lib/backend.js'
import { decode } from '../lib/decode.js'
import type { DecodeOptions, DecodeRow } from '../lib/decode.js'
import { Engine } from '../lib/engine.js'
import { GPT } from '../lib/gpt.js'
import { loadModel } from '../lib/load.js'
import type { ModelSpec } from '../lib/native.js'
import { newSampler } from '../lib/sampling.js'
import type { SamplingParams } from '../lib/sampling.js'
import type { Tokenizer } from '../lib/tokenizer.js'
import type { GenerateOptions, Stats, TokenColumn } from '../lib/types.js'
import { codeOf } from './support/error-code.js'
import { append, formulaPrompt, withSeeded } from './support/seeded.js'

const toy: ModelSpec = { generation: 'G6', sequenceLen: 64, vocabSize: 300, nLayer: 2, nHead: 2, nKvHead: 1, nEmbd: 64, windowPattern: 'SL' }
const V = toy.vocabSize
const plain: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logitBias: [], seed: 42 }
const unhurried = { pauseIds: [], maxSteps: 20, budgetMs: 1e6 }

/** The same backend, decoding in JavaScript. */
function stepByStep({ decode: _, ...backend }: Backend): Backend {
  return backend
}

function newRow(backend: Backend, row: number, change: Partial<SamplingParams> = {}): DecodeRow {
  const tokens = formulaPrompt(1 + row * 3, V, row + 1)
  return { sequence: backend.newSequence(), tokens, sampler: newSampler({ ...plain, ...change }, row, V, tokens), maxSteps: 99, logprobs: null }
}

/** Runs twice as far as one decode, the second from where the first ended, and what the sequences hold then. */
async function twoRuns(backend: Backend, rows: DecodeRow[], options: DecodeOptions): Promise<unknown> {
  const first = await decode(backend, rows, options)
  const next = rows.map((row, i) => ({ ...row, tokens: Int32Array.of(first[i]?.ids.at(-1) ?? 0) }))
  const second = await decode(backend, next, options)
  const lengths = rows.map(({ sequence }) => sequence.length)
  const logits = []
  for (const { sequence } of rows) logits.push([...await append(backend, sequence, Int32Array.of(7))])
  return { first, second, lengths, seen: rows.map(({ sampler }) => sampler.seen?.ids), logits }
}

const native = suite('decode of the CPU backend')

native('draws what single passes and the sampler in TypeScript draw, and leaves the same sequences', async () => {
  const variants: Partial<SamplingParams>[] = [
    {}, { temperature: 0 }, { temperature: 0.7, topK: 20 }, { topP: 0.8, seed: 2 ** 45 + 3 }, { minP: 0.05 }, { repetitionPenalty: 1.4 }, { temperature: 0, repetitionPenalty: 3 },
    { logitBias: [[5, 3], [9, -Infinity]], repetitionPenalty: 0.9, topK: 40, topP: 0.95 }
  ]
  for (const threads of [1, 2]) {
    await withSeeded(toy, { dtype: 'float32', threads }, async (backend) => {
      for (const change of variants) {
        for (const pauseIds of [[], Array.from({ length: 30 }, (_, i) => 10 * i)]) {
          const options = { ...unhurried, pauseIds }
          const expected = await twoRuns(stepByStep(backend), [0, 1, 2].map((row) => newRow(backend, row, change)), options)
          const rows = [0, 1, 2].map((row) => newRow(backend, row, change))
          assert.equal(await twoRuns(backend, rows, options), expected, JSON.stringify({ change, pauseIds }))
        }
      }
    })
  }
})

native('stops at the limits of the call, of a row and of time', async () => {
  await withSeeded(toy, { dtype: 'bfloat16' }, async (backend) => {
    for (const [maxSteps, ofRow, budgetMs, steps] of [[20, 99, 1e6, 20], [20, 3, 1e6, 3], [1, 99, 1e6, 1], [20, 99, 0, 1]] as const) {
      const rows = [newRow(backend, 0), { ...newRow(backend, 1), maxSteps: ofRow }]
      const runs = await decode(backend, rows, { pauseIds: [], maxSteps, budgetMs })
      assert.equal(runs.map(({ ids }) => ids.length), [steps, steps])
      assert.equal(rows.map(({ sequence, tokens }) => sequence.length - tokens.length), [steps - 1, steps - 1])
    }
  })
})

native('rows that want log-probabilities get them, beside others that do not', async () => {
  await withSeeded(toy, { dtype: 'float32' }, async (backend) => {
    const rows = [newRow(backend, 0), { ...newRow(backend, 1), logprobs: 2 }]
    const runs = await decode(backend, rows, unhurried)
    assert.equal(runs.map(({ logprobs }) => logprobs.length), [0, 20])
    assert.equal(runs.map(({ ids }) => ids), (await decode(backend, [newRow(backend, 0), newRow(backend, 1)], unhurried)).map(({ ids }) => ids))
  })
})

native('an abort in any step leaves every sequence and sampler as it was', async () => {
  await withSeeded({ ...toy, sequenceLen: 4096, nLayer: 4 }, { dtype: 'float32' }, async (backend) => {
    const expected = await decode(backend, [newRow(backend, 0), newRow(backend, 1)], unhurried)
    for (const wait of [0, 1, 5, 30]) {
      const controller = new AbortController()
      const rows = [newRow(backend, 0, { repetitionPenalty: 1.2 }), newRow(backend, 1)]
      const aborted = codeOf(() => decode(backend, rows.map((row) => ({ ...row, maxSteps: 10_000 })), { pauseIds: [], maxSteps: 10_000, budgetMs: 1e6, signal: controller.signal }))
      setTimeout(() => controller.abort('enough'), wait)
      assert.is(await aborted, 'enough')
      assert.equal(rows.map(({ sequence }) => sequence.length), [0, 0])
      assert.equal(rows[0]?.sampler.seen?.ids, [...new Set(rows[0]?.tokens)])
      const unpenalised = rows.map((row, i) => ({ ...row, sampler: newRow(backend, i).sampler }))
      assert.equal(await decode(backend, unpenalised, unhurried), expected)
    }
    const controller = new AbortController()
    controller.abort('before')
    assert.is(await codeOf(() => decode(backend, [newRow(backend, 0)], { ...unhurried, signal: controller.signal })), 'before')
  })
})

native('arguments that make no sense are refused and change nothing', async () => {
  await withSeeded(toy, { dtype: 'float32' }, async (backend) => {
    const row = newRow(backend, 0)
    const own = backend.decode
    assert.ok(own)
    const code = (rows: DecodeRow[], change: Partial<DecodeOptions> = {}): Promise<string> => codeOf(() => own(rows, { ...unhurried, ...change }))
    assert.is(await code([]), 'ERR_INVALID_ARG')
    assert.is(await code([row, row]), 'ERR_INVALID_ARG')
    assert.is(await code([{ ...row, tokens: Int32Array.of(V) }]), 'ERR_INVALID_ARG')
    assert.is(await code([{ ...row, tokens: new Int32Array(0) }]), 'ERR_INVALID_ARG')
    assert.is(await code([{ ...row, sampler: newSampler({ ...plain, temperature: -1 }, 0, V, []) }]), 'ERR_INVALID_ARG')
    assert.is(await code([row], { maxSteps: 0 }), 'ERR_INVALID_ARG')
    assert.is(await code([row], { budgetMs: NaN }), 'ERR_INVALID_ARG')
    assert.is(await code([{ ...row, tokens: new Int32Array(631) }], { maxSteps: 11 }), 'ERR_CONTEXT_OVERFLOW', 'the last draw but one would be at position 640')
    assert.is(row.sequence.length, 0)
    const [ids] = await own([{ ...row, tokens: new Int32Array(631) }], { ...unhurried, maxSteps: 10 })
    assert.is(ids?.length, 10)
    assert.is(row.sequence.length, 640)
    const busy = newRow(backend, 1)
    const running = own([busy], unhurried)
    assert.is(await code([busy]), 'ERR_INVALID_ARG')
    await running
  })
})

native('a model disposed meanwhile ends it', async () => {
  let pending: Promise<string> = Promise.resolve('')
  await withSeeded({ ...toy, sequenceLen: 4096, nLayer: 4 }, { dtype: 'float32' }, async (backend) => {
    pending = codeOf(() => decode(backend, [{ ...newRow(backend, 0), maxSteps: 10_000 }], { pauseIds: [], maxSteps: 10_000, budgetMs: 1e6 }))
  })
  assert.is(await pending, 'ERR_DISPOSED')
})

native.run()

interface Side { model: GPT, engine: Engine, passes: number }

const engines = suite<{ ahead: Side, single: Side, tokenizer: Tokenizer, bursts: number[] }>('the engine running ahead')

engines.before(async (context) => {
  const { model, tokenizer } = await loadModel('demo', { dtype: 'float32', threads: 2 })
  const { config, device, dtype, numParams, memoryBytes, backend } = model
  const own = backend.decode
  assert.ok(own)
  context.tokenizer = tokenizer
  context.bursts = []
  const sideOf = (decode: Backend['decode']): Side => {
    const counting: Backend = {
      ...stepByStep(backend),
      ...(decode && { decode }),
      forward: (rows, options) => { side.passes++; return backend.forward(rows, options) }
    }
    const over = GPT.create({ backend: counting, config, device, dtype, numParams, memoryBytes, dispose: async () => undefined })
    const side = { model: over, engine: new Engine(over, tokenizer), passes: 0 }
    return side
  }
  context.single = sideOf(undefined)
  context.ahead = sideOf(async (rows, options) => {
    const runs = await own(rows, { ...options, maxSteps: Math.min(16, options.maxSteps), budgetMs: 1e6 })   // the same bursts on any machine
    const steps = runs[0]?.length ?? 0
    context.bursts.push(steps)
    context.ahead.passes += steps
    return runs
  })
})

engines.before.each(({ bursts, ahead, single }) => { bursts.length = ahead.passes = single.passes = 0 })

interface Outcome { columns: unknown[], stats: Partial<Stats> | null, error: unknown, cached: number[] | undefined }

/** All that can be seen of a call that is left after `most` columns, or whose signal aborts there. */
async function outcomeOf({ engine }: Side, prompt: number[], options: GenerateOptions, most = Infinity, ending: 'break' | 'abort' | 'abort while it computes' = 'break'): Promise<Outcome> {
  const controller = new AbortController()
  const generator = engine.generate(prompt, { ...options, signal: controller.signal })
  const outcome: Outcome = { columns: [], stats: null, error: null, cached: undefined }
  try {
    while (outcome.columns.length < most) {
      const { done, value } = await generator.next()
      if (done) {
        const { promptTokens, generatedTokens, forcedTokens } = value
        outcome.stats = { promptTokens, generatedTokens, forcedTokens }
        break
      }
      outcome.columns.push(plainColumn(value))
    }
    const more = ending === 'abort while it computes' ? generator.next() : null
    if (ending !== 'break') controller.abort('enough')
    if (ending !== 'break') await (more ?? generator.next())
    await generator.return({} as Stats)
  } catch (error) {
    outcome.error = error
  }
  outcome.cached = options.kvCache && [...options.kvCache.ids]
  return outcome
}

/** note: uvu's assert.equal knows no NaN in typed arrays. */
function plainColumn({ tokenColumn, tokenMasks, finished, logprobs }: TokenColumn): unknown {
  return { tokenColumn: [...tokenColumn], tokenMasks: [...tokenMasks], finished, token: logprobs && Array.from(logprobs.token, String), top: logprobs?.top }
}

const questions = ['What is 1234 * 5678?', 'How many n are there in friendship?', 'tell me a joke', 'Write 20 6 95 70 7 1 in reverse order.']
/** note: answers at once; with one that takes its time, which columns a waiting row misses is a matter of time. */
const tool = (code: string): string | null => code.length % 3 ? code.slice(0, 9) : null
const variants: GenerateOptions[] = [
  { temperature: 0, tool: () => '7006652' }, { temperature: 0 }, { temperature: 0, tool: null }, { temperature: 0, tool: async () => 'abc' },
  { numSamples: 4, tool }, { numSamples: 3, topK: 20, temperature: 1.5, maxTokens: 33, tool }, { numSamples: 2, topP: 0.9, tool: () => '' },
  { stop: ['is', '8', 'z'] }, { stop: 'answer', numSamples: 3, minP: 0.05, tool }, { logprobs: 2, numSamples: 2, tool }, { repetitionPenalty: 1.3, numSamples: 2, tool },
  { repetitionPenalty: 0.8, temperature: 0.7, logitBias: { 40: 2 } }
]

for (const options of variants) {
  engines(`the same columns, stats and cache: ${JSON.stringify(options, (_, value: unknown) => typeof value === 'function' ? String(value) : value)}`, async ({ ahead, single, bursts, tokenizer }) => {
    for (const [seed, content] of questions.entries()) {
      const prompt = [...tokenizer.renderForCompletion([{ role: 'user', content }])]
      const call = (side: Side): Promise<Outcome> => outcomeOf(side, prompt, { maxTokens: 60, seed, ...options, kvCache: side.model.newCache() })
      const expected = await call(single)
      assert.is(expected.error, null)
      assert.equal(await call(ahead), expected, content)
    }
    const runsAhead = options.stop === undefined && options.logprobs === undefined
    assert.is(bursts.some((steps) => steps > 3), runsAhead, `${bursts}`)
    assert.is(ahead.passes, single.passes, 'rows that run ahead still share every pass')
  })
}

engines('left or aborted in the middle of a burst: the cache holds prompt and output, and serves the next call', async ({ ahead, single, tokenizer }) => {
  const prompt = [...tokenizer.renderForCompletion([{ role: 'user', content: 'What is 1234 * 5678?' }])]
  const options = { temperature: 0, maxTokens: 60, tool: () => '7006652' }
  for (const ending of ['break', 'abort', 'abort while it computes'] as const) {
    for (let most = 0; most < 20; most += most < 10 ? 1 : 4) {
      const caches = { ahead: ahead.model.newCache(), single: single.model.newCache() }
      const expected = await outcomeOf(single, prompt, { ...options, kvCache: caches.single }, most, ending)
      const label = `${ending} after ${most}`
      assert.equal(await outcomeOf(ahead, prompt, { ...options, kvCache: caches.ahead }, most, ending), expected, label)
      const held = expected.cached ?? []
      assert.equal(held, most === 0 ? held : [...prompt, ...held.slice(prompt.length)], label)
      if (most > 0) assert.is(held.length, prompt.length + most, label)
      const question = [...held, ...tokenizer.encode(' and more')]
      const next = await outcomeOf(single, question, { ...options, kvCache: caches.single })
      assert.equal(await outcomeOf(ahead, question, { ...options, kvCache: caches.ahead }), next, label)
    }
  }
})

engines('concurrent calls get what each gets alone, also beside one that goes step by step', async ({ ahead, single, tokenizer }) => {
  const calls = questions.flatMap((content, seed) => {
    const prompt = [...tokenizer.renderForCompletion([{ role: 'user', content }])]
    return [{ prompt, options: { seed, maxTokens: 50, numSamples: 2, tool } }, { prompt, options: { seed, maxTokens: 40, stop: '9' } }, { prompt, options: { seed, maxTokens: 30, logprobs: 1 } }]
  })
  const expected = []
  for (const { prompt, options } of calls) expected.push(await outcomeOf(single, prompt, options))
  assert.equal(await Promise.all(calls.map(({ prompt, options }) => outcomeOf(ahead, prompt, options))), expected)
})

engines.run()
