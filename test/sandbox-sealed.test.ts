// alone: its programs have deadlines and its checks look at every process
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox, executeIn } from '../lib/python.js'
import { findCage, type CagePlan } from '../lib/sandbox-tier.js'
import { cases, Host } from './support/sandbox-catalogue.js'

const test = suite('sandbox: the catalogue in the sealed tier')
const host = new Host()
let plan: CagePlan

test.before(async () => {
  const { plan: found, refusals } = await findCage(undefined, ['sealed'])
  if (!found) throw new Error(`no sealed tier on this machine: ${JSON.stringify(refusals)}`)
  plan = found
  await host.open()
})
test.after(async () => {
  host.close()
  await closeSandbox()
})

// No file is ever opened in this tier; the program is told so in words a model understands.
const needFiles: Record<string, RegExp> = { E12_file_io: /FileNotFoundError/, E17_zoneinfo: /ZoneInfoNotFoundError/ }

for (const one of cases) {
  const refusal = needFiles[one.id]
  test(one.id, async () => {
    if (!refusal) return assert.equal(await host.check(one, plan), [])
    assert.match((await executeIn(plan, one.code)).error ?? '', refusal)
    assert.equal(await host.check({ ...one, expect: 'error' }, plan), [])
  })
}
test.run()
