import { depthSpec } from '../cost.js'
import { argmax, randomIds } from '../decode.js'
import { importPeer, requireDifferentTokens, type Runner, type Task } from './contender.js'

interface Tensor { readonly data: Float32Array }
type Tensors = Record<string, Tensor>

interface Peer {
  Tensor: new (type: string, data: Float32Array | Int32Array | BigInt64Array, dims: number[]) => Tensor
  InferenceSession: { create(path: string, options: { intraOpNumThreads: number, interOpNumThreads: number, executionMode: 'sequential', graphOptimizationLevel: 'all' }): Promise<{
    run(feeds: Tensors, fetches: Tensors): Promise<Tensors>
  }> }
  env: { versions: { node?: string } }
}

export async function load(path: string, { depth, threads, batches, promptTokens, decodeTokens, prefillTokens }: Task): Promise<Runner> {
  const module = await importPeer('onnxruntime-node') as Peer & { default?: Peer }
  const { Tensor, InferenceSession, env } = module.default ?? module
  const session = await InferenceSession.create(path, { intraOpNumThreads: threads, interOpNumThreads: 1, executionMode: 'sequential', graphOptimizationLevel: 'all' })
  const { nLayer, nKvHead: K, nHead, nEmbd, vocabSize: V } = depthSpec(depth)

  /** `rows` sequences of up to `positions` keys. Past and present are the same memory, so that a step appends and copies nothing inside. */
  class Cache {
    readonly #rows: number
    readonly #tensors: Tensors[]
    readonly #logits: Tensor

    constructor(rows: number, positions: number) {
      const shape = [rows, K, positions, nEmbd / nHead]
      const zeros = (dims: number[]): Tensor => new Tensor('float32', new Float32Array(dims.reduce((product, size) => product * size, 1)), dims)
      const layers = Array.from({ length: nLayer }, (_, l) => ({ l, key: zeros(shape), value: zeros(shape) }))
      this.#rows = rows
      this.#logits = zeros([rows, V])
      this.#tensors = ['past', 'present'].map((time) => Object.fromEntries(layers.flatMap(({ l, key, value }) => [[`${time}_key.${l}`, key], [`${time}_value.${l}`, value]])))
    }

    /** The most likely token of each row after `ids` (rows, T) at positions `past` on. */
    async append(ids: ArrayLike<number>, past: number): Promise<number[]> {
      const B = this.#rows, T = ids.length / B
      const [pasts, presents] = this.#tensors
      const { logits } = await session.run({
        ...pasts,
        input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [B, T]),
        seqlens_k: new Tensor('int32', new Int32Array(B).fill(past + T - 1), [B]),
        total_sequence_length: new Tensor('int32', Int32Array.of(past + T), [])
      }, { ...presents, logits: this.#logits })
      if (logits === undefined) throw new Error('onnxruntime-node returned no logits')
      return Array.from({ length: B }, (_, row) => argmax(logits.data, row * V, V))
    }
  }

  const fresh = new Cache(1, prefillTokens)
  const caches = new Map<number, { cache: Cache, next: number[] }>()

  return {
    settings: `ONNX Runtime ${env.versions.node ?? ''}, GroupQueryAttention with one buffer for past and present, f32 cache`,
    kvBytesPerToken: 2 * nLayer * K * (nEmbd / nHead) * 4,
    matrixBytes: 0,
    prepare: async () => {
      for (const batch of batches) {
        const cache = new Cache(batch, promptTokens + decodeTokens)
        const prompts = Array.from({ length: batch }, (_, row) => [...randomIds(promptTokens, V, row)])
        caches.set(batch, { cache, next: await cache.append(prompts.flat(), 0) })
      }
      requireDifferentTokens('onnxruntime-node', [...caches.values()].flatMap(({ next }) => next))
    },
    decode: async (batch, steps) => {
      const prepared = caches.get(batch)
      if (prepared === undefined) throw new RangeError(`no rows were prepared for batch ${batch}`)
      let tokens = prepared.next
      for (let i = 0; i < steps; i++) tokens = await prepared.cache.append(tokens, promptTokens + i)
    },
    prefill: async (tokens) => {
      await fresh.append(randomIds(tokens, V, 0), 0)
    }
  }
}
