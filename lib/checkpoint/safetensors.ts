import type { TensorSource } from '../native.js'
import { describe } from '../errors.js'
import { damaged, isRecord, parseJsonObject, withFile } from './file.js'
import { isShape, itemSize, numElements } from './tensor.js'

const maxHeaderBytes = 1 << 20     // a 32-layer model has 36 KB
type Dtypes = Readonly<Record<string, TensorSource['dtype']>>
const dtypes: Dtypes = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }

export interface SafetensorsHeader { tensors: TensorSource[], metadata: unknown }

/** The tensors of a .safetensors file, names as they stand. Their data covers the rest of the file without gap or overlap. */
export async function readSafetensors(path: string, fileIndex: number): Promise<TensorSource[]> {
  return (await readHeader(path, fileIndex, dtypes)).tensors
}

/** The same with `__metadata__`, of a file that may have bytes (U8), too. */
export function readSafetensorsWithBytes(path: string): Promise<SafetensorsHeader> {
  return readHeader(path, 0, { ...dtypes, U8: 'uint8' })
}

function readHeader(path: string, fileIndex: number, dtypes: Dtypes): Promise<SafetensorsHeader> {
  return withFile(path, async (file) => {
    if (file.size < 8) throw damaged(file.name, `expected a safetensors file but it has ${file.size} bytes`)
    const headerBytes = new DataView((await file.read(0, 8)).buffer).getBigUint64(0, true)
    const mostBytes = Math.min(maxHeaderBytes, file.size - 8)
    if (headerBytes > BigInt(mostBytes)) {
      throw damaged(file.name, `expected a safetensors header of at most ${mostBytes} bytes but it claims ${headerBytes}`)
    }
    const dataOffset = 8 + Number(headerBytes)
    const header = parseJsonObject(await file.read(8, Number(headerBytes)), file.name)
    const tensors = Object.entries(header).filter(([name]) => name !== '__metadata__')
      .map(([name, value]) => headerEntry(name, value, file.name, dtypes)).sort((a, b) => a.begin - b.begin || a.end - b.end)
    let end = 0
    for (const tensor of tensors) {
      if (tensor.begin !== end) {
        throw damaged(file.name, `tensor ${tensor.name.slice(0, 200)} starts at ${tensor.begin} but the one before it ends at ${end}`)
      }
      end = tensor.end
    }
    if (dataOffset + end !== file.size) throw damaged(file.name, `expected ${dataOffset + end} bytes but the file has ${file.size}`)
    return {
      tensors: tensors.map(({ name, dtype, shape, begin }) => ({ name, dtype, shape, file: fileIndex, offset: dataOffset + begin })),
      metadata: header.__metadata__
    }
  })
}

/** Bytes `begin` to `end` of the data behind the header. */
interface HeaderEntry { name: string, dtype: TensorSource['dtype'], shape: number[], begin: number, end: number }

function headerEntry(name: string, value: unknown, fileName: string, dtypes: Dtypes): HeaderEntry {
  const broken = (what: string): Error => damaged(fileName, `tensor ${name.slice(0, 200)}: ${what}`)
  if (!isRecord(value)) throw broken('expected dtype, shape and data_offsets')
  const { shape, data_offsets: offsets } = value
  const dtype = typeof value.dtype === 'string' && Object.hasOwn(dtypes, value.dtype) ? dtypes[value.dtype] : undefined
  if (dtype === undefined) throw broken(`expected dtype ${Object.keys(dtypes).join(', ').replace(/, (?=\w+$)/, ' or ')} but found ${describe(value.dtype)}`)
  const count = isShape(shape) ? numElements(shape) : undefined
  if (!isShape(shape) || count === undefined || !isShape(offsets)) throw broken('expected dtype, shape and data_offsets')
  const [begin = -1, end = -1] = offsets
  if (offsets.length !== 2 || end - begin !== count * itemSize[dtype]) {
    throw broken(`expected ${count} ${dtype} elements but its data_offsets are ${begin} to ${end}`)
  }
  return { name, dtype, shape, begin, end }
}
