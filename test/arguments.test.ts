// What callers without TypeScript pass: the public functions refuse it with ERR_INVALID_ARG, whatever it is.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as nanochat from '../lib/index.js'

const { NanochatError } = nanochat
const wrong: unknown[] = [null, 5, '', {}, [], true, Symbol('wrong')]
type Call = (value: never) => unknown

const test = suite('arguments')

async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call()
    return null
  } catch (error) {
    return error
  }
}

/** Also accepted: values that are legal in this place. */
async function refuses(call: Call, legal: unknown[] = []): Promise<void> {
  for (const value of wrong.filter((value) => !legal.includes(value))) {
    const error = await errorOf(() => call(value as never))
    assert.ok(NanochatError.is(error) && error.code === 'ERR_INVALID_ARG', `${String(call)} with ${String(value)}: ${String(error)}`)
  }
}

test('paths', async () => {
  await refuses((dir) => nanochat.loadModelFromDir(dir))
  await refuses((dir) => nanochat.loadGPT(dir))
  await refuses((dir) => nanochat.convertCheckpoint(dir, 'out'))
  await refuses((out) => nanochat.convertCheckpoint('models/demo', out))
  await refuses((tokenizerDir) => nanochat.loadModelFromDir('models/demo', { tokenizerDir }), [''])
})

test('tools', async () => {
  await refuses((expr) => nanochat.useCalculator(expr), [''])
  await refuses((python) => nanochat.describeSandbox(python))
  await refuses((options) => nanochat.pythonTool(options), wrong.filter((value) => typeof value === 'object' && value !== null))
  await refuses((maxTokens) => nanochat.pythonTool({ maxTokens }), [5])
  await refuses((encode) => nanochat.pythonTool({ encode }))
  await refuses((signal) => nanochat.pythonTool({ signal }))
  await refuses((signal) => nanochat.executeCode('1', { signal }))
  await refuses((timeoutMs) => nanochat.pythonTool({ timeoutMs }), [5])
  assert.ok(NanochatError.is(await errorOf(() => nanochat.pythonTool({ timeout: 5 } as never))), 'an option that is not known')
})

test('the tokenizer', async () => {
  await using loaded = await nanochat.loadModel()
  const { tokenizer } = loaded
  await refuses((text) => tokenizer.encode(text), [''])
  await refuses((options) => tokenizer.encode('a', options), wrong.filter((value) => typeof value === 'object' && value !== null))
  await refuses((prepend) => tokenizer.encode('a', { prepend }), [5])
  await refuses((ids) => tokenizer.decode(ids), wrong.filter(Array.isArray))
  await refuses((name) => tokenizer.encodeSpecial(name))
})

test.run()
