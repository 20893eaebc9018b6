import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run } from '../benchmarks/compare/compare.js'
import { importPeer, requireDifferentTokens } from '../benchmarks/compare/contender.js'
import { ggufFormats, writeGguf, type GgufFormat } from '../benchmarks/compare/gguf.js'
import { onnxBytesPerWeight, writeOnnx, type OnnxFormat } from '../benchmarks/compare/onnx.js'
import { depthSpec } from '../benchmarks/cost.js'
import { NanochatError } from '../lib/errors.js'

const spec = { ...depthSpec(2), vocabSize: 320, sequenceLen: 64 }
const L = 2, C = 128, V = 320
const matrixElements = L * 12 * C * C + 2 * V * C   // with the embedding

const dir = mkdtempSync(join(tmpdir(), 'nanochat-test-'))

const gguf = suite('stand-ins in GGUF')
gguf.after(() => rmSync(dir, { recursive: true, force: true }))

for (const format of Object.keys(ggufFormats) as GgufFormat[]) {
  gguf(`${format} reads back, aligned and whole`, () => {
    const path = join(dir, `${format}.gguf`)
    writeGguf(path, spec, format)
    const { metadata, tensors, dataStart, bytes } = readGguf(path)
    assert.is(metadata.get('general.architecture'), 'arcee')
    assert.is(metadata.get('arcee.block_count'), L)
    assert.is(metadata.get('arcee.embedding_length'), C)
    assert.is(metadata.get('arcee.feed_forward_length'), 4 * C)
    const pieces = metadata.get('tokenizer.ggml.tokens') as string[]
    assert.is(new Set(pieces).size, V)
    assert.is(pieces[3 + 0x41], '<0x41>')

    const { type, blocks } = ggufFormats[format]
    let end = 0
    for (const { name, shape, offset, type: stored } of tensors) {
      assert.is(offset % 32, 0, name)
      assert.ok(offset >= end && offset - end < 32, `${name} follows the tensor before it`)
      assert.is(stored, name.endsWith('norm.weight') ? 0 : type, name)
      const count = shape.reduce((product, size) => product * size, 1)
      end = offset + (stored === type ? count / blocks.elements * blocks.bytes : count * 4)
    }
    assert.ok(bytes.length - dataStart >= end && bytes.length - dataStart - end < 32)
    const matrices = tensors.filter(({ shape }) => shape.length === 2)
    assert.is(matrices.reduce((sum, { shape: [k = 0, n = 0] }) => sum + k * n, 0), matrixElements)
    assert.equal(tensors.find(({ name }) => name === 'blk.1.ffn_down.weight')?.shape, [4 * C, C], 'inputs first')
    assert.is(bytes.readFloatLE(dataStart + (tensors.find(({ name }) => name === 'output_norm.weight')?.offset ?? NaN)), 1)
  })
}

gguf('values are small, of both signs, and not all alike', () => {
  const path = join(dir, 'F32-values.gguf')
  writeGguf(path, spec, 'F32')
  const { tensors, dataStart, bytes } = readGguf(path)
  const start = dataStart + (tensors.find(({ name }) => name === 'blk.0.attn_q.weight')?.offset ?? NaN)
  const values = Array.from({ length: C * C }, (_, i) => bytes.readFloatLE(start + 4 * i))
  assert.ok(values.every((value) => Math.abs(value) >= 1 / 64 && Math.abs(value) < 1 / 32))
  assert.ok(Math.abs(values.reduce((sum, value) => sum + value, 0)) / values.length < 1e-3)
  assert.ok(new Set(values).size > values.length * 0.9)
})

gguf.run()

const onnx = suite('stand-ins in ONNX')

for (const format of ['fp32', 'int8', 'int4'] satisfies OnnxFormat[]) {
  onnx(`${format} reads back: every input of a node is there, tensors are aligned and inside the file`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'nanochat-test-'))
    const path = join(folder, 'model.onnx')
    try {
      writeOnnx(path, spec, format)
      const graph = one(fieldsOf(readFileSync(path)), 7)
      const nodes = all(graph, 1).map((node) => ({ inputs: texts(node, 1), outputs: texts(node, 2), operator: texts(node, 4)[0] }))
      const tensors = all(graph, 5).map(readTensor)
      const known = new Set(['', ...tensors.map(({ name }) => name), ...all(graph, 11).map((input) => texts(input, 1)[0] ?? '?')])
      for (const { inputs, outputs, operator } of nodes) {
        for (const input of inputs) assert.ok(known.has(input), `${operator} wants ${input}`)
        for (const output of outputs) known.add(output)
      }
      const outputs = all(graph, 12).map((output) => texts(output, 1)[0] ?? '?')
      assert.equal(outputs.slice().sort(), ['logits', ...[0, 1].flatMap((l) => [`present_key.${l}`, `present_value.${l}`])].sort())
      for (const output of outputs) assert.ok(known.has(output))
      assert.is(nodes.filter(({ operator }) => operator === (format === 'fp32' ? 'MatMul' : 'MatMulNBits')).length, 4 * L + 1)

      let end = 0
      for (const { name, offset, length } of tensors) {
        assert.is(offset % 4096, 0, name)
        assert.ok(offset >= end && offset - end < 4096, name)
        end = offset + length
      }
      assert.is(end, statSync(`${path}.data`).size)
      const weights = tensors.filter(({ name }) => /\.(weight|scales)$/.test(name)).reduce((sum, { length }) => sum + length, 0)
      assert.is(weights, (matrixElements - V * C) * onnxBytesPerWeight(format), 'all matrices but the embedding')
      const qkv = tensors.find(({ name }) => name === 'qkv.1.weight')
      assert.equal(qkv?.shape, format === 'fp32' ? [C, 3 * C] : [3 * C, C / 32, format === 'int8' ? 32 : 16])
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
}

onnx.run()

const compare = suite('bench compare')

compare('names a wrong option', async () => {
  for (const args of [['--depth', '13'], ['--dtype', 'int3'], ['--threads', '0'], ['--no-such-option'], ['-r', 'x']]) {
    try {
      await run(args)
      assert.unreachable(args.join(' '))
    } catch (error) {
      assert.ok(NanochatError.is(error) && error.code === 'ERR_INVALID_ARG', args.join(' '))
    }
  }
})

compare('says how to install a peer that is not there', async () => {
  try {
    await importPeer('no-such-peer-of-nanochat-node')
    assert.unreachable()
  } catch (error) {
    assert.match(String(error), /npm install --prefix benchmarks\/compare/)
  }
})

compare('refuses a stand-in whose answer does not depend on the prompt', () => {
  assert.throws(() => requireDifferentTokens('peer', [7, 7, 7]), /chose token 7 after each of 3 different prompts/)
  requireDifferentTokens('peer', [7, 8, 7])
})

compare.run()

function readGguf(path: string) {
  const bytes = readFileSync(path)
  let at = 0
  const u32 = (): number => bytes.readUInt32LE((at += 4) - 4)
  const u64 = (): number => Number(bytes.readBigUInt64LE((at += 8) - 8))
  const f32 = (): number => bytes.readFloatLE((at += 4) - 4)
  const string = (): string => {
    const length = u64()
    return bytes.toString('utf8', at, at += length)
  }
  const value = (type: number): unknown => {
    switch (type) {
      case 4: case 5: return u32()
      case 6: return f32()
      case 8: return string()
      case 9: {
        const element = u32()
        return Array.from({ length: u64() }, () => value(element))
      }
      default: throw new Error(`metadata of type ${type}`)
    }
  }
  assert.is(bytes.toString('latin1', 0, at += 4), 'GGUF')
  assert.is(u32(), 3)
  const tensorCount = u64(), entries = u64()
  const metadata = new Map(Array.from({ length: entries }, () => [string(), value(u32())] as const))
  const tensors = Array.from({ length: tensorCount }, () => ({ name: string(), shape: Array.from({ length: u32() }, u64), type: u32(), offset: u64() }))
  return { metadata, tensors, dataStart: Math.ceil(at / 32) * 32, bytes }
}

type Fields = { number: number, value: bigint | Buffer }[]

function fieldsOf(bytes: Buffer): Fields {
  const fields: Fields = []
  let at = 0
  const varint = (): bigint => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = BigInt(bytes.readUInt8(at++))
      value |= (byte & 127n) << shift
      if (byte < 128n) return value
    }
  }
  while (at < bytes.length) {
    const key = Number(varint()), number = key >> 3
    if ((key & 7) === 0) fields.push({ number, value: varint() })
    else {
      const length = (key & 7) === 2 ? Number(varint()) : 4
      assert.ok(at + length <= bytes.length, 'a field ends inside its message')
      fields.push({ number, value: bytes.subarray(at, at += length) })
    }
  }
  return fields
}

const all = (fields: Fields, number: number): Fields[] => fields.flatMap((field) => field.number === number && Buffer.isBuffer(field.value) ? [fieldsOf(field.value)] : [])
const texts = (fields: Fields, number: number): string[] => fields.flatMap((field) => field.number === number && Buffer.isBuffer(field.value) ? [field.value.toString()] : [])

function one(fields: Fields, number: number): Fields {
  const [found, ...more] = all(fields, number)
  assert.ok(found !== undefined && more.length === 0, `one field ${number}`)
  return found ?? []
}

function readTensor(fields: Fields) {
  const external = new Map(all(fields, 13).map((entry) => [texts(entry, 1)[0], texts(entry, 2)[0]]))
  return {
    name: texts(fields, 8)[0] ?? '?', shape: fields.filter(({ number }) => number === 1).map(({ value }) => Number(value)),
    offset: Number(external.get('offset')), length: Number(external.get('length'))
  }
}
