import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox, executeIn } from '../../lib/python.js'
import { findCage, type CagePlan, type Tier } from '../../lib/sandbox-tier.js'
import { cases, Host } from './sandbox-catalogue.js'
import { someOf } from './some-of.js'

// Benign programs that a tier refuses, with what it must say. In the sealed tier no file is ever opened; the program is told so in words a model understands.
const refusalsOf: Record<Tier, Record<string, RegExp>> = {
  full: {}, container: {},
  sealed: { E12_file_io: /FileNotFoundError/, E17_zoneinfo: /ZoneInfoNotFoundError/ }
}

/** The catalogue in one tier: all of it, or one in so many of its programs. */
export function testCatalogue(tier: Tier, oneIn = 1): void {
  const test = suite(`sandbox: ${oneIn === 1 ? 'the catalogue' : `one in ${oneIn} of the catalogue`} in the ${tier} tier`)
  const refusals = refusalsOf[tier]
  const host = new Host()
  let plan: CagePlan

  test.before(async () => {
    const found = await findCage(undefined, [tier])
    if (!found.plan) throw new Error(`no ${tier} tier on this machine: ${JSON.stringify(found.refusals)}`)
    plan = found.plan
    await host.open()
  })
  test.after(async () => {
    host.close()
    await closeSandbox()
  })
  for (const one of someOf(cases, oneIn)) {
    const refusal = refusals[one.id]
    test(one.id, async () => {
      if (!refusal) return assert.equal(await host.check(one, plan), [])
      assert.match((await executeIn(plan, one.code)).error ?? '', refusal)
      assert.equal(await host.check({ ...one, expect: 'error' }, plan), [])
    })
  }
  test.run()
}
