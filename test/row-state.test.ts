import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { initialRowState, nextRowState } from '../lib/row-state.js'
import type { SpecialIds } from '../lib/row-state.js'

const ids: SpecialIds = { bos: 100, assistantEnd: 101, pythonStart: 102, pythonEnd: 103, outputStart: 104, outputEnd: 105, others: [106, 107, 108] }

/** The effects of a token list, with the content of every block that closes. */
function effects(tokens: number[], specials: SpecialIds | null = ids): unknown[] {
  let state = initialRowState
  return tokens.map((token, index) => {
    const next = nextRowState(state, token, index, specials)
    state = next.state
    return 'from' in next.effect ? [next.effect.type, tokens.slice(next.effect.from, index)] : next.effect.type
  })
}

/** nanochat's own loop (MODEL.md 5), which runs the tool on `runs`. */
function nanochat(tokens: number[]): { runs: number[][], end: number } {
  const runs: number[][] = []
  let inBlock = false, collected: number[] = []
  for (const [index, token] of tokens.entries()) {
    if (token === ids.assistantEnd || token === ids.bos) return { runs, end: index }
    if (token === ids.pythonStart) {
      inBlock = true
      collected = []
    } else if (token === ids.pythonEnd && inBlock) {
      inBlock = false
      if (collected.length > 0) runs.push(collected)
      collected = []
    } else if (inBlock) collected.push(token)
  }
  return { runs, end: -1 }
}

const test = suite('row-state')

test('text, a python block and what follows', () => {
  assert.equal(effects([1, 102, 2, 3, 103, 104, 4, 105, 5, 101]),
    ['text', 'open', 'hidden', 'hidden', ['python', [2, 3]], 'open', 'hidden', ['output', [4]], 'text', 'end'])
})

test('an empty block, and python_start inside a block forgets what was collected', () => {
  assert.equal(effects([102, 103, 102, 7, 102, 8, 103]), ['open', ['python', []], 'open', 'hidden', 'open', 'hidden', ['python', [8]]])
})

test('python_end and output_end outside their blocks do nothing; other markers are not text', () => {
  assert.equal(effects([103, 1, 105, 106, 107, 108, 2, 104, 103, 105]),
    ['hidden', 'text', 'hidden', 'hidden', 'hidden', 'hidden', 'text', 'open', 'hidden', ['output', [103]]])
})

test('inside a python block every other token is collected', () => {
  assert.equal(effects([102, 104, 1, 105, 106, 103]), ['open', 'hidden', 'hidden', 'hidden', 'hidden', ['python', [104, 1, 105, 106]]])
})

test('bos and assistant_end end a row anywhere', () => {
  for (const end of [100, 101]) for (const before of [[], [102, 1], [104, 1], [1]]) assert.is(effects([...before, end]).at(-1), 'end')
})

test('without special ids every token is text', () => {
  assert.equal(effects([100, 101, 102, 103, 1], null), ['text', 'text', 'text', 'text', 'text'])
})

test("the blocks that close are those nanochat's loop runs, on 5,000 random token lists", () => {
  let state = 7
  const random = (n: number): number => { state = (Math.imul(state, 1103515245) + 12345) >>> 0; return (state >>> 8) % n }
  for (let i = 0; i < 5000; i++) {
    const tokens = Array.from({ length: random(24) }, () => random(3) > 0 ? 101 + random(6) : random(5))
    const expected = nanochat(tokens)
    const all = effects(tokens)
    const end = all.indexOf('end')
    const runs = (end < 0 ? all : all.slice(0, end)).filter((effect): effect is [string, number[]] => Array.isArray(effect) && effect[0] === 'python')
      .map(([, content]) => content).filter((content) => content.length > 0)
    assert.is(end, expected.end)
    assert.equal(runs, expected.runs, tokens.join(' '))
  }
})

test.run()
