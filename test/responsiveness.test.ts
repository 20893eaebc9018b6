// alone: it measures how late timers are
// The event loop stays free while the model computes, and a call that is no longer wanted ends at once.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Engine } from '../lib/engine.js'
import type { GPT } from '../lib/gpt.js'
import { seededGPT } from '../lib/load.js'

const d12 = { sequenceLen: 2048, vocabSize: 32768, nLayer: 12, nHead: 6, nKvHead: 6, nEmbd: 768, windowPattern: 'SSSL' }
const longPrompt = Array.from({ length: 2000 }, (_, i) => i)
const test = suite<{ model: GPT }>('responsiveness')

test.before(async (context) => { context.model = await seededGPT(d12, 1, { dtype: 'float32' }) })
test.after(({ model }) => model[Symbol.asyncDispose]())

function percentile(values: readonly number[], share: number): number {
  return [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? NaN
}

/** Milliseconds between the ticks of a 10 ms timer while `work` runs. */
async function timerGaps(work: () => Promise<unknown>): Promise<number[]> {
  const gaps: number[] = []
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    gaps.push(now - last)
    last = now
  }, 10)
  await work()
  clearInterval(timer)
  return gaps
}

for (const [name, prompt, numSamples, maxTokens] of [['decoding one row', [1, 2, 3], 1, 60], ['decoding eight rows', [1, 2, 3], 8, 40], ['a long prefill', longPrompt.slice(0, 1000), 1, 8]] as const) {
  test(`a 10 ms timer ticks within 25 ms (p99) while ${name}`, async ({ model }) => {
    const engine = new Engine(model, null)
    const gaps = await timerGaps(() => engine.generateBatch(prompt, { numSamples, maxTokens, temperature: 0 }))
    console.log(`  ${name}: ${gaps.length} ticks, p50 ${percentile(gaps, 0.5).toFixed(1)} p99 ${percentile(gaps, 0.99).toFixed(1)} ms`)
    assert.ok(gaps.length > 30, `${gaps.length} ticks`)
    assert.ok(percentile(gaps, 0.99) <= 25, `p99 ${percentile(gaps, 0.99)} ms`)
  })
}

test('break during a prefill of seconds takes effect within 100 ms', async ({ model }) => {
  const engine = new Engine(model, null)
  for (const wait of [20, 150, 400]) {
    const columns = engine.generate(longPrompt, { maxTokens: 5 })
    const first = columns.next()
    await new Promise((resolve) => setTimeout(resolve, wait))
    const started = performance.now()
    await columns.return({} as never)
    assert.is((await first).done, true)
    const ms = performance.now() - started
    assert.ok(ms <= 100, `${ms} ms`)
  }
})

test('abort during a prefill of seconds takes effect within 100 ms, and frees the machine', async ({ model }) => {
  const engine = new Engine(model, null)
  const reason = new Error('not wanted any more')
  for (const wait of [20, 150, 400]) {
    const controller = new AbortController()
    const generation = engine.generateBatch(longPrompt, { maxTokens: 5, signal: controller.signal }).catch((e: unknown) => e)
    await new Promise((resolve) => setTimeout(resolve, wait))
    const started = performance.now()
    controller.abort(reason)
    assert.is(await generation, reason)
    assert.ok(performance.now() - started <= 100)
    await model.forward([1])
    assert.ok(performance.now() - started <= 250, 'the next pass had to wait')
  }
})

test.run()
