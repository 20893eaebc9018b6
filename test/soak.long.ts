// Hundreds of loads and thousands of generations in one process, whose memory must not grow.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runSeeds } from './support/seeds.js'

const test = suite('soak')
const mostPercent = 6                  // of a shorter run than the campaign's, which must stay below 2: what the allocator spreads at first is a larger share

for (const [kind, count] of [['soakGenerations', 40_000], ['soakLoads', 1000]] as const) {
  test(`${kind}, ${count}: memory is flat`, async () => {
    const { warmMegabytes, endMegabytes, grownPercent } = await runSeeds(kind, 0, 1, count, { timeoutMs: 600_000 })
    console.log(`${kind}: ${warmMegabytes?.toFixed(1)} MB after the warm-up, ${endMegabytes?.toFixed(1)} MB at the end`)
    assert.ok(Number(grownPercent) < mostPercent, `grew by ${grownPercent} %`)
  })
}

test.run()
