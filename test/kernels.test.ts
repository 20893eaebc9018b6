import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NanochatError } from '../lib/errors.js'
import {
  PackedMatrix, appendKvCache, embed, flashAttention, gatedValueEmbedding, isas, matmul, mix, packMatrix, rmsNorm, rotary, rotaryTable, timeKernel, toBfloat16,
  type Dtype,
} from '../lib/kernels.js'
import { native } from '../lib/native.js'
import { firstDifference, firstError, randomElements, randomFloats, toFloats } from './support/random-arrays.js'

const test = suite('kernels')
const dtypes: readonly Dtype[] = ['float32', 'bfloat16']
const widths = [1, 2, 15, 16, 17, 30, 64, 97, 130, 768]

/** A few rounding errors; a bfloat16 result may round to the neighbour. */
const tolerances = { float32: { absolute: 1e-6, relative: 1e-6 }, bfloat16: { absolute: 1e-6, relative: 2 ** -7 } }

test('isas: the one in use comes first, plain is always there, the reference is not offered', () => {
  assert.is(isas()[0], native().info().isa)
  assert.ok(isas().includes('plain'))
  assert.not.ok(isas().includes('reference'))
  assert.throws(() => native().probe([1], 'reference'), /instruction set of this machine/)
})

test('rmsNorm and embed agree with the reference, and rows are independent', () => {
  for (const [seed, width] of widths.entries()) {
    for (const dtype of dtypes) {
      for (const scale of [1e-6, 1, 1e4]) {
        const rows = 5, x = randomFloats(seed, rows * width).map((value) => value * scale), table = randomElements(seed, rows * width, dtype)
        for (const isa of isas()) {
          const label = `${isa} ${dtype} ${width} x${scale}`
          const norm = rmsNorm(x, { rows, width, dtype, isa })
          assert.is(firstError(norm, rmsNorm(x, { rows, width, dtype, isa: 'reference' }), tolerances[dtype]), null, label)
          assert.is(firstDifference(rmsNorm(x.subarray(2 * width, 3 * width), { rows: 1, width, dtype, isa }), norm.subarray(2 * width, 3 * width)), null, label)
          assert.is(firstError(embed(table, { rows, width, isa }), embed(table, { rows, width, isa: 'reference' }), tolerances.float32), null, label)
        }
      }
    }
  }
})

test('rmsNorm is x over its root mean square', () => {
  for (const isa of ['reference', ...isas()]) {
    assert.is(firstError(rmsNorm(Float32Array.of(3, 4, 0, 0), { rows: 1, width: 4, isa }), Float32Array.of(1.2, 1.6, 0, 0), tolerances.float32), null, isa)
    assert.equal([...rmsNorm(Float32Array.of(0, 0), { rows: 1, width: 2, isa })], [0, 0], isa)
    assert.is(firstError(rmsNorm(Float32Array.of(1), { rows: 1, width: 1, eps: 0.5625, isa }), Float32Array.of(0.8), tolerances.float32), null, isa)
  }
})

test('rotary agrees with the reference at positions near and far', () => {
  for (const headDim of [2, 6, 16, 30, 64, 96, 128, 130]) {
    for (const firstPosition of [0, 1, 63, 2047, 20_000]) {
      const rows = 3, heads = 2, { cos, sin } = rotaryTable({ rows, headDim, firstPosition })
      const x = randomFloats(headDim + firstPosition, rows * heads * headDim)
      const expected = rotary(x, cos, sin, { rows, heads, headDim, scale: 1.2, isa: 'reference' })
      for (const isa of isas()) {
        assert.is(firstError(rotary(x, cos, sin, { rows, heads, headDim, scale: 1.2, isa }), expected, { absolute: 2e-6, relative: 1e-6 }), null, `${isa} ${headDim} ${firstPosition}`)
      }
    }
  }
})

test('rotary turns by -theta, halves apart, and the norm follows', () => {
  const [cos, sin] = [Float32Array.of(0.6), Float32Array.of(0.8)]
  for (const isa of ['reference', ...isas()]) {
    // a' = a cos + b sin, b' = b cos - a sin; a vector of length 1 in 2 dimensions has norm sqrt(2)
    const out = rotary(Float32Array.of(1, 0), cos, sin, { rows: 1, heads: 1, headDim: 2, scale: 2, isa })
    assert.is(firstError(out, Float32Array.of(2 * Math.SQRT2 * 0.6, 2 * Math.SQRT2 * -0.8), tolerances.float32), null, isa)
  }
  const table = rotaryTable({ rows: 1, headDim: 4, firstPosition: 7, base: 100 })
  const angles = [7, Math.fround(7 * Math.fround(0.1))]
  assert.equal(table, { cos: Float32Array.from(angles, (a) => Math.cos(a)), sin: Float32Array.from(angles, (a) => Math.sin(a)) })
})

test('gatedValueEmbedding agrees with the reference for either type of table and of n', () => {
  for (const [headDim, kvHeads, gateChannels, gateScale] of [[2, 1, 1, 2], [16, 2, 12, 3], [30, 3, 32, 2], [128, 6, 12, 3]] as const) {
    const rows = 4, size = rows * kvHeads * headDim
    for (const table of dtypes) {
      for (const dtype of dtypes) {
        const arrays = [randomFloats(1, size), randomElements(2, size, table), randomFloats(3, kvHeads * gateChannels), randomElements(4, rows * gateChannels, dtype)] as const
        const options = { rows, kvHeads, headDim, gateChannels, gateScale }
        const expected = gatedValueEmbedding(...arrays, { ...options, isa: 'reference' })
        for (const isa of isas()) assert.is(firstError(gatedValueEmbedding(...arrays, { ...options, isa }), expected, tolerances.float32), null, `${isa} ${table} ${dtype} ${headDim}`)
      }
    }
  }
  const half = gatedValueEmbedding(Float32Array.of(1, 2), Float32Array.of(4, 6), Float32Array.of(5), Float32Array.of(0), { rows: 1, kvHeads: 1, headDim: 2, gateChannels: 1 })
  assert.equal([...half], [1 + 1.5 * 4, 2 + 1.5 * 6])
})

test('mix agrees with the reference', () => {
  for (const length of widths) {
    const x = randomFloats(1, length), x0 = randomFloats(2, length), options = { residLambda: 0.9, x0Lambda: -0.3 }
    const expected = mix(x, x0, { ...options, isa: 'reference' })
    for (const isa of isas()) assert.is(firstError(mix(x, x0, { ...options, isa }), expected, tolerances.float32), null, `${isa} ${length}`)
  }
})

test('toBfloat16 rounds to the nearest, ties to even, in every instruction set alike', () => {
  const bits = Uint32Array.of(0x3f800000, 0x3f807fff, 0x3f808000, 0x3f808001, 0x3f818000, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0x80000000, 0x00000001, 0x00008000, 0x00018000)
  const expected = Uint16Array.of(0x3f80, 0x3f80, 0x3f80, 0x3f81, 0x3f82, 0x7f80, 0x7f80, 0xff80, 0x7fc0, 0x8000, 0, 0, 2)
  const many = randomFloats(9, 1037)
  for (const isa of ['reference', ...isas()]) {
    assert.equal(toBfloat16(new Float32Array(bits.buffer), { isa }), expected, isa)
    assert.equal(toBfloat16(many, { isa }), toBfloat16(many, { isa: 'reference' }), isa)
  }
  assert.is(firstError(toFloats(toBfloat16(many)), many, { absolute: 0, relative: 2 ** -8 }), null)
})

const invalid = (message: RegExp) => (e: unknown): boolean => NanochatError.is(e) && e.code === 'ERR_INVALID_ARG' && message.test(e.message)

test('wrong shapes, types and options are refused, with what was expected', () => {
  const x = new Float32Array(6), w = new Float32Array(4), packed = packMatrix(w, { outputs: 2, k: 2 })
  const shape = { rows: 3, k: 2, outputs: 2 }
  assert.throws(() => matmul(x, w, { ...shape, rows: 4 }), invalid(/8 elements, \(4, 2\), for x/))
  assert.throws(() => matmul(x, packed, { rows: 3, k: 3 }), invalid(/packed matrix \(2, 3\)/))
  assert.throws(() => matmul(x, w, { rows: 3 }), invalid(/outputs/))
  assert.throws(() => matmul(new Uint16Array(6), packed, { rows: 3 }), invalid(/Float32Array.* for x/))
  assert.throws(() => matmul(x, packed, { rows: 3, dtype: 'bfloat16' }), invalid(/float32 for dtype/))
  assert.throws(() => packMatrix(w, { outputs: 2, k: 2, dtype: 'int3' as 'int8' }), invalid(/float32, bfloat16, int8 or int4 for dtype/))
  assert.throws(() => matmul(x, packed, { rows: 3, epilogue: 'add' }), invalid(/for y/))
  assert.throws(() => matmul(x, packed, { rows: 3, y: new Float32Array(6) }), invalid(/nothing .* for y/))
  assert.throws(() => matmul(x, packed, { rows: 3, isa: 'sse9' }), invalid(/one of .*plain.* but received "sse9"/))
  assert.throws(() => matmul(x, packed, JSON.parse('{ "rows": 3, "threads": 2 }')), invalid(/"threads"/))
  assert.throws(() => matmul(x, Object.create(PackedMatrix.prototype), { rows: 3, k: 2, outputs: 2, dtype: 'float32' }), invalid(/packed matrix/))
  assert.throws(() => packMatrix(w, { outputs: 2, k: NaN }), invalid(/k/))
  for (const rows of [0, -1, 1.5, NaN, Infinity, 2 ** 53, 2 ** 31 + 1]) assert.throws(() => matmul(x, packed, { rows }), invalid(/rows/))
  for (const softcap of [0, -1, NaN, Infinity]) assert.throws(() => matmul(x, packed, { rows: 3, epilogue: 'softcap', softcap }), invalid(/softcap/))
  for (const repeat of [0, NaN, 2 ** 41, -1]) assert.throws(() => timeKernel((timer) => matmul(x, packed, { rows: 3, timer }), repeat), invalid(/repeat/))
})

test('attention refuses keys that are not there', () => {
  const q = new Float32Array(4), k = new Float32Array(8), shape = { heads: 1, headDim: 2, queries: 2, keys: 4 }
  assert.is(flashAttention(q, k, k, shape).length, 4)
  assert.throws(() => flashAttention(q, k, k, { ...shape, firstPosition: 3 }), invalid(/positions 0 to 4.*0 to 3/))
  assert.throws(() => flashAttention(q, k, k, { ...shape, firstKey: 10 }), invalid(/positions 0 to 13.*10 to 13/))
  assert.throws(() => flashAttention(q, k, k, { ...shape, firstKey: 10, window: 3 }), invalid(/positions 9 to 13/))
  assert.is(flashAttention(q, k, k, { ...shape, firstKey: 10, window: 2 }).length, 4)
  assert.throws(() => flashAttention(q, k, k, { ...shape, queries: 5 }), invalid(/firstPosition/))
  assert.throws(() => flashAttention(q, k, k, { ...shape, headDim: 3 }), invalid(/headDim/))
  assert.throws(() => flashAttention(q, k, k, { ...shape, headDim: 1026 }), invalid(/headDim/))
  assert.throws(() => flashAttention(q, k, k, { ...shape, heads: 3, kvHeads: 2 }), invalid(/multiple of kvHeads/))
  for (const window of [-1, NaN, 2 ** 31, 0.5]) assert.throws(() => flashAttention(q, k, k, { ...shape, window }), invalid(/window/))
  for (const scale of [NaN, Infinity]) assert.throws(() => flashAttention(q, k, k, { ...shape, scale }), invalid(/scale/))
  for (const firstKey of [1e300, 2 ** 28, -1]) assert.throws(() => flashAttention(q, k, k, { ...shape, firstKey }), invalid(/firstKey/))
  assert.throws(() => flashAttention(q, new Uint16Array(8), k, shape), invalid(/Float32Array.* for k/))
  assert.throws(() => appendKvCache(k, k, { keys: 4, kvHeads: 1, headDim: 2, firstSlot: 64 }), invalid(/firstSlot/))
})

test('detached and foreign arrays are refused', () => {
  const detached = new Float32Array(4)
  structuredClone(detached, { transfer: [detached.buffer] })
  assert.throws(() => rmsNorm(detached, { rows: 1, width: 4 }), invalid(/4 elements/))
  assert.throws(() => mix(detached, detached, { residLambda: 1, x0Lambda: 1 }), invalid(/x/))
  assert.throws(() => toBfloat16(detached), invalid(/not empty/))
  assert.throws(() => rmsNorm(JSON.parse('[1, 2, 3, 4]'), { rows: 1, width: 4 }), invalid(/Float32Array/))
  assert.throws(() => embed(JSON.parse('null'), { rows: 1, width: 4 }), invalid(/Float32Array or a Uint16Array/))
})

test('the addon checks for itself: no arguments crash it', () => {
  const values: unknown[] = [undefined, null, NaN, -1, 1, 2 ** 40, 'plain', 'reference', 'x', {}, [], new Float32Array(4), new Uint16Array(4), new Float64Array(4), new PackedMatrix(new Float32Array(4), 2, 2).handle]
  let state = 1
  const pick = (): unknown => values[(state = Math.imul(state, 1664525) + 1013904223 >>> 0) % values.length]
  let refused = 0
  for (const [name, kernel] of Object.entries(native().kernels)) {
    for (let i = 0; i < 2000; i++) {
      const args: unknown[] = name === 'packMatrix' ? [] : ['plain', 1]
      const start = args.length
      for (let n = 0; n < 14; n++) args.push(i % 2 && n < 6 ? 1 + (i >> n) % 2 : pick())
      if (i % 5 === 0) args[i % (start + 3)] = pick()
      if (args[1] === 2 ** 40) args[1] = 3
      try {
        Reflect.apply(kernel, undefined, args)
      } catch (e) {
        assert.is(e instanceof Error && 'code' in e && e.code, 'ERR_INVALID_ARG', `${name}: ${e}`)
        refused++
      }
    }
  }
  assert.ok(refused > 15_000, `${refused}`)
})

test.run()
