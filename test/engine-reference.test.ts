import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readFileSync } from 'node:fs'
import { Engine } from '../lib/engine.js'
import { loadModel } from '../lib/load.js'
import { tokenizerFromPickle } from '../lib/tokenizer.js'
import type { Message } from '../lib/conversation.js'
import { fakeModel } from './support/fake-backend.js'
import { someOf } from './support/some-of.js'

interface Turn { question: string, prompt: number[], tokens: number[], masks: number[], tool: { code: string, output: string | null }[], text: string }
interface Reference { conversations: { tool: 'python' | 'calculator', turns: Turn[] }[] }

const demo = (name: string): URL => new URL(`fixtures/demo/${name}`, import.meta.url)
const { conversations } = JSON.parse(readFileSync(demo('reference.json'), 'utf8')) as Reference
const tokenizer = tokenizerFromPickle(readFileSync(demo('tokenizer/tokenizer.pkl')))
const recordedMaxTokens = 200
const test = suite("engine: nanochat's own conversations")

// The model is played by a script of the sampled tokens: what is proven here is the state machine, the columns and the masks.
for (const [c, { tool, turns }] of conversations.entries()) {
  test(`conversation ${c}: ${turns.map(({ question }) => question).join(' | ').slice(0, 80)}`, async () => {
    const { backend, model } = fakeModel({ vocabSize: tokenizer.getVocabSize(), sequenceLen: 512 })
    const engine = new Engine(model, tokenizer)
    const messages: Message[] = []
    for (const turn of turns) {
      messages.push({ role: 'user', content: turn.question })
      assert.equal([...tokenizer.renderForCompletion(messages)], turn.prompt)
      backend.script(turn.prompt, turn.tokens)
      const calls = [...turn.tool]
      const recorded = (code: string): string | null => {
        const call = calls.shift()
        assert.is(code, call?.code)
        return call?.output ?? null
      }
      // note: three calculator turns have a %, which use_calculator (MODEL.md 5) does not know, and a recorded result nevertheless.
      const asRecorded = tool === 'python' || turn.tool.some(({ code }) => code.includes('%'))
      const options = { temperature: 0, maxTokens: recordedMaxTokens, ...asRecorded ? { tool: recorded } : {} }
      const ids: number[] = [], masks: number[] = []
      for await (const column of engine.generate(turn.prompt, options)) {
        ids.push(column.tokenColumn[0] as number)
        masks.push(column.tokenMasks[0] as number)
      }
      assert.equal(ids, turn.tokens)
      assert.equal(masks, turn.masks)
      if (asRecorded) assert.is(calls.length, 0, 'every recorded call was made')

      calls.splice(0, Infinity, ...turn.tool)
      let answer: Message | undefined
      for await (const event of engine.chat(messages, options)) if (event.type === 'finish') answer = event.message
      assert.ok(answer)
      messages.push(answer)
      assert.is(textOf(answer), turn.text.replace('<|assistant_end|>', ''))
    }
    assert.is(backend.live, 0)
  })
}

// The model itself, all turns at once: nanochat's tokens and masks, whatever else is in the batch.
for (const dtype of ['float32', 'bfloat16'] as const) {
  test(`the demo model in ${dtype} gives nanochat's tokens and masks`, async () => {
    const { model, tokenizer } = await loadModel('demo', { dtype })
    const engine = new Engine(model, tokenizer, { maxRows: 16 })
    await Promise.all(someOf(conversations.flatMap(({ turns }) => turns)).map(async (turn) => {
      const calls = [...turn.tool]
      const { results, masks } = await engine.generateBatch(turn.prompt, { temperature: 0, maxTokens: recordedMaxTokens, tool: async () => calls.shift()?.output ?? null })
      const ended = turn.tokens.at(-1) === tokenizer.encodeSpecial('<|assistant_end|>') ? -1 : undefined
      assert.equal([...results[0] as Int32Array], [...turn.prompt, ...turn.tokens.slice(0, ended)], turn.question)
      assert.equal([...masks[0] as Uint8Array], [...turn.prompt.map(() => 0), ...turn.masks.slice(0, ended)])
    }))
    await engine[Symbol.asyncDispose]()
    await model[Symbol.asyncDispose]()
  })
}

/** A message as its tokens read, markers included. */
function textOf({ content }: Message): string {
  const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content
  return parts.map(({ type, text }) => type === 'python' ? `<|python_start|>${text}<|python_end|>` : type === 'python_output' ? `<|output_start|>${text}<|output_end|>` : text).join('')
}

test.run()
