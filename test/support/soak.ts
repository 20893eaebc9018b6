// The same work again and again: the memory of the process must stay what it was after the warm-up.
import { setTimeout as sleep } from 'node:timers/promises'
import { Engine } from '../../lib/engine.js'
import { loadModel } from '../../lib/load.js'

export interface SoakResult { warmMegabytes: number, endMegabytes: number, grownPercent: number }

/** Short generations of the demo model: columns that are ended early, batches, chats. */
export async function soakGenerations(count: number): Promise<SoakResult> {
  await using loaded = await loadModel('demo', { device: 'cpu', threads: 1 })
  const engine = new Engine(loaded.model, loaded.tokenizer)
  const tokens = loaded.tokenizer.renderForCompletion([{ role: 'user', content: 'Hi' }])
  return await flat(count, async (i) => {
    const options = { maxTokens: 2, seed: i, temperature: i % 2, tool: null }
    if (i % 10 === 0) for await (const _ of engine.chat([{ role: 'user', content: 'Hi' }], options)) continue
    else if (i % 10 === 1) for await (const _ of engine.generate(tokens, { ...options, numSamples: 2 })) break
    else if (i % 10 === 2) await engine.generate(tokens, { ...options, signal: AbortSignal.abort() }).next().catch(() => {})
    else await engine.generateBatch(tokens, options)
  })
}

/** The demo model loaded, used once and disposed. */
export function soakLoads(count: number): Promise<SoakResult> {
  return flat(count, async () => {
    await using loaded = await loadModel('demo', { device: 'cpu', threads: 2 })
    await loaded.model.forward([1])
  })
}

/**
 * Memory between a tenth of the way and the end, by the least of several samples: garbage that is not collected yet, V8's
 * and the allocator's, comes on top by chance.
 */
async function flat(count: number, work: (i: number) => Promise<void>): Promise<SoakResult> {
  const samples = 10, warm = Math.ceil(count / 10)
  let i = 0
  const least = async (until: number): Promise<number> => {
    const rss: number[] = []
    const from = i
    for (let n = 1; n <= samples; n++) {
      while (i < from + (until - from) * n / samples) await work(i++)
      rss.push(await settledRss())
    }
    return Math.min(...rss)
  }
  while (i < warm) await work(i++)
  const warmBytes = await least(Math.ceil(count * 0.2))
  while (i < Math.ceil(count * 0.9)) await work(i++)
  const endBytes = await least(count)
  return { warmMegabytes: warmBytes / 2 ** 20, endMegabytes: endBytes / 2 ** 20, grownPercent: (endBytes / warmBytes - 1) * 100 }
}

async function settledRss(): Promise<number> {
  const gc = globalThis.gc ?? (() => { throw new Error('run with --expose-gc') })
  for (let n = 0; n < 3; n++) {
    gc()
    await sleep(1)
  }
  return process.memoryUsage.rss()
}
