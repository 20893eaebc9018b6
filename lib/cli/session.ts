import { Engine } from '../engine.js'
import { loadModel, loadModelFromDir, type Loaded } from '../load.js'
import type { GenerateOptions } from '../types.js'
import type { Command } from './args.js'
import { progressBar } from './progress.js'

/** A loaded model and its engine. */
export interface Session extends AsyncDisposable {
  loaded: Loaded
  engine: Engine
}

/** Loads what the command names, with a progress bar on stderr. Throws as `loadModel`. */
export async function openSession({ model, load }: Command): Promise<Session> {
  const bar = progressBar(process.stderr)
  const options = { ...load, onProgress: bar.onProgress }
  try {
    const loaded = 'dir' in model ? await loadModelFromDir(model.dir, { ...options, tokenizerDir: model.tokenizerDir }) : await loadModel(model.source, options)
    const engine = new Engine(loaded.model, loaded.tokenizer)
    return {
      loaded, engine,
      async [Symbol.asyncDispose]() {
        await engine[Symbol.asyncDispose]()
        await loaded[Symbol.asyncDispose]()
      }
    }
  } finally {
    bar.done()
  }
}

/** The command's sampling; `temperature` where it gives none. */
export function generateOptions(command: Command, temperature: number): GenerateOptions {
  const { topK, seed, maxTokens, tool } = command
  return { temperature: command.temperature ?? temperature, topK, seed, maxTokens, ...(tool ? {} : { tool: null }) }
}
