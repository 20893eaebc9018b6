// What requests the server refuses and how, and what it does when things fail underneath: over a backend without a model.
import { createServer, request as httpRequest } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NanochatError } from '../lib/errors.js'
import type { Loaded } from '../lib/load.js'
import { openaiApi, type OpenAIOptions, type ResponseSummary } from '../lib/server/server.js'
import { codeOf } from './support/error-code.js'
import { fakeModel, type FakeBackend, type FakeOptions } from './support/fake-backend.js'
import { byteTokenizer, special } from './support/fake-tokenizer.js'

const { bos, userStart, userEnd, assistantStart, assistantEnd, pythonStart, pythonEnd } = special
const tokenizer = byteTokenizer()
const bytes = (text: string): number[] => [...tokenizer.encode(text)]
const prompt = [bos, userStart, ...bytes('Hi'), userEnd, assistantStart]
const messages = [{ role: 'user', content: 'Hi' }]
const chat = '/v1/chat/completions', text = '/v1/completions'

interface ErrorBody { error: { message: string, type: string, param: string | null, code: string | null } }
interface Fake { backend: FakeBackend, url: string, port: number, summaries: ResponseSummary[], post(path: string, body: unknown, headers?: Record<string, string>): Promise<{ status: number, text: string, headers: Headers }> }

function loadedOver(options: FakeOptions): { backend: FakeBackend, loaded: Loaded } {
  const { backend, model } = fakeModel({ vocabSize: tokenizer.getVocabSize(), sequenceLen: 128, ...options })
  return { backend, loaded: { model, tokenizer, meta: {}, [Symbol.asyncDispose]: () => model[Symbol.asyncDispose]() } }
}

async function withServer(options: OpenAIOptions, work: (fake: Fake) => Promise<void>, fakeOptions: FakeOptions = {}): Promise<void> {
  const { backend, loaded } = loadedOver(fakeOptions)
  const summaries: ResponseSummary[] = []
  const api = openaiApi(loaded, { engine: { kvCacheBytes: 1e6 }, promptCacheBytes: 1e6, onResponse: (summary) => summaries.push(summary), ...options })
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  try {
    await work({
      backend, url, port, summaries,
      async post(path, body, headers = {}) {
        const response = await fetch(url + path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), headers })
        return { status: response.status, text: await response.text(), headers: response.headers }
      }
    })
  } finally {
    await api[Symbol.asyncDispose]()
    server.closeAllConnections()
    server.close()
  }
  assert.is(backend.live, 0, 'every sequence is freed')
}

const test = suite('requests to the server')

test('whatever is asked wrong is refused with the field at fault', () => withServer({}, async ({ post, summaries, backend }) => {
  const wrong: [path: string, body: unknown, status: number, param: string | null, code: string | null][] = [
    [chat, '', 400, null, 'invalid_json'], [chat, '{', 400, null, 'invalid_json'], [chat, '[]', 400, null, null], [chat, 'null', 400, null, null], [chat, '"hi"', 400, null, null],
    [chat, {}, 400, 'messages', 'invalid_value'], [chat, { messages: [] }, 400, 'messages', 'invalid_value'], [chat, { messages: 'Hi' }, 400, 'messages', 'invalid_value'],
    [chat, { messages: [null] }, 400, 'messages[0].', null], [chat, { messages: [{ role: 'robot', content: 'Hi' }] }, 400, 'messages[0]', 'invalid_value'],
    [chat, { messages: [{ role: 'tool', content: 'Hi' }] }, 400, 'messages[0]', 'invalid_value'], [chat, { messages: [{ role: 'user', content: 5 }] }, 400, 'messages[0]', 'invalid_value'],
    [chat, { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }, 400, 'messages[0]', 'invalid_value'],
    [chat, { messages: [...messages, { role: 'assistant', content: 'a' }] }, 400, 'messages', 'invalid_value'],
    [chat, { messages: [{ role: 'assistant', content: 'a' }, ...messages] }, 400, null, 'err_invalid_conversation'],
    [chat, { messages: [{ role: 'user', contents: 'Hi' }] }, 400, 'messages[0].content', 'invalid_value'], [chat, { messages: [{ role: 'user', content: 'Hi', parts: [{ type: 'text', text: 'a' }] }] }, 400, 'messages[0].parts', 'invalid_value'],
    [text, { prompt: Array.from({ length: 256 }, () => 'x'.repeat(100)), echo: true, logprobs: 20, max_tokens: 0 }, 400, 'logprobs', 'invalid_value'],
    [chat, { messages: [...messages, { role: 'assistant', parts: 5 }, ...messages] }, 400, null, 'err_invalid_conversation'],
    [chat, { messages: [...messages, { role: 'assistant', parts: [{ type: 'bash', text: 'ls' }] }, ...messages] }, 400, null, 'err_invalid_conversation'],
    [chat, { messages: [...messages, { role: 'assistant', content: null, tool_calls: [{}] }, ...messages] }, 400, 'messages[1].tool_calls', 'unsupported_parameter'],
    [chat, { messages, model: 'gpt-4o' }, 404, 'model', 'model_not_found'], [chat, { messages, model: 5 }, 400, 'model', 'invalid_value'],
    [chat, { messages, temperature: -1 }, 400, 'temperature', 'invalid_value'], [chat, { messages, temperature: '1' }, 400, 'temperature', 'invalid_value'],
    [chat, '{"messages":[{"role":"user","content":"Hi"}],"temperature":1e999}', 400, 'temperature', 'invalid_value'],
    [chat, { messages, top_p: 2 }, 400, 'top_p', 'invalid_value'], [chat, { messages, top_k: 1.5 }, 400, 'top_k', 'invalid_value'], [chat, { messages, min_p: -0.1 }, 400, 'min_p', 'invalid_value'],
    [chat, { messages, repetition_penalty: 0 }, 400, 'repetition_penalty', 'invalid_value'], [chat, { messages, seed: -1 }, 400, 'seed', 'invalid_value'],
    [chat, { messages, n: 0 }, 400, 'n', 'invalid_value'], [chat, { messages, n: 65 }, 400, 'n', 'invalid_value'], [chat, { messages, max_tokens: 0 }, 400, 'max_tokens', 'invalid_value'],
    [chat, { messages, max_completion_tokens: 1.5 }, 400, 'max_completion_tokens', 'invalid_value'], [chat, { messages, stream: 'yes' }, 400, 'stream', 'invalid_value'],
    [chat, { messages, stream: true, stream_options: 5 }, 400, 'stream_options.', null], [chat, { messages, stream: true, stream_options: { everything: true } }, 400, 'stream_options.everything', 'unknown_parameter'],
    [chat, { messages, stream_options: { include_usage: true } }, 400, 'stream_options', 'invalid_value'], [chat, { messages, stop: 5 }, 400, null, 'err_invalid_arg'],
    [chat, { messages, stop: Array.from({ length: 65 }, () => 'a') }, 400, 'stop', 'invalid_value'], [text, { prompt: Array.from({ length: 17 }, () => 'a'), n: 64 }, 400, 'n', 'invalid_value'],
    [chat, { messages, stop: [''] }, 400, null, 'err_invalid_arg'], [chat, { messages, logit_bias: { 999: 1 } }, 400, null, 'err_invalid_arg'], [chat, { messages, logit_bias: { 1: 'a' } }, 400, null, 'err_invalid_arg'],
    [chat, { messages, logprobs: 5 }, 400, 'logprobs', 'invalid_value'], [chat, { messages, logprobs: true, top_logprobs: 21 }, 400, 'top_logprobs', 'invalid_value'],
    [chat, { messages, tools: [{ type: 'function' }] }, 400, 'tools', 'unsupported_parameter'], [chat, { messages, tool_choice: 'required' }, 400, 'tool_choice', 'unsupported_parameter'],
    [chat, { messages, response_format: { type: 'json_object' } }, 400, 'response_format', 'unsupported_parameter'], [chat, { messages, modalities: ['audio'] }, 400, 'modalities', 'unsupported_parameter'],
    [chat, { messages, frequency_penalty: 0.5 }, 400, 'frequency_penalty', 'unsupported_parameter'], [chat, { messages, presence_penalty: 1 }, 400, 'presence_penalty', 'unsupported_parameter'],
    [chat, { messages, reasoning_effort: 'high' }, 400, 'reasoning_effort', 'unknown_parameter'], [chat, '{"messages":[{"role":"user","content":"Hi"}],"__proto__":{"n":2}}', 400, '__proto__', 'unknown_parameter'],
    [chat, { messages: [{ role: 'user', content: 'x'.repeat(200) }] }, 400, null, 'context_length_exceeded'],
    [text, {}, 400, 'prompt', 'invalid_value'], [text, { prompt: [] }, 400, 'prompt', 'invalid_value'], [text, { prompt: 5 }, 400, 'prompt', 'invalid_value'], [text, { prompt: [999] }, 400, 'prompt', 'invalid_value'],
    [text, { prompt: ['a', 5] }, 400, 'prompt', 'invalid_value'], [text, { prompt: [[1], []] }, 400, 'prompt', 'invalid_value'], [text, { prompt: Array.from({ length: 257 }, () => 'a') }, 400, 'prompt', 'invalid_value'],
    [text, { prompt: ['a', 'x'.repeat(200)] }, 400, null, 'context_length_exceeded'], [text, { prompt: 'a', echo: 1 }, 400, 'echo', 'invalid_value'],
    [text, { prompt: 'a', suffix: 'b' }, 400, 'suffix', 'unsupported_parameter'], [text, { prompt: 'a', best_of: 2 }, 400, 'best_of', 'unsupported_parameter'], [text, { prompt: 'a', logprobs: true }, 400, 'logprobs', 'invalid_value'],
    ['/v1/embeddings', {}, 404, null, 'not_found'], ['/', {}, 404, null, 'not_found'], ['//', {}, 404, null, 'not_found'], ['/constructor', {}, 404, null, 'not_found'], ['/v1/models', {}, 405, null, 'method_not_allowed']
  ]
  for (const [path, body, status, param, code] of wrong) {
    const what = `${path} ${typeof body === 'string' ? body : JSON.stringify(body).slice(0, 100)}`
    const answer = await post(path, body)
    const { error } = JSON.parse(answer.text) as ErrorBody
    assert.equal([answer.status, error.param, error.code, error.type], [status, param, code, 'invalid_request_error'], what)
    assert.ok(error.message.length > 15, what)
    assert.match(answer.headers.get('content-type') ?? '', /^application\/json/)
  }
  assert.is(summaries.length, wrong.length)
  assert.is(backend.passes.length, 0, 'nothing was computed')
}))

test('a text that is too long in the longest tokens is refused before it is taken apart', () => withServer({}, async ({ post, backend }) => {
  const blanks = ' '.repeat(100_000)
  const bodies: [string, unknown][] = [
    [chat, { messages: [{ role: 'system', content: blanks }, { role: 'user', content: 'Hi' }] }],
    [chat, { messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', parts: [{ type: 'text', text: blanks }] }, { role: 'user', content: 'Hi' }] }],
    [text, { prompt: blanks }], [text, { prompt: ['a', blanks] }]
  ]
  for (const [path, body] of bodies) {
    const answer = await post(path, body)
    assert.is(answer.status, 400)
    assert.match(answer.text, /is at least \d+ tokens and the model's context is 128/)
  }
  for (const parts of [[5], [null], [{ text: 5 }], 'parts', {}]) {
    assert.match((await post(chat, { messages: [{ role: 'assistant', parts }, { role: 'user', content: 'Hi' }] })).text, /err_invalid_conversation/)
  }
  assert.is(backend.passes.length, 0)
}))

test('what changes nothing may be said', () => withServer({}, async ({ post, backend }) => {
  backend.script(prompt, [...bytes('Yo'), assistantEnd])
  const { status, text } = await post(`${chat}?api-version=1`, {
    model: 'nanochat', messages: [{ role: 'user', content: 'Hi', name: 'Ann' }], temperature: 0, tools: [], tool_choice: 'auto', functions: [], response_format: { type: 'text' }, modalities: ['text'], stop: [],
    frequency_penalty: 0, presence_penalty: 0, n: null, user: 'a', metadata: {}, store: false, service_tier: 'auto', parallel_tool_calls: true, safety_identifier: 'x', prompt_cache_key: 'y', whatever: null
  })
  assert.is(status, 200, text)
  assert.is((JSON.parse(text) as { choices: { message: { content: string } }[] }).choices[0]?.message.content, 'Yo')
}))

test('a body that is too large, cut off, or never comes', () => withServer({ maxBodyBytes: 1000 }, async ({ post, port, summaries, backend }) => {
  backend.script(prompt, [assistantEnd])
  const large = await post(chat, { messages: [{ role: 'user', content: 'x'.repeat(2000) }] })
  assert.equal([large.status, (JSON.parse(large.text) as ErrorBody).error.code, large.headers.get('connection')], [413, 'body_too_large', 'close'])
  const chunked = await new Promise<number | undefined>((resolve, reject) => {
    const request = httpRequest({ port, path: chat, method: 'POST' }, ({ statusCode }) => { resolve(statusCode); request.destroy() })
    request.on('error', reject)
    for (let i = 0; i < 5; i++) request.write('x'.repeat(400))         // and no end
  })
  assert.is(chunked, 413)
  await new Promise<void>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(`POST ${chat} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"mess`, () => setTimeout(() => { socket.destroy(); resolve() }, 50)))
  })
  while (summaries.length < 3) await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal(summaries.map(({ status, error }) => [status, error === null]), [[413, false], [413, false], [499, true]])
  assert.is((await post(chat, { messages, temperature: 0 })).status, 200)
}))

test('who has left holds no place: before handle() is called, or behind another request on one connection', async () => {
  const { backend, loaded } = loadedOver({ passMs: 5 })
  const summaries: ResponseSummary[] = []
  const api = openaiApi(loaded, { maxRequests: 3, onResponse: (summary) => summaries.push(summary) })
  let delayMs = 100
  const server = createServer((request, response) => { setTimeout(() => { void api.handle(request, response) }, delayMs) }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  const leave = (sent: string, afterMs: number): Promise<void> => new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(sent, () => setTimeout(() => { socket.destroy(); resolve() }, afterMs)))
  })
  const statuses = async (count: number): Promise<number[]> => {
    while (summaries.length < count) await new Promise((resolve) => setTimeout(resolve, 5))
    return summaries.splice(0).map(({ status }) => status)
  }
  await leave(`POST ${chat} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"mess`, 20)
  assert.equal(await statuses(1), [499])
  delayMs = 0
  backend.script(prompt, Array.from({ length: 100 }, () => 65))
  const body = JSON.stringify({ messages, temperature: 0 }), one = `POST ${chat} HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  await leave(one.repeat(3), 50)
  assert.equal(await statuses(3), [499, 499, 499])
  await api[Symbol.asyncDispose]()
  server.close()
  assert.is(backend.live, 0)
})

test('ends although a body never comes', async () => {
  const { loaded } = loadedOver({})
  const api = openaiApi(loaded, {})
  const server = createServer((request, response) => { void api.handle(request, response) }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  const received = new Promise<string>((resolve) => {
    let all = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(`POST ${chat} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"mess`))
    socket.setEncoding('utf8').on('data', (data: string) => { all += data }).on('close', () => resolve(all))
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  await api[Symbol.asyncDispose]()
  assert.match(await received, /503 Service Unavailable[^]*connection: close[^]*shutting_down/i)
  server.close()
})

test('messages of one role that follow each other are paragraphs of one, an empty list of parts is none', () => withServer({}, async ({ post, backend }) => {
  const tokensOf = async (list: unknown): Promise<unknown> => {
    backend.script(tokenizer.renderForCompletion([{ role: 'user', content: 'x' }]), [assistantEnd])
    const { status, text } = await post(chat, { messages: list, temperature: 0, max_tokens: 1 })
    return [status, (JSON.parse(text) as { usage: { prompt_tokens: number } }).usage.prompt_tokens]
  }
  const long = [{ role: 'system', content: 'a' }, { role: 'developer', content: 'b' }, { role: 'user', content: 'c' }, { role: 'user', content: 'd' }, { role: 'assistant', content: 'e', parts: [] }, ...messages]
  const short = [{ role: 'system', content: 'a\n\nb' }, { role: 'user', content: 'c\n\nd' }, { role: 'assistant', content: 'e' }, ...messages]
  assert.equal(await tokensOf(long), await tokensOf(short))
}))

test('a throwing onResponse is a warning; Bearer is any case', () => withServer({ apiKey: 'k', onResponse: () => { throw new Error('my log is full') } }, async ({ post, backend }) => {
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
  backend.script(prompt, [assistantEnd])
  for (const authorization of ['Bearer k', 'bearer  k', 'BEARER k']) assert.is((await post(chat, { messages, temperature: 0 }, { authorization })).status, 200)
  assert.match((await warned).message, /my log is full/)
  for (const authorization of ['k', 'Bearer', 'Bearer kk', 'Basic k']) assert.is((await post(chat, { messages }, { authorization })).status, 401)
}))

test('two requests on one connection, and HEAD', () => withServer({}, async ({ port, backend }) => {
  backend.script(prompt, [...bytes('Yo'), assistantEnd])
  const body = JSON.stringify({ messages, temperature: 0 })
  const one = `POST ${chat} HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const received = await new Promise<string>((resolve) => {
    let all = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(`${one}${one}HEAD /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`))
    socket.setEncoding('utf8').on('data', (data: string) => { all += data }).on('close', () => resolve(all))
  })
  assert.is(received.match(/HTTP\/1\.1 200 OK/g)?.length, 3)
  assert.is(received.match(/"content":"Yo"/g)?.length, 2)
  assert.ok(received.endsWith('\r\n\r\n'), 'HEAD has no body')
}))

test('pages of other origins are refused, those of the list may ask', () => withServer({ origins: ['http://localhost:3000'], apiKey: 'k' }, async ({ post, url, backend }) => {
  backend.script(prompt, [assistantEnd])
  const evil = await post(chat, { messages }, { origin: 'http://evil.example', authorization: 'Bearer k' })
  assert.equal([evil.status, (JSON.parse(evil.text) as ErrorBody).error.code, evil.headers.get('access-control-allow-origin')], [403, 'origin_not_allowed', null])
  assert.is((await post(chat, { messages }, { origin: 'null', authorization: 'Bearer k' })).status, 403)
  const good = await post(chat, { messages, temperature: 0 }, { origin: 'http://localhost:3000', authorization: 'Bearer k' })
  assert.equal([good.status, good.headers.get('access-control-allow-origin'), good.headers.get('vary')], [200, 'http://localhost:3000', 'origin'])
  const preflight = await fetch(url + chat, { method: 'OPTIONS', headers: { origin: 'http://localhost:3000', 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization, x-mine' } })
  assert.equal([preflight.status, preflight.headers.get('access-control-allow-methods'), preflight.headers.get('access-control-allow-headers')], [204, 'GET, POST', 'authorization, x-mine'])
  assert.is((await fetch(url + chat, { method: 'OPTIONS', headers: { origin: 'http://evil.example' } })).status, 403)
}))

test('any page where the list says so', () => withServer({ origins: ['*'] }, async ({ post, backend }) => {
  backend.script(prompt, [assistantEnd])
  const { status, headers } = await post(chat, { messages, temperature: 0 }, { origin: 'http://any.example' })
  assert.equal([status, headers.get('access-control-allow-origin')], [200, 'http://any.example'])
}))

test('a tool that throws: a status before the first event, the last event of a stream after it; what it said stays here', async () => {
  const script = [...bytes('So '), pythonStart, ...bytes('f()'), pythonEnd]
  const tool = (): string => { throw new Error('the password is hunter2') }
  await withServer({ tool }, async ({ post, backend, summaries }) => {
    backend.script(prompt, script)
    const whole = await post(chat, { messages, temperature: 0 })
    assert.is(whole.status, 500)
    assert.equal(JSON.parse(whole.text), { error: { message: 'The server failed to answer.', type: 'server_error', param: null, code: null } })
    const stream = await post(chat, { messages, temperature: 0, stream: true })
    assert.is(stream.status, 200)
    const events = stream.text.trim().split('\n\n')
    assert.equal(JSON.parse(events.at(-1)?.replace('data: ', '') ?? ''), JSON.parse(whole.text))
    assert.ok(events.length > 3 && !stream.text.includes('[DONE]'))
    assert.equal(summaries.map(({ error }) => error instanceof Error && error.message), ['the password is hunter2', 'the password is hunter2'], 'its owner hears it')
  })
})

test("the package's own errors come with their message", () => withServer({ tool: () => { throw new NanochatError('ERR_SANDBOX_UNAVAILABLE', 'There is no cage here.') } }, async ({ post, backend }) => {
  backend.script(prompt, [pythonStart, ...bytes('f()'), pythonEnd])
  const { status, text } = await post(chat, { messages, temperature: 0 })
  assert.equal([status, JSON.parse(text)], [500, { error: { message: 'There is no cage here.', type: 'server_error', param: null, code: 'err_sandbox_unavailable' } }])
}))

test('one of several prompts fails: the others end, and one error comes', () => withServer({ promptCacheBytes: 0 }, async ({ post }) => {
  const { status, text: answer } = await post(text, { prompt: ['aaaa', 'bbbb', 'cccc'], max_tokens: 20 })
  assert.is(status, 500, answer)
}, { passMs: 1, fail: (rows) => { if (rows.some(({ tokens }) => tokens.includes(98))) throw new Error('broken') } }))

test('more memory than there is', () => withServer({ engine: { kvCacheBytes: 100 } }, async ({ post }) => {
  const { status, text } = await post(chat, { messages, n: 3 })
  assert.equal([status, (JSON.parse(text) as ErrorBody).error.code], [503, 'err_out_of_memory'])
}))

test('the beginnings of earlier requests are kept as long as there is room, those used last', () => withServer({ promptCacheBytes: 3 * 256 }, async ({ post, backend }) => {
  const cached = async (prompt: number[]): Promise<number> => {
    const { status, text: answer } = await post(text, { prompt, max_tokens: 1, temperature: 0 })
    assert.is(status, 200, answer)
    return (JSON.parse(answer) as { usage: { prompt_tokens_details: { cached_tokens: number } } }).usage.prompt_tokens_details.cached_tokens
  }
  const a = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], b = a.map((id) => id + 100), c = a.map((id) => id + 200 - 180)
  backend.script(a, [11])
  assert.equal([await cached(a), await cached([...a, 11, 12])], [0, 10], 'the longer one takes the place of the shorter')
  assert.equal([await cached(b), await cached(a)], [0, 9])
  assert.is(backend.live, 2)
  assert.equal([await cached(c), await cached(c.slice(0, 5)), await cached(a), await cached(c)], [0, 4, 9, 9], 'b was used least')
  assert.is(await cached(b), 0)
  assert.ok(backend.live <= 4)
}))

test('one sentence for many questions: each goes on from it, at a time', () => withServer({}, async ({ post, backend }) => {
  const start = Array.from({ length: 40 }, (_, i) => i + 1)
  await post(text, { prompt: start, max_tokens: 1 })
  backend.passes.length = 0
  const answers = await Promise.all(Array.from({ length: 8 }, (_, i) => post(text, { prompt: [...start, 60 + i], max_tokens: 1 })))
  for (const { text: answer } of answers) assert.match(answer, /"cached_tokens":(?:40|41)/)
  assert.ok(Math.max(...backend.passes.flatMap(({ rows }) => rows.map(({ count }) => count))) <= 2, 'nothing was computed twice')
}))

test('a stream whose text goes on before, between and after code: its parts fold into the message', () => withServer({ tool: () => '2' }, async ({ post, backend }) => {
  const code = [pythonStart, ...bytes('f()'), pythonEnd], forced = [special.outputStart, ...bytes('2'), special.outputEnd]
  backend.script(prompt, [...bytes('So '), ...code, ...forced, ...bytes('ab'), ...code, ...forced, ...code, ...forced, ...bytes('cd'), assistantEnd])
  const whole = (JSON.parse((await post(chat, { messages, temperature: 0 })).text) as { choices: { message: { content: string, parts: object[] } }[] }).choices[0]?.message
  assert.is(whole?.content, 'So abcd')
  assert.is(whole?.parts.length, 9)
  const parts: { type: string, text: string }[] = []
  let content = ''
  for (const event of (await post(chat, { messages, temperature: 0, stream: true })).text.trim().split('\n\n').slice(0, -1)) {
    const { delta } = (JSON.parse(event.replace('data: ', '')) as { choices: { delta: { content?: string, parts?: { index: number, type: string, text: string }[] } }[] }).choices[0] ?? { delta: {} }
    content += delta.content ?? ''
    for (const { index, type, text } of delta.parts ?? []) parts[index] = { type, text: (parts[index]?.text ?? '') + text }
  }
  assert.equal({ content, parts }, { content: whole?.content, parts: whole?.parts })
}))

test('as many samples as it takes: the answer is put together in one go', () => withServer({}, async ({ post, backend }) => {
  const start = performance.now()
  const { status, text: answer } = await post(text, { prompt: Array.from({ length: 16 }, () => 'a'), n: 64, max_tokens: 8, temperature: 1 })
  assert.equal([status, (JSON.parse(answer) as { choices: { index: number }[] }).choices.map(({ index }) => index)], [200, Array.from({ length: 1024 }, (_, i) => i)])
  assert.ok(performance.now() - start < 20_000 && backend.passes.length > 0)
}))

test('options are checked', async () => {
  const { loaded } = loadedOver({})
  const wrong: object[] = [
    { modelName: '' }, { apiKey: '' }, { apiKey: 5 }, { origins: '*' }, { origins: [5] }, { defaults: { temperature: -1 } }, { defaults: { seed: 1 } }, { defaults: 5 }, { tool: 'python' }, { engine: { maxRows: 0 } },
    { promptCacheBytes: -1 }, { maxRequests: 0 }, { maxBodyBytes: 0 }, { onResponse: 5 }, { nothing: 1 }
  ]
  for (const options of wrong) assert.is(await codeOf(() => openaiApi(loaded, options as OpenAIOptions)), 'ERR_INVALID_ARG', JSON.stringify(options))
  for (const wrong of [null, 5, {}, { model: 5, tokenizer }, { model: loaded.model }]) assert.is(await codeOf(() => openaiApi(wrong as unknown as Loaded)), 'ERR_INVALID_ARG', JSON.stringify(wrong))
})

test('defaults are those of requests that do not say', () => withServer({ defaults: { temperature: 0, maxTokens: 3 } }, async ({ post, backend }) => {
  backend.script(prompt, bytes('abcdefgh'))
  const answer = async (more: object): Promise<unknown> => (JSON.parse((await post(chat, { messages, ...more })).text) as { choices: { message: { content: string } }[] }).choices[0]?.message.content
  assert.is(await answer({}), 'abc')
  assert.is(await answer({ max_tokens: 5 }), 'abcde')
}))

test('a part of a character has its bytes, in the names of tokens, too', () => withServer({}, async ({ post, backend }) => {
  const parts = [...bytes('€')], names = ['\\xe2', '\\x82', '\\xac']
  backend.script(prompt, [...parts, ...bytes('x'), assistantEnd])
  const { text: answer } = await post(chat, { messages, temperature: 0, logprobs: true, top_logprobs: 2 })
  const { choices: [choice] } = JSON.parse(answer) as { choices: { message: { content: string }, logprobs: { content: { token: string, bytes: number[], top_logprobs: { token: string, bytes: number[] }[] }[] } }[] }
  assert.is(choice?.message.content, '€x')
  assert.equal(choice?.logprobs.content.map(({ token, bytes }) => [token, bytes]), [...parts.map((byte, i) => [names[i], [byte]]), ['x', [120]]])
  assert.equal(choice?.logprobs.content.map(({ top_logprobs: [first] }) => first?.token), [...names, 'x'], 'the likeliest is what temperature 0 takes')

  const start = bytes('Hi')
  backend.script(start, [...parts, ...bytes('x'), bos])
  const { text: whole } = await post(text, { prompt: 'Hi', temperature: 0, max_tokens: 4, logprobs: 1 })
  const [completion] = (JSON.parse(whole) as { choices: { text: string, logprobs: { tokens: string[], top_logprobs: Record<string, number>[], text_offset: number[] } }[] }).choices
  const { tokens, top_logprobs: top, text_offset: offsets } = completion?.logprobs ?? { tokens: [], top_logprobs: [], text_offset: [] }
  assert.equal([completion?.text, tokens, offsets], ['€x', [...names.map((name) => `bytes:${name}`), 'x'], [0, 0, 0, 1]])
  assert.equal(top.map((one) => Object.keys(one)), tokens.map((token) => [token]))
}))

test('with include_usage every chunk has usage, null but in the last', () => withServer({}, async ({ post, backend }) => {
  backend.script(prompt, [...bytes('Yo'), assistantEnd])
  backend.script(bytes('Hi'), [...bytes('Yo'), bos])
  for (const [path, body] of [[chat, { messages }], [text, { prompt: 'Hi' }]] as const) {
    const usages = async (stream: object): Promise<unknown[]> => (await post(path, { ...body, temperature: 0, stream: true, ...stream })).text.split('\n\n').filter((event) => event.startsWith('data: {'))
      .map((event) => { const { usage } = JSON.parse(event.slice(6)) as { usage?: { completion_tokens: number } | null }; return usage ? usage.completion_tokens : usage })
    const [last, ...before] = (await usages({ stream_options: { include_usage: true } })).reverse()
    assert.is(last, 3, path)
    assert.ok(before.length >= 2 && before.every((usage) => usage === null), JSON.stringify(before))
    assert.ok((await usages({})).every((usage) => usage === undefined))
  }
}))

test.run()
