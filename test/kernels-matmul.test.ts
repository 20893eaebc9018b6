import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isas, matmul, packMatrix, timeKernel, type Dtype, type Elements, type Epilogue, type MatmulOptions } from '../lib/kernels.js'
import { firstDifference, firstError, inDtype, randomElements, randomFloats, toFloats } from './support/random-arrays.js'
import { someOf } from './support/some-of.js'

const test = suite('kernels: matmul')
const dtypes: readonly Dtype[] = ['float32', 'bfloat16']
const epilogues: readonly Epilogue[] = ['store', 'add', 'relu2', 'softcap']
const mostRows = 50

/**
 * Products of numbers from -1 to 1. float32 sums of k terms err by up to about k rounding errors of a partial sum; a bf16
 * result is rounded once more.
 */
function tolerance(k: number, dtype: Dtype, epilogue: Epilogue): { absolute: number, relative: number } {
  const bf16Result = dtype === 'bfloat16' && epilogue === 'relu2'
  return { absolute: 2e-6 + k * 1e-7, relative: bf16Result ? 2 ** -7 : epilogue === 'relu2' ? 1e-4 : 2e-6 }
}

function cases(): { k: number, outputs: number, dtype: Dtype, epilogue: Epilogue }[] {
  return someOf([1, 2, 3, 5, 16, 31, 64, 97, 768, 769, 770].flatMap((k) => [1, 63, 64, 65, 130, 330].flatMap((outputs) =>
    dtypes.flatMap((dtype) => epilogues.map((epilogue) => ({ k, outputs, dtype, epilogue }))))))
}

test('every instruction set agrees with the reference, and no row depends on the others', () => {
  for (const [seed, { k, outputs, dtype, epilogue }] of cases().entries()) {
    const x = randomElements(3 * seed, mostRows * k, dtype), y = randomFloats(3 * seed + 1, mostRows * outputs)
    const w = packMatrix(randomElements(3 * seed + 2, outputs * k, dtype), { outputs, k })
    const options = (rows: number, isa: string): MatmulOptions => ({
      rows, epilogue, isa, ...(epilogue === 'softcap' && { softcap: 3 }), ...(epilogue === 'add' && { y: y.subarray(0, rows * outputs) }),
    })
    const expected = matmul(x, w, options(mostRows, 'reference'))
    for (const isa of isas()) {
      const label = `${isa} ${dtype} ${epilogue} k ${k} outputs ${outputs}`
      const all = matmul(x, w, options(mostRows, isa))
      assert.is(firstError(all, expected, tolerance(k, dtype, epilogue)), null, label)
      for (let rows = 1; rows <= 13; rows++) {
        const some = matmul(x.subarray(0, rows * k), w, options(rows, isa))
        assert.is(firstDifference(some, all.subarray(0, rows * outputs)), null, `${label} rows ${rows}`)
      }
    }
  }
})

test('a row alone is the same row at any place among 49 others', () => {
  const k = 770, outputs = 130
  for (const dtype of dtypes) {
    const x = randomElements(1, mostRows * k, dtype), w = packMatrix(randomElements(2, outputs * k, dtype), { outputs, k })
    for (const isa of isas()) {
      const all = matmul(x, w, { rows: mostRows, isa })
      for (let row = 0; row < mostRows; row++) {
        const alone = matmul(x.subarray(row * k, (row + 1) * k), w, { rows: 1, isa })
        assert.is(firstDifference(alone, all.subarray(row * outputs, (row + 1) * outputs)), null, `${isa} ${dtype} row ${row}`)
      }
    }
  }
})

test('the reference is the equation', () => {
  const rows = 2, k = 3, outputs = 2
  const x = Float32Array.of(1, 2, 3, -1, 0, 2), w = Float32Array.of(1, 0, -1, 0.5, 0.5, 0.5), y = Float32Array.of(10, 20, 30, 40)
  const product = [-2, 3, -3, 0.5]
  for (const dtype of dtypes) {
    for (const isa of ['reference', ...isas()]) {
      const options = { rows, k, outputs, dtype, isa }
      const [a, b] = [inDtype(x, dtype), inDtype(w, dtype)]
      assert.equal([...matmul(a, b, options)], product)
      assert.equal([...matmul(a, b, { ...options, epilogue: 'add', y })], [8, 23, 27, 40.5])
      assert.equal([...toFloats(matmul(a, b, { ...options, epilogue: 'relu2' }))], [0, 9, 0, 0.25])
      const capped = matmul(a, b, { ...options, epilogue: 'softcap', softcap: 2 })
      assert.is(firstError(capped, Float32Array.from(product, (v) => 2 * Math.tanh(v / 2)), { absolute: 1e-6, relative: 0 }), null, `${isa} ${dtype}`)
    }
  }
  assert.equal([...y], [10, 20, 30, 40])
})

test('the softcap holds for sums of any size, and NaN stays NaN after every epilogue', () => {
  const values = [0, -0, 1e-30, 1e-4, 0.3, 14, 15, 200, 1300, 1305, 1310, 1e10, 3e38, Infinity].flatMap((v) => [v, -v])
  for (const isa of isas()) {
    const capped = matmul(Float32Array.from(values), Float32Array.of(1), { rows: values.length, k: 1, outputs: 1, epilogue: 'softcap', isa })
    assert.is(firstError(capped, Float32Array.from(values, (v) => 15 * Math.tanh(v / 15)), { absolute: 2e-6, relative: 0 }), null, isa)
    for (const dtype of dtypes) {
      for (const epilogue of ['store', 'relu2', 'softcap'] as const) {
        const [x, w] = [Float32Array.of(NaN), Float32Array.of(1)].map((floats) => inDtype(floats, dtype)) as [Elements, Elements]
        assert.ok(Number.isNaN(toFloats(matmul(x, w, { rows: 1, k: 1, outputs: 1, epilogue, isa }))[0]), `${isa} ${dtype} ${epilogue}`)
      }
    }
  }
})

test('timeKernel runs the kernel as often as asked and gives the time of one run', () => {
  const y = Float32Array.of(0)
  let out: Elements = y
  const nanoseconds = timeKernel((timer) => {
    out = matmul(Float32Array.of(1), Float32Array.of(2), { rows: 1, k: 1, outputs: 1, epilogue: 'add', y, timer })
  }, 1000)
  assert.is(out[0], 2000)
  assert.ok(nanoseconds > 0 && nanoseconds < 1e6, `${nanoseconds}`)
})

test.run()
