// The demo model that ships, in every type, against nanochat's Engine on the original in float32 (fixtures/demo).
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Engine } from '../lib/engine.js'
import { loadModel } from '../lib/load.js'
import { native } from '../lib/native.js'

interface Turn { question: string, prompt: number[], tokens: number[], masks: number[], tool: { code: string, output: string | null }[] }

const { conversations } = JSON.parse(readFileSync(new URL('fixtures/demo/reference.json', import.meta.url), 'utf8')) as { conversations: { turns: Turn[] }[] }
const turns = conversations.flatMap((conversation) => conversation.turns)
const recordedMaxTokens = 200
const test = suite('demo model')

/** The answer that the original itself does not get to an end of in 200 tokens: one of its words is none. */
const endless = (turn: Turn): boolean => turn.tokens.length === recordedMaxTokens

// int8 gives every token and mask of the original, int4 all but those of the endless answer.
for (const dtype of ['float32', 'bfloat16', 'int8', 'int4'] as const) {
  for (const [rank, isa] of native().info().isas.entries()) {
    const some = rank > 0 ? turns.slice(0, 8) : dtype === 'int4' ? turns.filter((turn) => !endless(turn)) : turns
    test(`${some.length} reference turns, ${dtype} ${isa}: tokens and masks`, async () => {
      await using loaded = await loadModel('demo', { dtype, isa })
      await using engine = new Engine(loaded.model, loaded.tokenizer)
      for (const { question, prompt, tokens, masks, tool } of some) {
        const calls = [...tool]
        const ids: number[] = []
        const seen: number[] = []
        const recorded = (code: string): string | null => {
          const call = calls.shift()
          assert.is(code, call?.code)
          return call?.output ?? null
        }
        for await (const column of engine.generate(prompt, { temperature: 0, maxTokens: recordedMaxTokens, tool: recorded })) {
          ids.push(...column.tokenColumn)
          seen.push(...column.tokenMasks)
        }
        assert.equal(ids, tokens, question)
        assert.equal(seen, masks, question)
        assert.is(calls.length, 0, 'every recorded call was made')
      }
    })
  }
}

test('one recorded answer is endless', () => {
  assert.equal(turns.filter(endless).map(({ question }) => question), ['Put these words in alphabetical order: fularoli hedgehog fabacopes kas Please be quick.'])
})

test('rows of one prompt and concurrent conversations give what each gives alone', async () => {
  await using loaded = await loadModel()
  await using engine = new Engine(loaded.model, loaded.tokenizer)
  const options = { temperature: 0.8, topK: 50, maxTokens: 60, numSamples: 3 }
  const alone = []
  for (const { prompt } of turns.slice(0, 6)) alone.push(await engine.generateBatch(prompt, options))
  const together = await Promise.all(turns.slice(0, 6).map(({ prompt }) => engine.generateBatch(prompt, options)))
  for (const [i, { results, masks }] of together.entries()) {
    assert.equal(results, alone[i]?.results)
    assert.equal(masks, alone[i]?.masks)
  }
})

test.run()
