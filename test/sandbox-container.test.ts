// alone: its programs have deadlines and its checks look at every process
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox } from '../lib/python.js'
import { findCage, type CagePlan } from '../lib/sandbox-tier.js'
import { cases, Host } from './support/sandbox-catalogue.js'

const test = suite('sandbox: the catalogue in the container tier')
const host = new Host()
let plan: CagePlan

test.before(async () => {
  const { plan: found, refusals } = await findCage(undefined, ['container'])
  if (!found) throw new Error(`no container tier on this machine: ${JSON.stringify(refusals)}`)
  plan = found
  await host.open()
})
test.after(async () => {
  host.close()
  await closeSandbox()
})

for (const one of cases) {
  test(one.id, async () => { assert.equal(await host.check(one, plan), []) })
}
test.run()
