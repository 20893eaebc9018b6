import type { NativeLoadOptions } from '../../lib/native.js'
import type { GgufFormat } from './gguf.js'
import type { OnnxFormat } from './onnx.js'

/** One engine with one format of the weights. A peer's model is a stand-in, written for it. */
export type Contender =
  | { engine: 'nanochat-node', format: NativeLoadOptions['dtype'] }
  | { engine: 'node-llama-cpp', format: GgufFormat }
  | { engine: 'onnxruntime-node', format: OnnxFormat }

/** What all contenders of a run have in common. */
export interface Task {
  depth: number
  threads: number
  batches: number[]
  promptTokens: number
  decodeTokens: number
  prefillTokens: number
}

/** A loaded model. Every method computes the argmax of each row's last logits, and waits for it. */
export interface Runner {
  settings: string                 // version and options, for the reader of the figures
  kvBytesPerToken: number          // as stored: all layers, keys and values
  matrixBytes: number              // as the model holds them, of ours; 0 where they follow from the format
  /** Fills the caches of `max(batches)` rows with a prompt each. */
  prepare(): Promise<void>
  /** `steps` steps of the first `batch` rows from their prompts on. */
  decode(batch: number, steps: number): Promise<void>
  /** From nothing to the first token. */
  prefill(tokens: number): Promise<void>
}

/** The seconds of one repetition, and the processors that were busy in them. */
export interface Repetition {
  decode: { batch: number, seconds: number, processors: number }[]
  prefill: { seconds: number, processors: number }
}

export type Ready = Pick<Runner, 'settings' | 'kvBytesPerToken' | 'matrixBytes'>
export type FromWorker = { ready: Ready } | { repetition: Repetition } | { error: string }

/** Logits that do not depend on the prompt would be those of a broken stand-in, whatever its speed. */
export function requireDifferentTokens(engine: string, tokens: readonly number[]): void {
  if (new Set(tokens).size < Math.min(tokens.length, 2)) throw new Error(`${engine} chose token ${tokens[0]} after each of ${tokens.length} different prompts: its model does not compute`)
}

/** A package of benchmarks/compare, which the project itself does not depend on. */
export async function importPeer(name: string): Promise<unknown> {
  try {
    return await import(name)
  } catch (cause) {
    throw new Error(`${name} is not installed: run npm install --prefix benchmarks/compare --ignore-scripts`, { cause })
  }
}
