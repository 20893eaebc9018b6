import type { GPT } from '../gpt.js'
import { commonPrefix, type KVCache } from '../kv-cache.js'

/** Keys and values of earlier requests, so that a conversation's next turn computes only what is new. */
export interface PromptCache extends Disposable {
  /** A cache for one call, which begins with as much of `prompt` as any that is kept. */
  take(prompt: Int32Array): KVCache
  /** Keeps what a call has left in `cache`, which belongs to this from now on. */
  keep(cache: KVCache): void
}

const sliceOfPositions = 256                   // what a cache holds is taken in pieces of up to so many positions

/**
 * Keeps caches of up to `maxBytes` together, those used last. Kept ones are never written to: calls go on in forks, so any number of
 * them can share one beginning. What several share is counted for each.
 */
export function promptCache(model: GPT, maxBytes: number): PromptCache {
  let kept: KVCache[] = []                     // used last at the end
  const { kvBytesPerToken } = model.backend
  const bytesOf = (cache: KVCache): number => Math.ceil(cache.getPos() / sliceOfPositions) * sliceOfPositions * kvBytesPerToken
  const drop = (cache: KVCache): void => {
    kept = kept.filter((other) => other !== cache)
    cache[Symbol.dispose]()
  }
  return {
    take(prompt) {
      let best: KVCache | null = null, shared = 0
      for (const cache of kept) {
        const length = commonPrefix(cache.ids, prompt)
        if (length > shared) [best, shared] = [cache, length]
      }
      return best ? best.fork(shared) : model.newCache()
    },
    keep(cache) {
      const isIn = (short: KVCache, long: KVCache): boolean => commonPrefix(long.ids, short.ids) === short.getPos()
      const holder = kept.find((other) => isIn(cache, other))
      if (holder || cache.getPos() === 0) {
        kept = [...kept.filter((other) => other !== holder), ...holder ? [holder] : []]
        return cache[Symbol.dispose]()
      }
      for (const other of kept) if (isIn(other, cache)) drop(other)
      kept.push(cache)
      let bytes = kept.reduce((sum, one) => sum + bytesOf(one), 0)
      for (const oldest of [...kept]) {
        if (bytes <= maxBytes) return
        bytes -= bytesOf(oldest)
        drop(oldest)
      }
    },
    [Symbol.dispose]() {
      for (const cache of kept) cache[Symbol.dispose]()
      kept = []
    }
  }
}
