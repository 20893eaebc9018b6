// Prints what the cage is on this machine, and how one program ended for each minTier, as one line of JSON;
// files: the tier of one with extra paths.
import { NanochatError } from '../../lib/errors.js'
import { closeSandbox, describeSandbox, executeCode, type Tier } from '../../lib/python.js'

const runs: Record<string, string> = {}
for (const minTier of ['full', 'container', 'sealed'] satisfies Tier[]) {
  try {
    const run = await executeCode('6 * 7', { minTier })
    runs[minTier] = `${run.result} in ${run.tier}: ${run.layers.join()}`
  } catch (error) { runs[minTier] = NanochatError.is(error) ? `${error.code}: ${error.message}` : String(error) }
}
const files = await executeCode('1', { readOnlyPaths: ['/usr/lib'] }).then(({ tier }) => tier, (error: unknown) => NanochatError.is(error) ? error.code : String(error))
console.log(JSON.stringify({ ...await describeSandbox(), runs, files }))
await closeSandbox()
