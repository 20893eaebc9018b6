import { damaged, type OpenFile } from './file.js'

/** A STORED entry: its bytes lie in the archive as they are. */
export interface ZipEntry {
  name: string
  offset: number                   // of the data, from the start of the file
  size: number                     // bytes
}

const signatures = { local: 0x04034b50, central: 0x02014b50, end: 0x06054b50, end64: 0x06064b50, locator64: 0x07064b50 }
const maxDirectoryBytes = 4 << 20  // a 32-layer model has 330 entries, 25 KB
const maxEntries = 16_384
const maxTail = 22 + 0xffff        // end record and the longest comment

/**
 * The entries of a zip archive as torch.save writes it (MODEL.md 3): STORED only, zip64 understood, one disk, no gaps in
 * the records. Reads the directory and the local headers, never the data. Every entry lies inside the file and no two
 * share a byte or a name.
 */
export async function readZipDirectory(file: OpenFile): Promise<Map<string, ZipEntry>> {
  const directory = await findDirectory(file)
  if (directory.size > Math.min(maxDirectoryBytes, file.size) || directory.count > maxEntries) {
    throw damaged(file.name, `expected a zip directory of at most ${maxEntries} entries but it has ${directory.count} in ${directory.size} bytes`)
  }
  const records = centralRecords(await file.read(directory.offset, directory.size), directory.count, file.name)
  const entries = new Map<string, ZipEntry>()
  let end = 0
  for (const record of records.sort((a, b) => a.headerOffset - b.headerOffset)) {
    if (record.headerOffset < end) throw damaged(file.name, `zip entry ${record.name} overlaps the one before it`)
    const offset = await dataOffset(file, record)
    end = offset + record.size
    if (end > directory.offset) {
      throw damaged(file.name, `zip entry ${record.name} needs ${record.size} bytes at ${offset} but the directory starts at ${directory.offset}`)
    }
    if (entries.has(record.name)) throw damaged(file.name, `zip entry ${record.name} comes twice`)
    entries.set(record.name, { name: record.name, offset, size: record.size })
  }
  return entries
}

interface CentralRecord { name: string, rawName: Uint8Array, size: number, headerOffset: number }

interface DirectoryRecord { disk: number, count: number, size: number, offset: number, end: number }

/** Where the central directory is, from the end records. */
async function findDirectory(file: OpenFile): Promise<DirectoryRecord> {
  const tailOffset = Math.max(0, file.size - maxTail - 20)
  const tail = await file.read(tailOffset, file.size - tailOffset)
  const view = new DataView(tail.buffer)
  let at = tail.length - 22
  while (at >= 0 && !(view.getUint32(at, true) === signatures.end && at + 22 + view.getUint16(at + 20, true) === tail.length)) at--
  if (at < 0) throw damaged(file.name, 'expected a zip archive, as torch.save writes, but it has no directory at its end')

  const isZip64 = at >= 20 && view.getUint32(at - 20, true) === signatures.locator64
  const directory = isZip64
    ? await zip64Directory(file, tailOffset + at - 20, uint64(view, at - 12, file.name))
    : {
        disk: view.getUint32(at + 4, true), count: view.getUint16(at + 10, true),
        size: view.getUint32(at + 12, true), offset: view.getUint32(at + 16, true), end: tailOffset + at
      }
  if (directory.disk !== 0) throw damaged(file.name, 'expected a zip archive in one part')
  if (directory.offset + directory.size !== directory.end) {
    throw damaged(file.name, `expected a zip directory of ${directory.size} bytes at ${directory.offset} but its end record is at ${directory.end}`)
  }
  return directory
}

async function zip64Directory(file: OpenFile, locatorOffset: number, offset: number): Promise<DirectoryRecord> {
  if (offset + 56 > locatorOffset) throw damaged(file.name, 'its zip64 record is out of place')
  const view = new DataView((await file.read(offset, 56)).buffer)
  if (view.getUint32(0, true) !== signatures.end64 || offset + 12 + uint64(view, 4, file.name) !== locatorOffset) {
    throw damaged(file.name, 'its zip64 record is broken')
  }
  return {
    disk: view.getUint32(16, true) + view.getUint32(20, true), count: uint64(view, 32, file.name),
    size: uint64(view, 40, file.name), offset: uint64(view, 48, file.name), end: offset
  }
}

function centralRecords(bytes: Uint8Array, count: number, fileName: string): CentralRecord[] {
  const view = new DataView(bytes.buffer)
  const records: CentralRecord[] = []
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== signatures.central) {
      throw damaged(fileName, `entry ${i} of its zip directory is broken`)
    }
    const nameLength = view.getUint16(at + 28, true)
    const extraLength = view.getUint16(at + 30, true)
    const next = at + 46 + nameLength + extraLength + view.getUint16(at + 32, true)
    if (next > bytes.length) throw damaged(fileName, `entry ${i} of its zip directory is longer than the directory`)
    const rawName = bytes.subarray(at + 46, at + 46 + nameLength)
    const name = new TextDecoder().decode(rawName)
    checkStored(view.getUint16(at + 8, true), view.getUint16(at + 10, true), name, fileName)

    const extra = new DataView(bytes.buffer, at + 46 + nameLength, extraLength)
    const fields = [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)]
    const [size, packedSize, headerOffset] = withZip64(fields, extra, fileName)
    if (size === undefined || headerOffset === undefined || size !== packedSize) {
      throw damaged(fileName, `zip entry ${name} is stored with two sizes`)
    }
    records.push({ name, rawName, size, headerOffset })
    at = next
  }
  if (at !== bytes.length) throw damaged(fileName, `its zip directory has ${bytes.length - at} bytes too many`)
  return records
}

/** Fields that are 0xffffffff stand, in their order, in the zip64 extra field. */
function withZip64(fields: number[], extra: DataView, fileName: string): number[] {
  if (!fields.includes(0xffffffff)) return fields
  for (let at = 0; at + 4 <= extra.byteLength;) {
    const length = extra.getUint16(at + 2, true)
    if (extra.getUint16(at, true) !== 1) { at += 4 + length; continue }
    let from = at + 4
    const end = from + length
    return fields.map((field) => {
      if (field !== 0xffffffff) return field
      if (from + 8 > end || end > extra.byteLength) throw damaged(fileName, 'a zip64 field is too short')
      from += 8
      return uint64(extra, from - 8, fileName)
    })
  }
  throw damaged(fileName, 'a zip64 field is missing')
}

/** The local header may have a longer extra field than the directory: torch aligns data with it. */
async function dataOffset(file: OpenFile, record: CentralRecord): Promise<number> {
  const header = await file.read(record.headerOffset, 30 + record.rawName.length)
  const view = new DataView(header.buffer)
  if (view.getUint32(0, true) !== signatures.local) {
    throw damaged(file.name, `zip entry ${record.name} has no header at ${record.headerOffset}`)
  }
  checkStored(view.getUint16(6, true), view.getUint16(8, true), record.name, file.name)
  const isSameName = view.getUint16(26, true) === record.rawName.length && record.rawName.every((byte, i) => header[30 + i] === byte)
  if (!isSameName) throw damaged(file.name, `zip entry ${record.name} has another name in its header`)
  return record.headerOffset + header.length + view.getUint16(28, true)
}

function checkStored(flags: number, method: number, name: string, fileName: string): void {
  if (method !== 0) {
    throw damaged(fileName, `zip entry ${name} is compressed (method ${method}); expected the uncompressed archive that torch.save writes`)
  }
  if ((flags & 1) !== 0) throw damaged(fileName, `zip entry ${name} is encrypted`)
}

function uint64(view: DataView, at: number, fileName: string): number {
  const value = Number(view.getBigUint64(at, true))
  if (!Number.isSafeInteger(value)) throw damaged(fileName, 'a zip64 number is too large')
  return value
}
