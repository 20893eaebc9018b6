// A GGUF file with the matrices of a nanochat model and random weights, in the one architecture of llama.cpp that comes close:
// "arcee" has RMS norms, rotary positions, an MLP of two matrices with ReLU^2 between them, and an lm_head of its own.
import type { ModelSpec } from '../../lib/native.js'
import { alignUp, blockFormats, RandomFile, sizeOf, type BlockFormat } from './weights.js'

export const ggufFormats = {
  F32: { type: 0, fileType: 0, blocks: blockFormats.float32 },
  BF16: { type: 30, fileType: 32, blocks: blockFormats.bfloat16 },
  Q8_0: { type: 8, fileType: 7, blocks: blockFormats.q8_0 },
  Q4_0: { type: 2, fileType: 2, blocks: blockFormats.q4_0 }
} satisfies Record<string, { type: number, fileType: number, blocks: BlockFormat }>

export type GgufFormat = keyof typeof ggufFormats

const alignment = 32

interface Tensor { name: string, shape: number[], ones?: true }   // innermost dimension first

export function writeGguf(path: string, spec: ModelSpec, format: GgufFormat): void {
  const { type, blocks } = ggufFormats[format]
  const tensors = tensorsOf(spec)
  let offset = 0
  const infos = tensors.map(({ name, shape, ones }) => {
    const info = [string(name), u32(shape.length), ...shape.map(u64), u32(ones ? ggufFormats.F32.type : type), u64(offset)]
    offset = alignUp(offset + sizeOf(ones ? blockFormats.float32 : blocks, elements(shape)), alignment)
    return Buffer.concat(info)
  })
  const metadata = metadataOf(spec, format)
  const file = new RandomFile(path)
  try {
    file.append(Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.length), ...metadata, ...infos]))
    for (const { shape, ones } of tensors) {
      file.align(alignment)
      if (ones) file.append(Buffer.from(new Float32Array(elements(shape)).fill(1).buffer))
      else file.weights(blocks, elements(shape))
    }
    file.align(alignment)
  } finally {
    file.close()
  }
}

function tensorsOf({ nLayer, nHead: H, nKvHead: K, nEmbd: C, vocabSize: V, mlpHidden = 4 * C }: ModelSpec): Tensor[] {
  const D = C / H
  const layers = Array.from({ length: nLayer }, (_, l): Tensor[] => [
    { name: `blk.${l}.attn_norm.weight`, shape: [C], ones: true },
    { name: `blk.${l}.attn_q.weight`, shape: [C, H * D] },
    { name: `blk.${l}.attn_k.weight`, shape: [C, K * D] },
    { name: `blk.${l}.attn_v.weight`, shape: [C, K * D] },
    { name: `blk.${l}.attn_output.weight`, shape: [H * D, C] },
    { name: `blk.${l}.ffn_norm.weight`, shape: [C], ones: true },
    { name: `blk.${l}.ffn_up.weight`, shape: [C, mlpHidden] },
    { name: `blk.${l}.ffn_down.weight`, shape: [mlpHidden, C] }
  ])
  return [{ name: 'token_embd.weight', shape: [C, V] }, ...layers.flat(), { name: 'output_norm.weight', shape: [C], ones: true }, { name: 'output.weight', shape: [C, V] }]
}

function metadataOf({ sequenceLen, nLayer, nHead, nKvHead, nEmbd: C, vocabSize: V, mlpHidden = 4 * C }: ModelSpec, format: GgufFormat): Buffer[] {
  const entry = (key: string, type: number, value: Buffer): Buffer => Buffer.concat([string(key), u32(type), value])
  const count = (key: string, value: number): Buffer => entry(key, 4, u32(value))
  const real = (key: string, value: number): Buffer => entry(key, 6, f32(value))
  const text = (key: string, value: string): Buffer => entry(key, 8, string(value))
  const list = (key: string, type: number, values: Buffer[]): Buffer => entry(key, 9, Buffer.concat([u32(type), u64(values.length), ...values]))
  const ids = Array.from({ length: V }, (_, id) => id)
  return [
    text('general.architecture', 'arcee'), text('general.name', `nanochat d${nLayer} stand-in`), count('general.file_type', ggufFormats[format].fileType),
    count('arcee.context_length', sequenceLen), count('arcee.embedding_length', C), count('arcee.block_count', nLayer), count('arcee.feed_forward_length', mlpHidden),
    count('arcee.attention.head_count', nHead), count('arcee.attention.head_count_kv', nKvHead), count('arcee.rope.dimension_count', C / nHead),
    real('arcee.rope.freq_base', 10000), real('arcee.attention.layer_norm_rms_epsilon', 1e-6), count('arcee.vocab_size', V),
    // A vocabulary that nothing here spells with; only the bytes have to be there.
    text('tokenizer.ggml.model', 'llama'), list('tokenizer.ggml.tokens', 8, ids.map((id) => string(pieceOf(id)))),
    list('tokenizer.ggml.scores', 6, ids.map(() => f32(0))), list('tokenizer.ggml.token_type', 5, ids.map((id) => u32(pieceType(id)))),
    count('tokenizer.ggml.unknown_token_id', 0), count('tokenizer.ggml.bos_token_id', 1), count('tokenizer.ggml.eos_token_id', 2)
  ]
}

const firstByte = 3   // after unknown, begin and end
const isByte = (id: number): boolean => id >= firstByte && id < firstByte + 256
const pieceOf = (id: number): string => isByte(id) ? `<0x${(id - firstByte).toString(16).toUpperCase().padStart(2, '0')}>` : `<${id}>`
const pieceType = (id: number): number => isByte(id) ? 6 : id === 0 ? 2 : id < firstByte ? 3 : 1   // byte, unknown, control, normal

const elements = (shape: number[]): number => shape.reduce((product, size) => product * size, 1)

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}

const string = (text: string): Buffer => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)])
