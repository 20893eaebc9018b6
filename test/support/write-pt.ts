// Writes checkpoint files the way torch.save and safetensors do, well-formed or with one thing wrong.
import { crc32 } from 'node:zlib'
import type { TensorSource } from '../../lib/native.js'

type FloatDtype = Exclude<TensorSource['dtype'], 'uint8'>

export interface StoredTensor {
  name: string
  dtype: FloatDtype
  shape: number[]
  data: Uint8Array                 // little-endian, row-major
  strides?: number[]               // default: contiguous
  storageOffset?: number           // in elements
}

export interface ZipInput { name: string, data: Uint8Array, method?: number, flags?: number }

export interface PtOptions { root?: string, zip64?: boolean, pickle?: Uint8Array, byteorder?: string, location?: string }

const storageClasses = { float32: 'FloatStorage', bfloat16: 'BFloat16Storage', float16: 'HalfStorage' }
export const itemSizes = { float32: 4, bfloat16: 2, float16: 2, uint8: 1 }

/** A .pt file of a state dict. */
export function ptBytes(tensors: readonly StoredTensor[], options: PtOptions = {}): Uint8Array {
  const { root = 'model', byteorder = 'little' } = options
  const text = (value: string): Uint8Array => Buffer.from(value)
  return zipBytes([
    { name: `${root}/data.pkl`, data: options.pickle ?? stateDictPickle(tensors, options.location) },
    { name: `${root}/.format_version`, data: text('1') }, { name: `${root}/.storage_alignment`, data: text('64') },
    { name: `${root}/byteorder`, data: text(byteorder) },
    ...tensors.map((tensor, i) => ({ name: `${root}/data/${i}`, data: tensor.data })),
    { name: `${root}/version`, data: text('3\n') }
  ], options.zip64)
}

/** STORED entries whose data starts at multiples of 64; with zip64, every size and offset stands in the 64-bit fields. */
export function zipBytes(entries: readonly ZipInput[], zip64 = false): Uint8Array {
  const parts: Buffer[] = []
  const central: Buffer[] = []
  let at = 0
  const add = (part: Uint8Array): void => { parts.push(Buffer.from(part)); at += part.length }
  for (const { name, data, method = 0, flags = 0x0800 } of entries) {
    const rawName = Buffer.from(name)
    const sizes = zip64 ? Buffer.concat([u16(1), u16(16), u64(data.length), u64(data.length)]) : Buffer.alloc(0)
    const unaligned = at + 30 + rawName.length + sizes.length + 4
    const padding = Buffer.alloc((64 - unaligned % 64) % 64, 'Z')
    const headerOffset = at
    const size32 = zip64 ? 0xffffffff : data.length
    const common = Buffer.concat([u16(flags), u16(method), u32(0), u32(crc32(data)), u32(size32), u32(size32), u16(rawName.length)])
    const version = u16(zip64 ? 45 : 20)
    const extraLength = u16(sizes.length + 4 + padding.length)
    add(Buffer.concat([u32(0x04034b50), version, common, extraLength, rawName, sizes, Buffer.from('FB'), u16(padding.length), padding]))
    add(data)
    const extra = zip64 ? Buffer.concat([u16(1), u16(24), u64(data.length), u64(data.length), u64(headerOffset)]) : Buffer.alloc(0)
    central.push(Buffer.concat([u32(0x02014b50), version, version, common, u16(extra.length), Buffer.alloc(10),
      u32(zip64 ? 0xffffffff : headerOffset), rawName, extra]))
  }
  const offset = at
  for (const record of central) add(record)
  const size = at - offset
  const end64 = at
  if (zip64) {
    add(Buffer.concat([u32(0x06064b50), u64(44), u16(45), u16(45), u64(0),
      u64(entries.length), u64(entries.length), u64(size), u64(offset)]))
    add(Buffer.concat([u32(0x07064b50), u32(0), u64(end64), u32(1)]))
  }
  const counts = zip64 ? 0xffff : entries.length
  add(Buffer.concat([u32(0x06054b50), u16(0), u16(0), u16(counts), u16(counts),
    u32(zip64 ? 0xffffffff : size), u32(zip64 ? 0xffffffff : offset), u16(0)]))
  return Buffer.concat(parts)
}

/** data.pkl with the opcodes torch.save uses: protocol 2, an OrderedDict of _rebuild_tensor_v2, then BUILD of `_metadata`. */
export function stateDictPickle(tensors: readonly StoredTensor[], location = 'cpu'): Uint8Array {
  const parts: Uint8Array[] = []
  const memo = new Map<string, number>()
  const emit = (...bytes: (Uint8Array | string | number)[]): void => {
    for (const b of bytes) parts.push(typeof b === 'number' ? Uint8Array.of(b) : typeof b === 'string' ? Buffer.from(b, 'latin1') : b)
  }
  /** The first use writes and memoises it, later ones refer to that. */
  const remembered = (key: string, write: () => void): void => {
    const index = memo.get(key)
    if (index !== undefined) return emit(index < 256 ? 'h' : 'j', index < 256 ? index : u32(index))
    write()
    const next = memo.size
    memo.set(key, next)
    emit(next < 256 ? 'q' : 'r', next < 256 ? next : u32(next))
  }
  const string = (value: string): void => remembered(`text ${value}`, () => emit('X', u32(Buffer.byteLength(value)), Buffer.from(value)))
  const global = (module: string, name: string): void => remembered(`global ${name}`, () => emit('c', module, '\n', name, '\n'))
  const orderedDict = (): void => { global('collections', 'OrderedDict'); emit(')', 'R') }
  const integer = (value: number): void => emit(...(value < 256 ? ['K', value] : value < 65_536 ? ['M', u16(value)] : ['J', u32(value)]))
  const tuple = (values: readonly number[]): void => { emit('('); values.forEach(integer); emit('t') }

  emit(0x80, 2)
  orderedDict()
  emit('(')
  tensors.forEach((tensor, i) => {
    string(tensor.name)
    global('torch._utils', '_rebuild_tensor_v2')
    emit('(', '(')
    string('storage')
    global('torch', storageClasses[tensor.dtype])
    string(String(i))
    string(location)
    integer(tensor.data.length / itemSizes[tensor.dtype])
    emit('t', 'Q')
    integer(tensor.storageOffset ?? 0)
    tuple(tensor.shape)
    tuple(tensor.strides ?? contiguousStrides(tensor.shape))
    emit(0x89)
    orderedDict()
    emit('t', 'R')
  })
  emit('u', '}')
  string('_metadata')
  orderedDict()
  string('')
  emit('}')
  string('version')
  integer(1)
  emit('s', 's', 's', 'b', '.')
  return Buffer.concat(parts)
}

/** A .safetensors file; `header` replaces what its JSON would say. */
export function safetensorsBytes(tensors: readonly StoredTensor[], header?: string): Uint8Array {
  const dtypes = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' }
  let end = 0
  const entries = tensors.map(({ name, dtype, shape, data }) => [name, { dtype: dtypes[dtype], shape, data_offsets: [end, end += data.length] }])
  const json = header ?? JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  const padded = Buffer.from(json + ' '.repeat((8 - Buffer.byteLength(json) % 8) % 8))
  return Buffer.concat([u64(padded.length), padded, ...tensors.map((tensor) => tensor.data)])
}

/** A tensor whose values count up from 0 by 1/64. */
export function countingTensor(name: string, shape: number[], dtype: FloatDtype = 'float32'): StoredTensor {
  const count = shape.reduce((product, n) => product * n, 1)
  const values = new Float32Array(count)
  for (let i = 0; i < count; i++) values[i] = i % 64 / 64
  const data = dtype === 'float32' ? new Uint8Array(values.buffer) : new Uint8Array(toBfloat16(values).buffer)
  return { name, dtype, shape, data }
}

/** Round to nearest even. */
export function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const rounded = new Uint16Array(bits.length)
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i] ?? 0
    rounded[i] = (b & 0x7fffffff) > 0x7f800000 ? b >>> 16 | 0x40 : (b + 0x7fff + (b >>> 16 & 1)) >>> 16
  }
  return rounded
}

function contiguousStrides(shape: readonly number[]): number[] {
  return shape.map((_, i) => shape.slice(i + 1).reduce((product, n) => product * n, 1))
}

function u16(value: number): Buffer { const b = Buffer.alloc(2); b.writeUInt16LE(value); return b }
function u32(value: number): Buffer { const b = Buffer.alloc(4); b.writeUInt32LE(value); return b }
function u64(value: number): Buffer { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(value)); return b }
