// Run by .ci/run in an empty project that installed the tarball: both module formats, the prebuilt addon, the
// command line and the demo model, as a user gets them.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import * as esm from 'nanochat-node'

const require = createRequire(import.meta.url)
const cjs = require('nanochat-node')

const names = Object.keys(esm).filter((name) => name !== 'default' && name !== 'module.exports').sort()
const missing = names.filter((name) => !(name in cjs))
if (missing.length > 0) throw new Error(`the CommonJS build lacks ${missing.join(', ')}`)
if (cjs.useCalculator('6/2') !== '3.0') throw new Error('the CommonJS build does not compute')

const answer = execFileSync('node_modules/.bin/nanochat-node', ['chat', '-i', 'demo', '-p', 'What is 1234 * 5678?'], { encoding: 'utf8' })
if (!answer.includes('7006652')) throw new Error(`expected 7006652 in the answer but received ${JSON.stringify(answer)}`)
const measured = execFileSync('node_modules/.bin/nanochat-node', ['bench', 'load', '-r', '1'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
if (!(JSON.parse(measured.trimEnd().split('\n').at(-1)).rows[0].secondsToFirstToken > 0)) throw new Error(`expected a time but received ${measured}`)
console.log(`installed: ${names.length} exports in both formats, the demo model answers, and the benchmarks run`)
