// alone: it bounds the time and the memory of each case
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runCampaign } from './support/mutations.js'

const test = suite('checkpoint mutations')

test('27,000 mutated files: each a typed error or a valid result, memory flat', async () => {
  await runCampaign(900, 5)
  const rssBefore = process.resourceUsage().maxRSS
  const { cases, valid, refused, slowestMs, largestShare } = await runCampaign(27_000, 1_000_000)
  const rssGrown = process.resourceUsage().maxRSS - rssBefore
  console.log(`${cases} cases: valid ${valid}, refused ${JSON.stringify(refused)}, slowest ${slowestMs.toFixed(0)} ms, `
    + `largest allocation ${largestShare.toFixed(2)} of the files, peak memory grew by ${rssGrown} KB`)
  assert.ok(valid > 500 && valid < cases / 2)
  assert.ok(rssGrown < 200_000)
})

test.run()
