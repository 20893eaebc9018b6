// Files that are broken on purpose: each is refused with what is wrong, and nothing beyond its headers is read.
import { open, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readCheckpoint } from '../lib/checkpoint/checkpoint.js'
import { readSafetensors } from '../lib/checkpoint/safetensors.js'
import { hfConfig, hfTensors, rejects, tinyTensors, withDir, writeHf, writeTiny } from './support/tiny-checkpoint.js'
import { ptBytes, safetensorsBytes, stateDictPickle, zipBytes, type ZipInput } from './support/write-pt.js'

const zip = suite('hostile .pt archives')

const refusesPt = (pt: Uint8Array, message: RegExp): Promise<void> => withDir(async (dir) => {
  await writeTiny(dir, { pt })
  await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', message)
})
const goodEntries = (): ZipInput[] =>
  [{ name: 'm/data.pkl', data: stateDictPickle(tinyTensors()) }, ...tinyTensors().map((t, i) => ({ name: `m/data/${i}`, data: t.data }))]

/** Overwrites bytes of the `n`-th record with this signature. */
const patched = (bytes: Uint8Array, signature: string, n: number, at: number, patch: number[]): Uint8Array => {
  const copy = Buffer.from(bytes)
  let start = -1
  for (let i = 0; i <= n; i++) start = copy.indexOf(signature, start + 1, 'latin1')
  assert.ok(start >= 0)
  copy.set(patch, start + at)
  return copy
}
const local = 'PK\x03\x04'
const central = 'PK\x01\x02'
const end = 'PK\x05\x06'
const end64 = 'PK\x06\x06'
const locator64 = 'PK\x06\x07'

zip('no zip, an empty file, a truncated one', async () => {
  await refusesPt(Buffer.alloc(0), /no directory at its end/)
  await refusesPt(Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /no directory at its end/)
  await refusesPt(stateDictPickle(tinyTensors()), /no directory at its end/)
  const whole = zipBytes(goodEntries())
  for (const share of [0.1, 0.5, 0.9, 0.999]) {
    await refusesPt(whole.subarray(0, Math.floor(share * whole.length)), /no directory at its end/)
  }
  await refusesPt(Buffer.concat([whole, Buffer.from('x')]), /no directory at its end/)
  await refusesPt(Buffer.concat([Buffer.from('#!/bin/sh\n'), whole]), /its end record is at/)
})

zip('compressed, encrypted, duplicate and overlapping entries', async () => {
  const [pickle, first, ...rest] = goodEntries()
  assert.ok(pickle !== undefined && first !== undefined)
  await refusesPt(zipBytes([pickle, { ...first, method: 8 }, ...rest]), /m\/data\/0 is compressed \(method 8\)/)
  await refusesPt(zipBytes([pickle, { ...first, flags: 1 }, ...rest]), /m\/data\/0 is encrypted/)
  await refusesPt(zipBytes([pickle, first, first, ...rest]), /m\/data\/0 comes twice/)
  await refusesPt(zipBytes([pickle, pickle, ...rest]), /data\.pkl comes twice/)
  const whole = zipBytes([pickle, first, ...rest])
  await refusesPt(patched(whole, central, 2, 42, headerOffset(whole, 1)), /overlaps/)
  const inside = Buffer.from(zipBytes([first]))
  const nested = zipBytes([{ name: 'm/outer', data: inside.subarray(0, inside.indexOf(central, 0, 'latin1')) }, first])
  const innerOffset = Buffer.from(nested).indexOf(local, 4, 'latin1')
  await refusesPt(patched(nested, central, 1, 42, [innerOffset, 0, 0, 0]), /m\/data\/0 overlaps/)
  await refusesPt(patched(whole, central, 0, 20, [0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]), /overlaps|needs 65535 bytes/)
  await refusesPt(patched(whole, central, 0, 20, [0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]), /needs 2147483647 bytes/)
  await refusesPt(patched(whole, central, 1, 20, [1]), /two sizes/)
  await refusesPt(patched(whole, local, 1, 28, [0xff, 0xff]), /needs \d+ bytes|overlaps/)
  await refusesPt(patched(whole, local, 1, 30, [0x58]), /another name/)
  await refusesPt(patched(whole, local, 1, 0, [0]), /has no header/)
  await refusesPt(patched(whole, local, 1, 8, [8]), /compressed/)
})

/** The four bytes of the n-th directory entry that give its header's offset. */
function headerOffset(bytes: Uint8Array, n: number): number[] {
  let start = -1
  for (let i = 0; i <= n; i++) start = Buffer.from(bytes).indexOf(central, start + 1, 'latin1')
  return [...bytes.subarray(start + 42, start + 46)]
}

zip('end records that lie', async () => {
  const whole = zipBytes(goodEntries())
  await refusesPt(patched(whole, end, 0, 10, [200, 0]), /entry \d+ of its zip directory is broken/)
  await refusesPt(patched(whole, end, 0, 10, [1, 0]), /bytes too many/)
  await refusesPt(patched(whole, end, 0, 10, [0xff, 0xff]), /at most 16384 entries but it has 65535/)
  await refusesPt(patched(whole, end, 0, 12, [0xff, 0xff, 0xff, 0xff]), /its end record is at/)
  await refusesPt(patched(whole, end, 0, 16, [0, 0, 0, 0]), /its end record is at/)
  await refusesPt(patched(whole, end, 0, 4, [1]), /in one part/)
  await refusesPt(patched(whole, central, 0, 28, [0xff, 0xff]), /longer than the directory/)
  await refusesPt(zipBytes(Array.from({ length: 17_000 }, (_, i) => ({ name: `${i}`, data: Buffer.alloc(0) }))), /at most 16384 entries/)
})

zip('zip64 records that lie', async () => {
  const whole = zipBytes(goodEntries(), true)
  const huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
  await refusesPt(patched(whole, end64, 0, 0, [0]), /zip64 record is broken/)
  await refusesPt(patched(whole, end64, 0, 4, [0]), /zip64 record is broken/)
  await refusesPt(patched(whole, end64, 0, 32, huge), /zip64 number is too large/)
  await refusesPt(patched(whole, end64, 0, 32, [0, 0, 0, 0, 1]), /at most 16384 entries/)
  await refusesPt(patched(whole, end64, 0, 40, huge), /zip64 number is too large/)
  await refusesPt(patched(whole, end64, 0, 48, [0, 0, 0, 0, 0, 1]), /its end record is at/)
  await refusesPt(patched(whole, locator64, 0, 8, huge), /zip64 number is too large/)
  await refusesPt(patched(whole, locator64, 0, 8, [0xff, 0xff, 0xff, 0x7f]), /zip64 record is out of place/)
  await refusesPt(patched(whole, central, 0, 46 + 'm/data.pkl'.length, [2]), /zip64 field is missing/)
  await refusesPt(patched(whole, central, 0, 46 + 'm/data.pkl'.length + 2, [8]), /zip64 field is too short/)
  await refusesPt(patched(whole, central, 0, 46 + 'm/data.pkl'.length + 4, [...huge, ...huge]), /zip64 number is too large/)
})

zip('data.pkl: one, of a sane size, in little-endian archives', async () => {
  const [pickle, ...data] = goodEntries()
  assert.ok(pickle !== undefined)
  await refusesPt(zipBytes(data), /expected one <name>\/data\.pkl in the archive.* found 0/)
  await refusesPt(zipBytes([pickle, { ...pickle, name: 'n/data.pkl' }, ...data]), /found 2/)
  await refusesPt(zipBytes([{ ...pickle, name: 'data.pkl' }, ...data]), /found 0/)
  await refusesPt(zipBytes([{ ...pickle, data: Buffer.alloc(2 << 20) }, ...data]), /data\.pkl of at most 1048576 bytes but it has 2097152/)
  await refusesPt(zipBytes([pickle, ...data, { name: 'm/byteorder', data: Buffer.from('big') }]), /byteorder is "big"/)
  await refusesPt(zipBytes([pickle, ...data.slice(1)]), /data\/0 is missing/)
  const shorter = data.map((entry, i) => i === 3 ? { ...entry, data: entry.data.subarray(1) } : entry)
  await refusesPt(zipBytes([pickle, ...shorter]), /expected \d+ \w+ elements in data\/3 but it has/)
})

zip('pickles that are no state dict, or would run something', async () => {
  const refusesPickle = (pickle: string, message: RegExp): Promise<void> =>
    refusesPt(ptBytes(tinyTensors(), { pickle: Buffer.from(pickle, 'latin1') }), message)
  await refusesPickle('\x80\x02cos\nsystem\nX\x02\x00\x00\x00lsq\x00\x85R.', /model_000007\.pt: .*os\.system.*Nothing was executed/s)
  await refusesPickle('\x80\x02c__builtin__\neval\n.', /__builtin__\.eval/)
  await refusesPickle('\x80\x02ctorch\nDoubleStorage\n.', /torch\.DoubleStorage/)
  await refusesPickle('\x80\x02ctiktoken.core\nEncoding\n.', /tiktoken\.core\.Encoding/)
  await refusesPickle('\x80\x02K\x01.', /expected a state dict/)
  await refusesPickle('\x80\x02}K\x01K\x01s.', /names to be strings/)
  await refusesPickle('\x80\x02}X\x01\x00\x00\x00xK\x01s.', /tensor x: expected a tensor/)
  await refusesPickle('\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n)Rs.', /tensor x: expected a storage/)
  await refusesPickle('\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\nK\x00Q\x85Rs.', /tensor x: expected a storage/)
  await refusesPickle('\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.', /tensor x: expected a tensor/)
})

zip('a file of 1 TB of holes is refused without being read', async () => {
  await withDir(async (dir) => {
    await writeTiny(dir)
    await truncate(join(dir, 'model_000007.pt'), 2 ** 40)
    const before = process.memoryUsage().arrayBuffers
    await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', /no directory at its end/)
    assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20)
  })
})

zip('data above 4 GiB, a zip64 archive with holes', async () => {
  await withDir(async (dir) => {
    const path = join(dir, 'model_000007.pt')
    const hole = 5 * 2 ** 30
    const whole = Buffer.from(zipBytes(goodEntries(), true))
    const directory = whole.indexOf(central, 0, 'latin1')
    const end64At = whole.indexOf(end64, 0, 'latin1')
    const last = whole.lastIndexOf(local, directory, 'latin1')
    const move = (at: number): void => { whole.writeBigUInt64LE(whole.readBigUInt64LE(at) + BigInt(hole), at) }
    const lastCentral = whole.lastIndexOf(central, end64At, 'latin1')
    move(lastCentral + 46 + whole.readUInt16LE(lastCentral + 28) + 20)
    move(end64At + 48)
    move(whole.indexOf(locator64, 0, 'latin1') + 8)
    await writeTiny(dir)
    await writeFile(path, whole.subarray(0, last))
    const file = await open(path, 'r+')
    await file.write(whole, last, whole.length - last, last + hole)
    await file.close()
    const { tensors } = await readCheckpoint(dir)
    const offsets = tensors.map((tensor) => tensor.offset)
    assert.is(offsets.filter((offset) => offset > 2 ** 32).length, 1)
    assert.is(Math.max(...offsets) % 64, 0)
  })
})

zip.run()

const safetensors = suite('hostile .safetensors')

const refusesSafetensors = (bytes: Uint8Array, message: RegExp): Promise<void> => withDir(async (dir) => {
  await writeHf(dir, hfConfig, bytes)
  await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_FORMAT', message)
})
type HeaderJson = Record<string, { dtype: unknown, shape: unknown, data_offsets: unknown }>
const header = (change: (entries: HeaderJson) => void): Uint8Array => {
  const good = Buffer.from(safetensorsBytes(hfTensors()))
  const entries = JSON.parse(good.toString('utf8', 8, 8 + Number(good.readBigUInt64LE()))) as HeaderJson
  change(entries)
  return safetensorsBytes(hfTensors(), JSON.stringify(entries))
}
const lmHead = (patch: Record<string, unknown>): Uint8Array => header((entries) => { Object.assign(entries['lm_head.weight'] ?? {}, patch) })

safetensors('header length and JSON', async () => {
  const good = Buffer.from(safetensorsBytes(hfTensors()))
  await refusesSafetensors(Buffer.alloc(3), /it has 3 bytes/)
  for (const length of [2n ** 64n - 1n, BigInt(good.length), 1n << 30n]) {
    const bytes = Buffer.from(good)
    bytes.writeBigUInt64LE(length)
    await refusesSafetensors(bytes, new RegExp(`header of at most \\d+ bytes but it claims ${length}`))
  }
  await refusesSafetensors(safetensorsBytes([], '{'), /expected JSON/)
  await refusesSafetensors(safetensorsBytes([], '[]'), /expected a JSON object/)
  await refusesSafetensors(safetensorsBytes([], `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), /tensor a: expected/)
  await refusesSafetensors(safetensorsBytes(hfTensors(), `{"a":"\\${'\\'.repeat(100_001)} NaN`), /expected JSON/)
})

safetensors('dtype, shape and offsets', async () => {
  for (const dtype of ['F64', 'I8', 'bf16', '__proto__', 'constructor', null, 7, [['x']]]) {
    await refusesSafetensors(lmHead({ dtype }), /lm_head\.weight: expected dtype F32, BF16 or F16/)
  }
  for (const shape of [null, '64', [64, -32], [64.5], [2 ** 40, 2 ** 40], Array.from({ length: 9 }, () => 1)]) {
    await refusesSafetensors(lmHead({ shape }), /lm_head\.weight: expected dtype, shape and data_offsets/)
  }
  await refusesSafetensors(lmHead({ shape: [64, 33] }), /expected 2112 bfloat16 elements/)
  for (const offsets of [[0], [0, 4097], [4096, 0], [-4096, 0], null, [0, 4096, 1]]) {
    await refusesSafetensors(lmHead({ data_offsets: offsets }), /lm_head\.weight: expected/)
  }
  await refusesSafetensors(lmHead({ data_offsets: [4096, 8192] }), /starts at \d+ but the one before it ends at/)
  await refusesSafetensors(lmHead({ data_offsets: [2, 4098] }), /starts at/)
  await refusesSafetensors(header((entries) => { delete entries['lm_head.weight'] }), /starts at 4096 but the one before it ends at 0/)
  await refusesSafetensors(safetensorsBytes(hfTensors()).subarray(0, -1), /expected \d+ bytes but the file has/)
  await refusesSafetensors(Buffer.concat([safetensorsBytes(hfTensors()), Buffer.alloc(1)]), /expected \d+ bytes but the file has/)
})

safetensors('names from the object prototype are names', async () => {
  await withDir(async (dir) => {
    const path = join(dir, 'a.safetensors')
    const json = '{"__proto__":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"toString":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}'
    await writeFile(path, safetensorsBytes([], json))
    await rejects(() => readSafetensors(path, 0), 'ERR_CHECKPOINT_FORMAT', /expected \d+ bytes/)
    await writeFile(path, Buffer.concat([safetensorsBytes([], json), Buffer.alloc(2)]))
    assert.equal((await readSafetensors(path, 0)).map((t) => [t.name, t.shape]), [['__proto__', [0]], ['toString', []]])
  })
})

safetensors('unknown names are refused by name', async () => {
  for (const name of ['model.layers.0.self_attn.q_proj.bias', 'model.norm.weight', 'model.layers.0.toString.weight', 'transformer.wte.weight']) {
    await withDir(async (dir) => {
      await writeHf(dir, hfConfig, safetensorsBytes(hfTensors().map((t) => t.name === 'lm_head.weight' ? { ...t, name } : t)))
      await rejects(() => readCheckpoint(dir), 'ERR_CHECKPOINT_ARCH', new RegExp(`does not know: ${name.replaceAll('.', '\\.')}`))
    })
  }
})

safetensors.run()
