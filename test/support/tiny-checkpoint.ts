// Tiny checkpoints on disk, of any generation, well-formed or with one thing wrong.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { NanochatError, type ErrorCode } from '../../lib/errors.js'
import { native, type ModelSpec } from '../../lib/native.js'
import { countingTensor, ptBytes, safetensorsBytes, type PtOptions, type StoredTensor } from './write-pt.js'

export const tinySpec: ModelSpec = {
  generation: 'G6', sequenceLen: 256, vocabSize: 64, nLayer: 2, nHead: 2, nKvHead: 1, nEmbd: 32, windowPattern: 'SL'
}

/** Every tensor of `spec`, vocabulary tables as bfloat16, like GPU training saves them. */
export function tinyTensors(spec: ModelSpec = tinySpec): StoredTensor[] {
  return native().describe(spec).tensors
    .map(({ name, shape }) => countingTensor(name, shape, /wte|value_embeds/.test(name) ? 'bfloat16' : 'float32'))
}

export function tinyMeta(spec: ModelSpec = tinySpec): Record<string, unknown> {
  return {
    step: 7, val_bpb: null, model_config: {
      sequence_len: spec.sequenceLen, vocab_size: spec.vocabSize, n_layer: spec.nLayer,
      n_head: spec.nHead, n_kv_head: spec.nKvHead, n_embd: spec.nEmbd, window_pattern: spec.windowPattern
    }
  }
}

export interface TinyFiles { tensors?: StoredTensor[], meta?: unknown, pt?: Uint8Array, options?: PtOptions, step?: string }

export async function writeTiny(dir: string, files: TinyFiles = {}): Promise<void> {
  const { tensors = tinyTensors(), meta = tinyMeta(), pt, options = {}, step = '000007' } = files
  await writeFile(join(dir, `model_${step}.pt`), pt ?? ptBytes(tensors, { root: `model_${step}`, ...options }))
  await writeFile(join(dir, `meta_${step}.json`), typeof meta === 'string' ? meta : JSON.stringify(meta))
}

export const hfConfig = {
  model_type: 'nanochat', hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
  max_position_embeddings: 256, vocab_size: 64,
  rms_norm_eps: 1e-6, rope_parameters: { rope_theta: 10_000, rope_type: 'default' }, final_logit_softcapping: 15
}

export function hfTensors(mlpHidden = 128): StoredTensor[] {
  const tensor = (name: string, ...shape: number[]): StoredTensor => countingTensor(name, shape, 'bfloat16')
  return [tensor('lm_head.weight', 64, 32), tensor('model.embed_tokens.weight', 64, 32), ...[0, 1].flatMap((i) => [
    tensor(`model.layers.${i}.mlp.fc1.weight`, mlpHidden, 32), tensor(`model.layers.${i}.mlp.fc2.weight`, 32, mlpHidden),
    tensor(`model.layers.${i}.self_attn.k_proj.weight`, 16, 32), tensor(`model.layers.${i}.self_attn.o_proj.weight`, 32, 32),
    tensor(`model.layers.${i}.self_attn.q_proj.weight`, 32, 32), tensor(`model.layers.${i}.self_attn.v_proj.weight`, 16, 32)
  ])]
}

export async function writeHf(dir: string, config: unknown = hfConfig, weights: Uint8Array = safetensorsBytes(hfTensors())): Promise<void> {
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  await writeFile(join(dir, 'model.safetensors'), weights)
}

/** Runs `use` with an empty directory and removes it. */
export async function withDir<T>(use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'nanochat-test-'))
  try {
    return await use(dir)
  } finally {
    await rm(dir, { recursive: true })
  }
}

/** Asserts that `run` rejects with a NanochatError of `code` whose message matches. */
export async function rejects(run: () => unknown, code: ErrorCode, message: RegExp): Promise<void> {
  let error: unknown
  try {
    await run()
  } catch (e) {
    error = e
  }
  assert.ok(NanochatError.is(error), `expected a NanochatError but got ${String(error)}`)
  assert.is(error.code, code, error.message)
  assert.match(error.message, message)
}
