// One scenario of a process's life, named by the first argument; test/lifecycle.test.ts says how each must end.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import { Engine } from '../../lib/engine.js'
import { NanochatError } from '../../lib/errors.js'
import type { GPT } from '../../lib/gpt.js'
import { loadModel, seededGPT } from '../../lib/load.js'
import { workerEntry } from './program.js'

const config = { sequenceLen: 2048, vocabSize: 4096, nLayer: 8, nHead: 4, nKvHead: 4, nEmbd: 512, windowPattern: 'SSSL' }
const longPrompt = Array.from({ length: 2000 }, (_, i) => i % 4096)

const newWorker = (state: string): Worker => new Worker(workerEntry(import.meta.url), { workerData: { module: import.meta.url, state } })

const slowModel = (): Promise<GPT> => seededGPT(config, 1)

async function startDecoding(model: GPT): Promise<AsyncGenerator<unknown>> {
  const columns = new Engine(model, null).generate([1, 2, 3], { numSamples: 4, maxTokens: 10_000 })
  await columns.next()
  return columns
}

/** Reads to the end; says how it ended. */
async function outcome(columns: AsyncGenerator<unknown>): Promise<string> {
  try {
    while (!(await columns.next()).done) continue
    return 'done'
  } catch (error) {
    return NanochatError.is(error) ? error.code : String(error)
  }
}

const scenarios: Record<string, () => Promise<void>> = {
  async exitWhileLoading() {
    void slowModel()
    await sleep(20)
    process.exit(7)
  },
  async exitDuringPrefill() {
    const model = await slowModel()
    void model.logits(longPrompt)
    await sleep(50)
    process.exit(7)
  },
  async exitDuringDecode() {
    void outcome(await startDecoding(await slowModel()))
    await sleep(50)
    process.exit(7)
  },
  async exitWhileDisposing() {
    const model = await slowModel()
    void model.logits(longPrompt).catch(() => {})
    void model[Symbol.asyncDispose]()
    process.exit(7)
  },
  async exitAfterDispose() {
    const model = await slowModel()
    await model[Symbol.asyncDispose]()
    process.exit(7)
  },
  async throwDuringDecode() {
    void outcome(await startDecoding(await slowModel()))
    await sleep(20)
    throw new Error('on purpose')
  },
  async endWithoutDispose() {
    const model = await slowModel()
    await model.forward([1, 2, 3])
  },
  async pendingWorkKeepsTheProcess() {
    const model = await slowModel()
    void model.logits(longPrompt.slice(0, 300)).then((logits) => console.log(logits.length))
  },
  async disposeDuringDecode() {
    const model = await slowModel()
    const end = outcome(await startDecoding(model))
    await sleep(20)
    await model[Symbol.asyncDispose]()
    console.log(await end)
  },
  async disposeEngineDuringDecode() {
    const { model, tokenizer } = await loadModel()
    const engine = new Engine(model, tokenizer)
    const columns = engine.generate([1, 2, 3], { maxTokens: 400, temperature: 1 })
    await columns.next()
    const end = outcome(columns)
    await engine[Symbol.asyncDispose]()
    console.log(await end, (await model.forward([1])).length)
  },
  async workerTerminated() {
    for (const state of ['exitWhileLoading', 'prefill', 'decode']) {
      const worker = newWorker(state)
      await once(worker, 'message')
      await sleep(30)
      await worker.terminate()
    }
    const model = await slowModel()
    console.log((await model.forward([1, 2, 3])).length)
  },
  async workerEndsByItself() {
    const worker = newWorker('once')
    const [code] = await once(worker, 'exit') as [number]
    console.log(code)
  },
  async forgottenModelsAreFreed() {
    const gc = globalThis.gc ?? (() => { throw new Error('run with --expose-gc') })
    const load = async (): Promise<void> => { await (await slowModel()).forward([1]) }
    await load()
    const samples: number[] = []
    for (let i = 0; i < 12; i++) {
      await load()
      await sleep(5)
      gc()
      await sleep(5)
      samples.push(process.memoryUsage.rss())
    }
    // a model holds 75 MB: had eight of them been kept, the later half would be far above the earlier one
    const grown = Math.max(...samples.slice(6)) - Math.max(...samples.slice(0, 6))
    console.log(grown < 150e6 ? 'flat' : `grew: ${samples.map((n) => n >> 20).join(' ')} MB`)
    process.exit(0)
  }
}

/** The same states inside a worker. */
async function inWorker(state: string): Promise<void> {
  if (state === 'exitWhileLoading') {
    parentPort?.postMessage('ready')
    await slowModel()
    return
  }
  const model = await slowModel()
  if (state === 'once') {
    await model.forward([1, 2, 3])
    return
  }
  const work = state === 'prefill' ? model.logits(longPrompt) : outcome(await startDecoding(model))
  parentPort?.postMessage('ready')
  await work
}

const scenario = scenarios[process.argv[2] ?? '']
if (!isMainThread) await inWorker((workerData as { state: string }).state)
else if (scenario) await scenario()
else throw new Error(`no scenario ${process.argv[2]}`)
