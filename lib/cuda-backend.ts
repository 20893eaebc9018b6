import type { Backend } from './backend.js'
import { cpuBackend, packRows, runJob } from './cpu-backend.js'
import type { NativeModel } from './native.js'

const mostRows = 256                           // of one call of the addon's decode
const mostSteps = 64

/** The CUDA backend of the addon behind the backend interface: passes as on the CPU, and tokens drawn on the device. */
export function cudaBackend(model: NativeModel, vocabSize: number, device: string): Backend {
  return {
    ...cpuBackend(model, vocabSize),
    device,
    async decode(rows, { pauseIds, maxSteps, signal }) {
      signal?.throwIfAborted()
      const runs = []
      for (let from = 0; from < rows.length; from += mostRows) {
        const some = rows.slice(from, from + mostRows)
        const steps = some.map((row) => Math.min(row.maxSteps, maxSteps, mostSteps))
        const { sequences, tokens, counts } = packRows(some)
        const draws = Float64Array.from(some.flatMap(({ sampler: { params, row } }, r) => [params.temperature, params.topK, params.seed, row, steps[r] as number]))
        const stride = 1 + Math.max(...steps)
        const out = new Int32Array(some.length * stride)
        await runJob(() => model.decode(sequences, tokens, counts, draws, Int32Array.from(pauseIds), out), signal)
        for (let r = 0; r < some.length; r++) {
          const count = out[r * stride] as number
          runs.push({ ids: Array.from(out.subarray(r * stride + 1, r * stride + 1 + count)), logprobs: [] })
        }
      }
      return runs
    }
  }
}
