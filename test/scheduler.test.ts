import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Generation, type GenerationContext } from '../lib/generation.js'
import { checkGenerateOptions } from '../lib/options.js'
import { newSampler } from '../lib/sampling.js'
import { Scheduler } from '../lib/scheduler.js'
import type { GenerateOptions, TokenColumn } from '../lib/types.js'
import { fakeModel } from './support/fake-backend.js'
import { byteTokenizer, special } from './support/fake-tokenizer.js'

const { bos, userStart, userEnd, assistantStart, assistantEnd, pythonStart, pythonEnd, outputStart, outputEnd } = special
const tokenizer = byteTokenizer()
const V = tokenizer.getVocabSize()
const ids = { bos, assistantEnd, pythonStart, pythonEnd, outputStart, outputEnd, others: [userStart, userEnd, assistantStart] }

/** All columns of one call on a backend that may run `maxSteps` tokens ahead. */
async function columns(maxSteps: number, options: GenerateOptions): Promise<unknown> {
  const { model, backend } = fakeModel({ vocabSize: V })
  const scheduler = new Scheduler(model.backend, { maxRows: 64, kvCacheBytes: 1e6, pauseIds: [assistantEnd, bos, pythonEnd], maxSteps, budgetMs: 1e6 })
  const context: GenerationContext = { model, scheduler, text: { tokenizer, ids }, enter: () => undefined, leave: () => undefined }
  const kvCache = options.numSamples === 1 ? model.newCache() : undefined
  const checked = checkGenerateOptions({ ...options, kvCache }, { vocabSize: V, maxRows: 64, defaultTool: () => null })
  const generation = new Generation(context, Int32Array.of(1, 2, 3), options.maxTokens ?? 40, checked, null)
  const all: TokenColumn[] = []
  for (let column = await generation.next(); column; column = await generation.next()) all.push(column)
  assert.is(backend.live, kvCache ? 1 : 0)
  const plain = all.map(({ logprobs, ...column }) => ({ ...column, top: logprobs?.top, token: logprobs && Array.from(logprobs.token, String) }))   // assert.equal knows no NaN in typed arrays
  return { columns: plain, cached: kvCache?.getPos() }
}

const test = suite('scheduler')

test('running ahead changes no column: tools, terminal tokens, limits, stop strings, penalty, cache', async () => {
  const often = { [pythonStart]: 5, [pythonEnd]: 5, [assistantEnd]: 2.5 }
  const variants: GenerateOptions[] = [
    { numSamples: 1 }, { numSamples: 3, maxTokens: 7 }, { numSamples: 4, tool: () => 'xy' }, { numSamples: 2, tool: null, stop: ['a', 'b', 'c', 'e'] },
    { numSamples: 2, repetitionPenalty: 3 }, { numSamples: 1, logprobs: 1, tool: () => '' }, { numSamples: 1, tool: () => 'xyz', temperature: 0 }
  ]
  for (const options of variants) {
    for (let seed = 0; seed < 10; seed++) {
      const whole = { logitBias: often, seed, ...options }
      assert.equal(await columns(8, whole), await columns(1, whole), JSON.stringify(whole))
    }
  }
})

test('a prompt that arrives while others decode waits for one burst', async () => {
  const { model, backend } = fakeModel({ vocabSize: V, passMs: 5 })
  const scheduler = new Scheduler(model.backend, { maxRows: 4, kvCacheBytes: 1e6, pauseIds: [], maxSteps: 64, budgetMs: 12 })
  const { signal } = new AbortController()
  const sampler = newSampler(checkGenerateOptions({}, { vocabSize: V, maxRows: 4, defaultTool: null }).sampling, 0, V, [])
  const row = { sequence: model.backend.newSequence(), tokens: Int32Array.of(1), sampler, maxSteps: 64, logprobs: null }
  const order: string[] = []
  const decodes = scheduler.decode([row], signal).then(async ([run]) => {
    order.push('burst')
    const more = await scheduler.decode([{ ...row, tokens: Int32Array.of(run?.ids.at(-1) ?? 0) }], signal)
    order.push('burst')
    return [run, ...more]
  })
  while (backend.passes.length === 0) await new Promise(setImmediate)
  await scheduler.prefill(model.backend.newSequence(), Int32Array.of(1, 2), 'none', signal)
  order.push('prompt')
  const steps = (await decodes).map((run) => run?.ids.length ?? 0)
  assert.equal(order, ['burst', 'prompt', 'burst'])
  assert.ok(steps.every((count) => count >= 1 && count <= 4), `bursts of ${steps} steps`)
})

/** Prompts of these lengths, prefilled at once, over a backend whose pass takes 8 tokens. */
function prefills(lengths: number[], options: Parameters<typeof fakeModel>[0] = {}) {
  const { model, backend } = fakeModel({ vocabSize: V, passMs: 5, ...options })
  const scheduler = new Scheduler({ ...model.backend, passTokens: 8 }, { maxRows: 64, kvCacheBytes: 1e6, pauseIds: [], maxSteps: 1, budgetMs: 0 })
  const jobs = lengths.map((length, i) => {
    const controller = new AbortController(), sequence = model.backend.newSequence(), tokens = Int32Array.from({ length }, (_, t) => (7 * i + t) % V)
    const logits = i % 3 === 2 ? 'none' : 'last'
    const result = scheduler.prefill(sequence, tokens, logits, controller.signal).then((logits) => [...logits], (error: unknown) => String(error))
    return { controller, sequence, result, expected: logits === 'none' ? [] : [...backend.logitsAfter([...tokens])] }
  })
  return { backend, jobs, lengths: () => jobs.map(({ sequence }) => sequence.length) }
}

test('prompts that wait share passes, take turns and get what each gets alone', async () => {
  const { backend, jobs, lengths } = prefills([3, 2, 1, 20, 2, 9])
  assert.equal(await Promise.all(jobs.map(({ result }) => result)), jobs.map(({ expected }) => expected))
  assert.equal(lengths(), [3, 2, 1, 20, 2, 9])
  const counts = backend.passes.map(({ rows }) => rows.map(({ id, count }) => [id, count]))
  assert.equal(counts, [[[0, 3], [1, 2], [2, 1], [3, 2]], [[4, 2], [5, 6]], [[3, 8]], [[5, 3], [3, 5]], [[3, 5]]])
})

test('an abort ends the pass that it shares; the others go again', async () => {
  const { backend, jobs, lengths } = prefills([3, 4, 2], { passMs: 30 })
  while (backend.passes.length === 0) await new Promise(setImmediate)
  jobs[1]?.controller.abort('enough')
  const results = await Promise.all(jobs.map(({ result }) => result))
  assert.equal(results, [jobs[0]?.expected, 'enough', jobs[2]?.expected])
  assert.equal(lengths(), [3, 0, 2])
  assert.equal(backend.passes.map(({ aborted, rows }) => [aborted, rows.length]), [[true, 3], [false, 2]])
})

test('a prompt that cannot be computed fails alone', async () => {
  const fail = (rows: readonly { tokens: Int32Array }[]): void => { if (rows.some(({ tokens }) => tokens.includes(8))) throw new Error('no 8') }
  const { jobs, lengths } = prefills([1, 2, 1], { fail })   // the second is 7, 8
  assert.equal(await Promise.all(jobs.map(({ result }) => result)), [jobs[0]?.expected, 'Error: no 8', jobs[2]?.expected])
  assert.equal(lengths(), [1, 0, 1])
})

test('a queue of admissions is served in order and skips who left', async () => {
  const { model } = fakeModel({ vocabSize: V, kvBytesPerToken: 2 })
  const scheduler = new Scheduler(model.backend, { maxRows: 4, kvCacheBytes: 100, pauseIds: [], maxSteps: 1, budgetMs: 0 })
  const { signal } = new AbortController()
  const order: string[] = []
  const first = await scheduler.reserve(1, 40, signal)
  const leaving = new AbortController()
  const left = scheduler.reserve(1, 30, leaving.signal).catch((error: unknown) => { order.push(`left ${String(error)}`) })
  const small = scheduler.reserve(1, 5, signal).then((reservation) => { order.push('small'); return reservation })
  const large = scheduler.reserve(1, 50, signal).then((reservation) => { order.push('large'); return reservation })
  await new Promise((resolve) => setTimeout(resolve, 2))
  assert.equal(order, [], 'small fits, but it is not its turn')
  leaving.abort('gone')
  await left
  ;(await small).release(1)
  first.release(1)
  await large
  assert.equal(order, ['left gone', 'small', 'large'])
})

test.run()
