import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import type { GPT } from '../gpt.js'
import type { KVCache } from '../kv-cache.js'
import { logprobs } from '../sampling.js'
import type { TokenLogprob } from '../types.js'

const chunk = 64                               // positions whose logits are held at a time

/**
 * How likely each of `ids` was after those before it, with the `top` likeliest; of the first, which nothing precedes, NaN and none. The empty
 * `kvCache` then holds them. Rejects with ERR_DISPOSED, ERR_OUT_OF_MEMORY, ERR_CUDA or the signal's reason.
 */
export async function scored(model: GPT, kvCache: KVCache, ids: Int32Array, top: number, signal: AbortSignal): Promise<TokenLogprob[]> {
  const { vocabSize } = model.config
  const scores: TokenLogprob[] = [{ id: ids[0] as number, logprob: NaN, top: [] }]
  const sequence = kvCache.lock(model.backend)
  try {
    for (let start = 0; start < ids.length; start += chunk) {
      const tokens = ids.subarray(start, start + chunk)
      const logits = await model.backend.forward([{ sequence, tokens, logits: 'all' }], { signal })
      kvCache.ids.push(...tokens)
      for (let t = 0; t < tokens.length && start + t + 1 < ids.length; t++) {
        const id = ids[start + t + 1] as number
        const { token, top: likeliest } = logprobs(logits.subarray(t * vocabSize, (t + 1) * vocabSize), id, top)
        scores.push({ id, logprob: token, top: likeliest })
      }
      await eventLoopTurn()
    }
  } finally {
    kvCache.unlock()
  }
  return scores
}
