import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox, executeIn } from '../../lib/python.js'
import { findCage, type CagePlan, type Tier } from '../../lib/sandbox-tier.js'
import { cases, Host } from './sandbox-catalogue.js'

/** The whole catalogue in one tier. `refusals`: benign programs that this tier refuses, with what it must say. */
export function testCatalogue(tier: Tier, refusals: Record<string, RegExp> = {}): void {
  const test = suite(`sandbox: the catalogue in the ${tier} tier`)
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
  for (const one of cases) {
    const refusal = refusals[one.id]
    test(one.id, async () => {
      if (!refusal) return assert.equal(await host.check(one, plan), [])
      assert.match((await executeIn(plan, one.code)).error ?? '', refusal)
      assert.equal(await host.check({ ...one, expect: 'error' }, plan), [])
    })
  }
  test.run()
}
