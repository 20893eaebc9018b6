import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { Engine, type EngineOptions } from '../lib/engine.js'
import { NanochatError, type ErrorCode } from '../lib/errors.js'
import type { FinishReason, GenerateOptions, Stats, Tool, TokenColumn } from '../lib/types.js'
import { fakeModel, type FakeBackend, type FakeOptions } from './support/fake-backend.js'
import { byteTokenizer, special } from './support/fake-tokenizer.js'

const { bos, assistantEnd, pythonStart, pythonEnd, outputStart, outputEnd } = special
const tokenizer = byteTokenizer()
const V = tokenizer.getVocabSize()
const bytes = (text: string): number[] => [...tokenizer.encode(text)]
const prompt = [bos, ...bytes('Hi')]

/** An engine over a fake model with a byte tokenizer. */
function setup(fake: FakeOptions = {}, options: EngineOptions = {}): { backend: FakeBackend, engine: Engine, model: ReturnType<typeof fakeModel>['model'] } {
  const { backend, model } = fakeModel({ vocabSize: V, ...fake })
  return { backend, model, engine: new Engine(model, tokenizer, { kvCacheBytes: 1e6, ...options }) }
}

async function collect(generator: AsyncGenerator<TokenColumn, Stats>): Promise<{ columns: TokenColumn[], stats: Stats }> {
  const columns: TokenColumn[] = []
  for (;;) {
    const result = await generator.next()
    if (result.done) return { columns, stats: result.value }
    columns.push(result.value)
  }
}

/** Per row what the columns say, gaps left out. */
function rowsOf(columns: TokenColumn[]): { ids: number[], masks: number[], finished: FinishReason | null | undefined }[] {
  const n = columns[0]?.tokenColumn.length ?? 0
  return Array.from({ length: n }, (_, row) => {
    const own = columns.filter(({ tokenColumn }) => tokenColumn[row] !== -1)
    return { ids: own.map(({ tokenColumn }) => tokenColumn[row] as number), masks: own.map(({ tokenMasks }) => tokenMasks[row] as number), finished: columns.at(-1)?.finished[row] }
  })
}

async function rejection(work: () => Promise<unknown>): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error
  }
  throw new Error('expected a rejection')
}

async function assertCode(work: () => Promise<unknown>, code: ErrorCode, message: RegExp = /./): Promise<void> {
  const error = await rejection(work)
  assert.ok(NanochatError.is(error), String(error))
  assert.is(error.code, code, error.message)
  assert.match(error.message, message)
}

const greedy: GenerateOptions = { temperature: 0 }

// ── columns and the tool machine ──────────────────────────────────────────────────────────────────────────────────
const columns = suite('engine: columns')

columns('a tool call: sampled and forced tokens, masks, the terminal token, finished', async () => {
  const { backend, engine } = setup()
  const output = [...bytes('ok'), pythonStart, ...bytes('1+1'), pythonEnd, outputStart, ...bytes('2'), outputEnd, ...bytes('!'), assistantEnd]
  backend.script(prompt, output)
  const calls: unknown[] = []
  const tool: Tool = (code, { row, signal }) => { calls.push([code, row, signal instanceof AbortSignal]); return '2' }
  const { columns, stats } = await collect(engine.generate(prompt, { ...greedy, tool }))
  assert.equal(rowsOf(columns), [{ ids: output, masks: [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1], finished: 'stop' }])
  assert.equal(columns.map(({ finished }) => finished[0]), [...output.slice(1).map(() => null), 'stop'])
  assert.equal(calls, [['1+1', 0, true]])
  assert.equal([stats.promptTokens, stats.cachedTokens, stats.generatedTokens, stats.forcedTokens], [3, 0, 9, 3])
  assert.ok(stats.ttftMs > 0 && stats.tpotMs > 0 && stats.tokensPerSecond > 0)
  assert.equal(backend.passes.map(({ rows }) => rows.map(({ count }) => count)), [[3], [1], [1], [1], [1], [1], [1], [4], [1]], 'the forced tokens go through in one chunk with python_end')
  assert.is(backend.live, 0)
})

columns('the default tool is useCalculator', async () => {
  const { backend, engine } = setup()
  const output = [pythonStart, ...bytes('6*7'), pythonEnd, outputStart, ...bytes('42'), outputEnd, assistantEnd]
  backend.script(prompt, output)
  const { columns } = await collect(engine.generate(prompt, greedy))
  assert.equal(rowsOf(columns)[0]?.ids, output)
})

columns('tool null and tool results null and empty', async () => {
  for (const [tool, forced] of [[null, []], [() => null, []], [() => '', [outputStart, outputEnd]], [async () => null, []]] satisfies [Tool | null, number[]][]) {
    const { backend, engine } = setup()
    const output = [pythonStart, 65, pythonEnd, ...forced, 66, bos]
    backend.script(prompt, output)
    const { columns } = await collect(engine.generate(prompt, { ...greedy, tool }))
    assert.equal(rowsOf(columns), [{ ids: output, masks: [1, 1, 1, ...forced.map(() => 0), 1, 1], finished: 'stop' }])
  }
})

columns('an empty block runs nothing, python_end outside does nothing, python_start clears', async () => {
  const { backend, engine } = setup()
  const output = [pythonEnd, pythonStart, pythonEnd, pythonStart, 65, pythonStart, 66, pythonEnd, outputStart, 67, outputEnd, assistantEnd]
  backend.script(prompt, output)
  const calls: string[] = []
  const { columns } = await collect(engine.generate(prompt, { ...greedy, tool: (code) => { calls.push(code); return 'C' } }))
  assert.equal(rowsOf(columns)[0]?.ids, output)
  assert.equal(calls, ['B'])
})

columns('maxTokens counts every yielded token and may cut a forced sequence; a tool with no room is not run', async () => {
  const output = [65, pythonStart, 66, pythonEnd, outputStart, ...bytes('123'), outputEnd, assistantEnd]
  for (let maxTokens = 1; maxTokens <= 10; maxTokens++) {
    const { backend, engine } = setup()
    backend.script(prompt, output)
    let calls = 0
    const { columns } = await collect(engine.generate(prompt, { ...greedy, maxTokens, tool: () => { calls++; return '123' } }))
    assert.equal(rowsOf(columns)[0]?.ids, output.slice(0, maxTokens))
    assert.is(columns.at(-1)?.finished[0], maxTokens === 10 ? 'stop' : 'length')
    assert.is(calls, maxTokens > 4 ? 1 : 0)
    assert.is(backend.live, 0)
  }
})

columns('numSamples: one prefill, a stream per row, completed rows leave the batch', async () => {
  const { backend, engine } = setup()
  const { columns, stats } = await collect(engine.generate(prompt, { numSamples: 5, maxTokens: 40, tool: null }))
  const rows = rowsOf(columns)
  assert.equal(backend.passes[0]?.rows, [{ id: 0, count: 3, logits: 'last' }])
  assert.is(new Set(rows.map(({ ids }) => ids[0])).size > 1, true, 'each row samples its own first token')
  assert.is(new Set(rows.map(({ ids }) => ids.length)).size > 1, true, 'rows end at different times')
  columns.forEach(({ tokenColumn, finished }, step) => {
    const live = rows.filter(({ ids }) => ids.length > step).length
    if (step > 0) assert.is(backend.passes[step]?.rows.length, live)
    assert.is(tokenColumn.filter((id) => id !== -1).length, live)
    finished.forEach((reason, row) => assert.is(reason !== null, (rows[row]?.ids.length as number) <= step + 1))
  })
  assert.is(stats.generatedTokens, rows.reduce((sum, { ids }) => sum + ids.length, 0))
  assert.is(backend.live, 0)
})

columns('a row is the same alone, in any batch and in the same place of another call', async () => {
  const { engine } = setup()
  const options = { maxTokens: 30, tool: null, topK: 40 }
  const four = rowsOf((await collect(engine.generate(prompt, { ...options, numSamples: 4 }))).columns)
  const one = rowsOf((await collect(engine.generate(prompt, options))).columns)
  const [again, nine] = await Promise.all([collect(engine.generate(prompt, { ...options, numSamples: 4 })), collect(engine.generate(prompt, { ...options, numSamples: 9 }))])
  assert.equal(one[0], four[0])
  assert.equal(rowsOf(again.columns), four)
  assert.equal(rowsOf(nine.columns).slice(0, 4), four)
})

columns('a row that waits for its tool leaves the batch, the others go on', async () => {
  const { backend, engine } = setup()
  let answer: (text: string) => void = () => undefined
  const generator = engine.generate(prompt, { numSamples: 2, temperature: 1, maxTokens: 12, seed: 1, tool: () => new Promise((resolve) => { answer = resolve }) })
  const first = (await generator.next()).value as TokenColumn
  const [a, b] = first.tokenColumn as unknown as [number, number]
  assert.is.not(a, b)
  backend.script([...prompt, a], [pythonStart, 65, pythonEnd, outputStart, 50, outputEnd, 66, assistantEnd])
  backend.script([...prompt, b], [67, 68, 69, 70, 71, 72, 73, 74, 75, 76, assistantEnd])
  const seen: TokenColumn[] = []
  for (let i = 0; i < 5; i++) seen.push((await generator.next()).value as TokenColumn)
  assert.equal(seen.map(({ tokenColumn }) => tokenColumn[0]), [pythonStart, 65, pythonEnd, -1, -1])
  assert.equal(seen.map(({ tokenColumn }) => tokenColumn[1]), [67, 68, 69, 70, 71])
  assert.equal(seen.at(-1)?.finished, [null, null])
  assert.is(backend.passes.at(-1)?.rows.length, 1)
  answer('2')
  await sleep(1)
  seen.push(...(await collect(generator)).columns)
  assert.equal(rowsOf(seen)[0]?.ids, [pythonStart, 65, pythonEnd, outputStart, 50, outputEnd, 66, assistantEnd])
  assert.equal(rowsOf(seen)[1]?.ids, [67, 68, 69, 70, 71, 72, 73, 74, 75, 76, assistantEnd])
  assert.is(backend.live, 0)
})

columns('no column while every live row waits', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [pythonStart, 65, pythonEnd, outputStart, 50, outputEnd, assistantEnd])
  let answer: (text: string) => void = () => undefined
  const generator = engine.generate(prompt, { ...greedy, numSamples: 2, tool: () => new Promise((resolve) => { const before = answer; answer = (text) => { before(text); resolve(text) } }) })
  for (let i = 0; i < 3; i++) await generator.next()
  const passes = backend.passes.length
  let settled = false
  const pending = generator.next().finally(() => { settled = true })
  await sleep(10)
  assert.is(settled, false)
  assert.is(backend.passes.length, passes)
  answer('2')
  const column = (await pending).value as TokenColumn
  assert.equal([...column.tokenColumn], [outputStart, outputStart])
  assert.equal([...column.tokenMasks], [0, 0])
  await generator.return(undefined as never)
  assert.is(backend.live, 0)
})

columns('a tool answer longer than a chunk is read in chunks while the other rows go on', async () => {
  const { backend, engine } = setup({ sequenceLen: 1000 })
  const generator = engine.generate(prompt, { numSamples: 2, seed: 1, maxTokens: 700, tool: () => 'x'.repeat(600) })
  const [a, b] = ((await generator.next()).value as TokenColumn).tokenColumn as unknown as [number, number]
  backend.script([...prompt, a], [pythonStart, 65, pythonEnd, outputStart, ...bytes('x'.repeat(600)), outputEnd, 66, assistantEnd])
  backend.script([...prompt, b], bytes('y'.repeat(690)))
  const { columns } = await collect(generator)
  assert.is(rowsOf(columns)[0]?.ids.length, 607)
  const counts = backend.passes.flatMap(({ rows }) => rows.map(({ count }) => count)).filter((count) => count > 1)
  assert.equal(counts, [3, 256, 256, 90], 'all but the last forced token, which draws the next one')
  const waited = columns.filter(({ tokenColumn, finished }) => tokenColumn[0] === -1 && finished[0] === null).length
  assert.ok(waited >= 1 && waited <= 8, `${waited} columns without the row`)
})

columns('a tool that throws, now or later, rejects with its error after the rows are released', async () => {
  const failure = new NanochatError('ERR_SANDBOX_UNAVAILABLE', 'no cage')
  for (const tool of [() => { throw failure }, async () => { throw failure }, async () => { await sleep(5); throw failure }] satisfies Tool[]) {
    const { backend, engine } = setup()
    backend.script(prompt, [pythonStart, 65, pythonEnd, 66])
    const generator = engine.generate(prompt, { ...greedy, numSamples: 2, tool })
    for (let i = 0; i < 3; i++) assert.is((await generator.next()).done, false)
    let live = -1
    assert.is(await rejection(() => generator.next().catch((error: unknown) => { live = backend.live; throw error })), failure)
    assert.is(live, 0)
    assert.is(await rejection(() => generator.next()), failure)
  }
})

columns('many rows with tools that watch the signal, and many calls with one signal, are no leak to warn of', async () => {
  const warnings: string[] = []
  const hear = ({ message }: Error): void => { warnings.push(message) }
  process.on('warning', hear)
  const { signal } = new AbortController()
  const { backend, engine } = setup({}, { kvCacheBytes: 1e9 })
  backend.script(prompt, [pythonStart, 65, pythonEnd, 66])
  const tool: Tool = async (_, { signal: ended }) => {
    ended.addEventListener('abort', () => {})
    await sleep(1)
    return 'x'.repeat(300)
  }
  await engine.generateBatch(prompt, { ...greedy, maxTokens: 400, numSamples: 16, tool })
  await Promise.all(Array.from({ length: 16 }, () => engine.generateBatch(prompt, { ...greedy, maxTokens: 3, tool: null, signal })))
  await sleep(0)
  process.off('warning', hear)
  assert.equal(warnings, [])
})

columns('a tool result that is no text is ERR_INVALID_ARG', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [pythonStart, 65, pythonEnd, 66])
  await assertCode(() => engine.generateBatch(prompt, { ...greedy, tool: (() => 7) as unknown as Tool }), 'ERR_INVALID_ARG', /string or null/)
})

columns('a late answer of a tool whose call has ended is ignored', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [pythonStart, 65, pythonEnd, 66])
  let fail: (error: Error) => void = () => undefined
  let reason: unknown
  const tool: Tool = (_, { signal }) => new Promise((_, reject) => { fail = reject; signal.addEventListener('abort', () => { reason = signal.reason }) })
  const generator = engine.generate(prompt, { ...greedy, tool })
  for (let i = 0; i < 3; i++) await generator.next()
  await generator.return(undefined as never)
  fail(new Error('too late'))
  await sleep(1)
  assert.is((reason as Error).name, 'AbortError')
})

columns('logprobs: the raw softmax of sampled tokens, NaN for others', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [pythonStart, 65, pythonEnd, outputStart, 50, outputEnd, assistantEnd])
  const { columns } = await collect(engine.generate(prompt, { temperature: 0.5, topK: 3, seed: 4, logprobs: 2, tool: () => '2', maxTokens: 8 }))
  const ids = [...prompt]
  for (const { tokenColumn, tokenMasks, logprobs } of columns) {
    const id = tokenColumn[0] as number
    const logits = backend.logitsAfter(ids)
    const logSum = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))
    if (tokenMasks[0] === 1) {
      assert.ok(Math.abs((logprobs?.token[0] as number) - ((logits[id] as number) - logSum)) < 1e-5)
      assert.equal(logprobs?.top[0]?.length, 2)
      assert.ok((logprobs?.top[0]?.[0]?.logprob as number) >= (logprobs?.top[0]?.[1]?.logprob as number))
    } else {
      assert.ok(Number.isNaN(logprobs?.token[0]))
      assert.equal(logprobs?.top[0], [])
    }
    ids.push(id)
  }
  assert.is((await collect(engine.generate(prompt, { ...greedy, maxTokens: 2 }))).columns[0]?.logprobs, undefined)
})

columns('the repetition penalty counts prompt, sampled and forced tokens', async () => {
  const { backend, engine } = setup()
  const { columns } = await collect(engine.generate(prompt, { ...greedy, repetitionPenalty: 1000, maxTokens: 30, tool: null }))
  const ids = rowsOf(columns)[0]?.ids as number[]
  assert.is(new Set([...prompt, ...ids]).size, prompt.length + ids.length, 'no id comes twice')
  backend.script(prompt, [pythonStart, 65, pythonEnd])
  const answered = await collect(engine.generate(prompt, { ...greedy, repetitionPenalty: 1e6, maxTokens: 30, tool: () => 'z' }))
  assert.is(rowsOf(answered.columns)[0]?.ids.filter((id) => id === 122).length, 1)
})

columns('without a tokenizer tokens are plain: no stop token, no tool', async () => {
  const { backend, model } = fakeModel({ vocabSize: V })
  const engine = new Engine(model, null)
  const output = [assistantEnd, bos, pythonStart, 65, pythonEnd, 66]
  backend.script(prompt, output)
  const { columns } = await collect(engine.generate(prompt, { ...greedy, maxTokens: 6, tool: undefined }))
  assert.equal(rowsOf(columns), [{ ids: output, masks: [1, 1, 1, 1, 1, 1], finished: 'length' }])
  await assertCode(() => engine.chat([{ role: 'user', content: 'Hi' }]).next(), 'ERR_INVALID_ARG', /tokenizer/)
  await assertCode(() => engine.generate(prompt, { stop: 'x' }).next(), 'ERR_INVALID_ARG', /stop/)
  await assertCode(() => engine.generate(prompt, { tool: () => null }).next(), 'ERR_INVALID_ARG', /tool/)
})

columns.run()

// ── stop strings, context, batch ──────────────────────────────────────────────────────────────────────────────────
const limits = suite('engine: limits')

limits('a stop string ends the row with the token that completes it; generateBatch leaves its tokens out', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, bytes('one STOP two'))
  const { columns } = await collect(engine.generate(prompt, { ...greedy, stop: ['STOP', 'never'] }))
  assert.equal(rowsOf(columns), [{ ids: bytes('one STOP'), masks: [1, 1, 1, 1, 1, 1, 1, 1], finished: 'stop-sequence' }])
  const { results, masks, finishReasons } = await engine.generateBatch(prompt, { ...greedy, stop: 'STOP' })
  assert.equal([...results[0] as Int32Array], [...prompt, ...bytes('one ')])
  assert.equal([...masks[0] as Uint8Array], [0, 0, 0, 1, 1, 1, 1])
  assert.equal(finishReasons, ['stop-sequence'])
  assert.is(backend.live, 0)
})

limits('stop strings match neither inside python blocks nor in forced output, nor across them', async () => {
  const { backend, engine } = setup()
  const output = [...bytes('ST'), pythonStart, ...bytes('STOP'), pythonEnd, outputStart, ...bytes('STOP'), outputEnd, ...bytes('OP'), assistantEnd]
  backend.script(prompt, output)
  const { columns } = await collect(engine.generate(prompt, { ...greedy, stop: 'STOP', tool: () => 'STOP' }))
  assert.equal(rowsOf(columns)[0]?.ids, output)
  assert.is(columns.at(-1)?.finished[0], 'stop')
})

limits('generateBatch: prompt and output without the terminal token', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [65, pythonStart, 66, pythonEnd, outputStart, 67, outputEnd, 68, assistantEnd])
  const { results, masks, finishReasons, stats } = await engine.generateBatch(prompt, { ...greedy, numSamples: 2, tool: async () => 'C' })
  for (const row of [0, 1]) {
    assert.equal([...results[row] as Int32Array], [...prompt, 65, pythonStart, 66, pythonEnd, outputStart, 67, outputEnd, 68])
    assert.equal([...masks[row] as Uint8Array], [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1])
  }
  assert.equal(finishReasons, ['stop', 'stop'])
  assert.equal([stats.generatedTokens, stats.forcedTokens], [12, 6])
  const cut = await engine.generateBatch(prompt, { ...greedy, maxTokens: 2 })
  assert.equal([[...cut.results[0] as Int32Array], cut.finishReasons], [[...prompt, 65, pythonStart], ['length']])
})

limits('without maxTokens a row ends at sequenceLen; a prompt of sequenceLen tokens needs maxTokens', async () => {
  const { engine } = setup({ sequenceLen: 20 })
  const plain = { ...greedy, tool: null, logitBias: { [assistantEnd]: -Infinity, [bos]: -Infinity } }
  const { results, finishReasons } = await engine.generateBatch(prompt, plain)
  assert.equal([results[0]?.length, finishReasons], [20, ['length']])
  const long = Array.from({ length: 20 }, (_, i) => i)
  await assertCode(() => engine.generateBatch(long, plain), 'ERR_CONTEXT_OVERFLOW', /The prompt is 20 tokens and the model's context is 20\. .* or pass maxTokens\./)
  assert.is((await engine.generateBatch(long, { ...plain, maxTokens: 30 })).results[0]?.length, 50)
  await assertCode(() => engine.chat([{ role: 'user', content: 'x'.repeat(30) }]).next(), 'ERR_CONTEXT_OVERFLOW',
    /The conversation is 34 tokens and the model's context is 20\. Drop the oldest turns or pass maxTokens\./)
})

limits('10 * sequenceLen positions and no more', async () => {
  const { engine } = setup({ sequenceLen: 20 })
  const plain = { ...greedy, tool: null, logitBias: { [assistantEnd]: -Infinity, [bos]: -Infinity } }
  const { results, finishReasons } = await engine.generateBatch(new Array(195).fill(1), { ...plain, maxTokens: 100 })
  assert.equal([results[0]?.length, finishReasons], [200, ['length']])
  assert.is((await engine.generateBatch(new Array(199).fill(1), { ...plain, maxTokens: 100 })).results[0]?.length, 200)
  await assertCode(() => engine.generateBatch(new Array(200).fill(1), { ...plain, maxTokens: 1 }), 'ERR_CONTEXT_OVERFLOW', /200 positions/)
  await assertCode(() => engine.generateBatch({ length: 1e12 }, { maxTokens: 1 }), 'ERR_CONTEXT_OVERFLOW')
})

limits('every unknown or wrong option and every wrong token is ERR_INVALID_ARG, and comes from next()', async () => {
  const { engine, backend } = setup()
  const wrong: Record<string, unknown>[] = [
    { temprature: 1 }, { temperature: -1 }, { temperature: NaN }, { temperature: '1' }, { temperature: Infinity }, { topK: -1 }, { topK: 1.5 }, { topP: 1.1 }, { topP: -0.1 },
    { minP: 2 }, { repetitionPenalty: 0 }, { repetitionPenalty: NaN }, { logitBias: 3 }, { logitBias: { x: 1 } }, { logitBias: { [V]: 1 } }, { logitBias: { 1: NaN } }, { logitBias: { 1: Infinity } }, { logitBias: new Map([[1, 1]]) },
    { seed: -1 }, { seed: 0.5 }, { seed: 2 ** 60 }, { numSamples: 0 }, { numSamples: 65 }, { maxTokens: 0 }, { maxTokens: Infinity }, { stop: '' }, { stop: [''] }, { stop: 5 }, { logprobs: -1 },
    { logprobs: V + 1 }, { kvCache: {} }, { kvCache: null }, { tool: 'python' }, { signal: {} }, { temperature: null }, { stop: null }
  ]
  for (const options of wrong) {
    await assertCode(() => engine.generate(prompt, options as GenerateOptions).next(), 'ERR_INVALID_ARG')
    await assertCode(() => engine.generateBatch(prompt, options as GenerateOptions), 'ERR_INVALID_ARG')
    await assertCode(() => engine.chat([{ role: 'user', content: 'Hi' }], options as GenerateOptions).next(), 'ERR_INVALID_ARG')
  }
  for (const tokens of [[], [V], [-1], [1.5], ['1'], null, undefined, 'text', 7]) {
    await assertCode(() => engine.generate(tokens as number[]).next(), 'ERR_INVALID_ARG')
    await assertCode(() => engine.prefill(tokens as number[]), 'ERR_INVALID_ARG')
  }
  await assertCode(() => engine.prefill(prompt, { sginal: 1 } as object), 'ERR_INVALID_ARG')
  await assertCode(() => engine.generate(prompt, null as unknown as GenerateOptions).next(), 'ERR_INVALID_ARG')
  assert.is(backend.passes.length, 0)
  const unset = Object.fromEntries(['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'logitBias', 'seed', 'numSamples', 'stop', 'logprobs', 'kvCache', 'tool', 'signal'].map((name) => [name, undefined]))
  assert.is((await engine.generateBatch(prompt, { ...unset, maxTokens: 1 })).finishReasons.length, 1)
})

limits('the constructor checks its arguments', () => {
  const { model } = fakeModel({ vocabSize: V })
  const code = (make: () => unknown): string => {
    try {
      make()
    } catch (error) {
      return NanochatError.is(error) ? error.code : String(error)
    }
    return 'none'
  }
  assert.is(code(() => new Engine({} as typeof model, tokenizer)), 'ERR_INVALID_ARG')
  assert.is(code(() => new Engine(model, {} as typeof tokenizer)), 'ERR_INVALID_ARG')
  assert.is(code(() => new Engine(model, tokenizer, { maxRow: 1 } as EngineOptions)), 'ERR_INVALID_ARG')
  assert.is(code(() => new Engine(model, tokenizer, { maxRows: 0 })), 'ERR_INVALID_ARG')
  assert.is(code(() => new Engine(model, tokenizer, { kvCacheBytes: -1 })), 'ERR_INVALID_ARG')
  assert.is(code(() => new Engine(fakeModel({ vocabSize: 100 }).model, tokenizer)), 'ERR_TOKENIZER_MISMATCH')
  assert.is(code(() => new Engine(model, tokenizer, { maxRows: undefined, kvCacheBytes: undefined })), 'none')
})

limits('what the caller does to its arrays afterwards does not matter', async () => {
  const { engine } = setup()
  const expected = await collect(engine.generate(prompt, { ...greedy, maxTokens: 5 }))
  const tokens = [...prompt], options = { ...greedy, maxTokens: 5 }
  const generator = engine.generate(tokens, options)
  tokens.fill(1)
  options.maxTokens = 1
  assert.equal(rowsOf((await collect(generator)).columns), rowsOf(expected.columns))
})

limits.run()

// ── ending early ──────────────────────────────────────────────────────────────────────────────────────────────────
const ending = suite('engine: ending early')

ending('break releases the rows', async () => {
  const { backend, engine } = setup()
  for await (const column of engine.generate(prompt, { numSamples: 3 })) {
    assert.is(column.tokenColumn.length, 3)
    break
  }
  assert.is(backend.live, 0)
})

ending('return() takes effect while a next() is pending, also during a prefill of seconds', async () => {
  const { backend, engine } = setup({ sequenceLen: 2000, passMs: (tokens) => tokens * 10 })
  const generator = engine.generate(new Array(1000).fill(65), greedy)
  const pending = [generator.next(), generator.next()]
  await sleep(20)
  const startedAt = performance.now()
  assert.equal(await generator.return('bye' as never), { done: true, value: 'bye' })
  assert.ok(performance.now() - startedAt < 100)
  assert.equal(await Promise.all(pending), [{ done: true, value: undefined }, { done: true, value: undefined }])
  assert.equal(await generator.next(), { done: true, value: undefined })
  assert.is(backend.live, 0)
})

ending('abort rejects the pending and every later next() with the reason, during prefill, decode and tool', async () => {
  const output = [...bytes('abc'), pythonStart, 65, pythonEnd, 66]
  for (const steps of [0, 2, 6]) {
    const { backend, engine } = setup({ passMs: (tokens) => tokens > 1 ? 2000 : steps === 2 && backend.passes.length > 2 ? 2000 : 0 })
    backend.script([bos], output)
    const controller = new AbortController()
    const generator = engine.generate(steps === 0 ? prompt : [bos], { ...greedy, signal: controller.signal, tool: () => new Promise<string>(() => undefined) })
    for (let i = 0; i < steps; i++) await generator.next()
    const pending = generator.next()
    setTimeout(() => controller.abort(reason), 10)
    const reason = new Error('enough')
    const startedAt = performance.now()
    assert.is(await rejection(() => pending), reason)
    assert.ok(performance.now() - startedAt < 100)
    assert.is(await rejection(() => generator.next()), reason)
    assert.is(await rejection(() => generator.next()), reason)
    assert.is(backend.live, 0)
  }
})

ending('abort between two next() releases at once', async () => {
  const { backend, engine } = setup()
  const controller = new AbortController()
  const generator = engine.generate(prompt, { signal: controller.signal })
  await generator.next()
  controller.abort()
  await sleep(1)
  assert.is(backend.live, 0)
  assert.is((await rejection(() => generator.next()) as Error).name, 'AbortError')
})

ending('a signal that is aborted already rejects the first next(), and generateBatch and prefill', async () => {
  const { backend, engine } = setup()
  const signal = AbortSignal.abort('no')
  assert.is(await rejection(() => engine.generate(prompt, { signal }).next()), 'no')
  assert.is(await rejection(() => engine.generateBatch(prompt, { signal })), 'no')
  assert.is(await rejection(() => engine.prefill(prompt, { signal })), 'no')
  assert.is(backend.passes.length, 0)
  assert.is(backend.live, 0)
})

ending('a generator that was never asked holds nothing; return() and throw() before the first next()', async () => {
  const { backend, engine } = setup()
  assert.equal(await engine.generate(prompt).return(undefined as never), { done: true, value: undefined })
  const failure = new Error('mine')
  const generator = engine.generate(prompt)
  assert.is(await rejection(() => generator.throw(failure)), failure)
  assert.equal(await generator.next(), { done: true, value: undefined })
  await engine.generate(prompt)[Symbol.asyncDispose]()
  assert.is(backend.sequences.length, 0)
})

ending('several next() at once are served in order', async () => {
  const { backend, engine } = setup()
  backend.script(prompt, [65, 66, assistantEnd])
  const generator = engine.generate(prompt, greedy)
  const results = await Promise.all([generator.next(), generator.next(), generator.next(), generator.next(), generator.next()])
  assert.equal(results.slice(0, 3).map(({ value }) => (value as TokenColumn).tokenColumn[0]), [65, 66, assistantEnd])
  assert.is(results[3]?.done, true)
  assert.is((results[3]?.value as Stats).generatedTokens, 3)
  assert.equal(results[4], { done: true, value: undefined })
})

ending('a generator that is dropped unfinished is released when it is collected; a pending next() keeps it', async () => {
  const { backend, engine } = setup({ passMs: 30 })
  const collectGarbage = globalThis.gc as () => void
  await (async () => { await engine.generate(prompt).next() })()
  assert.is(backend.live, 1)
  const pending = engine.generate(prompt).next()
  for (let i = 0; i < 5; i++) {
    await sleep(5)
    collectGarbage()
  }
  assert.is((await pending).done, false)
  for (let i = 0; i < 50 && backend.live > 0; i++) {
    await sleep(5)
    collectGarbage()
  }
  assert.is(backend.live, 0)
})

ending('disposing the engine rejects pending and later calls and leaves the model', async () => {
  const { backend, engine, model } = setup({ passMs: (tokens) => tokens > 3 ? 2000 : 1 })
  const running = engine.generate(prompt, { tool: () => new Promise<string>(() => undefined) })
  await running.next()
  const prefilling = engine.generate(new Array(40).fill(65))
  const pending = prefilling.next()
  const other = engine.prefill(new Array(40).fill(66))
  const failures = Promise.all([rejection(() => pending), rejection(() => other)])
  await sleep(10)
  await engine[Symbol.asyncDispose]()
  for (const error of await failures) assert.is((error as NanochatError).code, 'ERR_DISPOSED')
  assert.is(backend.live, 0)
  await assertCode(() => running.next(), 'ERR_DISPOSED')
  await assertCode(() => prefilling.next(), 'ERR_DISPOSED')
  await assertCode(() => engine.generate(prompt).next(), 'ERR_DISPOSED')
  await assertCode(() => engine.generateBatch(prompt), 'ERR_DISPOSED')
  await assertCode(() => engine.prefill(prompt), 'ERR_DISPOSED')
  await engine[Symbol.asyncDispose]()
  assert.is((await model.forward([1, 2])).length, V)
})

ending('disposing the model rejects what runs on it', async () => {
  const { engine, model } = setup({ passMs: 50 })
  const pending = engine.generate(prompt).next()
  const failure = rejection(() => pending)
  await sleep(10)
  await model[Symbol.asyncDispose]()
  assert.is((await failure as NanochatError).code, 'ERR_DISPOSED')
  await assertCode(() => engine.generate(prompt).next(), 'ERR_DISPOSED')
})

ending.run()

// ── concurrent calls ──────────────────────────────────────────────────────────────────────────────────────────────
const concurrent = suite('engine: concurrent calls')

concurrent('calls share passes step by step and get what they get alone', async () => {
  const options = (seed: number): GenerateOptions => ({ seed, maxTokens: 20, tool: null })
  const alone: number[][] = []
  for (const seed of [1, 2, 3]) {
    const { engine } = setup()
    alone.push(rowsOf((await collect(engine.generate([...prompt, seed], options(seed)))).columns)[0]?.ids as number[])
  }
  const { backend, engine } = setup({ passMs: 1 })
  const together = await Promise.all([1, 2, 3].map((seed) => collect(engine.generate([...prompt, seed], options(seed)))))
  assert.equal(together.map(({ columns }) => rowsOf(columns)[0]?.ids), alone)
  assert.ok(backend.passes.filter(({ rows }) => rows.length === 3).length >= 10, 'most passes serve all three')
  assert.is(backend.live, 0)
})

concurrent('a long prompt is read in pieces between which running rows step; each piece obeys its own call alone', async () => {
  const { backend, engine } = setup({ sequenceLen: 4000 })
  backend.script(prompt, bytes('y'.repeat(100)))
  const running = engine.generate(prompt, { ...greedy, maxTokens: 50 })
  await running.next()
  const [, long] = await Promise.all([collect(running), collect(engine.generate(new Array(1500).fill(65), { ...greedy, maxTokens: 3 }))])
  assert.is(long.columns.length, 3)
  const counts = backend.passes.map(({ rows }) => rows.map(({ count }) => count).join('+'))
  const pieces = counts.flatMap((count, i) => Number(count) > 3 ? [i] : [])
  assert.equal(pieces.map((i) => counts[i]), ['256', '256', '256', '256', '256', '220'])
  pieces.slice(1).forEach((at, i) => assert.ok(at - (pieces[i] as number) > 1, 'a decoding pass between two pieces'))
  for (const i of pieces) assert.is(backend.passes[i]?.hadSignal, true)
})

concurrent('prompts take turns', async () => {
  const { backend, engine } = setup({ sequenceLen: 4000 })
  const one = engine.generate(new Array(1000).fill(65), { ...greedy, maxTokens: 1 }).next()
  const two = engine.generate(new Array(600).fill(66), { ...greedy, maxTokens: 1 }).next()
  await Promise.all([one, two])
  assert.equal(backend.passes.map(({ rows }) => rows[0]?.id).slice(0, 6), [0, 1, 0, 1, 0, 1])
})

concurrent('break and abort of one call do not disturb the others', async () => {
  const expected = rowsOf((await collect(setup().engine.generate(prompt, { seed: 5, maxTokens: 40, tool: null }))).columns)
  const { backend, engine } = setup({ passMs: 1 })
  const steady = collect(engine.generate(prompt, { seed: 5, maxTokens: 40, tool: null }))
  for (let i = 0; i < 6; i++) {
    const controller = new AbortController()
    const disturbing = engine.generate(new Array(30 + i).fill(65), { numSamples: 3, signal: controller.signal, tool: null })
    for (let step = 0; step < i; step++) await disturbing.next()
    const pending = disturbing.next()
    const settled = pending.catch(() => undefined)
    await sleep(i % 2)
    if (i < 3) controller.abort()
    else await disturbing.return(undefined as never)
    await settled
  }
  assert.equal(rowsOf((await steady).columns), expected)
  assert.is(backend.live, 0)
})

concurrent('a pass that fails for one call is repeated for the others', async () => {
  const failure = new NanochatError('ERR_OUT_OF_MEMORY', 'no more')
  const { backend, engine } = setup({ fail: (rows) => { if (rows.some(({ sequence }) => sequence.length >= 10)) throw failure } })
  const bias = { [assistantEnd]: -Infinity, [bos]: -Infinity }
  const long = rejection(() => engine.generateBatch([1, 2, 3, 4, 5, 6, 7], { ...greedy, maxTokens: 20, tool: null, logitBias: bias }))
  const short = engine.generateBatch([1], { ...greedy, maxTokens: 10, tool: null, logitBias: bias })
  assert.is(await long, failure)
  assert.is((await short).results[0]?.length, 11)
  assert.is(backend.live, 0)
})

concurrent('maxRows: calls wait their turn, completed rows make room, an aborted one leaves the queue', async () => {
  const { backend, engine } = setup({}, { maxRows: 2 })
  const first = engine.generate(prompt, { numSamples: 2, maxTokens: 3, tool: null })
  await first.next()
  const controller = new AbortController()
  const second = engine.generate(prompt, { numSamples: 2, signal: controller.signal }).next()
  const third = engine.generate(prompt, { maxTokens: 2, tool: null })
  const waiting = third.next()
  const failure = rejection(() => second)
  await sleep(5)
  assert.is(backend.live, 2, 'both wait')
  controller.abort('gone')
  assert.is(await failure, 'gone')
  await collect(first)
  assert.is((await waiting).done, false)
  await collect(third)
  assert.is(Math.max(...backend.passes.map(({ rows }) => rows.length)), 2)
  assert.is(backend.live, 0)
  await assertCode(() => engine.generate(prompt, { numSamples: 3 }).next(), 'ERR_INVALID_ARG')
})

concurrent('kvCacheBytes: counted at prompt + maxTokens; what can never fit is ERR_OUT_OF_MEMORY', async () => {
  const { backend, engine } = setup({ kvBytesPerToken: 10 }, { kvCacheBytes: 1000 })
  await assertCode(() => engine.generateBatch(prompt, { maxTokens: 98 }), 'ERR_OUT_OF_MEMORY', /1010 bytes.*kvCacheBytes 1000/)
  await assertCode(() => engine.generateBatch(prompt, { maxTokens: 48, numSamples: 2 }), 'ERR_OUT_OF_MEMORY')
  const runs = await Promise.all([1, 2, 3].map((seed) => engine.generateBatch(prompt, { seed, maxTokens: 47, tool: null })))
  assert.is(runs.length, 3)
  assert.is(Math.max(...backend.passes.map(({ rows }) => rows.length)), 2, 'two fit beside each other')
})

concurrent('timers run while many rows of a large vocabulary are sampled', async () => {
  const { model } = fakeModel({ vocabSize: 20_000 })
  const engine = new Engine(model, null)
  let ticks = 0
  const timer = setInterval(() => { ticks++ }, 1)
  await engine.generateBatch([1], { numSamples: 64, maxTokens: 1 })
  clearInterval(timer)
  assert.ok(ticks >= 3, `${ticks} ticks`)
})

concurrent.run()
