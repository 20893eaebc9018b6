// alone: it bounds the time and the memory of each case
import { readdir } from 'node:fs/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runCampaign } from './support/mutations.js'

const test = suite('checkpoint mutations')

test('2,000 mutated files: each a typed error or a valid result', async () => {
  await runCampaign(20, 2)    // opens what stays open, closes what starting left
  const filesBefore = await openFiles()
  const { valid, refused, slowestMs, largestShare } = await runCampaign(2000, 1)
  console.log(`valid ${valid}, refused ${JSON.stringify(refused)}, slowest ${slowestMs.toFixed(0)} ms, `
    + `largest allocation ${largestShare.toFixed(2)} of the files`)
  const count = (code: string): number => refused[code] ?? 0
  assert.ok(valid > 50 && count('ERR_CHECKPOINT_FORMAT') > 500 && count('ERR_CHECKPOINT_ARCH') > 20 && count('ERR_TOKENIZER_FORMAT') > 100)
  assert.equal(await openFiles(), filesBefore)
})

/** How many files this process has open; 0 on systems that do not tell. */
async function openFiles(): Promise<number> {
  return process.platform === 'linux' ? (await readdir('/proc/self/fd')).length : 0
}

test.run()
