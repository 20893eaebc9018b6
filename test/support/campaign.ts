// A campaign of seeds-child.ts, whole or from where it was left:
//   npm run campaign -- NAME [FROM [TO]]
// Seeds go to `jobs` processes a few at a time; each finished piece is said, so that a campaign that was cut off goes on from there.
// The last line is what all seeds reported, added up. asan: with build-asan, in which `npm run test:sanitized` has built.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { runSeeds } from './seeds.js'
import { exitCode } from './storm.js'

interface Campaign { seeds: number, size: number, perPiece: number, jobs: number, asan?: boolean, exitCodes?: number[] }

const campaigns: Record<string, Campaign> = {
  native: { seeds: 2500, size: 400, perPiece: 50, jobs: 2, asan: true },          // 10^6 calls
  loaders: { seeds: 500, size: 2000, perPiece: 4, jobs: 2, asan: true },          // 10^6 mutations
  tokenizer: { seeds: 500, size: 2000, perPiece: 10, jobs: 2 },                   // 10^6 texts
  storm: { seeds: 1000, size: 0, perPiece: 20, jobs: 2, exitCodes: [exitCode] },
  soakGenerations: { seeds: 1, size: 100_000, perPiece: 1, jobs: 1 },
  soakLoads: { seeds: 1, size: 1000, perPiece: 1, jobs: 1 },
}

const [name = '', from = '0', to] = process.argv.slice(2)
const campaign = campaigns[name]
if (campaign === undefined) throw new Error(`Expected one of ${Object.keys(campaigns).join(', ')} but received ${name}`)

const end = Number(to ?? campaign.seeds)
const sums: Record<string, number> = {}
let next = Number(from)
const started = performance.now()
const work = async ({ size, perPiece, asan, exitCodes = [] }: Campaign): Promise<void> => {
  while (next < end) {
    const first = next, last = Math.min(end, first + perPiece)
    next = last
    const counts = await runSeeds(name, first, last, size, { timeoutMs: 3_600_000, exitCodes, ...(asan && sanitized()) })
    for (const [key, value] of Object.entries(counts)) sums[key] = (sums[key] ?? 0) + value
    console.log(`seeds ${first} to ${last}: ok after ${((performance.now() - started) / 1000).toFixed(0)} s`)
  }
}
await Promise.all(Array.from({ length: campaign.jobs }, () => work(campaign)))
console.log(`${name}, seeds ${from} to ${end}: ${JSON.stringify(sums)}`)

function sanitized(): { env: Record<string, string>, child: string } {
  const child = fileURLToPath(new URL('../../build-asan/test/support/seeds-child.js', import.meta.url))
  if (!existsSync(child)) throw new Error('Expected build-asan: npm run test:sanitized builds it')
  const library = execFileSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
  return { child, env: { LD_PRELOAD: library, ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2000', UBSAN_OPTIONS: 'print_stacktrace=1' } }
}
