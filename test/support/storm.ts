// One random life of a process, or a part of one: models are loaded, generate, are aborted, disposed, forgotten; workers do the
// same and end in the middle. Whatever was started must end, and only as it says it can.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, isMainThread, workerData } from 'node:worker_threads'
import { Engine } from '../../lib/engine.js'
import { NanochatError } from '../../lib/errors.js'
import type { GPT } from '../../lib/gpt.js'
import { loadModel, seededGPT } from '../../lib/load.js'
import { workerEntry } from './program.js'
import { generator, type Random } from './random.js'

/** How a process that a storm ends by itself says so. */
export const exitCode = 7

const toy = { sequenceLen: 256, vocabSize: 512, nLayer: 4, nHead: 2, nKvHead: 1, nEmbd: 128, windowPattern: 'SL' }
const aborted = new Error('aborted on purpose')
const expectedCodes = ['ERR_DISPOSED', 'ERR_CONTEXT_OVERFLOW']

interface Life {
  random: Random
  models: GPT[]
  engines: Engine[]
  columns: AsyncGenerator<unknown>[]
  controllers: AbortController[]
  running: Set<Promise<unknown>>
  failures: unknown[]
}

export interface StormCounts { actions: number, started: number }

/** Throws what ended otherwise than expected. */
export async function storm(seed: number): Promise<StormCounts> {
  const random = generator(seed)
  const life: Life = { random, models: [], engines: [], columns: [], controllers: [], running: new Set(), failures: [] }
  const actions = 4 + random(12)
  let started = 0
  track(life, load(life))
  await Promise.race([...life.running, sleep(random(60))])
  for (let i = 0; i < actions; i++) {
    const all = Object.values(isMainThread ? { ...everywhere, ...outsideOfWorkers } : everywhere)
    started += (all[random(all.length)] as Action)(life)
    if (random(3) === 0) await sleep(random(12))
    if (random(24) === 0) process.exit(exitCode)     // note: in a worker it ends the worker
  }
  if (random(4) === 0) process.exit(exitCode)
  if (random(3) > 0) for (const model of life.models) track(life, model[Symbol.asyncDispose]())
  for (const columns of life.columns) track(life, columns.return(undefined))
  while (life.running.size > 0) await Promise.all(life.running)
  if (life.failures.length > 0) throw life.failures[0]
  return { actions, started }
}

/** Starts something without waiting for it; 1 when it did. */
type Action = (life: Life) => number

const everywhere: Record<string, Action> = {
  load: (life) => track(life, load(life)),
  forward: (life) => withOne(life, life.models, (model) => model.forward(prompt(life))),
  logits: (life) => withOne(life, life.models, (model) => model.logits(prompt(life))),
  newEngine: ({ models, engines, random }) => {
    const model = pick(random, models)
    if (model) engines.push(new Engine(model, null, random(2) ? {} : { maxRows: 2 }))
    return 0
  },
  generate: (life) => withOne(life, life.engines, (engine) => generate(life, engine)),
  generateMore: (life) => withOne(life, life.engines, (engine) => generate(life, engine)),
  batch: (life) => withOne(life, life.engines, (engine) => engine.generateBatch(prompt(life), { maxTokens: 1 + life.random(40), signal: newSignal(life) })),
  next: (life) => withOne(life, life.columns, (columns) => columns.next()),
  endColumns: (life) => withOne(life, life.columns, (columns) => columns.return(undefined)),
  abort: ({ controllers, random }) => { pick(random, controllers)?.abort(aborted); return 0 },
  disposeEngine: (life) => withOne(life, life.engines, (engine) => engine[Symbol.asyncDispose]()),
  disposeModel: (life) => withOne(life, life.models, (model) => model[Symbol.asyncDispose]()),
  forget: ({ models, engines, columns, random }) => {
    for (const list of [models, engines, columns]) if (random(2)) list.splice(0, 1)
    globalThis.gc?.()
    return 0
  },
}

const outsideOfWorkers: Record<string, Action> = {
  chat: (life) => track(life, chat(life)),
  worker: (life) => track(life, inWorker(life.random)),
}

async function load({ models, random, controllers }: Life): Promise<void> {
  const signal = random(4) ? undefined : newSignal({ controllers })
  const dtype = (['float32', 'bfloat16', 'int8', 'int4'] as const)[random(4)] ?? 'auto'
  models.push(await seededGPT(toy, random(100), { dtype, threads: 1 + random(3), device: 'cpu', ...(signal && { signal }), ...(random(2) && { onProgress: () => {} }) }))
}

async function generate(life: Life, engine: Engine): Promise<void> {
  const { random, columns } = life
  const one = engine.generate(prompt(life), { numSamples: 1 + random(2), maxTokens: 1 + random(200), temperature: random(2), ...(random(2) && { signal: newSignal(life) }) })
  columns.push(one)
  for (let n = random(30); n > 0 && !(await one.next()).done; n--) continue
}

/** The demo model says a few words, with its tokenizer, and may be left alone in the middle. */
async function chat({ random, controllers }: Life): Promise<void> {
  await using loaded = await loadModel('demo', { device: 'cpu', threads: 1, signal: newSignal({ controllers }) })
  const events = new Engine(loaded.model, loaded.tokenizer).chat([{ role: 'user', content: 'Hello!' }], { maxTokens: 1 + random(20), tool: null, signal: newSignal({ controllers }) })
  for (let n = random(10); n > 0 && !(await events.next()).done; n--) continue
}

/** A storm in a worker, which ends by itself, exits or is terminated. */
async function inWorker(random: Random): Promise<void> {
  const worker = new Worker(workerEntry(import.meta.url), { workerData: { module: import.meta.url, stormSeed: random(2 ** 30) } })
  const end = once(worker, 'exit') as Promise<[number]>
  if (random(2)) {
    await sleep(random(400))
    await worker.terminate()
  }
  const [code] = await end
  if (code !== 0 && code !== 1 && code !== exitCode) throw new Error(`a worker ended with ${code}`)
}

function withOne<T>(life: Life, list: readonly T[], use: (one: T) => Promise<unknown>): number {
  const one = pick(life.random, list)
  return one === undefined ? 0 : track(life, use(one))
}

function track({ running, failures }: Life, promise: Promise<unknown>): number {
  const end: Promise<unknown> = promise.catch((error: unknown) => { if (!isExpected(error)) failures.push(error) }).finally(() => running.delete(end))
  running.add(end)
  return 1
}

function isExpected(error: unknown): boolean {
  return error === aborted || (NanochatError.is(error) && expectedCodes.includes(error.code)) || (error instanceof DOMException && error.name === 'AbortError')
}

function prompt({ random }: Life): number[] {
  return Array.from({ length: 1 + random(random(4) ? 8 : 200) }, () => random(toy.vocabSize))
}

function newSignal({ controllers }: Pick<Life, 'controllers'>): AbortSignal {
  const controller = new AbortController()
  controllers.push(controller)
  return controller.signal
}

function pick<T>(random: Random, list: readonly T[]): T | undefined {
  return list[random(list.length)]
}

if (!isMainThread && (workerData as { stormSeed?: number }).stormSeed !== undefined) await storm((workerData as { stormSeed: number }).stormSeed)
