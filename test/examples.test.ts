import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { loadModel } from '../lib/load.js'
import { describeSandbox } from '../lib/python.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const loader = (name: string): string => name === 'worker.ts' ? './examples/register.mjs' : 'tsx'

/** What each example prints. The server is tried below. */
const outputs: Record<string, RegExp> = {
  'chat.ts': /^> What is 12 \* 12\?\npython: 12 \* 12\noutput: 144\nThe answer is 144\.\n\(\d+ prompt tokens, 0 of them cached\)\n> and plus 5\?\npython: 144 \+ 5\noutput: 149\n.*149.*\n\(\d+ prompt tokens, [1-9]\d* of them cached\)\n$/,
  'samples.ts': /^(?:[0-7] \(stop\): I.*\n){8}\d+ tokens, \d+ tok\/s\n$/,
  'tool.ts': /^python: sorted\(\[9, 3, 7, 1\]\)\npython_output: \[1, 3, 7, 9\]\n/,
  'perplexity.ts': /^\d+\.\d I am nanochat, in miniature\.\n\d+\.\d I am a teapot, short and stout\.\n$/,
  'shared-prefix.ts': /^.*The answer is 15\. \(6 of \d+ cached\)\n.*The answer is 13\. \([1-9]\d* of \d+ cached\)\nI.*cached\)\n$/,
  'scoring.ts': /^ +-\d+\.\d\d nats, -\d+\.\d\d per token: I am nanochat\n +-\d+.* I am a dog\n +-\d+.* It is raining\n$/,
  'timeout.ts': /^TimeoutError after \d+ tokens\nbreak after 10 tokens\n$/,
  'worker.ts': /^The answer is 7006652\.\n$/
}

const examples = suite('examples')
const files = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.ts'))

examples('are short, say how to run them, and are all tested', () => {
  assert.equal(files, [...Object.keys(outputs), 'server.ts'].sort())
  for (const name of files) {
    const text = readFileSync(join(root, 'examples', name), 'utf8')
    assert.ok(text.trimEnd().split('\n').length <= 30, name)
    assert.ok(text.includes(`Run: node --import ${loader(name)} examples/${name}\n`), name)
    assert.ok(text.includes("from 'nanochat-node'"), name)
  }
})

const printed = new Map<string, string>()
for (const [name, output] of Object.entries(outputs)) {
  examples(name, () => {
    const run = spawnSync(process.execPath, ['--import', loader(name), `examples/${name}`], { cwd: root, encoding: 'utf8', timeout: 60_000 })
    assert.is(run.status, 0, run.stderr)
    assert.is(run.stderr, '')
    assert.match(run.stdout, output)
    printed.set(name, run.stdout)
  })
}

examples('perplexity.ts prefers what the model was taught', () => {
  const stdout = printed.get('perplexity.ts') ?? ''
  const [taught = NaN, strange = NaN] = stdout.split('\n').map(Number.parseFloat)
  assert.ok(taught < strange, stdout)
})

examples('scoring.ts: as the logits of every position say, the answer it was taught first', async () => {
  const stdout = printed.get('scoring.ts') ?? ''
  const scores = stdout.trimEnd().split('\n').map((line) => ({ nats: Number.parseFloat(line), text: line.split(': ')[1] ?? '' }))
  assert.equal(scores.map(({ text }) => text), ['I am nanochat', 'I am a dog', 'It is raining'])
  assert.ok(scores.every(({ nats }, i) => i === 0 || nats < (scores[i - 1]?.nats ?? NaN)), stdout)
  await using loaded = await loadModel('demo', { dtype: 'float32' })
  const { model, tokenizer } = loaded
  const question = tokenizer.renderForCompletion([{ role: 'user', content: 'Who are you?' }])
  for (const { nats, text } of scores) {
    const ids = Int32Array.from([...question, ...tokenizer.encode(text)])
    const logits = await model.logits(ids)
    let sum = 0
    for (let t = question.length; t < ids.length; t++) {
      const row = logits.subarray((t - 1) * model.config.vocabSize, t * model.config.vocabSize)
      sum += (row[ids[t] ?? -1] ?? NaN) - Math.log(row.reduce((total, x) => total + Math.exp(x), 0))
    }
    assert.ok(Math.abs(sum - nats) < 0.006, `${text}: ${sum}, not ${nats}`)
  }
})

examples('server.ts streams events, reports what it can not answer, and ends the generation of a client that leaves', async () => {
  const server = spawn(process.execPath, ['--import', 'tsx', 'examples/server.ts'], { cwd: root, env: { ...process.env, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    const lines = createInterface(server.stdout)[Symbol.asyncIterator]()
    const url = String((await lines.next()).value).replace('listening on ', '')
    const ask = async (body: string): Promise<{ status: number, events: { type: string, text?: string, code?: string }[] }> => {
      const response = await fetch(url, { method: 'POST', body })
      const events = (await response.text()).trim().split('\n\n').map((event) => JSON.parse(event.replace(/^data: /, '')) as { type: string })
      return { status: response.status, events }
    }
    const question = JSON.stringify([{ role: 'user', content: 'What is 1234 * 5678?' }])
    const [one, other] = await Promise.all([ask(question), ask(question)])
    assert.is(one.status, 200)
    assert.equal(one.events.slice(0, 2), [{ type: 'python', row: 0, text: '1234 * 5678' }, { type: 'python_output', row: 0, text: '7006652' }])
    assert.is(one.events.flatMap(({ type, text }) => type === 'text' ? [text] : []).join(''), 'The answer is 7006652.')
    assert.is(one.events.at(-1)?.type, 'finish')
    assert.is(other.events.length, one.events.length)
    assert.equal(await ask('[]'), { status: 400, events: [{ type: 'error', code: 'ERR_INVALID_CONVERSATION' }] })
    assert.equal(await ask('{'), { status: 400, events: [{ type: 'error', code: 'ERR_REQUEST' }] })

    const { tier } = await describeSandbox()
    if (tier === 'none') return console.log('SKIP a client that leaves: it leaves while Python runs, and this machine has no cage')
    const client = new AbortController()
    const response = await fetch(url, { method: 'POST', signal: client.signal, body: JSON.stringify([{ role: 'user', content: 'List the primes up to 30.' }]) })
    const { value } = await response.body?.getReader().read() ?? {}
    assert.match(new TextDecoder().decode(value), /^data: \{"type":"python",/)
    client.abort()                                         // while the cage's first start takes its time
    assert.is((await lines.next()).value, 'a client left')
    assert.is((await ask(question)).status, 200)
  } finally {
    server.kill()
  }
})

examples.run()
