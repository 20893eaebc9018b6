import { readFileSync } from 'node:fs'

/** What a 64-bit little-endian ELF file asks of the machine that loads it (System V ABI, gABI chapters 4 and 5). */
export interface Elf {
  machine: 'x64' | 'arm64' | number
  needed: string[]                 // libraries, DT_NEEDED
  versions: string[]               // of the symbols wanted from them, as GLIBC_2.17
  imports: string[]
  exports: string[]
  searchPaths: string[]            // DT_RPATH and DT_RUNPATH
  bindsNow: boolean
  isNeverUnloaded: boolean         // -z nodelete
  isRelro: boolean                 // the linker's tables become read-only after relocation
  stackIsExecutable: boolean       // also where nothing is said of it
  isStripped: boolean
  isDynamic: boolean
}

interface Section { type: number, offset: number, size: number, link: number, info: number }

const machines: Record<number, Elf['machine']> = { 62: 'x64', 183: 'arm64' }
const sections = { symtab: 2, dynamic: 6, dynsym: 11, verneed: 0x6ffffffe }
const segments = { stack: 0x6474e551, relro: 0x6474e552 }
const tags = { needed: 1, rpath: 15, bindNow: 24, runpath: 29, flags: 30, flags1: 0x6ffffffb }
const flagsNow = 8, flags1Now = 1, flags1NoDelete = 8, segmentExecutable = 1

/** Reads the headers and the dynamic section of a file. Throws where it is not such an ELF file. */
export function readElf(path: string): Elf {
  const data = readFileSync(path)
  if (data.readUInt32BE(0) !== 0x7f454c46 || data[4] !== 2 || data[5] !== 1) throw new Error(`${path} is no 64-bit little-endian ELF file`)
  const all = sectionsOf(data)
  const dynamic = all.find(({ type }) => type === sections.dynamic)
  const entries = dynamic ? dynamicEntries(data, dynamic) : []
  const names = dynamic && all[dynamic.link]
  const values = (tag: number): bigint[] => entries.filter((entry) => entry.tag === BigInt(tag)).map(({ value }) => value)
  const strings = (tag: number): string[] => values(tag).map((value) => names ? textAt(data, names.offset + Number(value)) : '')
  const has = (tag: number, bit: number): boolean => values(tag).some((value) => (value & BigInt(bit)) !== 0n)
  const headers = programHeaders(data)
  const stack = headers.find(({ type }) => type === segments.stack)
  const machine = data.readUInt16LE(18)
  return {
    machine: machines[machine] ?? machine,
    needed: strings(tags.needed),
    versions: wantedVersions(data, all),
    ...dynamicSymbols(data, all),
    searchPaths: [...strings(tags.rpath), ...strings(tags.runpath)],
    bindsNow: values(tags.bindNow).length > 0 || has(tags.flags, flagsNow) || has(tags.flags1, flags1Now),
    isNeverUnloaded: has(tags.flags1, flags1NoDelete),
    isRelro: headers.some(({ type }) => type === segments.relro),
    stackIsExecutable: !stack || (stack.flags & segmentExecutable) !== 0,
    isStripped: !all.some(({ type }) => type === sections.symtab),
    isDynamic: dynamic !== undefined
  }
}

function sectionsOf(data: Buffer): Section[] {
  const start = Number(data.readBigUInt64LE(40)), size = data.readUInt16LE(58), count = data.readUInt16LE(60)
  return Array.from({ length: count }, (_, index) => {
    const at = start + index * size
    return {
      type: data.readUInt32LE(at + 4), offset: Number(data.readBigUInt64LE(at + 24)), size: Number(data.readBigUInt64LE(at + 32)),
      link: data.readUInt32LE(at + 40), info: data.readUInt32LE(at + 44)
    }
  })
}

function programHeaders(data: Buffer): { type: number, flags: number }[] {
  const start = Number(data.readBigUInt64LE(32)), size = data.readUInt16LE(54), count = data.readUInt16LE(56)
  return Array.from({ length: count }, (_, index) => ({ type: data.readUInt32LE(start + index * size), flags: data.readUInt32LE(start + index * size + 4) }))
}

function dynamicEntries(data: Buffer, { offset, size }: Section): { tag: bigint, value: bigint }[] {
  return Array.from({ length: size / 16 }, (_, index) => ({ tag: data.readBigInt64LE(offset + index * 16), value: data.readBigUInt64LE(offset + index * 16 + 8) }))
}

/** Global and weak symbols: imports are undefined, exports are defined and visible. */
function dynamicSymbols(data: Buffer, all: Section[]): { imports: string[], exports: string[] } {
  const table = all.find(({ type }) => type === sections.dynsym)
  const names = table && all[table.link]
  const imports: string[] = [], exports: string[] = []
  if (!table || !names) return { imports, exports }
  for (let at = table.offset + 24; at < table.offset + table.size; at += 24) {
    const name = textAt(data, names.offset + data.readUInt32LE(at))
    const isLocal = data.readUInt8(at + 4) >> 4 === 0, visibility = data.readUInt8(at + 5) & 3
    if (isLocal || visibility === 1 || visibility === 2) continue
    const list = data.readUInt16LE(at + 6) === 0 ? imports : exports
    list.push(name)
  }
  return { imports: imports.sort(), exports: exports.sort() }
}

/** .gnu.version_r: per library a chain of versions; `info` libraries. */
function wantedVersions(data: Buffer, all: Section[]): string[] {
  const section = all.find(({ type }) => type === sections.verneed)
  const names = section && all[section.link]
  const found = new Set<string>()
  if (!section || !names) return []
  for (let library = 0, at = section.offset; library < section.info; library++) {
    const count = data.readUInt16LE(at + 2)
    for (let version = 0, aux = at + data.readUInt32LE(at + 8); version < count; version++) {
      found.add(textAt(data, names.offset + data.readUInt32LE(aux + 8)))
      aux += data.readUInt32LE(aux + 12)
    }
    at += data.readUInt32LE(at + 12)
  }
  return [...found].sort()
}

function textAt(data: Buffer, offset: number): string {
  return data.toString('latin1', offset, data.indexOf(0, offset))
}
