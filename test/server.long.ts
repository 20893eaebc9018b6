// alone: it keeps both threads busy and looks at the memory of the process
// Clients that ask, leave, ask again and say wrong things, all at once, from a server that keeps little of what was asked: who stays gets what
// the engine says alone, and afterwards every row and every sequence is free.
import { createServer } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Message, SpecialToken } from '../lib/conversation.js'
import { Engine } from '../lib/engine.js'
import { loadModel } from '../lib/load.js'
import { openaiApi, type ResponseSummary } from '../lib/server/server.js'
import { generator } from './support/random.js'

const test = suite('the server under load')
const clients = 12, seconds = 60, maxRows = 32
const questions = ['Who are you?', 'What is 12 * 12?', 'and plus 5?', "How many r's are in strawberry?", 'What is 1234 * 5678?', 'Tell me about yourself.', 'What is 2 + 2?', 'Thanks!']

interface Answer { choices: { message: { content: string } }[] }

test(`${clients} clients for ${seconds} s`, async () => {
  await using loaded = await loadModel()
  await using engine = new Engine(loaded.model, loaded.tokenizer)
  const { kvBytesPerToken } = loaded.model.backend
  const api = openaiApi(loaded, { engine: { maxRows, kvCacheBytes: maxRows * 512 * kvBytesPerToken }, promptCacheBytes: 6 * 256 * kvBytesPerToken })
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/chat/completions`
  const post = (body: object, signal?: AbortSignal): Promise<Response> => fetch(url, { method: 'POST', body: JSON.stringify(body), ...(signal ? { signal } : {}) })

  const alone = new Map<string, string>()
  const expected = async (messages: Message[]): Promise<string> => {
    const key = JSON.stringify(messages)
    let text = alone.get(key)
    if (text === undefined) {
      text = ''
      for await (const event of engine.chat(messages, { temperature: 0, maxTokens: 40 })) if (event.type === 'text') text += event.text
      alone.set(key, text)
    }
    return text
  }
  const counts = { whole: 0, streamed: 0, left: 0, samples: 0, wrong: 0, longest: 0 }
  const client = async (seed: number): Promise<void> => {
    const random = generator(seed)
    let messages: Message[] = []
    const until = performance.now() + seconds * 1000
    while (performance.now() < until) {
      if (messages.length > 6 || random(4) === 0) messages = []
      const asked: Message[] = [...messages, { role: 'user', content: questions[random(questions.length)] ?? '' }]
      const body = { messages: asked, temperature: 0, max_tokens: 40 }
      counts.longest = Math.max(counts.longest, asked.length)
      const action = random(10)
      if (action < 4) {
        const { choices: [choice] } = await (await post(body)).json() as Answer
        assert.is(choice?.message.content, await expected(asked))
        messages = [...asked, { role: 'assistant', content: choice?.message.content ?? '' }]
        counts.whole++
      } else if (action < 6) {
        const text = await (await post({ ...body, stream: true })).text()
        const events = text.trim().split('\n\n').map((event) => event.replace('data: ', ''))
        assert.is(events.pop(), '[DONE]')
        const content = events.map((event) => (JSON.parse(event) as { choices: { delta: { content?: string } }[] }).choices[0]?.delta.content ?? '').join('')
        assert.is(content, await expected(asked))
        counts.streamed++
      } else if (action < 8) {
        const controller = new AbortController()
        setTimeout(() => controller.abort(), random(40))
        await post({ ...body, stream: random(2) === 0, n: 1 + random(3) }, controller.signal).then((response) => response.text()).catch(() => undefined)
        counts.left++
      } else if (action < 9) {
        const { choices } = await (await post({ ...body, temperature: 1, n: 1 + random(4), max_tokens: 10 })).json() as Answer
        assert.ok(choices.length >= 1)
        counts.samples++
      } else {
        assert.is((await post({ ...body, temperature: -1 })).status, 400)
        counts.wrong++
      }
    }
  }
  const memory: number[] = []
  const sampling = (async () => {
    for (let i = 0; i < 4; i++) {
      await sleep(seconds * 1000 / 4)
      globalThis.gc?.()
      memory.push(process.memoryUsage.rss() / 2 ** 20)
    }
  })()
  await Promise.all([sampling, ...Array.from({ length: clients }, (_, i) => client(i))])
  console.log(`${JSON.stringify(counts)}; MB: ${memory.map(Math.round).join(', ')}`)
  assert.ok(Math.min(counts.whole, counts.streamed, counts.left, counts.samples, counts.wrong) > 50 && counts.longest >= 5)
  const [, warm = NaN, , end = NaN] = memory
  assert.ok(end < warm * 1.1 + 10, `${warm} MB grew to ${end}`)

  const all = await (await post({ messages: [{ role: 'user', content: 'Who are you?' }], n: maxRows, temperature: 0, max_tokens: 10 })).json() as Answer
  assert.is(all.choices.length, maxRows, 'every row is free again')
  await api[Symbol.asyncDispose]()
  server.closeAllConnections()
  server.close()
})

test('a client that reads nothing for a minute is dropped, and its row is free', async () => {
  await using loaded = await loadModel()
  const summaries: ResponseSummary[] = []
  const api = openaiApi(loaded, { engine: { maxRows }, onResponse: (summary) => { summaries.push(summary) } })
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const never = Object.fromEntries(['<|assistant_end|>', '<|bos|>', '<|python_start|>'].map((name) => [loaded.tokenizer.encodeSpecial(name as SpecialToken), -100]))
  // tens of megabytes, more than sockets hold
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'Who are you?' }], n: maxRows, stream: true, temperature: 1, top_k: 0, logit_bias: never, logprobs: true, top_logprobs: 20 })
  const socket = connect(port, '127.0.0.1', () => socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length}\r\n\r\n${body}`))
  socket.pause().on('error', () => undefined)
  const startedAt = performance.now()
  const answer = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, { method: 'POST', body: JSON.stringify({ messages: [{ role: 'user', content: 'Who are you?' }], n: maxRows, max_tokens: 2 }) })
  assert.is(answer.status, 200)
  const seconds = (performance.now() - startedAt) / 1000
  assert.ok(seconds > 55 && seconds < 90, `${seconds} s`)
  assert.equal(summaries.map(({ status, error }) => [status, error]), [[499, null], [200, null]])
  socket.destroy()
  await api[Symbol.asyncDispose]()
  server.closeAllConnections()
  server.close()
})

test('a body that does not come and a whole answer that nobody reads hold their places for half a minute and a minute', async () => {
  await using loaded = await loadModel()
  const api = openaiApi(loaded, { engine: { maxRows }, maxRequests: 2 })
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const never = Object.fromEntries(['<|assistant_end|>', '<|bos|>', '<|python_start|>'].map((name) => [loaded.tokenizer.encodeSpecial(name as SpecialToken), -100]))
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'Who are you?' }], n: maxRows, max_tokens: 290, temperature: 1, top_k: 0, logit_bias: never, logprobs: true, top_logprobs: 20 })
  const send = (text: string): ReturnType<typeof connect> => {
    const socket = connect(port, '127.0.0.1', () => socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length}\r\n\r\n${text}`))
    return socket.on('error', () => undefined)
  }
  const unread = send(body).pause(), slow = send('{')
  let received = ''
  slow.setEncoding('utf8').on('data', (data: string) => { received += data })
  const startedAt = performance.now(), freeAt: number[] = []
  const ask = async (): Promise<number> => (await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, { method: 'POST', body: JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }], max_tokens: 1 }) })).status
  while (freeAt.length < 2 && performance.now() - startedAt < 150_000) {
    await sleep(500)
    const together = await Promise.all([ask(), ask()])
    if (together.filter((status) => status === 200).length > freeAt.length) freeAt.push((performance.now() - startedAt) / 1000)
  }
  assert.match(received, /^HTTP\/1\.1 408 [^]*body_too_slow/)
  assert.ok((freeAt[0] ?? 0) > 25 && (freeAt[0] ?? 0) < 50 && (freeAt[1] ?? 0) > 55, `free after ${freeAt} s`)
  unread.destroy()
  slow.destroy()
  await api[Symbol.asyncDispose]()
  server.closeAllConnections()
  server.close()
})

test.run()
