import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { philox, philoxKey } from '../lib/philox.js'

type Words = [number, number, number, number]

/** Straight from the paper, in 64-bit integers. */
function reference(counter: Words, key: [number, number]): number[] {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint]
  let [k0, k1] = key.map(BigInt) as [bigint, bigint]
  for (let r = 0; r < 10; r++) {
    const p0 = c0 * 0xd2511f53n, p1 = c2 * 0xcd9e8d57n
    ;[c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & 0xffffffffn, (p0 >> 32n) ^ c3 ^ k1, p0 & 0xffffffffn]
    k0 = (k0 + 0x9e3779b9n) & 0xffffffffn
    k1 = (k1 + 0xbb67ae85n) & 0xffffffffn
  }
  return [c0, c1, c2, c3].map(Number)
}

function block(counter: Words, key: [number, number]): number[] {
  const out = new Uint32Array(4)
  philox(out, philoxKey(...key), ...counter)
  return [...out]
}

const test = suite('philox')
const ones = 0xffffffff

test('the known answers of Random123', () => {
  assert.equal(block([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  assert.equal(block([ones, ones, ones, ones], [ones, ones]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  assert.equal(block([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1])
})

test('equals 64-bit integer arithmetic on 2,000 counters and keys', () => {
  let state = 1
  const next = (): number => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return (state ^ state << 13) >>> 0 }
  for (let i = 0; i < 2000; i++) {
    const counter: Words = [next(), next(), next(), next()], key: [number, number] = [next(), next()]
    assert.equal(block(counter, key), reference(counter, key))
  }
})

test('signed and unsigned words are the same words', () => {
  const out = new Int32Array(4)
  philox(out, philoxKey(-1, -1), -1, -1, -1, -1)
  assert.equal([...out].map((word) => word >>> 0), block([ones, ones, ones, ones], [ones, ones]))
})

test.run()
