import { readFileSync } from 'node:fs'
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { crc32 } from 'node:zlib'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readCheckpoint, type Checkpoint } from '../lib/checkpoint/checkpoint.js'
import { native, type ModelSpec, type TensorSource } from '../lib/native.js'
import { hfConfig, hfTensors, rejects, tinyMeta, tinySpec, tinyTensors, withDir, writeHf, writeTiny } from './support/tiny-checkpoint.js'
import { countingTensor, itemSizes, ptBytes, safetensorsBytes, type StoredTensor } from './support/write-pt.js'

const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/nanochat/${name}`, import.meta.url))

const floatsOf = (bytes: Uint8Array, tensor: TensorSource, count: number): number[] => {
  const view = new DataView(bytes.buffer, bytes.byteOffset + tensor.offset)
  return Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true))
}
const dataOf = (bytes: Uint8Array, tensor: TensorSource): Uint8Array =>
  bytes.subarray(tensor.offset, tensor.offset + tensor.shape.reduce((product, n) => product * n, 1) * itemSizes[tensor.dtype])
const named = (checkpoint: Checkpoint, name: string): TensorSource => checkpoint.tensors.find((tensor) => tensor.name === name) ?? assert.unreachable(name) as never

const fixtures = suite('checkpoint fixtures')

interface Reference { state_dict: [string, number[], string][], window_sizes?: number[], config: Record<string, unknown> }

const generations: Record<string, ModelSpec['generation']> = {
  'g1a-initial': 'G1', 'g2-origmod-cudatag': 'G2', 'g3-window-s1024': 'G3', 'g4a-mid-nowindow': 'G4', 'g4a-ve32-s1024': 'G4',
  'g5-auto1': 'G5', 'g6-auto2': 'G6', 'g6-auto2-s1024': 'G6', 'g6-mha-SSL': 'G6'
}

for (const [name, generation] of Object.entries(generations)) {
  fixtures(`${name} reads as ${generation}`, async () => {
    const reference = JSON.parse(readFileSync(join(fixture(name), 'reference.json'), 'utf8')) as Reference
    const checkpoint = await readCheckpoint(fixture(name))
    const { spec } = checkpoint
    assert.is(spec.generation, generation)
    assert.equal([spec.sequenceLen, spec.vocabSize, spec.nLayer, spec.nHead, spec.nKvHead, spec.nEmbd],
      ['sequence_len', 'vocab_size', 'n_layer', 'n_head', 'n_kv_head', 'n_embd'].map((key) => reference.config[key]))
    assert.equal(checkpoint.tensors.map((t) => [t.name, t.shape, t.dtype]),
      reference.state_dict.map(([key, shape, dtype]) => [key.replace('_orig_mod.', ''), shape, dtype]))
    if (reference.window_sizes !== undefined) assert.equal(native().describe(spec).windows, reference.window_sizes)
    else assert.ok(native().describe(spec).windows.every((w) => w === -1))
    assert.equal(checkpoint.warnings.length, name === 'g4a-mid-nowindow' ? 1 : 0)
    assert.is(checkpoint.meta.step, 123)
  })

  fixtures(`${name}: every tensor's bytes have the checksum torch wrote for its storage`, async () => {
    const checkpoint = await readCheckpoint(fixture(name))
    const bytes = await readFile(checkpoint.files[0] ?? '')
    const checksums = torchChecksums(bytes)
    checkpoint.tensors.forEach((tensor, i) => {
      assert.is(tensor.offset % 64, 0)
      assert.is(crc32(dataOf(bytes, tensor)), checksums.get(`data/${i}`), tensor.name)
    })
  })
}

/** CRC-32 by entry name without the root, straight from the central directory. */
function torchChecksums(bytes: Buffer): Map<string, number> {
  const checksums = new Map<string, number>()
  for (let at = bytes.indexOf('PK\x01\x02'); at >= 0; at = bytes.indexOf('PK\x01\x02', at + 4)) {
    const name = bytes.toString('utf8', at + 46, at + 46 + bytes.readUInt16LE(at + 28))
    checksums.set(name.slice(name.indexOf('/') + 1), bytes.readUInt32LE(at + 16))
  }
  return checksums
}

fixtures('values at the offsets are those that torch wrote', async () => {
  const g6 = await readCheckpoint(fixture('g6-auto2'))
  const bytes = await readFile(g6.files[0] ?? '')
  assert.equal(floatsOf(bytes, named(g6, 'resid_lambdas'), 4), [1.2838160991668701, 1.1542412042617798, 0.7686632871627808, 1.1805058717727661])
  const g1 = await readCheckpoint(fixture('g1a-initial'))
  assert.is(named(g1, 'transformer.wte.weight').dtype, 'bfloat16')
})

fixtures('hf-nanochat reads under nanochat\'s names', async () => {
  const checkpoint = await readCheckpoint(fixture('hf-nanochat'))
  assert.equal(checkpoint.spec, {
    generation: 'HF', sequenceLen: 256, vocabSize: 320, nLayer: 4, nHead: 4, nKvHead: 2, nEmbd: 64, windowPattern: 'L',
    mlpHidden: 256, softcap: 15, ropeBase: 10_000, normEps: 1e-6
  })
  assert.equal(checkpoint.tensors.map((t) => t.name).sort(), native().describe(checkpoint.spec).tensors.map((t) => t.name).sort())
  const bytes = await readFile(checkpoint.files[0] ?? '')
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + 2656)) as Record<string, { data_offsets: [number, number] }>
  for (const [theirs, ours] of [
    ['model.layers.2.self_attn.k_proj.weight', 'transformer.h.2.attn.c_k.weight'], ['model.layers.0.mlp.fc2.weight', 'transformer.h.0.mlp.c_proj.weight'],
    ['model.layers.3.self_attn.o_proj.weight', 'transformer.h.3.attn.c_proj.weight'], ['model.embed_tokens.weight', 'transformer.wte.weight']
  ] as const) {
    assert.is(named(checkpoint, ours).offset, 8 + 2656 + (header[theirs]?.data_offsets[0] ?? NaN))
  }
})

fixtures('the demo model in the package', async () => {
  const { spec, tensors } = await readCheckpoint(fileURLToPath(new URL('../models/demo', import.meta.url)))
  assert.is(spec.generation, 'G6')
  assert.equal(tensors.filter((t) => t.dtype === 'float32').map((t) => t.name).sort(),
    ['backout_lambda', 'resid_lambdas', 'smear_gate.weight', 'smear_lambda', 'transformer.h.1.attn.ve_gate.weight', 'transformer.h.3.attn.ve_gate.weight', 'x0_lambdas'])
})

fixtures.run()

const layouts = suite('checkpoint layouts')

layouts('float32, bfloat16 and float16 per tensor, zip64, another root, a cuda location', async () => {
  const tensors: StoredTensor[] = tinyTensors().map((t) => t.name === 'lm_head.weight' ? { ...countingTensor(t.name, t.shape, 'bfloat16'), dtype: 'float16' } : t)
  for (const options of [{}, { zip64: true }, { root: 'archive', location: 'cuda:0' }]) {
    await withDir(async (dir) => {
      await writeTiny(dir, { tensors, options })
      const checkpoint = await readCheckpoint(dir)
      const bytes = await readFile(checkpoint.files[0] ?? '')
      assert.equal(checkpoint.tensors.map(({ name, dtype, shape }) => [name, dtype, shape]), tensors.map(({ name, dtype, shape }) => [name, dtype, shape]))
      checkpoint.tensors.forEach((t, i) => assert.equal(Buffer.from(dataOf(bytes, t)), Buffer.from(tensors[i]?.data ?? [])))
    })
  }
})

layouts('padded vocabulary tables: all or none', async () => {
  const spec = { ...tinySpec, vocabSize: 50 }
  const padded = tinyTensors({ ...spec, vocabSize: 64 })
  await withDir(async (dir) => {
    await writeTiny(dir, { tensors: padded, meta: tinyMeta(spec) })
    const checkpoint = await readCheckpoint(dir)
    assert.equal([checkpoint.spec.vocabSize, named(checkpoint, 'lm_head.weight').shape], [50, [64, 32]])
    await writeTiny(dir, { tensors: tinyTensors(spec), meta: tinyMeta(spec) })
    assert.equal(named(await readCheckpoint(dir), 'transformer.wte.weight').shape, [50, 32])
    for (const odd of ['lm_head.weight', 'transformer.wte.weight', 'value_embeds.1.weight']) {
      await writeTiny(dir, { tensors: padded.map((t) => t.name === odd ? countingTensor(odd, [50, t.shape[1] ?? 0]) : t), meta: tinyMeta(spec) })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /expected .*weight to be/)
    }
    await writeTiny(dir, { tensors: tinyTensors({ ...spec, vocabSize: 128 }), meta: tinyMeta(spec) })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /wte\.weight to be \(50, 32\) but it is \(128, 32\)/)
  })
})

layouts('a storage offset is honoured, strides must be contiguous', async () => {
  await withDir(async (dir) => {
    const change = (change: (t: StoredTensor) => Partial<StoredTensor>) =>
      writeTiny(dir, { tensors: tinyTensors().map((t) => t.name === 'x0_lambdas' ? { ...t, ...change(t) } : t) })
    const longer = Buffer.concat([Buffer.alloc(12), countingTensor('', [2]).data, Buffer.alloc(4)])
    await change(() => ({ data: longer, storageOffset: 3 }))
    const checkpoint = await readCheckpoint(dir)
    assert.equal(floatsOf(await readFile(checkpoint.files[0] ?? ''), named(checkpoint, 'x0_lambdas'), 2), [0, 1 / 64])
    await change(() => ({ data: longer, storageOffset: 5 }))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /x0_lambdas: shape \(2\) does not fit its storage of 6 elements/)
    await change(() => ({ strides: [2] }))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /x0_lambdas: expected a contiguous tensor/)
    await change((t) => ({ data: t.data.subarray(0, 4) }))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /does not fit its storage of 1 elements/)
    await change(() => ({ shape: [1, 2], strides: [77, 1] }))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /x0_lambdas to be \(2\) but it is \(1, 2\)/)
  })
})

layouts('a sharded Hugging Face index', async () => {
  const tensors = hfTensors()
  const shards = { 'model-00001-of-00002.safetensors': tensors.slice(0, 5), 'model-00002-of-00002.safetensors': tensors.slice(5) }
  const map = Object.fromEntries(Object.entries(shards).flatMap(([file, part]) => part.map((t) => [t.name, file])))
  await withDir(async (dir) => {
    await writeFile(join(dir, 'config.json'), JSON.stringify(hfConfig))
    for (const [file, part] of Object.entries(shards)) await writeFile(join(dir, file), safetensorsBytes(part))
    const index = (weightMap: unknown) => writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
    await index(map)
    const checkpoint = await readCheckpoint(dir)
    assert.equal(checkpoint.files.map((file) => basename(file)), Object.keys(shards))
    for (const [i, t] of tensors.entries()) {
      const bytes = await readFile(checkpoint.files[i < 5 ? 0 : 1] ?? '')
      const source = checkpoint.tensors[i]
      assert.ok(source !== undefined && source.file === (i < 5 ? 0 : 1))
      assert.equal(Buffer.from(dataOf(bytes, source)), Buffer.from(t.data))
    }
    await index({ ...map, 'lm_head.weight': 'model-00002-of-00002.safetensors' })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /lm_head\.weight is in model-00001/)
    for (const hostile of ['../secret.safetensors', '/etc/passwd', 'x/y.safetensors', '', 7, null]) {
      await index({ ...map, 'lm_head.weight': hostile })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /expected names of \.safetensors files beside it/)
    }
    await index([])
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /weight_map/)
    await index(map)
    await rm(join(dir, 'model-00002-of-00002.safetensors'))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /model-00002.*does not exist/)
    await rm(join(dir, 'model.safetensors.index.json'))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /neither model\.safetensors nor/)
  })
})

layouts('config.json: older keys, defaults, the MLP width from the tensor, refusals', async () => {
  await withDir(async (dir) => {
    const { rope_parameters: _, final_logit_softcapping: __, num_key_value_heads: ___, ...older } = hfConfig
    await writeHf(dir, { ...older, rope_theta: 50_000, logits_soft_cap: 30, num_key_value_heads: 1, rms_norm_eps: 1e-5 }, safetensorsBytes(hfTensors(96)))
    const { spec } = await readCheckpoint(dir)
    assert.equal([spec.ropeBase, spec.softcap, spec.normEps, spec.mlpHidden], [50_000, 30, 1e-5, 96])
    for (const [config, message] of [
      [{ ...hfConfig, model_type: 'llama' }, /model_type "nanochat" but found "llama"/], [{ ...hfConfig, tie_word_embeddings: true }, /tie_word_embeddings/],
      [{ ...hfConfig, attention_bias: true }, /attention_bias/], [{ ...hfConfig, hidden_act: 'silu' }, /hidden_act/],
      [{ ...hfConfig, rope_parameters: { rope_type: 'yarn' } }, /rope_type/],
      [{ ...hfConfig, num_key_value_heads: null }, /k_proj\.weight to be \(32, 32\) but it is \(16, 32\)/],
      [{ ...hfConfig, num_hidden_layers: 3 }, /lacks tensors.*model\.layers\.2\.self_attn\.q_proj\.weight/],
      [{ ...hfConfig, num_hidden_layers: 1 }, /does not know: model\.layers\.1\./]
    ] as const) {
      await writeHf(dir, config)
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', message)
    }
    for (const config of [{ ...hfConfig, final_logit_softcapping: null }, { ...hfConfig, rms_norm_eps: 0 }, { ...hfConfig, hidden_size: '32' },
      { ...hfConfig, vocab_size: 1.5 }]) {
      await writeHf(dir, config)
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /config\.json: expected/)
    }
    await writeHf(dir)
    await rejects(() => readCheckpoint(dir, { step: 1 }), 'ERR_INVALID_ARG', /step/)
    await rejects(() => readCheckpoint(dir, { windowPattern: 'SL' }), 'ERR_INVALID_ARG', /windowPattern/)
  })
})

layouts('steps: the last by default, any by number, else those that are there', async () => {
  await withDir(async (dir) => {
    for (const step of ['000002', '000010', '1000000']) await writeTiny(dir, { step })
    assert.match((await readCheckpoint(dir)).files[0] ?? '', /model_1000000\.pt$/)
    assert.match((await readCheckpoint(dir, { step: 10 })).files[0] ?? '', /model_000010\.pt$/)
    await rejects(() => readCheckpoint(dir, { step: 11 }), 'ERR_CHECKPOINT_NOT_FOUND', /No step 11 .* steps 2, 10, 1000000/)
    await rm(join(dir, 'meta_1000000.json'))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /meta_1000000\.json/)
  })
})

layouts('a directory without a checkpoint says what was looked for', async () => {
  await withDir(async (dir) => {
    await rejects(() => readCheckpoint(join(dir, 'nowhere')), 'ERR_CHECKPOINT_NOT_FOUND', /nowhere does not exist/)
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /Expected model_<step>\.pt.*It is empty/)
    await mkdir(join(dir, 'd12'))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /model tags d12: pass one/)
    await writeTiny(join(dir, 'd12'))
    await rejects(() => readCheckpoint(join(dir, 'd12', 'model_000007.pt')), 'ERR_CHECKPOINT_NOT_FOUND', /is a file; pass the directory/)
    await cp(join(dir, 'd12', 'meta_000007.json'), join(dir, 'meta_000007.json'))
    await mkdir(join(dir, 'model_000007.pt'))
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_NOT_FOUND', /Expected a file/)
  })
})

layouts.run()

const meta = suite('checkpoint meta')

meta('NaN and Infinity, as json.dump writes them, become null; strings keep them', async () => {
  await withDir(async (dir) => {
    const text = JSON.stringify({ ...tinyMeta(), val_bpb: 'nan', worst: ['inf', 'minus'], note: 'NaN "Infinity\\' })
      .replace('"nan"', 'NaN').replace('"inf"', 'Infinity').replace('"minus"', '-Infinity')
    await writeTiny(dir, { meta: text })
    const read = await readCheckpoint(dir)
    assert.equal([read.meta.val_bpb, read.meta.worst, read.meta.note], [null, [null, null], 'NaN "Infinity\\'])
  })
})

meta('broken JSON, wrong kinds and numbers out of range', async () => {
  const config = tinyMeta().model_config as Record<string, unknown>
  await withDir(async (dir) => {
    for (const text of ['', '{', '[]', 'null', '7', '"x"', '{}', '{"model_config":[]}', '{"a":NaN', '\ufeff{', '{"model_config":-Infinity}']) {
      await writeTiny(dir, { meta: text })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /meta_000007\.json: expected/)
    }
    for (const key of ['sequence_len', 'vocab_size', 'n_layer', 'n_head', 'n_kv_head', 'n_embd']) {
      for (const value of [undefined, null, 0, -1, 1.5, '4', 1e300, [4], true]) {
        await writeTiny(dir, { meta: { model_config: { ...config, [key]: value } } })
        await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', new RegExp(`expected ${key} to be a whole number`))
      }
    }
    for (const pattern of ['', 'SX', 7, 'S'.repeat(2000)]) {
      await writeTiny(dir, { meta: { model_config: { ...config, window_pattern: pattern } } })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /window_pattern/)
    }
    for (const [key, value] of [['n_head', 3], ['n_head', 32], ['n_kv_head', 3], ['n_layer', 1 << 20]] as const) {
      await writeTiny(dir, { meta: { model_config: { ...config, [key]: value } } })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /model_000007\.pt: Expected/)
    }
    await writeTiny(dir, { meta: ' '.repeat(2 << 20) })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /at most/)
  })
})

meta('softcap of G4: 15, 20 when the meta tells, or the option', async () => {
  const spec: ModelSpec = { ...tinySpec, generation: 'G4' }
  await withDir(async (dir) => {
    const softcap = async (evalTokens: unknown, options = {}) => {
      await writeTiny(dir, { tensors: tinyTensors(spec), meta: { ...tinyMeta(spec), user_config: { eval_tokens: evalTokens } } })
      return native().describe((await readCheckpoint(dir, options)).spec).softcap
    }
    assert.equal([await softcap(20_971_520), await softcap(41_943_040), await softcap(41_943_040, { softcap: 12 }), await softcap(null)], [15, 20, 12, 15])
    await writeTiny(dir, { meta: { ...tinyMeta(), user_config: { eval_tokens: 41_943_040 } } })
    assert.is(native().describe((await readCheckpoint(dir)).spec).softcap, 15)
  })
})

meta('window_pattern missing or null: "L" with a warning, the option overrides', async () => {
  const config = tinyMeta().model_config as Record<string, unknown>
  await withDir(async (dir) => {
    for (const windowPattern of [undefined, null]) {
      await writeTiny(dir, { meta: { model_config: { ...config, window_pattern: windowPattern }, user_config: { window_pattern: 'SSSL' } } })
      const asRead = await readCheckpoint(dir)
      assert.is(asRead.spec.windowPattern, 'L')
      assert.match(asRead.warnings.join(), /no window_pattern in model_config \(its user_config says "SSSL"\)/)
      const overridden = await readCheckpoint(dir, { windowPattern: 'sl', ropeTable: 'bfloat16' })
      assert.equal([overridden.spec.windowPattern, overridden.spec.ropeTable, overridden.warnings], ['sl', 'bfloat16', []])
    }
  })
})

meta('options are checked', async () => {
  const dir = fixture('g6-auto2')
  await rejects(() => readCheckpoint(dir, { step: -1 }), 'ERR_INVALID_ARG', /step/)
  await rejects(() => readCheckpoint(dir, { step: 1.5 }), 'ERR_INVALID_ARG', /step/)
  await rejects(() => readCheckpoint(dir, { softcap: 0 }), 'ERR_INVALID_ARG', /softcap/)
  await rejects(() => readCheckpoint(dir, { softcap: NaN }), 'ERR_INVALID_ARG', /softcap/)
  await rejects(() => readCheckpoint(dir, { windowPattern: 'X' }), 'ERR_INVALID_ARG', /windowPattern/)
  await rejects(() => readCheckpoint(dir, { ropeTable: 'float16' as 'float32' }), 'ERR_INVALID_ARG', /ropeTable/)
  await rejects(() => readCheckpoint(fixture('g1a-initial'), { windowPattern: 'L' }), 'ERR_INVALID_ARG', /no windows/)
})

meta.run()

const detection = suite('generation detection')

for (const generation of ['G1', 'G2', 'G3', 'G4', 'G5', 'G6'] as const) {
  detection(`${generation} with and without _orig_mod.`, async () => {
    const spec: ModelSpec = { ...tinySpec, generation }
    const description = tinyMeta(spec)
    if (generation === 'G1' || generation === 'G2') delete (description.model_config as Record<string, unknown>).window_pattern
    for (const prefix of ['', '_orig_mod.']) {
      await withDir(async (dir) => {
        await writeTiny(dir, { tensors: tinyTensors(spec).map((t) => ({ ...t, name: prefix + t.name })), meta: description })
        const read = await readCheckpoint(dir)
        assert.equal([read.spec.generation, read.tensors.map((t) => t.name)], [generation, tinyTensors(spec).map((t) => t.name)])
      })
    }
  })
}

detection('the experiments of a day are refused by name and date', async () => {
  const cases: [ModelSpec['generation'], string[], RegExp][] = [
    ['G4', ['bigram_embed.embed.weight', 'bigram_lambdas'], /does not know: bigram_embed\.embed\.weight, bigram_lambdas\.\n.*2026-01-27\/28 only \(engram experiment\)/],
    ['G3', ['value_embed_A.weight', 'value_embed_B.weight'], /does not know: value_embed_A\.weight, value_embed_B\.weight\.\n.*2026-01-16/],
    ['G3', ['value_embed.weight'], /value_embed\.weight\.\n.*2026-01-16/], ['G3', ['v0_lambdas'], /v0_lambdas\.\n.*2026-01-16/]
  ]
  for (const [generation, extra, message] of cases) {
    await withDir(async (dir) => {
      const spec: ModelSpec = { ...tinySpec, generation }
      await writeTiny(dir, { tensors: [...tinyTensors(spec), ...extra.map((name) => countingTensor(name, [2, 2]))], meta: tinyMeta(spec) })
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', message)
    })
  }
})

detection('unknown, missing and wrong tensors are named', async () => {
  await withDir(async (dir) => {
    await writeTiny(dir, { tensors: [...tinyTensors(), countingTensor('transformer.h.2.attn.c_q.weight', [32, 32])] })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /does not know: transformer\.h\.2\.attn\.c_q\.weight/)
    await writeTiny(dir, { tensors: tinyTensors().filter((t) => t.name !== 'smear_gate.weight') })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /lacks tensors of a G6 model with 2 layers: smear_gate\.weight/)
    await writeTiny(dir, { tensors: tinyTensors().map((t) => t.name === 'smear_lambda' ? countingTensor(t.name, [2]) : t) })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /smear_lambda to be \(1\) but it is \(2\)/)
    await writeTiny(dir, { pt: ptBytes([]) })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', /lacks tensors of a G1 model.* and \d+ more/)
    await writeTiny(dir, { tensors: [...tinyTensors(), ...tinyTensors().slice(0, 1).map((t) => ({ ...t, name: `_orig_mod.${t.name}` }))] })
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /resid_lambdas comes twice/)
  })
})

detection.run()
