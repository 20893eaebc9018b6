import type { TensorSource } from '../native.js'
import { damaged, withFile, type OpenFile } from './file.js'
import { isDict, isObject, readPickle, type Pickled } from './pickle.js'
import { isShape, itemSize, numElements } from './tensor.js'
import { readZipDirectory, type ZipEntry } from './zip.js'

const maxPickleBytes = 1 << 20     // a 32-layer model has 45 KB
const storages: Record<string, TensorSource['dtype']> = {
  'torch.FloatStorage': 'float32', 'torch.BFloat16Storage': 'bfloat16', 'torch.HalfStorage': 'float16'
}
const globals = ['collections.OrderedDict', 'torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_parameter', ...Object.keys(storages)]

/** The state dict of a .pt file: names without `_orig_mod.`, and where each tensor's contiguous data lies in the file (MODEL.md 3). */
export function readPt(path: string, fileIndex: number): Promise<TensorSource[]> {
  return withFile(path, async (file) => {
    const archive = await openArchive(file)
    const stateDict = readPickle(archive.pickle, { globals, fileName: file.name, code: 'ERR_CHECKPOINT_FORMAT' })
    const isStateDict = isDict(stateDict) || (isObject(stateDict) && stateDict.global === 'collections.OrderedDict')
    if (!isStateDict) throw damaged(file.name, 'expected a state dict: tensors by name')
    const tensors = new Map<string, TensorSource>()
    for (const [key, value] of stateDict.entries) {
      if (typeof key !== 'string') throw damaged(file.name, 'expected tensor names to be strings')
      const name = key.replace(/^_orig_mod\./, '')
      if (tensors.has(name)) throw damaged(file.name, `tensor ${name.slice(0, 200)} comes twice`)
      tensors.set(name, { name, file: fileIndex, ...tensorSource(value, name.slice(0, 200), archive) })
    }
    return [...tensors.values()]
  })
}

interface Archive { fileName: string, root: string, entries: Map<string, ZipEntry>, pickle: Uint8Array }

async function openArchive(file: OpenFile): Promise<Archive> {
  const entries = await readZipDirectory(file)
  const pickles = [...entries.values()].filter((entry) => /^[^/]*\/data\.pkl$/.test(entry.name))
  const [pickle] = pickles
  if (pickle === undefined || pickles.length > 1) {
    throw damaged(file.name, `expected one <name>/data.pkl in the archive, as torch.save writes, but found ${pickles.length}`)
  }
  if (pickle.size > maxPickleBytes) {
    throw damaged(file.name, `expected a data.pkl of at most ${maxPickleBytes} bytes but it has ${pickle.size}`)
  }
  const root = pickle.name.slice(0, -'data.pkl'.length)
  await checkByteOrder(file, entries.get(`${root}byteorder`))
  return { fileName: file.name, root, entries, pickle: await file.read(pickle.offset, pickle.size) }
}

/** Old torch wrote no such entry, and little-endian data. */
async function checkByteOrder(file: OpenFile, entry: ZipEntry | undefined): Promise<void> {
  if (entry === undefined) return
  const order = new TextDecoder().decode(await file.read(entry.offset, Math.min(entry.size, 16)))
  if (order !== 'little') throw damaged(file.name, `expected little-endian data but its byteorder is ${JSON.stringify(order)}`)
}

function tensorSource(value: Pickled, name: string, archive: Archive): Pick<TensorSource, 'dtype' | 'shape' | 'offset'> {
  const broken = (what: string): Error => damaged(archive.fileName, `tensor ${name}: ${what}`)
  const tensor = isObject(value) && value.global === 'torch._utils._rebuild_parameter' ? value.args[0] : value
  if (!isObject(tensor) || tensor.global !== 'torch._utils._rebuild_tensor_v2') throw broken('expected a tensor')
  const [persistent, storageOffset, shape, strides] = tensor.args
  const { dtype, entry, numel } = storageEntry(persistent, broken, archive)
  if (!isShape(shape) || !isShape(strides) || strides.length !== shape.length) throw broken('expected a shape and as many strides')
  if (!isContiguous(shape, strides)) {
    throw broken(`expected a contiguous tensor (save it with .contiguous()) but shape (${shape.join(', ')}) has strides (${strides.join(', ')})`)
  }
  const count = numElements(shape)
  const isInside = isSize(storageOffset) && count !== undefined && storageOffset + count <= numel
  if (!isInside) throw broken(`shape (${shape.join(', ')}) does not fit its storage of ${numel} elements`)
  return { dtype, shape: [...shape], offset: entry.offset + storageOffset * itemSize[dtype] }
}

/** `('storage', class, key, location, numel)`; the location, cuda:0 in real files, says nothing about the data. */
function storageEntry(
  value: Pickled | undefined, broken: (what: string) => Error, archive: Archive
): { dtype: TensorSource['dtype'], entry: ZipEntry, numel: number } {
  const isPersistent = typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'persistent'
  if (!isPersistent || !Array.isArray(value.id) || value.id.length !== 5) throw broken('expected a storage')
  const [tag, storageClass, key, , numel] = value.id
  const dtype = isObject(storageClass) ? storages[storageClass.global] : undefined
  if (tag !== 'storage' || dtype === undefined || typeof key !== 'string' || !isSize(numel)) {
    throw broken('expected a float32, bfloat16 or float16 storage')
  }
  const entry = archive.entries.get(`${archive.root}data/${key}`)
  if (entry === undefined) throw broken(`its data/${key.slice(0, 50)} is missing from the archive`)
  if (entry.size !== numel * itemSize[dtype]) {
    throw broken(`expected ${numel} ${dtype} elements in data/${key} but it has ${entry.size} bytes`)
  }
  return { dtype, entry, numel }
}

/** Row-major without gaps; the stride of a dimension of one means nothing. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= Math.max(shape[i] ?? 1, 1)
  }
  return true
}

function isSize(value: Pickled | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
