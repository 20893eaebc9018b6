import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { NanochatError } from '../lib/errors.js'
import { fakeModel } from './support/fake-backend.js'
import { codeOf } from './support/error-code.js'

const V = 32
const ramp = (n: number): number[] => Array.from({ length: n }, (_, i) => (i * 7) % V)

const test = suite('gpt')

test('forward: the last position, in chunks of 256, with a cache and without', async () => {
  const { model, backend } = fakeModel({ vocabSize: V, sequenceLen: 100 })
  assert.equal(await model.forward(ramp(600)), backend.logitsAfter(ramp(600)))
  assert.equal(backend.passes.map(({ rows }) => rows[0]), [{ id: 0, count: 256, logits: 'none' }, { id: 0, count: 256, logits: 'none' }, { id: 0, count: 88, logits: 'last' }])
  assert.is(backend.live, 0)
  const kvCache = model.newCache()
  await model.forward(Int32Array.from(ramp(300)), kvCache)
  assert.equal(await model.forward(new Uint8Array([5, 6]), kvCache), backend.logitsAfter([...ramp(300), 5, 6]))
  assert.is(kvCache.getPos(), 302)
})

test('logits: every position', async () => {
  const { model, backend } = fakeModel({ vocabSize: V, sequenceLen: 100 })
  const ids = ramp(300)
  const logits = await model.logits(ids)
  assert.is(logits.length, 300 * V)
  for (const t of [0, 255, 256, 299]) assert.equal(logits.slice(t * V, (t + 1) * V), backend.logitsAfter(ids.slice(0, t + 1)))
  assert.is(backend.live, 0)
})

test('wrong ids are ERR_INVALID_ARG, too many ERR_CONTEXT_OVERFLOW', async () => {
  const { model, backend } = fakeModel({ vocabSize: V, sequenceLen: 10 })
  for (const ids of [[], [V], [-1], [0.5], [NaN], ['1'], 'abc', null, undefined, {}, { length: -1 }]) {
    assert.is(await codeOf(() => model.forward(ids as number[])), 'ERR_INVALID_ARG')
    assert.is(await codeOf(() => model.logits(ids as number[])), 'ERR_INVALID_ARG')
  }
  assert.is(await codeOf(() => model.forward([1], {} as never)), 'ERR_INVALID_ARG')
  assert.is(await codeOf(() => model.forward(ramp(101))), 'ERR_CONTEXT_OVERFLOW')
  assert.is(await codeOf(() => model.logits({ length: 1e15 })), 'ERR_CONTEXT_OVERFLOW')
  const kvCache = model.newCache()
  await model.forward(ramp(100), kvCache)
  assert.is(await codeOf(() => model.forward([1], kvCache)), 'ERR_CONTEXT_OVERFLOW')
  assert.is(backend.live, 1)
})

test('a forward that fails leaves the cache as it was', async () => {
  let fails = false
  const { model, backend } = fakeModel({ vocabSize: V, sequenceLen: 100, fail: (rows) => { if (fails && rows[0]?.logits === 'last') throw new NanochatError('ERR_OUT_OF_MEMORY', 'none') } })
  const kvCache = model.newCache()
  await model.forward([1, 2, 3], kvCache)
  fails = true
  assert.is(await codeOf(() => model.forward(ramp(600), kvCache)), 'ERR_OUT_OF_MEMORY')
  assert.is(kvCache.getPos(), 3)
  fails = false
  assert.equal(await model.forward([4], kvCache), backend.logitsAfter([1, 2, 3, 4]))
})

test('dispose: pending calls reject with ERR_DISPOSED, then the backend ends, once', async () => {
  const { model, backend } = fakeModel({ vocabSize: V, sequenceLen: 1000, passMs: 2000 })
  const kvCache = model.newCache()
  const pending = [codeOf(() => model.forward(ramp(600))), codeOf(() => model.forward([1], kvCache)), codeOf(() => model.logits([1, 2]))]
  await sleep(10)
  const startedAt = performance.now()
  await Promise.all([model[Symbol.asyncDispose](), model[Symbol.asyncDispose]()])
  assert.ok(performance.now() - startedAt < 200)
  assert.equal(await Promise.all(pending), ['ERR_DISPOSED', 'ERR_DISPOSED', 'ERR_DISPOSED'])
  assert.is(backend.ended, 1)
  for (const use of [() => model.forward([1]), () => model.logits([1]), () => model.newCache(), () => model.forward([1], kvCache)]) assert.is(await codeOf(use), 'ERR_DISPOSED')
  kvCache[Symbol.dispose]()
  assert.is(backend.live, 0)
})

test.run()
