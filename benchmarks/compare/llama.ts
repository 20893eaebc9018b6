import { depthSpec } from '../cost.js'
import { randomIds } from '../decode.js'
import { importPeer, requireDifferentTokens, type Runner, type Task } from './contender.js'

interface Sequence {
  clearHistory(): Promise<void>
  eraseContextTokenRanges(ranges: { start: number, end: number }[]): Promise<void>
  readonly nextTokenIndex: number
  evaluate(tokens: number[], options: { temperature: number, yieldEogToken: boolean }): AsyncGenerator<number, void, void>
}

interface Peer {
  getLlama(options: { gpu: false, build: 'never', skipDownload: true, progressLogs: false, logLevel: 'error', maxThreads: number }): Promise<{
    readonly llamaCppRelease: { release: string }
    loadModel(options: { modelPath: string, useMmap: boolean }): Promise<{
      createContext(options: { sequences: number, contextSize: number, batchSize: number, threads: number, flashAttention: boolean }): Promise<{ readonly currentThreads: number, getSequence(): Sequence }>
    }>
  }>
}

const greedy = { temperature: 0, yieldEogToken: true }

export async function load(modelPath: string, { depth, threads, batches, promptTokens, decodeTokens, prefillTokens }: Task): Promise<Runner> {
  const { getLlama } = await importPeer('node-llama-cpp') as Peer
  const llama = await getLlama({ gpu: false, build: 'never', skipDownload: true, progressLogs: false, logLevel: 'error', maxThreads: 0 })   // 0: as many as a context asks for
  const model = await llama.loadModel({ modelPath, useMmap: false })
  const context = await model.createContext({
    sequences: Math.max(...batches) + 1, contextSize: Math.max(prefillTokens, promptTokens + decodeTokens) + 8, batchSize: 512, threads, flashAttention: true
  })
  if (context.currentThreads !== threads) throw new Error(`node-llama-cpp took ${context.currentThreads} threads instead of ${threads}`)

  const { vocabSize, nLayer, nKvHead, nHead, nEmbd } = depthSpec(depth)
  const fresh = context.getSequence()
  const rows: { sequence: Sequence, next: number }[] = []

  const append = async (sequence: Sequence, tokens: number[], steps: number): Promise<number> => {
    let token = 0
    const generated = sequence.evaluate(tokens, greedy)
    for (let i = 0; i < steps; i++) {
      const { value } = await generated.next()
      if (typeof value !== 'number') throw new Error('node-llama-cpp ended an answer early')
      token = value
    }
    await generated.return()
    return token
  }

  return {
    settings: `llama.cpp ${llama.llamaCppRelease.release}, flash attention, batch of 512, f16 cache, weights in memory`,
    kvBytesPerToken: 2 * nLayer * nKvHead * (nEmbd / nHead) * 2,
    matrixBytes: 0,
    prepare: async () => {
      for (let r = 0; r < Math.max(...batches); r++) {
        const sequence = context.getSequence()
        rows.push({ sequence, next: await append(sequence, [...randomIds(promptTokens, vocabSize, r)], 1) })
      }
      requireDifferentTokens('node-llama-cpp', rows.map(({ next }) => next))
    },
    decode: async (batch, steps) => {
      const decoding = rows.slice(0, batch)
      await Promise.all(decoding.map(({ sequence, next }) => append(sequence, [next], steps)))
      await Promise.all(decoding.map(({ sequence }) => sequence.eraseContextTokenRanges([{ start: promptTokens, end: sequence.nextTokenIndex }])))
    },
    prefill: async (tokens) => {
      await fresh.clearHistory()
      await append(fresh, [...randomIds(tokens, vocabSize, 0)], 1)
    }
  }
}
