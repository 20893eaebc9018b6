import { native, type NativeLoadOptions } from '../../lib/native.js'
import { depthSpec } from '../cost.js'
import { Runner as DecodeRunner } from '../decode.js'
import type { Runner, Task } from './contender.js'

export async function load(dtype: NativeLoadOptions['dtype'], { depth, threads, batches, promptTokens }: Task): Promise<Runner> {
  const spec = depthSpec(depth)
  const model = await native().seeded(spec, 1, { dtype, threads }).promise
  const runner = new DecodeRunner(model, spec.vocabSize)
  return {
    settings: `${model.isa}, seeded weights`,
    kvBytesPerToken: model.kvBytesPerToken,
    matrixBytes: model.matrixBytes,
    prepare: () => runner.prepare(Math.max(...batches), promptTokens),
    decode: async (batch, steps) => { await runner.decode(batch, steps) },
    prefill: async (tokens) => { await runner.prefill(tokens) }
  }
}
