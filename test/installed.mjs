// Run by test/install.long.ts in an empty project that installed the tarball: both module formats, the prebuilt addon, the
// command line, the server and the demo model with its calculator, as a user gets them. Prints one line.
import { execFileSync } from 'node:child_process'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import * as esm from 'nanochat-node'
import * as esmServer from 'nanochat-node/server'

const require = createRequire(import.meta.url)
const cjs = require('nanochat-node')
const question = 'What is 1234 * 5678?', expected = '7006652'

const names = Object.keys(esm).filter((name) => name !== 'default' && name !== 'module.exports').sort()
const missing = names.filter((name) => !(name in cjs))
if (missing.length > 0) throw new Error(`the CommonJS build lacks ${missing.join(', ')}`)

const builds = { esm: { ...esm, ...esmServer }, cjs: { ...cjs, ...require('nanochat-node/server') } }
for (const [format, { Engine, loadModel, openaiApi }] of Object.entries(builds)) {
  const loaded = await loadModel('demo')
  const engine = new Engine(loaded.model, loaded.tokenizer)
  const events = []
  for await (const event of engine.chat([{ role: 'user', content: question }], { temperature: 0 })) events.push(event)
  const asked = events.filter(({ type }) => type === 'python').map(({ text }) => text).join('')
  const output = events.find(({ type }) => type === 'python_output')?.text
  const answer = events.filter(({ type }) => type === 'text').map(({ text }) => text).join('')
  if (!asked.includes('1234') || output !== expected || !answer.includes(expected)) throw new Error(`${format}: expected a tool call and ${expected} but received ${JSON.stringify(events)}`)
  await engine[Symbol.asyncDispose]()

  const api = openaiApi(loaded)
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const response = await fetch(`http://127.0.0.1:${server.address().port}/v1/chat/completions`, { method: 'POST', body: JSON.stringify({ messages: [{ role: 'user', content: question }], temperature: 0 }) })
  const { choices } = await response.json()
  if (!choices?.[0].message.content.includes(expected)) throw new Error(`${format}: expected ${expected} of the server but received ${response.status} ${JSON.stringify(choices)}`)
  await api[Symbol.asyncDispose]()
  server.closeAllConnections()
  server.close()
  await loaded[Symbol.asyncDispose]()
}

// under an emulator a child would run on the real processor
if (!process.argv.includes('--api-only')) {
  const answer = execFileSync('node_modules/.bin/nanochat-node', ['chat', '-i', 'demo', '-p', question], { encoding: 'utf8' })
  if (!answer.includes(expected)) throw new Error(`expected ${expected} in the answer but received ${JSON.stringify(answer)}`)
  const measured = execFileSync('node_modules/.bin/nanochat-node', ['bench', 'load', '-r', '1'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  if (!(JSON.parse(measured.trimEnd().split('\n').at(-1)).rows[0].secondsToFirstToken > 0)) throw new Error(`expected a time but received ${measured}`)
}
console.log(`node ${process.versions.node} ${process.arch}: ${names.length} exports in both formats, each answers with a tool call, also over HTTP`)
