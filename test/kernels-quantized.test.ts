import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isas, matmul, packMatrix, type Epilogue, type MatmulOptions, type PackedMatrix } from '../lib/kernels.js'
import { firstDifference, firstError, randomFloats, toFloats } from './support/random-arrays.js'
import { someOf } from './support/some-of.js'

type Dtype = 'int8' | 'int4'

const test = suite('kernels: matmul with weights of 8 and 4 bits')
const dtypes: readonly Dtype[] = ['int8', 'int4']
const groupOf = { int8: 64, int4: 32 }
const epilogues: readonly Epilogue[] = ['store', 'add', 'relu2', 'softcap']
const mostRows = 50

/** Floats from -1 to 1 that rounding to int8 does not change: whole multiples, up to 127, of a power of two for every 32 values of k. */
function gridFloats(seed: number, rows: number, k: number): Float32Array {
  const random = randomFloats(seed, rows * k)
  return random.map((value, i) => {
    const column = i % k, unit = 2 ** -(7 + Math.floor(column / 64) % 3)
    return unit * (column % 32 === 0 ? 127 * Math.sign(value) : Math.round(127 * value))
  })
}

/** The weights as a packed matrix holds them, (outputs, k): its products with unit vectors. */
function unpack(w: PackedMatrix): Float32Array {
  const { k, outputs } = w, x = new Float32Array(k * k), weights = new Float32Array(outputs * k)
  for (let i = 0; i < k; i++) x[i * k + i] = 127
  const columns = matmul(x, w, { rows: k, isa: 'reference' })
  for (let i = 0; i < k; i++) for (let n = 0; n < outputs; n++) weights[n * k + i] = (columns[i * outputs + n] ?? NaN) / 127
  return weights
}

/** Results of relu2, rounded to int8 in groups of columns: at a tie, which few values come near, by one unit differently. */
function relu2Error(actual: Float32Array, expected: Float32Array, outputs: number, group: number): string | null {
  let ties = 0
  for (let begin = 0; begin < actual.length; begin += outputs) {
    for (let from = 0; from < outputs; from += group) {
      const to = Math.min(outputs, from + group)
      const unit = Math.max(...expected.subarray(begin + from, begin + to)) / 127
      for (let n = from; n < to; n++) {
        const error = Math.abs((actual[begin + n] ?? NaN) - (expected[begin + n] ?? NaN))
        if (error > 1e-4 * 127 * unit + 1e-9) ties++
        if (!(error <= 1.02 * unit + 1e-9)) return `row ${begin / outputs} output ${n}: ${actual[begin + n]}, expected ${expected[begin + n]} in units of ${unit}`
      }
    }
  }
  return ties > 2 + actual.length / 200 ? `${ties} of ${actual.length} are a unit away` : null
}

function cases(): { k: number, outputs: number, dtype: Dtype, epilogue: Epilogue }[] {
  return [1, 3, 31, 32, 33, 64, 65, 97, 769, 770].flatMap((k) => [1, 63, 64, 65, 130, 330].flatMap((outputs) =>
    dtypes.flatMap((dtype) => epilogues.map((epilogue) => ({ k, outputs, dtype, epilogue })))))
}

test('every instruction set agrees with the reference, and no row depends on the others', () => {
  for (const [seed, { k, outputs, dtype, epilogue }] of someOf(cases()).entries()) {
    const x = gridFloats(3 * seed, mostRows, k), y = randomFloats(3 * seed + 1, mostRows * outputs)
    const w = packMatrix(randomFloats(3 * seed + 2, outputs * k), { outputs, k, dtype })
    const options = (rows: number, isa: string): MatmulOptions => ({
      rows, epilogue, isa, ...(epilogue === 'softcap' && { softcap: 3 }), ...(epilogue === 'add' && { y: y.subarray(0, rows * outputs) }),
    })
    const expected = toFloats(matmul(x, w, options(mostRows, 'reference')))
    for (const isa of isas()) {
      const label = `${isa} ${dtype} ${epilogue} k ${k} outputs ${outputs}`
      const all = toFloats(matmul(x, w, options(mostRows, isa)))
      const error = epilogue === 'relu2' ? relu2Error(all, expected, outputs, groupOf[dtype]) : firstError(all, expected, { absolute: 2e-6 + k * 1e-7, relative: 2e-6 })
      assert.is(error, null, label)
      for (const rows of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 48]) {
        const some = matmul(x.subarray(0, rows * k), w, options(rows, isa))
        assert.is(firstDifference(some, all.subarray(0, rows * outputs)), null, `${label} rows ${rows}`)
      }
    }
  }
})

test('a row alone is the same row at any place among 49 others', () => {
  const k = 770, outputs = 130
  for (const dtype of dtypes) {
    const x = randomFloats(1, mostRows * k), w = packMatrix(randomFloats(2, outputs * k), { outputs, k, dtype })
    for (const isa of isas()) {
      for (const epilogue of ['store', 'relu2'] as const) {
        const all = matmul(x, w, { rows: mostRows, isa, epilogue })
        for (let row = 0; row < mostRows; row++) {
          const alone = matmul(x.subarray(row * k, (row + 1) * k), w, { rows: 1, isa, epilogue })
          assert.is(firstDifference(alone, all.subarray(row * outputs, (row + 1) * outputs)), null, `${isa} ${dtype} ${epilogue} row ${row}`)
        }
      }
    }
  }
})

test('inputs are rounded to the nearest of 127 parts of the largest in their group', () => {
  const k = 130, rows = 20
  const identity = new Float32Array(k * k)
  for (let i = 0; i < k; i++) identity[i * k + i] = 127
  for (const dtype of dtypes) {
    // note: int4 has no level 0, and 127 is at one end or the other: a weight beside the diagonal's is not zero, so each input is alone in its group
    const w = packMatrix(identity, { outputs: k, k, dtype }), group = groupOf[dtype]
    const weights = unpack(w)
    for (const isa of ['reference', ...isas()]) {
      for (const magnitude of [1e-30, 1e-4, 1, 3e4]) {
        const x = randomFloats(9, rows * k).map((value) => magnitude * value ** 3)
        const y = matmul(x, w, { rows, isa })
        for (let r = 0; r < rows; r++) {
          for (let begin = 0; begin < k; begin += group) {
            const end = Math.min(k, begin + group), inGroup = x.subarray(r * k + begin, r * k + end)
            const unit = Math.max(...inGroup.map(Math.abs)) / 127
            const rounded = inGroup.map((value) => unit * Math.round(value / unit))
            // a tie within the rounding of float32 may go either way: one unit of the input in question, times its weight
            const tie = Math.min(...Array.from(inGroup, (value) => Math.abs(Math.abs(value / unit) % 1 - 0.5))) < 1e-4
            for (let n = begin; n < end; n++) {
              let expected = 0
              for (let i = begin; i < end; i++) expected += (rounded[i - begin] ?? NaN) * (weights[n * k + i] ?? NaN)
              const off = Math.abs((y[r * k + n] ?? NaN) - expected) / unit / 127
              const allowed = dtype === 'int8' ? 1e-3 : 0.1
              assert.ok(off <= (tie ? 1.1 : allowed), `${isa} ${dtype} magnitude ${magnitude} row ${r} output ${n}: ${off} units`)
            }
          }
        }
      }
    }
  }
})

test('int8 weights are within half a unit, 127 of which are the largest in the group', () => {
  const k = 770, outputs = 70, group = groupOf.int8
  for (const [seed, magnitude] of [1e-30, 1e-5, 1, 1e5, 1e30].entries()) {
    const w = randomFloats(seed, outputs * k).map((value) => magnitude * value ** 3)
    const packed = unpack(packMatrix(w, { outputs, k, dtype: 'int8' }))
    for (let n = 0; n < outputs; n++) {
      for (let begin = 0; begin < k; begin += group) {
        const [original, rounded] = [w, packed].map((of) => of.subarray(n * k + begin, n * k + Math.min(k, begin + group)))
        assert.ok(original && rounded)
        // note: the scale has 8 bits, so that the largest may be rounded down by 1/256
        const largest = Math.max(...original.map(Math.abs)), bound = largest / 127 * (0.5 + 127 / 256 + 0.01)
        for (const [i, value] of original.entries()) {
          const error = Math.abs(value - (rounded[i] ?? NaN))
          assert.ok(error <= (Math.abs(value) < largest / 2 ? 0.51 * 257 / 256 * largest / 127 : bound), `${value} became ${rounded[i]}, the largest is ${largest}`)
        }
      }
    }
  }
})

const int4Codes = [-127, -101, -79, -62, -47, -34, -21, -9, 2, 14, 25, 37, 50, 65, 83, 107]

/** What the largest weight at the first code leaves, code by code to the nearest: the sum of squares. */
function plainInt4Error(weights: Float32Array): number {
  const largest = weights.reduce((most, value) => Math.abs(value) > Math.abs(most) ? value : most, 0), scale = largest / -127
  return weights.reduce((sum, value) => sum + Math.min(...int4Codes.map((code) => (value - scale * code) ** 2)), 0)
}

test('int4 weights are multiples of 16 codes, and better than the largest weight as the first code', () => {
  const k = 770, outputs = 70, group = groupOf.int4
  for (const [seed, magnitude] of [1e-30, 1e-5, 1, 1e5, 1e30].entries()) {
    for (const power of [1, 3]) {
      const w = randomFloats(seed, outputs * k).map((value) => magnitude * value ** power)
      const packed = unpack(packMatrix(w, { outputs, k, dtype: 'int4' }))
      let error = 0, plainError = 0
      for (let n = 0; n < outputs; n++) {
        for (let begin = 0; begin < k; begin += group) {
          const [original, rounded] = [w, packed].map((of) => of.subarray(n * k + begin, n * k + Math.min(k, begin + group)).map((value) => value / magnitude))
          assert.ok(original && rounded)
          const most = Math.max(...rounded.map(Math.abs))
          const scales = int4Codes.flatMap((code) => [most / code, -most / code]).filter((scale) => rounded.every((value) => int4Codes.some((code) => Math.abs(value - scale * code) <= 1e-5 * most)))
          assert.ok(scales.length > 0, `${rounded.join(' ')} are no multiples of the codes`)
          const largest = Math.max(...original.map(Math.abs))
          for (const [i, value] of original.entries()) assert.ok(Math.abs(value - (rounded[i] ?? NaN)) <= 0.35 * largest, `${value} became ${rounded[i]}, the largest is ${largest}`)
          error += original.reduce((sum, value, i) => sum + (value - (rounded[i] ?? NaN)) ** 2, 0)
          plainError += plainInt4Error(original)
        }
      }
      assert.ok(error < 0.9 * plainError, `magnitude ${magnitude}, power ${power}: ${error} against ${plainError}`)
    }
  }
})

test('zeros stay zeros', () => {
  const rows = 7, k = 97, outputs = 65
  for (const dtype of dtypes) {
    const zero = packMatrix(new Float32Array(outputs * k), { outputs, k, dtype }), other = packMatrix(randomFloats(1, outputs * k), { outputs, k, dtype })
    for (const isa of ['reference', ...isas()]) {
      for (const epilogue of ['store', 'relu2', 'softcap'] as const) {
        assert.ok(matmul(randomFloats(2, rows * k), zero, { rows, isa, epilogue }).every((value) => value === 0), `${isa} ${dtype} ${epilogue}`)
        assert.ok(matmul(new Float32Array(rows * k), other, { rows, isa, epilogue }).every((value) => value === 0), `${isa} ${dtype} ${epilogue}`)
      }
    }
  }
})

test('NaN and Infinity in an input give NaN in its row only', () => {
  const k = 97, outputs = 65, rows = 13
  for (const dtype of dtypes) {
    const x = gridFloats(1, rows, k), w = packMatrix(randomFloats(2, outputs * k), { outputs, k, dtype }), y = randomFloats(3, rows * outputs)
    for (const isa of ['reference', ...isas()]) {
      for (const epilogue of epilogues) {
        const options: MatmulOptions = { rows, isa, epilogue, ...(epilogue === 'add' && { y }) }
        const expected = matmul(x, w, options)
        for (const value of [NaN, Infinity, -Infinity]) {
          for (const [row, column] of [[0, 0], [7, 64], [12, 96]] as const) {
            const spoilt = matmul(x.map((v, i) => i === row * k + column ? value : v), w, options)
            const label = `${isa} ${dtype} ${epilogue}: ${value} at row ${row}`
            assert.ok(spoilt.subarray(row * outputs, (row + 1) * outputs).every(Number.isNaN), label)
            assert.is(firstDifference(spoilt.subarray(0, row * outputs), expected.subarray(0, row * outputs)), null, label)
            assert.is(firstDifference(spoilt.subarray((row + 1) * outputs), expected.subarray((row + 1) * outputs)), null, label)
          }
        }
      }
    }
  }
})

test('weights that are not finite give NaN in their output only', () => {
  const k = 97, outputs = 70, rows = 7, x = gridFloats(1, rows, k), w = randomFloats(2, outputs * k)
  for (const dtype of dtypes) {
    const whole = packMatrix(w, { outputs, k, dtype })
    for (const value of [NaN, Infinity, -Infinity, 1e36]) {
      const spoilt = packMatrix(w.map((v, i) => i === 5 * k + 40 || i === 66 * k ? value : v), { outputs, k, dtype })
      for (const isa of ['reference', ...isas()]) {
        const expected = matmul(x, whole, { rows, isa }), actual = matmul(x, spoilt, { rows, isa })
        const kept = (y: typeof actual): Float32Array => Float32Array.from(y).filter((_, i) => i % outputs !== 5 && i % outputs !== 66)
        assert.is(firstDifference(kept(actual), kept(expected)), null, `${isa} ${dtype} ${value}`)
        assert.ok([5, 66].every((n) => Array.from({ length: rows }, (_, r) => Number.isFinite(actual[r * outputs + n])).every((finite) => finite === Number.isFinite(value))), `${isa} ${dtype} ${value}`)
      }
    }
  }
})

test.run()
