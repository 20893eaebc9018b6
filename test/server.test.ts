// The server as OpenAI's own client sees it, with the demo model; what it answers is what the engine says.
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import OpenAI from 'openai'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Message, Part } from '../lib/conversation.js'
import { Engine } from '../lib/engine.js'
import { loadModel, type Loaded } from '../lib/load.js'
import { describeSandbox } from '../lib/python.js'
import { openaiApi, type OpenAIApi, type OpenAIOptions, type ResponseSummary } from '../lib/server/server.js'
import type { ChatEvent, GenerateOptions } from '../lib/types.js'

interface Running extends AsyncDisposable { client: OpenAI, api: OpenAIApi, server: Server, summaries: ResponseSummary[] }

let loaded: Loaded, engine: Engine, shared: Running
const question = 'What is 1234 * 5678?'
const model = 'nanochat'
const ask = (content: string): OpenAI.ChatCompletionMessageParam[] => [{ role: 'user', content }]

async function serving(options: OpenAIOptions = {}): Promise<Running> {
  const summaries: ResponseSummary[] = []
  const api = openaiApi(loaded, { onResponse: (summary) => summaries.push(summary), ...options })
  const server = createServer((request, response) => { void api.handle(request, response) })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    client: new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: options.apiKey ?? 'none', maxRetries: 0 }),
    api, server, summaries,
    async [Symbol.asyncDispose]() {
      await api[Symbol.asyncDispose]()
      server.closeAllConnections()
      server.close()
    }
  }
}

/** What the engine says itself, row by row. */
async function finishes(messages: Message[], options: GenerateOptions): Promise<Extract<ChatEvent, { type: 'finish' }>[]> {
  const rows: Extract<ChatEvent, { type: 'finish' }>[] = []
  for await (const event of engine.chat(messages, options)) if (event.type === 'finish') rows[event.row] = event
  return rows
}

/** The visible text of a message. */
function visible({ content }: Message): string {
  return typeof content === 'string' ? content : content.map(({ type, text }) => type === 'text' ? text : '').join('')
}

async function statusOf(work: () => Promise<unknown>): Promise<[number | undefined, unknown, unknown]> {
  try {
    await work()
  } catch (error) {
    if (error instanceof OpenAI.APIError) return [error.status, error.code, error.param]
    throw error
  }
  return [200, null, null]
}

const partsOf = (message: object): Part[] | undefined => (message as { parts?: Part[] }).parts

const test = suite("the server with OpenAI's client")

test.before(async () => {
  loaded = await loadModel()
  engine = new Engine(loaded.model, loaded.tokenizer)
  shared = await serving()
})

test.after(async () => {
  await shared[Symbol.asyncDispose]()
  await loaded[Symbol.asyncDispose]()
})

test('models: the one there is', async () => {
  const models: OpenAI.Model[] = []
  for await (const one of shared.client.models.list()) models.push(one)
  assert.equal(models.map(({ id, object, owned_by }) => [id, object, owned_by]), [[model, 'model', 'nanochat']])
  assert.equal(await shared.client.models.retrieve(model), models[0])
  assert.equal(await statusOf(() => shared.client.models.retrieve('gpt-4o')), [404, 'model_not_found', 'model'])
})

test('a chat: text as content, everything as parts, counts', async () => {
  const completion = await shared.client.chat.completions.create({ model, messages: ask(question), temperature: 0 })
  const [expected] = await finishes([{ role: 'user', content: question }], { temperature: 0 })
  const [choice] = completion.choices
  assert.is(completion.object, 'chat.completion')
  assert.match(completion.id, /^chatcmpl-/)
  assert.ok(Math.abs(completion.created - Date.now() / 1000) < 60)
  assert.is(choice?.message.content, 'The answer is 7006652.')
  assert.equal(partsOf(choice?.message ?? {}), expected?.message.content)
  assert.equal([choice?.index, choice?.finish_reason, choice?.logprobs, choice?.message.role, choice?.message.refusal], [0, 'stop', null, 'assistant', null])
  const { promptTokens = NaN, generatedTokens = NaN, forcedTokens = NaN } = expected?.stats ?? {}
  assert.equal(completion.usage, {
    prompt_tokens: promptTokens, completion_tokens: generatedTokens + forcedTokens, total_tokens: promptTokens + generatedTokens + forcedTokens,
    prompt_tokens_details: { cached_tokens: 0 }
  })
  const plain = await shared.client.chat.completions.create({ model, messages: ask('Who are you?'), temperature: 0 })
  assert.match(plain.choices[0]?.message.content ?? '', /^I am nanochat/)
  assert.is(partsOf(plain.choices[0]?.message ?? {}), undefined)
})

test('a stream is the answer in pieces', async () => {
  for (const content of [question, 'Who are you?']) {
    const whole = await shared.client.chat.completions.create({ model, messages: ask(content), temperature: 0 })
    const stream = await shared.client.chat.completions.create({ model, messages: ask(content), temperature: 0, stream: true, stream_options: { include_usage: true } })
    let text = ''
    const ids = new Set<string>(), parts: Part[] = [], reasons: (string | null)[] = [], roles: unknown[] = []
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) {
      ids.add(chunk.id)
      assert.is(chunk.object, 'chat.completion.chunk')
      if (chunk.usage) usage = chunk.usage
      for (const { delta, finish_reason } of chunk.choices) {
        text += delta.content ?? ''
        if (delta.role) roles.push(delta.role)
        for (const { index, type, text } of (partsOf(delta) ?? []) as (Part & { index: number })[]) {
          assert.ok(index <= parts.length, 'one after the other, as clients fold them')
          const part = parts[index] ?? { type, text: '' }
          parts[index] = part
          part.text += text
        }
        if (finish_reason) reasons.push(finish_reason)
      }
    }
    const message = whole.choices[0]?.message
    assert.is(text, message?.content)
    assert.equal(parts, partsOf(message ?? {}) ?? [], 'the message of a stream can be sent back, too')
    assert.equal([reasons, roles, ids.size], [['stop'], ['assistant'], 1])
    assert.is(usage?.completion_tokens, whole.usage?.completion_tokens)
  }
})

test("the client's helper folds a stream into the completion", async () => {
  const stream = shared.client.chat.completions.stream({ model, messages: ask('Who are you?'), temperature: 0 })
  const completion = await stream.finalChatCompletion()
  assert.match(completion.choices[0]?.message.content ?? '', /^I am nanochat/)
})

test('the next turn, with the message as it came, computes only what is new', async () => {
  const messages = ask('What is 12 * 12?')
  const first = await shared.client.chat.completions.create({ model, messages, temperature: 0 })
  const answer = first.choices[0]?.message
  assert.ok(answer)
  messages.push(answer, { role: 'user', content: 'and plus 5?' })
  const second = await shared.client.chat.completions.create({ model, messages, temperature: 0 })
  const [expected] = await finishes([{ role: 'user', content: 'What is 12 * 12?' }, { role: 'assistant', content: partsOf(answer) ?? '' }, { role: 'user', content: 'and plus 5?' }], { temperature: 0 })
  assert.is(second.choices[0]?.message.content, visible(expected?.message ?? { role: 'user', content: '' }))
  assert.is(second.usage?.prompt_tokens, expected?.stats.promptTokens)
  const { usage } = first
  assert.ok((second.usage?.prompt_tokens_details?.cached_tokens ?? 0) >= (usage?.total_tokens ?? Infinity) - 1, JSON.stringify(second.usage))
  const again = await shared.client.chat.completions.create({ model, messages: ask('What is 12 * 12?'), temperature: 0 })
  assert.ok((again.usage?.prompt_tokens_details?.cached_tokens ?? 0) === (again.usage?.prompt_tokens ?? NaN) - 1, 'the first turn is still kept')
})

test('system and developer messages, texts in parts', async () => {
  const [expected] = await finishes([{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Who are you?' }], { temperature: 0 })
  for (const role of ['system', 'developer'] as const) {
    const completion = await shared.client.chat.completions.create({
      model, temperature: 0, messages: [{ role, content: [{ type: 'text', text: 'Be ' }, { type: 'text', text: 'brief.' }] }, { role: 'user', content: 'Who are you?' }]
    })
    assert.is(completion.choices[0]?.message.content, visible(expected?.message ?? { role: 'user', content: '' }))
    assert.is(completion.usage?.prompt_tokens, expected?.stats.promptTokens)
  }
})

test('n samples: those of the engine with that seed; without a seed others every time', async () => {
  const options = { temperature: 1, topK: 0, seed: 7, numSamples: 4, maxTokens: 24 }
  const rows = await finishes([{ role: 'user', content: 'Who are you?' }], options)
  const create = (more: object): Promise<OpenAI.ChatCompletion> =>
    shared.client.chat.completions.create({ model, messages: ask('Who are you?'), temperature: 1, n: 4, max_tokens: 24, ...{ top_k: 0 }, ...more })
  const [one, other] = await Promise.all([create({ seed: 7 }), create({ seed: 7, max_tokens: null, max_completion_tokens: 24 })])
  assert.equal(one.choices.map(({ message, finish_reason, index }) => [index, message.content, finish_reason]),
    rows.map(({ message, finishReason, row }) => [row, visible(message), finishReason === 'length' ? 'length' : 'stop']))
  assert.equal(other.choices, one.choices)
  const texts = (await Promise.all(Array.from({ length: 8 }, () => create({ n: 1 })))).map(({ choices }) => choices[0]?.message.content)
  assert.ok(new Set(texts).size > 1, texts[0] ?? '')
})

test('stop, max_tokens, logit_bias, min_p and repetition_penalty', async () => {
  const create = async (more: object): Promise<(string | null | undefined)[]> => {
    const { choices: [choice] } = await shared.client.chat.completions.create({ model, messages: ask('Who are you?'), temperature: 0, ...more })
    return [choice?.message.content, choice?.finish_reason]
  }
  assert.equal(await create({ stop: ' nano' }), ['I am', 'stop'])
  assert.equal(await create({ stop: ['chat', 'zzz'] }), ['I am nano', 'stop'])
  const [whole] = await create({ stop: null, n: null, logprobs: null, top_p: 1, min_p: 0, user: 'me', metadata: { a: 'b' } })
  const [cut, reason] = await create({ max_tokens: 3 })
  assert.is(reason, 'length')
  assert.ok(whole?.startsWith(cut ?? '-') && cut !== whole)
  assert.equal(await create({ max_tokens: 10_000_000 }), [whole, 'stop'], 'more than the context is the context')
  const [first = -1] = loaded.tokenizer.encode('I')
  const [, biased] = [whole, (await create({ logit_bias: { [first]: -100 } }))[0]]
  assert.ok(!biased?.startsWith('I '), biased ?? '')
})

test('logprobs are those of the engine', async () => {
  const options = { model, messages: ask(question), temperature: 0, logprobs: true, top_logprobs: 2 }
  const completion = await shared.client.chat.completions.create(options)
  const expected: { token: string, logprob: number }[] = []
  for await (const { logprobs = [] } of engine.chat([{ role: 'user', content: question }], { temperature: 0, logprobs: 2 })) {
    for (const { id, logprob } of logprobs) expected.push({ token: loaded.tokenizer.decode([id]), logprob })
  }
  const content = completion.choices[0]?.logprobs?.content ?? []
  assert.is(expected.pop()?.token, '<|assistant_end|>', 'the token that ends the turn is none of the answer')
  assert.equal(content.map(({ token, logprob }) => ({ token, logprob })), expected)
  assert.ok(content.every(({ top_logprobs, bytes, token }) => top_logprobs.length === 2 && bytes !== null && Buffer.from(bytes).toString() === token))
  const streamed: unknown[] = []
  for await (const { choices } of await shared.client.chat.completions.create({ ...options, stream: true })) streamed.push(...choices[0]?.logprobs?.content ?? [])
  assert.equal(streamed, content)
  assert.equal(await statusOf(() => shared.client.chat.completions.create({ ...options, logprobs: false })), [400, 'invalid_value', 'top_logprobs'])
})

test('text completions: of a text, of ids, of several, streamed', async () => {
  const { tokenizer } = loaded
  const prompts = ['The answer', 'I am']
  const expected = await Promise.all(prompts.map(async (text) => {
    const prompt = tokenizer.encode(text, { prepend: '<|bos|>' })
    const { results: [row = new Int32Array()], finishReasons: [reason] } = await engine.generateBatch(prompt, { temperature: 0, maxTokens: 8 })
    return { text: tokenizer.decode(row.subarray(prompt.length)), reason: reason === 'length' ? 'length' : 'stop' }
  }))
  const both = await shared.client.completions.create({ model, prompt: prompts, temperature: 0, max_tokens: 8 })
  assert.is(both.object, 'text_completion')
  assert.equal(both.choices.map(({ index, text, finish_reason }) => ({ index, text, reason: finish_reason })), expected.map((one, index) => ({ index, ...one })))
  const ids = prompts.map((text) => [...tokenizer.encode(text, { prepend: '<|bos|>' })])
  const byIds = await shared.client.completions.create({ model, prompt: ids, temperature: 0, max_tokens: 8, n: 2 })
  assert.equal(byIds.choices.map(({ index, text }) => [index, text]), [0, 0, 1, 1].map((p, index) => [index, expected[p]?.text]))
  assert.equal((await shared.client.completions.create({ model, prompt: ids[1] ?? [], temperature: 0, max_tokens: 8 })).choices[0]?.text, expected[1]?.text)
  const texts = ['', '']
  for await (const { choices } of await shared.client.completions.create({ model, prompt: prompts, temperature: 0, max_tokens: 8, stream: true })) {
    for (const { index, text } of choices) texts[index] += text
  }
  assert.equal(texts, expected.map(({ text }) => text))
  const unlimited = await shared.client.completions.create({ model, prompt: 'I am', temperature: 0 })
  assert.equal([unlimited.choices[0]?.finish_reason, unlimited.usage?.completion_tokens], ['length', 16])
})

test('text completions: logprobs with the place of each token', async () => {
  const { choices: [choice] } = await shared.client.completions.create({ model, prompt: 'I am', temperature: 0, max_tokens: 8, logprobs: 3 })
  const { tokens = [], token_logprobs = [], top_logprobs = [], text_offset = [] } = choice?.logprobs ?? {}
  assert.is(tokens.length, 8)
  assert.is(tokens.join(''), choice?.text)
  tokens.forEach((token, i) => {
    assert.is(choice?.text.slice(text_offset[i], (text_offset[i] ?? 0) + token.length), token)
    assert.is(top_logprobs[i]?.[token], token_logprobs[i], 'the likeliest is what temperature 0 takes')
    assert.is(Object.keys(top_logprobs[i] ?? {}).length, 3)
  })
})

test('echo: the prompt again, and how likely it was, as evaluations want it', async () => {
  const text = 'What is 12 * 12? The answer is 144.'
  const { model: gpt, tokenizer } = loaded
  const ids = tokenizer.encode(text, { prepend: '<|bos|>' }), V = gpt.config.vocabSize
  const logits = await gpt.logits(ids)
  const expected = [...ids.subarray(1)].map((id, t) => {
    const row = logits.subarray(t * V, (t + 1) * V), max = Math.max(...row)
    return (row[id] ?? NaN) - max - Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0))
  })
  const near = (actual: readonly (number | null)[] = [], wanted: readonly number[]): boolean => actual.length === wanted.length && actual.every((x, i) => Math.abs((x ?? NaN) - (wanted[i] ?? NaN)) < 1e-4)
  const { choices: [scored], usage } = await shared.client.completions.create({ model, prompt: text, max_tokens: 0, echo: true, logprobs: 2 })
  assert.equal([scored?.text, scored?.finish_reason, usage?.completion_tokens], [text, 'length', 0])
  assert.ok(near(scored?.logprobs?.token_logprobs, expected), JSON.stringify(scored?.logprobs))
  assert.is(scored?.logprobs?.tokens?.join(''), text)
  scored?.logprobs?.tokens?.forEach((token, i) => assert.ok(text.startsWith(token, scored.logprobs?.text_offset?.[i]), token))

  const context = 5                                        // ids as they are, one token more, as lm-evaluation-harness asks
  const both = await shared.client.completions.create({ model, prompt: [[...ids], [...ids.subarray(0, context)]], max_tokens: 1, temperature: 0, echo: true, logprobs: 1, seed: 1 })
  const [whole, short] = both.choices
  assert.is(whole?.logprobs?.token_logprobs?.[0], null)
  assert.is(whole?.logprobs?.top_logprobs?.[0], null)
  assert.ok(near(whole?.logprobs?.token_logprobs?.slice(1, -1), expected))
  assert.ok(near(short?.logprobs?.token_logprobs?.slice(1, -1), expected.slice(0, context - 1)))
  assert.ok(whole?.logprobs?.tokens?.slice(1, -1).every((token, i) => (whole.logprobs?.top_logprobs?.[i + 1]?.[token] ?? -Infinity) === whole.logprobs?.token_logprobs?.[i + 1] || !(token in (whole.logprobs?.top_logprobs?.[i + 1] ?? {}))))
  const streamed: (number | null)[] = []
  let again = ''
  for await (const { choices: [choice] } of await shared.client.completions.create({ model, prompt: text, max_tokens: 3, temperature: 0, echo: true, logprobs: 0, stream: true })) {
    again += choice?.text ?? ''
    streamed.push(...choice?.logprobs?.token_logprobs ?? [])
  }
  assert.ok(near(streamed.slice(0, expected.length), expected))
  assert.ok(again.startsWith(text) && streamed.length <= expected.length + 3)
  const plain = await shared.client.completions.create({ model, prompt: text, max_tokens: 3, temperature: 0, echo: true })
  assert.is(plain.choices[0]?.text, again)
  assert.equal(await statusOf(() => shared.client.completions.create({ model, prompt: text, max_tokens: 0 })), [400, 'invalid_value', 'max_tokens'])
})

test('twenty clients at once get what each would get alone', async () => {
  const questions = Array.from({ length: 20 }, (_, i) => `What is ${17 * i + 3} * ${i + 2}?`)
  const ask20 = (): Promise<(string | null | undefined)[]> => Promise.all(questions.map(async (content) =>
    (await shared.client.chat.completions.create({ model, messages: ask(content), temperature: 0 })).choices[0]?.message.content))
  const together = await ask20()
  for (const [i, content] of questions.entries()) assert.is(together[i], visible((await finishes([{ role: 'user', content }], { temperature: 0 }))[0]?.message ?? { role: 'user', content: '' }), content)
  assert.equal(await ask20(), together)
})

test('a client that leaves ends its generation, streamed or not', async () => {
  await using one = await serving({ engine: { maxRows: 1 }, tool: (_, { signal }) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))) })
  const messages = ask(question)                           // whose tool never answers
  const controller = new AbortController()
  const whole = one.client.chat.completions.create({ model, messages, temperature: 0 }, { signal: controller.signal })
  while (one.server.listenerCount('request') === 0 || await connections(one.server) === 0) await new Promise((resolve) => setTimeout(resolve, 5))
  setTimeout(() => controller.abort(), 200)
  assert.ok(await whole.then(() => false, (error: unknown) => error instanceof OpenAI.APIUserAbortError))
  for await (const { choices } of await one.client.chat.completions.create({ model, messages, temperature: 0, stream: true })) if (partsOf(choices[0]?.delta ?? {})) break
  const after = await one.client.chat.completions.create({ model, messages: ask('Who are you?'), temperature: 0 })   // in the one row there is
  assert.match(after.choices[0]?.message.content ?? '', /^I am nanochat/)
  assert.equal(one.summaries.map(({ status, error }) => [status, error]), [[499, null], [499, null], [200, null]])
})

test('Python in a cage, or none at all', async () => {
  const { tier } = await describeSandbox()
  const messages = ask('List the primes up to 30.')
  const without = await shared.client.chat.completions.create({ model, messages, temperature: 0, tool_choice: 'none' })
  assert.equal(partsOf(without.choices[0]?.message ?? {})?.filter(({ type }) => type === 'python_output'), [])
  if (tier === 'none') return console.log('SKIP the primes: this machine has no cage')
  const { choices: [choice] } = await shared.client.chat.completions.create({ model, messages, temperature: 0 })
  assert.is(choice?.message.content, 'The primes are [2, 3, 5, 7, 11, 13, 17, 19, 23, 29].')
})

test('a key: without it nothing but /health', async () => {
  await using locked = await serving({ apiKey: 'sesame', modelName: 'mine' })
  assert.equal((await locked.client.chat.completions.create({ model: 'mine', messages: ask('Who are you?'), max_tokens: 2 })).choices.length, 1)
  assert.equal(await statusOf(() => locked.client.chat.completions.create({ model, messages: ask('Who are you?') })), [404, 'model_not_found', 'model'])
  for (const apiKey of ['sesam', 'sesame1', 'SESAME', 'x'.repeat(10_000)]) {
    const stranger = new OpenAI({ baseURL: locked.client.baseURL, apiKey, maxRetries: 0 })
    assert.equal(await statusOf(() => stranger.models.list()), [401, 'invalid_api_key', null])
    assert.equal(await statusOf(() => stranger.chat.completions.create({ model: 'mine', messages: ask('Hi') })), [401, 'invalid_api_key', null])
  }
  const { status, headers } = await fetch(`${locked.client.baseURL}/models`)
  assert.equal([status, headers.get('www-authenticate')], [401, 'Bearer'])
  assert.is((await fetch(new URL('/health', locked.client.baseURL))).status, 200)
})

test('no more requests at a time than it takes', async () => {
  let answer = (_: string): void => {}
  const asked = new Promise<void>((resolve) => { tool = (): Promise<string> => { resolve(); return new Promise((done) => { answer = done }) } })
  await using one = await serving({ maxRequests: 1, tool: () => tool() })
  const first = one.client.chat.completions.create({ model, messages: ask(question), temperature: 0 })
  await asked
  assert.equal(await statusOf(() => one.client.chat.completions.create({ model, messages: ask('Hi') })), [429, 'too_many_requests', null])
  answer('7006652')
  assert.is((await first).choices[0]?.message.content, 'The answer is 7006652.')
  assert.equal(await statusOf(() => one.client.chat.completions.create({ model, messages: ask('Hi'), max_tokens: 1 })), [200, null, null])
})
let tool = async (): Promise<string> => ''

test('disposed: what runs is ended, what comes is refused', async () => {
  let started = (): void => {}
  const asked = new Promise<void>((resolve) => { started = resolve })
  const one = await serving({ tool: (_, { signal }) => new Promise((_, reject) => { started(); signal.addEventListener('abort', () => reject(signal.reason)) }) })
  const pending = statusOf(() => one.client.chat.completions.create({ model, messages: ask(question), temperature: 0 }))
  await asked
  await one.api[Symbol.asyncDispose]()
  assert.equal(await pending, [503, 'shutting_down', null])
  assert.equal(await statusOf(() => one.client.chat.completions.create({ model, messages: ask(question) })), [503, 'shutting_down', null])
  await one[Symbol.asyncDispose]()
  assert.is((await finishes([{ role: 'user', content: question }], { temperature: 0 })).length, 1, 'the model goes on')
})

async function connections(server: Server): Promise<number> {
  return new Promise((resolve) => server.getConnections((_, count) => resolve(count)))
}

test.run()
