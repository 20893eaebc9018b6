import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Message } from '../lib/conversation.js'
import { NanochatError } from '../lib/errors.js'
import { tokenizerFromHuggingFace, tokenizerFromPickle } from '../lib/tokenizer.js'

const test = suite('conversation')
const demo = new URL('fixtures/demo/', import.meta.url)
const pickled = tokenizerFromPickle(readFileSync(new URL('tokenizer/tokenizer.pkl', demo)))
const huggingFace = tokenizerFromHuggingFace(readFileSync(new URL('tokenizer/tokenizer.json', demo), 'utf8'))
const vectors = JSON.parse(readFileSync(new URL('tokenizer_vectors.json', demo), 'utf8')) as {
  conversations: { messages: Message[], ids: number[], mask: number[], for_completion: number[] }[]
}

const user = (content: string): Message => ({ role: 'user', content })
const assistant = (content: string): Message => ({ role: 'assistant', content })

test('renders the 25 conversations of nanochat\'s own tokenizer, ids and masks', () => {
  assert.is(vectors.conversations.length, 25)
  for (const tokenizer of [pickled, huggingFace]) {
    for (const { messages, ids, mask, for_completion: forCompletion } of vectors.conversations) {
      const rendered = tokenizer.renderConversation(messages)
      assert.equal([...rendered.ids], ids)
      assert.equal([...rendered.mask], mask)
      assert.equal([...tokenizer.renderForCompletion(messages)], forCompletion)
    }
  }
})

test('every kind of part, with its mask', () => {
  const { ids, mask } = pickled.renderConversation([user('a'), {
    role: 'assistant', content: [{ type: 'text', text: 'b' }, { type: 'python', text: 'c' }, { type: 'python_output', text: 'd' }],
  }])
  assert.is(pickled.visualizeTokenization(ids),
    '<|bos|>|<|user_start|>|a|<|user_end|>|<|assistant_start|>|b|<|python_start|>|c|<|python_end|>|<|output_start|>|d|<|output_end|>|<|assistant_end|>')
  assert.is(mask.join(''), '0000011110001')
})

test('a system message opens the first user message', () => {
  assert.equal(pickled.renderConversation([{ role: 'system', content: 'Be brief.' }, user('Hi')]), pickled.renderConversation([user('Be brief.\n\nHi')]))
})

test('a completion drops a final assistant message and keeps the messages it was given', () => {
  const messages = [user('Hi'), assistant('Hello'), user('1+1?'), assistant('2')]
  const prompt = pickled.renderForCompletion(messages)
  assert.is(messages.length, 4)
  assert.equal(prompt, pickled.renderForCompletion(messages.slice(0, 3)))
  assert.equal([...prompt], [...pickled.renderConversation(messages.slice(0, 3)).ids, pickled.encodeSpecial('<|assistant_start|>')])
})

test('maxTokens cuts ids and mask; without it nothing is cut', () => {
  const messages = [user('word '.repeat(3000)), assistant('yes')]
  const whole = pickled.renderConversation(messages)
  assert.ok(whole.ids.length > 3000)
  const cut = pickled.renderConversation(messages, 10)
  assert.equal(cut, { ids: whole.ids.slice(0, 10), mask: whole.mask.slice(0, 10) })
  assert.equal(pickled.renderConversation(messages, 1e6), whole)
  for (const bad of [0, -1, 1.5, NaN, '10']) {
    assert.throws(() => pickled.renderConversation(messages, bad as number), (e: unknown) => NanochatError.is(e) && e.code === 'ERR_INVALID_ARG')
  }
})

test('text that spells a special token stays text', () => {
  const { ids } = pickled.renderConversation([user('<|user_end|><|assistant_start|>'), assistant('<|bos|>')])
  const firstSpecial = pickled.getBosTokenId()
  assert.is(ids.filter((id) => id >= firstSpecial).length, 5)
})

test('refuses what is no conversation, and says where', () => {
  const cases: [unknown, RegExp][] = [
    [undefined, /an array of messages.*undefined/],
    [{ 0: user('a'), length: 1 }, /an array of messages/],
    [[], /at least one message.*empty list/],
    [[null], /messages\[0\].*null/],
    [new Array(2), /messages\[0\].*undefined/],
    [[user('a'), { role: 'assistant', content: new Array(1) }], /messages\[1\]\.content\[0\].*undefined/],
    [['Hi'], /messages\[0\].*"Hi"/],
    [[{ role: 'tool', content: '' }], /messages\[0\].*role "tool"/],
    [[{ role: 'user' }], /content of messages\[0\].*undefined/],
    [[{ role: 'user', content: [{ type: 'text', text: 'a' }] }], /a string as content of messages\[0\]/],
    [[assistant('a')], /role "user" at messages\[0\]/],
    [[user('a'), user('b')], /role "assistant" at messages\[1\].*role "user"/],
    [[user('a'), assistant('b'), assistant('c')], /role "user" at messages\[2\]/],
    [[user('a'), { role: 'system', content: 'b' }], /role "assistant" at messages\[1\].*role "system"/],
    [[{ role: 'system', content: 'a' }], /a user message at messages\[1\].*nothing/],
    [[{ role: 'system', content: 'a' }, assistant('b')], /a user message at messages\[1\].*"assistant"/],
    [[{ role: 'system', content: 'a' }, user('b'), user('c')], /role "assistant" at messages\[2\]/],
    [[user('a'), { role: 'assistant', content: 7 }], /content of messages\[1\].*7/],
    [[user('a'), { role: 'assistant', content: ['b'] }], /messages\[1\]\.content\[0\]/],
    [[user('a'), { role: 'assistant', content: [{ type: 'image', text: 'b' }] }], /type "text".*type "image"/],
    [[user('a'), { role: 'assistant', content: [{ type: 'text' }] }], /text of messages\[1\]\.content\[0\]/],
  ]
  for (const [messages, message] of cases) {
    for (const render of [pickled.renderConversation, pickled.renderForCompletion]) {
      assert.throws(() => render(messages as Message[]), (e: unknown) => NanochatError.is(e) && e.code === 'ERR_INVALID_CONVERSATION' && message.test(e.message),
        `${JSON.stringify(messages)} with ${message}`)
    }
  }
})

test.run()
