import type { ModelDescription, ModelSpec } from '../lib/native.js'

/** What one model costs to run, counted from its shapes: the bytes and operations that no implementation can do without. */
export interface Cost {
  /** Bytes of the matrices that every decode step reads once, for all rows together: all linear layers and lm_head. */
  weightBytesPerStep: number
  /** Bytes of keys and values that one row's step reads when the query and the keys before it are `context` positions. */
  kvBytesPerStep(context: number): number
  /** Floating-point operations of one row's decode step, two per multiply-add. */
  decodeFlops(context: number): number
  /** The same for a prefill of T tokens from nothing, with the logits of the last position only. */
  prefillFlops(T: number): number
}

/** `matrixBytes` as the model holds its matrices, scales included; `windows` per layer. */
export function costOf(spec: ModelSpec, windows: readonly number[], matrixBytes: number, kvBytesPerToken: number): Cost {
  const { nLayer: L, nHead: H, nEmbd: C, vocabSize: V } = spec
  const D = C / H
  const keysSeen = (context: number): number => windows.reduce((sum, w) => sum + (w < 0 ? context : Math.min(context, w + 1)), 0)
  const attentionFlops = (context: number): number => 4 * H * D * keysSeen(context)
  return {
    weightBytesPerStep: matrixBytes,
    kvBytesPerStep: (context) => keysSeen(context) * kvBytesPerToken / L,
    decodeFlops: (context) => 2 * matrixElements(spec) + attentionFlops(context),
    prefillFlops: (T) => {
      let flops = 2 * (T * (matrixElements(spec) - V * C) + V * C)
      for (let t = 1; t <= T; t++) flops += attentionFlops(t)
      return flops
    }
  }
}

/** Weights of all linear layers and lm_head. */
export function matrixElements({ nLayer: L, nHead: H, nKvHead: K, nEmbd: C, vocabSize: V, mlpHidden = 4 * C }: ModelSpec): number {
  return L * ((H + 2 * K) * C / H * C + C * C + 2 * mlpHidden * C) + V * C
}

/** nanochat's shapes at this depth (scripts/base_train): 64 channels per layer, heads of 128, the sizes of its speedruns. */
export function depthSpec(depth: number): ModelSpec {
  return {
    generation: 'G6', sequenceLen: 2048, vocabSize: 32768, nLayer: depth, nHead: depth / 2, nKvHead: depth / 2, nEmbd: 64 * depth, windowPattern: 'SSSL'
  }
}

/** Parameters as nanochat counts them: every element of every tensor. */
export function countParameters({ tensors }: ModelDescription): number {
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0)
}
