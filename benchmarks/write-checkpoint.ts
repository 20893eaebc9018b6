// A checkpoint as nanochat's training on a GPU leaves it, with numbers that look random: model_000001.pt (a STORED zip64
// archive with a pickle of the state dict) and meta_000001.json. One tensor at a time is in memory.
import { open, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { native, type ModelSpec } from '../lib/native.js'

interface StoredTensor { name: string, shape: number[], isBf16: boolean }

/** Writes a checkpoint of this architecture to `dir`: wte and value_embeds in bfloat16, everything else in float32. */
export async function writeCheckpoint(dir: string, spec: ModelSpec): Promise<void> {
  const { sequenceLen, vocabSize, nLayer, nHead, nKvHead, nEmbd, windowPattern } = spec
  const tensors = native().describe(spec).tensors.map(({ name, shape }) => ({ name, shape, isBf16: /wte|value_embeds/.test(name) }))
  const file = await open(join(dir, 'model_000001.pt'), 'w')
  try {
    const zip = new ZipWriter(file)
    await zip.add('model/data.pkl', [stateDict(tensors)])
    await zip.add('model/byteorder', [Buffer.from('little')])
    for (const [i, tensor] of tensors.entries()) await zip.add(`model/data/${i}`, numbers(tensor))
    await zip.add('model/version', [Buffer.from('3\n')])
    await zip.end()
  } finally {
    await file.close()
  }
  await writeFile(join(dir, 'meta_000001.json'), JSON.stringify({
    step: 1, model_config: { sequence_len: sequenceLen, vocab_size: vocabSize, n_layer: nLayer, n_head: nHead, n_kv_head: nKvHead, n_embd: nEmbd, window_pattern: windowPattern }
  }))
}

/** The tensor's bytes in pieces: numbers from -1/8 to 1/8, again and again. */
function* numbers({ shape, isBf16 }: StoredTensor): Generator<Uint8Array> {
  let left = elements(shape) * (isBf16 ? 2 : 4)
  for (; left > piece.float32.length; left -= piece.float32.length) yield isBf16 ? piece.bfloat16 : piece.float32
  yield (isBf16 ? piece.bfloat16 : piece.float32).subarray(0, left)
}

const piece = (() => {
  let state = 1
  const float32 = Float32Array.from({ length: 1 << 18 }, () => (state = Math.imul(state, 1664525) + 1013904223 | 0) / 2 ** 34)
  const bits = new Uint32Array(float32.buffer)
  const bfloat16 = Uint16Array.from({ length: 1 << 19 }, (_, i) => (bits[i % bits.length] as number) >>> 16)
  return { float32: new Uint8Array(float32.buffer), bfloat16: new Uint8Array(bfloat16.buffer) }
})()

/** data.pkl: what torch.save writes, less its memo of strings. */
function stateDict(tensors: readonly StoredTensor[]): Buffer {
  const parts: Buffer[] = []
  const emit = (...bytes: (Buffer | string)[]): void => { for (const b of bytes) parts.push(typeof b === 'string' ? Buffer.from(b, 'latin1') : b) }
  const text = (value: string): void => emit('X', u32(value.length), value)
  const integers = (values: readonly number[]): void => { emit('('); for (const value of values) emit('J', u32(value)); emit('t') }
  const orderedDict = 'ccollections\nOrderedDict\n)R'
  emit('\x80\x02', orderedDict, '(')
  for (const [i, { name, shape, isBf16 }] of tensors.entries()) {
    text(name)
    emit('ctorch._utils\n_rebuild_tensor_v2\n((')
    text('storage')
    emit(`ctorch\n${isBf16 ? 'BFloat16' : 'Float'}Storage\n`)
    text(String(i))
    text('cpu')
    emit('J', u32(elements(shape)), 'tQJ', u32(0))
    integers(shape)
    integers(shape.map((_, axis) => elements(shape.slice(axis + 1))))
    emit('\x89', orderedDict, 'tR')
  }
  emit('u.')
  return Buffer.concat(parts)
}

/** STORED entries whose data starts at multiples of 64; every size and offset stands in the zip64 fields. */
class ZipWriter {
  readonly #file: FileHandle
  readonly #central: Buffer[] = []
  #at = 0

  constructor(file: FileHandle) {
    this.#file = file
  }

  /** `data` is read twice: for the checksum, which comes first, and to be written. */
  async add(name: string, data: Iterable<Uint8Array>): Promise<void> {
    const pieces = [...data]   // note: views of one buffer, whatever the size of the tensor
    const size = pieces.reduce((sum, { length }) => sum + length, 0)
    const common = Buffer.concat([u16(0x0800), u16(0), u32(0), u32(pieces.reduce((crc, bytes) => crc32(bytes, crc), 0)), u32(0xffffffff), u32(0xffffffff), u16(name.length)])
    const header = this.#at, sizes = Buffer.concat([u16(1), u16(16), u64(size), u64(size)])
    const padding = (64 - (header + 30 + name.length + sizes.length + 4) % 64) % 64
    await this.#write(u32(0x04034b50), u16(45), common, u16(sizes.length + 4 + padding), Buffer.from(name), sizes, Buffer.from('FB'), u16(padding), Buffer.alloc(padding, 'Z'))
    await this.#write(...pieces)
    this.#central.push(u32(0x02014b50), u16(45), u16(45), common, u16(28), Buffer.alloc(10), u32(0xffffffff), Buffer.from(name), u16(1), u16(24), u64(size), u64(size), u64(header))
  }

  async end(): Promise<void> {
    const directory = Buffer.concat(this.#central), at = this.#at, entries = this.#central.length / 13
    await this.#write(directory)
    await this.#write(
      u32(0x06064b50), u64(44), u16(45), u16(45), u64(0), u64(entries), u64(entries), u64(directory.length), u64(at),
      u32(0x07064b50), u32(0), u64(at + directory.length), u32(1),
      u32(0x06054b50), u32(0), u16(0xffff), u16(0xffff), u32(0xffffffff), u32(0xffffffff), u16(0))
  }

  async #write(...parts: Uint8Array[]): Promise<void> {
    const { bytesWritten } = await this.#file.writev(parts)
    this.#at += bytesWritten
  }
}

const elements = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

function u16(value: number): Buffer { const b = Buffer.alloc(2); b.writeUInt16LE(value); return b }
function u32(value: number): Buffer { const b = Buffer.alloc(4); b.writeUInt32LE(value); return b }
function u64(value: number): Buffer { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(value)); return b }
