import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Engine } from '../lib/engine.js'
import { NanochatError } from '../lib/errors.js'
import type { GenerateOptions } from '../lib/types.js'
import { fakeModel, type FakeOptions } from './support/fake-backend.js'
import { codeOf } from './support/error-code.js'

const V = 32
const greedy: GenerateOptions = { temperature: 0 }

function setup(options: FakeOptions = {}): ReturnType<typeof fakeModel> & { engine: Engine } {
  const fake = fakeModel({ vocabSize: V, ...options })
  return { ...fake, engine: new Engine(fake.model, null, { kvCacheBytes: 1e6 }) }
}

const cache = suite('kv-cache')

cache('getPos, truncate, reset, dispose', async () => {
  const { model, backend } = setup({ sequenceLen: 8 })
  const kvCache = model.newCache()
  assert.is(kvCache.maxSeqLen, 80)
  await model.forward([1, 2, 3, 4], kvCache)
  assert.is(kvCache.getPos(), 4)
  kvCache.truncate(2)
  assert.is(kvCache.getPos(), 2)
  assert.equal(await model.forward([9], kvCache), backend.logitsAfter([1, 2, 9]))
  for (const pos of [-1, 4, 1.5, NaN]) assert.is(await codeOf(() => kvCache.truncate(pos)), 'ERR_INVALID_ARG')
  kvCache.reset()
  assert.is(kvCache.getPos(), 0)
  kvCache[Symbol.dispose]()
  kvCache[Symbol.dispose]()
  assert.is(backend.live, 0)
  assert.is(await codeOf(() => kvCache.truncate(0)), 'ERR_DISPOSED')
  assert.is(await codeOf(() => model.forward([1], kvCache)), 'ERR_DISPOSED')
  for (const maxSeqLen of [0, 81, 1.5]) assert.is(await codeOf(() => model.newCache(maxSeqLen)), 'ERR_INVALID_ARG')
})

cache('numSamples 1: ends holding prompt and output, and the next call computes only what is new', async () => {
  const { model, engine, backend } = setup()
  const kvCache = model.newCache()
  const first = await engine.generateBatch([1, 2, 3], { ...greedy, kvCache, maxTokens: 5 })
  assert.is(kvCache.getPos(), 8)
  assert.is(first.stats.cachedTokens, 0)
  const conversation = [...first.results[0] as Int32Array, 4, 5]
  backend.passes.length = 0
  const second = await engine.generateBatch(conversation, { ...greedy, kvCache, maxTokens: 3 })
  assert.is(second.stats.cachedTokens, 7, 'the last token of an output is not computed until it is needed')
  assert.equal(backend.passes[0]?.rows.map(({ count }) => count), [3])
  assert.equal(second.results, (await setup().engine.generateBatch(conversation, { ...greedy, maxTokens: 3 })).results)
  assert.is(kvCache.getPos(), 13)
  assert.equal(await model.forward([6], kvCache), backend.logitsAfter([...second.results[0] as Int32Array, 6]), 'forward computes the rest first')
  assert.is(kvCache.getPos(), 14)
  assert.is(backend.live, 1)
})

cache('the common prefix is kept, at least the last token is computed again', async () => {
  const { engine, backend } = setup()
  const kvCache = await engine.prefill([1, 2, 3, 4, 5, 6])
  assert.is(kvCache.getPos(), 6)
  for (const [tokens, cachedTokens] of [[[1, 2, 3, 4, 5, 6], 5], [[1, 2, 3, 9, 5, 6, 7], 3], [[1, 2], 1], [[8], 0]] satisfies [number[], number][]) {
    const { stats, results } = await engine.generateBatch(tokens, { ...greedy, kvCache, maxTokens: 2 })
    assert.is(stats.cachedTokens, cachedTokens)
    assert.equal(results, (await setup().engine.generateBatch(tokens, { ...greedy, maxTokens: 2 })).results)
    assert.is(kvCache.getPos(), tokens.length + 2)
    kvCache.truncate(Math.min(kvCache.getPos(), tokens.length))
  }
  assert.is(backend.live, 1)
})

cache('with more samples it stays at the prompt and rows fork', async () => {
  const { engine, backend } = setup()
  const kvCache = await engine.prefill([1, 2, 3])
  const { results } = await engine.generateBatch([1, 2, 3, 4], { numSamples: 3, kvCache, maxTokens: 4 })
  assert.is(kvCache.getPos(), 4)
  assert.is(backend.live, 1)
  assert.equal(results, (await setup().engine.generateBatch([1, 2, 3, 4], { numSamples: 3, maxTokens: 4 })).results)
})

cache('forks go on from one prefix at a time, and leave it alone', async () => {
  const { model, engine, backend } = setup()
  const prefix = await engine.prefill([1, 2, 3, 4])
  const forks = [prefix.fork(), prefix.fork(), prefix.fork(2)]
  assert.equal(forks.map((fork) => [fork.getPos(), fork.maxSeqLen]), [[4, 640], [4, 640], [2, 640]])
  const prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 7]]
  const batches = await Promise.all(prompts.map((tokens, i) => engine.generateBatch(tokens, { ...greedy, kvCache: forks[i] ?? prefix, maxTokens: 3 })))
  for (const [i, { results, stats }] of batches.entries()) {
    assert.is(stats.cachedTokens, [4, 4, 2][i])
    assert.equal(results, (await setup().engine.generateBatch(prompts[i] ?? [], { ...greedy, maxTokens: 3 })).results)
  }
  assert.is(prefix.getPos(), 4)
  assert.equal(await model.forward([9], prefix.fork()), backend.logitsAfter([1, 2, 3, 4, 9]))
  const whole = forks[0]?.fork()
  assert.is(whole?.getPos(), 8, 'with the last token of the output, which is not computed yet')
  assert.equal(await model.forward([9], whole), backend.logitsAfter([...batches[0]?.results[0] ?? [], 9]))
  for (const pos of [-1, 5, 0.5]) assert.is(await codeOf(() => prefix.fork(pos)), 'ERR_INVALID_ARG')
  const busy = engine.generate([1, 2, 3, 4, 5], { kvCache: prefix, maxTokens: 2 })
  await busy.next()
  assert.is(await codeOf(() => prefix.fork()), 'ERR_INVALID_ARG')
  await busy.return(undefined as never)
  prefix[Symbol.dispose]()
  assert.is(await codeOf(() => prefix.fork()), 'ERR_DISPOSED')
  assert.is(forks[1]?.getPos(), 8, 'a fork outlives what it was forked from')
})

cache('break, abort and a failure leave a cache that can be used', async () => {
  let chunks = 0
  let reach = (): void => {}
  const secondChunk = new Promise<void>((resolve) => { reach = resolve })
  const { engine, model } = setup({ sequenceLen: 1000, passMs: (tokens) => {
    if (tokens !== 256 || ++chunks !== 2) return 0
    reach()
    return 60_000
  } })
  const kvCache = model.newCache()
  let seen = 0
  for await (const { tokenColumn } of engine.generate([1, 2, 3], { ...greedy, kvCache })) {
    assert.is(tokenColumn.length, 1)
    if (++seen === 4) break
  }
  assert.is(kvCache.getPos(), 7)
  const long = Array.from({ length: 900 }, (_, i) => i % V)
  const controller = new AbortController()
  const pending = codeOf(() => engine.generateBatch(long, { kvCache, maxTokens: 2, signal: controller.signal }))
  await secondChunk
  controller.abort('enough')
  assert.is(await pending, 'enough')
  const computed = kvCache.getPos()
  assert.is(computed, 256)
  assert.is((await engine.generateBatch(long, { ...greedy, kvCache, maxTokens: 2 })).stats.cachedTokens, computed)
})

cache('a cache of another model, or one in use, is ERR_INVALID_ARG; a call that fails so leaves it alone', async () => {
  const { engine, model } = setup()
  const kvCache = model.newCache()
  assert.is(await codeOf(() => setup().engine.generateBatch([1], { kvCache })), 'ERR_INVALID_ARG')
  assert.is(await codeOf(() => setup().model.forward([1], kvCache)), 'ERR_INVALID_ARG')
  const generator = engine.generate([1, 2], { ...greedy, kvCache, maxTokens: 3 })
  await generator.next()
  for (const use of [() => engine.generateBatch([1], { kvCache }), () => model.forward([1], kvCache), () => kvCache.truncate(0), () => kvCache.reset()]) {
    assert.is(await codeOf(use), 'ERR_INVALID_ARG')
  }
  while (!(await generator.next()).done) continue
  assert.is(kvCache.getPos(), 5)
  assert.is(await codeOf(() => engine.generateBatch([1], { kvCache, maxTokens: 1 })), 'none')
})

cache('disposed while in use, it is freed when the call ends', async () => {
  const { engine, model, backend } = setup()
  const kvCache = model.newCache()
  const generator = engine.generate([1, 2], { ...greedy, kvCache, maxTokens: 3 })
  await generator.next()
  kvCache[Symbol.dispose]()
  assert.is(backend.live, 1)
  while (!(await generator.next()).done) continue
  assert.is(backend.live, 0)
  assert.is(await codeOf(() => engine.generateBatch([1], { kvCache })), 'ERR_DISPOSED')
})

cache('the model disposed first: calls end, the cache is empty and can be disposed', async () => {
  const { engine, model, backend } = setup()
  const kvCache = model.newCache()
  const controller = new AbortController()
  const returned = engine.generate([1, 2], { ...greedy, kvCache }), aborted = engine.generate([1, 2], { ...greedy, kvCache: model.newCache(), signal: controller.signal })
  await Promise.all([returned.next(), aborted.next()])
  await model[Symbol.asyncDispose]()
  assert.is((await returned.return(undefined as never)).done, true)
  controller.abort('enough')
  assert.is(await codeOf(() => aborted.next()), 'enough')
  assert.is(kvCache.getPos(), 0)
  kvCache[Symbol.dispose]()
  assert.is(backend.live, 1)
})

cache('maxSeqLen bounds a single row', async () => {
  const { engine, model } = setup()
  const kvCache = model.newCache(6)
  const { results, finishReasons } = await engine.generateBatch([1, 2, 3], { ...greedy, kvCache, maxTokens: 10 })
  assert.equal([results[0]?.length, finishReasons], [6, ['length']])
  assert.is(await codeOf(() => engine.generateBatch([1, 2, 3, 4, 5, 6], { kvCache, maxTokens: 1 })), 'ERR_CONTEXT_OVERFLOW')
  assert.is((await engine.generateBatch([1, 2, 3, 4, 5, 6], { ...greedy, kvCache, numSamples: 2, maxTokens: 2 })).results[1]?.length, 8)
  assert.is(await codeOf(() => model.forward([1], kvCache)), 'ERR_CONTEXT_OVERFLOW')
})

cache('a failed prefill frees its cache; one beyond the positions is refused', async () => {
  const { engine, backend } = setup({ sequenceLen: 4, fail: (rows) => { if (rows[0]?.tokens[0] === 7) throw new NanochatError('ERR_OUT_OF_MEMORY', 'none') } })
  assert.is(await codeOf(() => engine.prefill([7])), 'ERR_OUT_OF_MEMORY')
  assert.is(backend.live, 0)
  assert.is((await engine.prefill(new Array(40).fill(1))).getPos(), 40)
  assert.is(await codeOf(() => engine.prefill(new Array(41).fill(1))), 'ERR_CONTEXT_OVERFLOW')
})

cache.run()
