// What rounding the weights costs: each type's logits against float32's, on texts that the float32 model writes itself and,
// for the demo model in a clone, on its reference conversations, whose questions it also answers anew.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import binding from '../lib/binding.cjs'
import { useCalculator } from '../lib/calculator.js'
import { Engine } from '../lib/engine.js'
import { invalidArg } from '../lib/errors.js'
import type { GPT } from '../lib/gpt.js'
import { loadModelFromDir, seededGPT } from '../lib/load.js'
import { native, type ModelSpec, type WeightDtype } from '../lib/native.js'
import type { Tokenizer } from '../lib/tokenizer.js'
import { depthSpec, matrixElements } from './cost.js'
import { LogitError } from './logit-error.js'
import { cpuName } from './machine.js'
import { depthOf, integer, parseOptions } from './options.js'
import { progress } from './progress.js'

const usage = `bench quality [options]
  --model DIR           a checkpoint directory (default: the demo model, in a clone with its reference conversations)
  --depth N             instead: shapes of nanochat's d<N> with seeded weights, N even
  --dtype LIST          bfloat16, int8, int4 (default all), each compared with float32
  --texts N             that the float32 model writes (default 16)
  --tokens N            of each (default 256)`

type Dtype = Exclude<WeightDtype, 'float32'>
const dtypes: readonly Dtype[] = ['bfloat16', 'int8', 'int4']

interface Options {
  dir: string | null
  depth: number                    // where dir is null
  dtypes: Dtype[]
  texts: number
  tokens: number
}

/** Positions of one kind: of what float32 wrote, of the recorded conversations, of what the model says in those. */
export interface TextRow {
  text: 'written' | 'conversations' | 'answers'
  positions: number
  meanKl: number                   // nats, of the type's distribution from float32's
  largestKl: number
  topAgreement: number             // share of positions with the same most likely token
  perplexityRatio: number
}

/** One type. */
export interface QualityRow {
  model: string
  dtype: Dtype
  bitsPerWeight: number            // of the matrices in memory, with scales and padding
  memoryBytes: number
  texts: TextRow[]
  /** Questions answered anew: with the recorded tokens, and with the recorded text after the last result of Python. */
  answers: { asked: number, sameTokens: number, sameText: number } | null
}

interface Text { kind: 'written' | 'conversations', ids: Int32Array, isSaid: (t: number) => boolean }
interface Turn { prompt: number[], tokens: number[], masks: number[], tool: { code: string, output: string | null }[] }
interface Loaded { model: GPT, tokenizer: Tokenizer | null }

/** Runs the benchmark; undefined when only help was wanted. Throws ERR_INVALID_ARG and what loadModelFromDir throws. */
export async function run(args: string[]): Promise<unknown> {
  const options = readOptions(args)
  if (options === null) return console.log(usage)
  const name = options.dir ?? `d${options.depth} (seeded)`
  const turns = options.dir === demoDir ? referenceTurns() : []
  const float32 = await load(options, 'float32')
  const rows: QualityRow[] = []
  try {
    const texts = [...await writeTexts(float32, options), ...turns.map(textOf)]
    console.log(`${name} | ${cpuName()} | against float32`)
    console.log(`dtype      bits  text           positions   mean KL   largest   same top-1   perplexity`)
    for (const dtype of options.dtypes) {
      const row = await measureType(name, dtype, float32.model, texts, turns, options)
      progress('')
      print(row)
      rows.push(row)
    }
  } finally {
    await float32.model[Symbol.asyncDispose]()
  }
  return { benchmark: 'quality', date: new Date().toISOString(), cpu: cpuName(), node: process.version, platform: `${process.platform}-${process.arch}`, options, rows }
}

const demoDir = join(binding.packageRoot, 'models', 'demo')
const recordedMaxTokens = 200

function referenceTurns(): Turn[] {
  const file = join(binding.packageRoot, 'test', 'fixtures', 'demo', 'reference.json')
  if (!existsSync(file)) return []
  return (JSON.parse(readFileSync(file, 'utf8')) as { conversations: { turns: Turn[] }[] }).conversations.flatMap(({ turns }) => turns)
}

function textOf({ prompt, tokens, masks }: Turn): Text {
  return { kind: 'conversations', ids: Int32Array.from([...prompt, ...tokens]), isSaid: (t) => masks[t + 1 - prompt.length] === 1 }
}

async function load({ dir, depth }: Options, dtype: WeightDtype): Promise<Loaded> {
  progress(`loading ${dtype}`)
  return dir === null ? { model: await seededGPT(depthSpec(depth), 1, { dtype }), tokenizer: null } : loadModelFromDir(dir, { dtype })
}

/** Temperature 1, text i with seed i; special tokens are tokens like any other. */
async function writeTexts({ model, tokenizer }: Loaded, { texts, tokens }: Options): Promise<Text[]> {
  await using engine = new Engine(model, null)
  const first = tokenizer === null ? 0 : tokenizer.getBosTokenId()
  progress(`float32 writes ${texts} texts`)
  const written = await Promise.all(Array.from({ length: texts }, (_, seed) => engine.generateBatch([first], { temperature: 1, seed, maxTokens: tokens - 1 })))
  return written.map(({ results: [ids = new Int32Array()] }) => ({ kind: 'written', ids, isSaid: () => false }))
}

async function measureType(name: string, dtype: Dtype, float32: GPT, texts: readonly Text[], turns: readonly Turn[], options: Options): Promise<QualityRow> {
  const { model, tokenizer } = await load(options, dtype)
  try {
    const errors = { written: new LogitError(), conversations: new LogitError(), answers: new LogitError() }
    for (const [i, { kind, ids, isSaid }] of texts.entries()) {
      progress(`${dtype}, text ${i + 1} of ${texts.length}`)
      const logits = await model.logits(ids), expected = await float32.logits(ids)
      errors[kind].add(logits, expected, ids, () => true)
      errors.answers.add(logits, expected, ids, isSaid)
    }
    const rows = (['written', 'conversations', 'answers'] as const).map((text): TextRow => {
      const { positions, meanKl, largestKl, topAgreement, perplexityRatio } = errors[text]
      return { text, positions, meanKl, largestKl, topAgreement, perplexityRatio }
    })
    return {
      model: name, dtype, bitsPerWeight: bitsPerWeight(model), memoryBytes: model.memoryBytes, texts: rows.filter(({ positions }) => positions > 0),
      answers: tokenizer === null || turns.length === 0 ? null : await answer(model, tokenizer, turns, dtype)
    }
  } finally {
    await model[Symbol.asyncDispose]()
  }
}

/** What is in memory less the tables, which are bfloat16 beside every type that is compared. */
function bitsPerWeight({ config, memoryBytes }: GPT): number {
  const spec: ModelSpec = config
  const tables = native().describe(spec).tensors.filter(({ name }) => /wte|value_embeds/.test(name))
  const tableBytes = tables.reduce((bytes, { shape: [rows = 0, width = 0] }) => bytes + 2 * rows * width, 0)
  return 8 * (memoryBytes - tableBytes) / matrixElements(spec)
}

/** Greedy answers. A call that was recorded gets the recorded result; what else is computed goes to the calculator. */
async function answer(model: GPT, tokenizer: Tokenizer, turns: readonly Turn[], dtype: Dtype): Promise<QualityRow['answers']> {
  progress(`${dtype} answers ${turns.length} questions`)
  await using engine = new Engine(model, tokenizer, { maxRows: 16 })
  const ends = tokenizer.encodeSpecial('<|assistant_end|>'), resultEnds = tokenizer.encodeSpecial('<|output_end|>')
  const answers = await Promise.all(turns.map(async ({ prompt, tokens, tool }) => {
    const tell = async (code: string): Promise<string | null> => (tool.find((call) => call.code === code) ?? { output: useCalculator(code) }).output
    const { results: [ids = new Int32Array()] } = await engine.generateBatch(prompt, { temperature: 0, maxTokens: recordedMaxTokens, tool: tell })
    const said = [...ids.subarray(prompt.length)], recorded = tokens.filter((id) => id !== ends)
    const last = (all: number[]): string => all.slice(all.lastIndexOf(resultEnds) + 1).join()
    return { sameTokens: said.join() === recorded.join(), sameText: last(said) === last(recorded) }
  }))
  return { asked: turns.length, sameTokens: answers.filter(({ sameTokens }) => sameTokens).length, sameText: answers.filter(({ sameText }) => sameText).length }
}

function print({ dtype, bitsPerWeight, texts, answers }: QualityRow): void {
  for (const [i, { text, positions, meanKl, largestKl, topAgreement, perplexityRatio }] of texts.entries()) {
    const head = i === 0 ? dtype.padEnd(9) + bitsPerWeight.toFixed(2).padStart(6) : ' '.repeat(15)
    console.log(`${head}  ${text.padEnd(15)}${String(positions).padStart(9)}${meanKl.toExponential(1).padStart(10)}${largestKl.toExponential(1).padStart(10)}${(100 * topAgreement).toFixed(2).padStart(11)} %${perplexityRatio.toFixed(4).padStart(13)}`)
  }
  if (answers !== null) console.log(`${' '.repeat(17)}${answers.sameText} of ${answers.asked} questions with the recorded answer, ${answers.sameTokens} with all tokens`)
}

function readOptions(args: string[]): Options | null {
  const values = parseOptions(args, {
    model: { type: 'string' }, depth: { type: 'string' }, dtype: { type: 'string', default: dtypes.join() },
    texts: { type: 'string', default: '16' }, tokens: { type: 'string', default: '256' }, help: { type: 'boolean', short: 'h', default: false }
  })
  if (values.help) return null
  if (values.model !== undefined && values.depth !== undefined) throw invalidArg('--depth', 'no value beside --model', values.depth)
  return {
    dir: values.depth === undefined ? values.model ?? demoDir : null,
    depth: depthOf(values.depth ?? '12'),
    dtypes: values.dtype.split(',').map((name) => {
      const dtype = dtypes.find((known) => known === name)
      if (dtype === undefined) throw invalidArg('--dtype', `${dtypes.join(', ')}, with commas between,`, name)
      return dtype
    }),
    texts: integer('--texts', values.texts, 1),
    tokens: integer('--tokens', values.tokens, 2)
  }
}
