import type { Backend } from './backend.js'
import { cpuBackend } from './cpu-backend.js'
import { decodeByForward } from './decode.js'
import type { NativeModel } from './native.js'
import type { Sampler } from './sampling.js'

const mostRows = 256                           // of one call of the addon's decode
const mostPauseIds = 63

/** Tokens of prompts in one pass: what fills a GPU. note: native/cuda/memory.h counts with the same number */
export const passTokens = 2048

/**
 * The CUDA backend of the addon behind the backend interface: passes as on the CPU, and tokens drawn on the device. Where
 * it cannot draw for one of the rows, JavaScript draws for all, so that they still share every pass.
 */
export function cudaBackend(model: NativeModel, vocabSize: number, device: string, kvCacheBytes: number): Backend {
  const backend = cpuBackend(model, vocabSize)
  return {
    ...backend,
    device, passTokens, kvCacheBytes,
    async decode(rows, options) {
      if (rows.length <= mostRows && options.pauseIds.length <= mostPauseIds && rows.every(({ sampler }) => drawsAlone(sampler))) return backend.decode(rows, options)
      const drawn = await decodeByForward(backend, rows.map((row) => ({ ...row, logprobs: null })), { ...options, out: new Float32Array(rows.length * vocabSize) })
      return drawn.map(({ ids }) => ids)
    }
  }
}

/** Whether the sampler takes the logits as they are: the device knows no penalty and no bias. */
export function drawsAlone({ params, seen }: Sampler): boolean {
  return seen === null && params.logitBias.length === 0
}
