import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Message, Part } from '../lib/conversation.js'
import { Engine } from '../lib/engine.js'
import { NanochatError } from '../lib/errors.js'
import type { ChatEvent, GenerateOptions, Tool } from '../lib/types.js'
import { fakeModel, type FakeBackend } from './support/fake-backend.js'
import { byteTokenizer, special } from './support/fake-tokenizer.js'

const { bos, userStart, userEnd, assistantStart, assistantEnd, pythonStart, pythonEnd, outputStart, outputEnd } = special
const words = ['Hello', ' world', 'ld EN', 'D!']
const tokenizer = byteTokenizer(words)
const word = (text: string): number => 265 + words.indexOf(text)
const bytes = (text: string): number[] => [...tokenizer.encode(text)]
const question: Message[] = [{ role: 'user', content: 'Hi' }]
const prompt = [bos, userStart, ...bytes('Hi'), userEnd, assistantStart]

function setup(): { backend: FakeBackend, engine: Engine } {
  const { backend, model } = fakeModel({ vocabSize: tokenizer.getVocabSize(), sequenceLen: 256 })
  return { backend, engine: new Engine(model, tokenizer, { kvCacheBytes: 1e6 }) }
}

async function events(output: number[], options: GenerateOptions = {}): Promise<ChatEvent[]> {
  const { backend, engine } = setup()
  backend.script(prompt, output)
  const all: ChatEvent[] = []
  for await (const event of engine.chat(question, { temperature: 0, ...options })) all.push(event)
  assert.is(backend.live, 0)
  return all
}

/** Events without stats, briefly. */
const brief = (all: ChatEvent[]): unknown[] => all.map((event) => event.type === 'finish' ? [event.finishReason, event.message.content] : [event.type, event.text])

/** A row's events as a message. */
function fold(all: ChatEvent[], row: number): Message {
  const parts: Part[] = []
  for (const event of all) {
    if (event.row !== row || event.type === 'finish' || event.text === null) continue
    const last = parts.at(-1)
    if (event.type === 'text' && last?.type === 'text') last.text += event.text
    else parts.push({ type: event.type, text: event.text })
  }
  if (parts.every(({ type }) => type === 'text')) return { role: 'assistant', content: parts.map(({ text }) => text).join('') }
  return { role: 'assistant', content: parts }
}

/** The message that a row's tokens spell, by splitting them at the markers. */
function parse(tokens: readonly number[]): Message {
  const parts: Part[] = []
  let type: Part['type'] = 'text', ids: number[] = []
  const close = (closed: boolean): void => {
    const text = tokenizer.decode(ids)
    const last = parts.at(-1)
    if (type === 'text' && last?.type === 'text') last.text += text
    else if (text !== '' || (type !== 'text' && closed)) parts.push({ type, text })
    type = 'text'
    ids = []
  }
  for (const token of tokens) {
    if (token === assistantEnd || token === bos) break
    if (token === pythonStart || (token === outputStart && type !== 'python')) {
      if (type === 'text') close(false)
      type = token === pythonStart ? 'python' : 'python_output'
      ids = []
    } else if ((token === pythonEnd && type === 'python') || (token === outputEnd && type === 'python_output')) close(true)
    else if (type !== 'text' || token < 256 || token >= 265) ids.push(token)
  }
  close(false)
  if (parts.every(({ type }) => type === 'text')) return { role: 'assistant', content: parts.map(({ text }) => text).join('') }
  return { role: 'assistant', content: parts }
}

const test = suite('chat')

test('a plain answer is one string', async () => {
  assert.equal(brief(await events([word('Hello'), word(' world'), assistantEnd])), [['text', 'Hello'], ['text', ' world'], ['stop', 'Hello world']])
  assert.equal(brief(await events([assistantEnd])), [['stop', '']])
})

test('text, code, output, text', async () => {
  const output = [word('Hello'), pythonStart, ...bytes('1+1'), pythonEnd, outputStart, ...bytes('2'), outputEnd, word(' world'), assistantEnd]
  const content: Part[] = [{ type: 'text', text: 'Hello' }, { type: 'python', text: '1+1' }, { type: 'python_output', text: '2' }, { type: 'text', text: ' world' }]
  const all = await events(output)
  assert.equal(brief(all), [['text', 'Hello'], ['python', '1+1'], ['python_output', '2'], ['text', ' world'], ['stop', content]])
  const finish = all.at(-1)
  assert.ok(finish?.type === 'finish')
  assert.equal([finish.stats.promptTokens, finish.stats.generatedTokens, finish.stats.forcedTokens], [6, 8, 3])
  assert.equal([...tokenizer.renderForCompletion([...question, finish.message, { role: 'user', content: 'x' }])].slice(0, -4), [...prompt, ...bytes('Hello'), ...output.slice(1, -2), ...bytes(' world'), assistantEnd],
    'the message renders to the tokens it came from')
})

test('no result: an event with null and no part; no tool: no event', async () => {
  const output = [pythonStart, 65, pythonEnd, 66, assistantEnd]
  const content: Part[] = [{ type: 'python', text: 'A' }, { type: 'text', text: 'B' }]
  for (const tool of [() => null, async () => null] satisfies Tool[]) {
    assert.equal(brief(await events(output, { tool })), [['python', 'A'], ['python_output', null], ['text', 'B'], ['stop', content]])
  }
  assert.equal(brief(await events(output, { tool: null })), [['python', 'A'], ['text', 'B'], ['stop', content]])
})

test('an empty result and an empty block are parts', async () => {
  assert.equal(brief(await events([pythonStart, 65, pythonEnd, outputStart, outputEnd, assistantEnd], { tool: () => '' })),
    [['python', 'A'], ['python_output', ''], ['stop', [{ type: 'python', text: 'A' }, { type: 'python_output', text: '' }]]])
  assert.equal(brief(await events([pythonStart, pythonEnd, assistantEnd])), [['python', ''], ['stop', [{ type: 'python', text: '' }]]])
})

test('characters come whole, invalid bytes as U+FFFD', async () => {
  assert.equal(brief(await events([...bytes('€é'), 0xff, 65, 0xe2, assistantEnd])), [['text', '€'], ['text', 'é'], ['text', '\ufffd'], ['text', 'A'], ['text', '\ufffd'], ['stop', '€é\ufffdA\ufffd']])
})

test('a stop string is not in the text, not even its beginning', async () => {
  assert.equal(brief(await events([word('Hello'), word('ld EN'), word('D!'), assistantEnd], { stop: ['END', '\n'] })), [['text', 'Hello'], ['text', 'ld '], ['stop-sequence', 'Hellold ']])
  assert.equal(brief(await events([word('ld EN'), pythonStart, 65, pythonEnd, word('D!'), assistantEnd], { stop: 'END', tool: null })),
    [['text', 'ld '], ['text', 'EN'], ['python', 'A'], ['text', 'D!'], ['stop', [{ type: 'text', text: 'ld EN' }, { type: 'python', text: 'A' }, { type: 'text', text: 'D!' }]]])
})

test('a row that is cut keeps what it has', async () => {
  const output = [65, pythonStart, 66, 67, pythonEnd, outputStart, ...bytes('xyz'), outputEnd, assistantEnd]
  const cut = async (maxTokens: number): Promise<unknown> => brief(await events(output, { maxTokens, tool: () => 'xyz' })).at(-1)
  assert.equal(await cut(2), ['length', 'A'])
  assert.equal(await cut(3), ['length', [{ type: 'text', text: 'A' }, { type: 'python', text: 'B' }]])
  assert.equal(await cut(8), ['length', [{ type: 'text', text: 'A' }, { type: 'python', text: 'BC' }, { type: 'python_output', text: 'xy' }]])
})

test("a tool's error comes after the events before it, an abort at once", async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [pythonStart, 65, pythonEnd])
  const failure = new Error('broken')
  const chat = engine.chat(question, { temperature: 0, tool: () => { throw failure } })
  assert.is(((await chat.next()).value as ChatEvent).type, 'python')
  assert.is(await chat.next().catch((error: unknown) => error), failure)

  const controller = new AbortController()
  const aborted = engine.chat(question, { signal: controller.signal, numSamples: 4 })
  await aborted.next()
  controller.abort('enough')
  for (let i = 0; i < 3; i++) assert.is(await aborted.next().catch((error: unknown) => error), 'enough')
})

test('a conversation that is none is ERR_INVALID_CONVERSATION, from next()', async () => {
  const { engine } = setup()
  for (const messages of [[], [{ role: 'assistant', content: 'x' }], 'Hi', null]) {
    const error = await engine.chat(messages as Message[]).next().catch((error: unknown) => error)
    assert.ok(NanochatError.is(error) && error.code === 'ERR_INVALID_CONVERSATION', String(error))
  }
})

test('events fold into the message, which is what the tokens spell: 300 random answers', async () => {
  let state = 11
  const random = (n: number): number => { state = (Math.imul(state, 1103515245) + 12345) >>> 0; return (state >>> 8) % n }
  const alphabet = [pythonStart, pythonEnd, outputStart, outputEnd, userStart, userEnd, assistantStart, word('Hello'), word(' world'), ...bytes('aé€')]
  for (let i = 0; i < 300; i++) {
    const answers = [null, '', 'r€'].map((answer) => random(2) === 0 ? answer : Promise.resolve(answer))
    const tool: Tool | null = random(4) === 0 ? null : (code) => answers[code.length % 3] ?? null
    const { backend, engine } = setup()
    const options: GenerateOptions = { seed: i, numSamples: 1 + random(3), maxTokens: 1 + random(40), tool, logitBias: Object.fromEntries([...alphabet, assistantEnd].map((id) => [id, id === assistantEnd ? 4 : 6])) }
    const { results, masks, finishReasons } = await engine.generateBatch(prompt, options)
    const all: ChatEvent[] = []
    for await (const event of engine.chat(question, options)) all.push(event)
    results.forEach((ids, row) => {
      const finish = all.filter((event) => event.row === row).at(-1)
      assert.ok(finish?.type === 'finish')
      assert.is(finish.finishReason, finishReasons[row])
      assert.equal(finish.message, parse([...ids].slice(prompt.length)), `row ${row} of ${i}`)
      assert.equal(fold(all, row), finish.message)
      assert.is(finish.stats.forcedTokens, [...masks[row] as Uint8Array].slice(prompt.length).filter((mask) => mask === 0).length)
    })
    assert.is(all.filter(({ type }) => type === 'finish').length, options.numSamples)
    assert.is(backend.live, 0)
  }
})

test('logprobs: each event has those of the tokens sampled since the last one, as the columns do', async () => {
  const output = [word('Hello'), pythonStart, ...bytes('1+1'), pythonEnd, ...bytes('\u00e9'), assistantEnd]
  const options: GenerateOptions = { logprobs: 2, tool: () => '2', temperature: 0 }
  const forced = [outputStart, ...bytes('2'), outputEnd]
  const { backend, engine } = setup()
  backend.script(prompt, [...output.slice(0, 6), ...forced, ...output.slice(6)])
  const all: ChatEvent[] = []
  for await (const event of engine.chat(question, options)) all.push(event)
  assert.equal(all.map(({ type, logprobs }) => [type, logprobs?.map(({ id }) => id)]), [
    ['text', [word('Hello')]], ['python', [pythonStart, ...bytes('1+1'), pythonEnd]], ['python_output', undefined], ['text', bytes('\u00e9')], ['finish', [assistantEnd]]
  ])
  const columns: [number, number][] = []
  for await (const { tokenColumn: [id = -1], logprobs } of engine.generate(prompt, options)) if (!Number.isNaN(logprobs?.token[0])) columns.push([id, logprobs?.token[0] ?? NaN])
  assert.equal(all.flatMap(({ logprobs }) => logprobs?.map(({ id, logprob }) => [id, logprob]) ?? []), columns)
  assert.ok(all.every(({ logprobs }) => logprobs?.every(({ top }) => top.length === 2) ?? true))
  assert.ok((await events(output)).every((event) => !('logprobs' in event)))
})

test.run()
