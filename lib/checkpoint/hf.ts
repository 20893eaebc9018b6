import { join } from 'node:path'
import { NanochatError, describe } from '../errors.js'
import type { ModelSpec, TensorSource } from '../native.js'
import type { Checkpoint } from './checkpoint.js'
import { unknownTensors } from './detect.js'
import { damaged, isRecord, readJsonObject } from './file.js'
import { dimension, type Dimensions } from './meta.js'
import { readSafetensors } from './safetensors.js'

const maxJsonBytes = 1 << 20
const maxShards = 1000
const layerNames: Record<string, string> = {
  'self_attn.q_proj': 'attn.c_q', 'self_attn.k_proj': 'attn.c_k', 'self_attn.v_proj': 'attn.c_v', 'self_attn.o_proj': 'attn.c_proj',
  'mlp.fc1': 'mlp.c_fc', 'mlp.fc2': 'mlp.c_proj'
}

/** What {@link readHf} found; `fileName` and `nameInFile` are for messages. */
export interface HfCheckpoint { checkpoint: Checkpoint, fileName: string, nameInFile: (name: string) => string }

/** A Hugging Face directory of NanoChatForCausalLM: config.json and safetensors, single or sharded. Names become nanochat's (MODEL.md 3). */
export async function readHf(dir: string, names: readonly string[]): Promise<HfCheckpoint> {
  const config = await readJsonObject(join(dir, 'config.json'), maxJsonBytes)
  requireArchitecture(config)
  const { fileName, files, tensors } = await readWeights(dir, names)
  const originals = new Map(tensors.map((tensor) => [nanochatName(tensor.name), tensor.name]))
  const unknown = tensors.filter((tensor) => nanochatName(tensor.name) === undefined)
  if (unknown.length > 0) throw unknownTensors(fileName, unknown.map((tensor) => tensor.name))
  const renamed = tensors.map((tensor) => ({ ...tensor, name: nanochatName(tensor.name) ?? tensor.name }))
  const mlpHidden = renamed.find((tensor) => tensor.name === 'transformer.h.0.mlp.c_fc.weight')?.shape[0]
  const spec = { ...hfSpec(config), ...(mlpHidden === undefined ? {} : { mlpHidden }) }
  return {
    checkpoint: { spec, tensors: renamed, files: files.map((file) => join(dir, file)), meta: config, warnings: [] },
    fileName, nameInFile: (name) => originals.get(name) ?? hfName(name)
  }
}

function requireArchitecture(config: Record<string, unknown>): void {
  const refuse = (what: string): NanochatError => new NanochatError('ERR_CHECKPOINT_ARCH',
    `config.json: expected ${what}. Only NanoChatForCausalLM as nanochat's own checkpoints convert to it is supported.`)
  if (config.model_type !== 'nanochat') throw refuse(`model_type "nanochat" but found ${describe(config.model_type)}`)
  if (config.attention_bias === true) throw refuse('no attention_bias')
  if (config.tie_word_embeddings === true) throw refuse('no tie_word_embeddings')
  if (config.hidden_act !== undefined && config.hidden_act !== 'relu2') {
    throw refuse(`hidden_act "relu2" but found ${describe(config.hidden_act)}`)
  }
  const ropeType = isRecord(config.rope_parameters) ? config.rope_parameters.rope_type ?? 'default' : 'default'
  if (ropeType !== 'default' || (config.rope_scaling ?? null) !== null) {
    throw refuse('plain rotary embeddings (rope_type "default")')
  }
}

function hfSpec(config: Record<string, unknown>): ModelSpec {
  const file = 'config.json'
  const nHead = dimension(config, 'num_attention_heads', file)
  const dimensions: Dimensions = {
    sequenceLen: dimension(config, 'max_position_embeddings', file), vocabSize: dimension(config, 'vocab_size', file),
    nLayer: dimension(config, 'num_hidden_layers', file), nHead, nEmbd: dimension(config, 'hidden_size', file),
    nKvHead: (config.num_key_value_heads ?? null) === null ? nHead : dimension(config, 'num_key_value_heads', file)
  }
  const rope = isRecord(config.rope_parameters) ? config.rope_parameters : config
  const softcapKey = 'final_logit_softcapping' in config ? 'final_logit_softcapping' : 'logits_soft_cap'
  return {
    generation: 'HF', ...dimensions, windowPattern: 'L',
    ropeBase: positive(rope, 'rope_theta', 10_000),
    softcap: positive(config, softcapKey, 15),
    normEps: positive(config, 'rms_norm_eps', 1e-6)
  }
}

/** A positive number; transformers' default where the key is absent. */
function positive(config: Record<string, unknown>, key: string, byDefault: number): number {
  const value = config[key] === undefined ? byDefault : config[key]
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
  throw damaged('config.json', `expected ${key} to be a positive number but found ${describe(value)}`)
}

async function readWeights(dir: string, names: readonly string[]): Promise<{ fileName: string, files: string[], tensors: TensorSource[] }> {
  const single = 'model.safetensors'
  const index = 'model.safetensors.index.json'
  if (names.includes(single)) return { fileName: single, files: [single], tensors: await readSafetensors(join(dir, single), 0) }
  if (!names.includes(index)) {
    throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND',
      `${dir} has config.json but neither ${single} nor ${index}. Download the weights as safetensors.`)
  }

  const { weight_map: weightMap } = await readJsonObject(join(dir, index), maxJsonBytes)
  if (!isRecord(weightMap)) throw damaged(index, `expected weight_map to be an object but found ${describe(weightMap)}`)
  const files = [...new Set(Object.values(weightMap))].map(shardName).sort()
  if (files.length > maxShards) throw damaged(index, `expected at most ${maxShards} files but it names ${files.length}`)
  const tensors: TensorSource[] = []
  for (const [i, file] of files.entries()) {
    for (const tensor of await readSafetensors(join(dir, file), i)) {
      const home = Object.hasOwn(weightMap, tensor.name) ? weightMap[tensor.name] : undefined
      if (home !== file) throw damaged(index, `tensor ${tensor.name.slice(0, 200)} is in ${file} but the index says ${describe(home)}`)
      tensors.push(tensor)
    }
  }
  return { fileName: index, files, tensors }
}

/** A file beside the index, nothing else. */
function shardName(value: unknown): string {
  if (typeof value === 'string' && /^[\w-][\w.-]{0,200}\.safetensors$/.test(value)) return value
  throw damaged('model.safetensors.index.json', `expected names of .safetensors files beside it but found ${describe(value)}`)
}

function nanochatName(name: string): string | undefined {
  if (name === 'model.embed_tokens.weight') return 'transformer.wte.weight'
  if (name === 'lm_head.weight') return name
  const [, layer, part] = /^model\.layers\.(\d{1,4})\.([a-z0-9_.]+)\.weight$/.exec(name) ?? []
  const own = part !== undefined && Object.hasOwn(layerNames, part) ? layerNames[part] : undefined
  return own === undefined ? undefined : `transformer.h.${layer}.${own}.weight`
}

function hfName(name: string): string {
  if (name === 'transformer.wte.weight') return 'model.embed_tokens.weight'
  const [, layer, own] = /^transformer\.h\.(\d+)\.(.+)\.weight$/.exec(name) ?? []
  const part = Object.keys(layerNames).find((key) => layerNames[key] === own)
  return part === undefined ? name : `model.layers.${layer}.${part}.weight`
}
