// Runs one kind of campaign for seeds `from` to `to`, and says each on a line of its own before it begins: after a crash the last
// line names the seed. Arguments: kind, from, to, and a size that the kind gives a meaning.
import { writeSync } from 'node:fs'
import { runCampaign } from './mutations.js'
import { fuzzNative } from './native-fuzz.js'
import { soakGenerations, soakLoads } from './soak.js'
import { storm } from './storm.js'
import { fuzzTokenizer } from './tokenizer-fuzz.js'

const [kind = '', from = '0', to = '0', size = '0'] = process.argv.slice(2)
const trace = process.env.FUZZ_TRACE === undefined ? undefined : (call: string): void => { writeSync(2, `${call}\n`) }

const kinds: Record<string, (seed: number) => Promise<unknown>> = {
  native: (seed) => fuzzNative(seed, Number(size), trace),
  // note: a block of cases each, because a campaign begins with the writing of its files
  loaders: async (seed) => {
    const { cases, valid, refused } = await runCampaign(Number(size), seed * Number(size))
    return { cases, valid, ...refused }
  },
  tokenizer: (seed) => fuzzTokenizer(seed, Number(size)),
  storm,
  soakGenerations: () => soakGenerations(Number(size)),
  soakLoads: () => soakLoads(Number(size)),
}

const run = kinds[kind]
if (run === undefined) throw new Error(`Expected one of ${Object.keys(kinds).join(', ')} but received ${kind}`)
for (let seed = Number(from); seed < Number(to); seed++) {
  writeSync(1, `${seed} `)
  writeSync(1, `${JSON.stringify(await run(seed))}\n`)
}
