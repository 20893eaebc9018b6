import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { bytePairMerger, newPairTable, type Merges } from '../lib/bpe.js'
import { randomInts } from './support/random-text.js'

const test = suite('bpe')

/** As written in every text on byte pair encoding: find the best pair, merge it, again. */
function mergedSlowly(ids: number[], { pairs, merged }: Merges): number[] {
  for (;;) {
    let best = -1, at = -1
    for (let i = 0; i + 1 < ids.length; i++) {
      const rank = pairs.get(ids[i] as number, ids[i + 1] as number)
      if (rank >= 0 && (best < 0 || rank < best)) [best, at] = [rank, i]
    }
    if (best < 0) return ids
    ids.splice(at, 2, merged[best] as number)
  }
}

test('merges as the slow definition does, on 3,000 random rule sets', () => {
  const random = randomInts(3)
  let shorter = 0
  for (let round = 0; round < 3000; round++) {
    const letters = 1 + random(4), rules = 1 + random(40)
    const merges: Merges = { pairs: newPairTable(0), merged: Int32Array.from({ length: rules }, (_, rank) => letters + random(rank + 1)) }
    for (let rank = 0; rank < rules; rank++) merges.pairs.add(random(letters + rules), random(letters + rank), rank)
    const ids = Array.from({ length: random(60) }, () => random(letters))
    const inPlace = Int32Array.from(ids)
    const count = bytePairMerger(merges)(inPlace, ids.length)
    const expected = mergedSlowly([...ids], merges)
    assert.equal([...inPlace.subarray(0, count)], expected)
    shorter += Number(expected.length < ids.length)
  }
  assert.ok(shorter > 1000, `only ${shorter} rounds merged anything`)
})

test('a piece beyond the shared workspace merges like a short one', () => {
  const merges: Merges = { pairs: newPairTable(1), merged: Int32Array.of(1, 2) }
  merges.pairs.add(0, 0, 0)
  merges.pairs.add(1, 1, 1)
  const merge = bytePairMerger(merges)
  const ids = new Int32Array(100_003)
  const count = merge(ids, ids.length)
  assert.is(count, 25_002)
  assert.equal([...ids.subarray(count - 3, count)], [2, 1, 0])
  assert.is(merge(new Int32Array(0), 0), 0)
})

test('the pair table is a map', () => {
  const random = randomInts(4)
  const table = newPairTable(0)
  const twin = new Map<string, number>()
  for (let i = 0; i < 20_000; i++) {
    const [left, right] = [random(200), random(2) ? random(200) : 2 ** 31 - 1 - random(3)]
    const key = `${left} ${right}`
    assert.is(table.add(left, right, i), !twin.has(key))
    if (!twin.has(key)) twin.set(key, i)
  }
  for (const [key, value] of twin) {
    const [left, right] = key.split(' ').map(Number)
    assert.is(table.get(left as number, right as number), value)
  }
  assert.is(table.get(200, 0), -1)
})

test.run()
