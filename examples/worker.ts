// A model in a worker thread. (The main thread would stay free anyway: a model computes on threads of its own.)
// Run: node --import ./examples/register.mjs examples/worker.ts
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Engine, loadModel } from 'nanochat-node'

if (isMainThread) {
  const worker = new Worker(fileURLToPath(import.meta.url))
  worker.postMessage('What is 1234 * 5678?')
  const [answer] = await once(worker, 'message') as [string]
  console.log(answer)
  await worker.terminate()                                // frees the model too
} else {
  const { model, tokenizer } = await loadModel()
  const engine = new Engine(model, tokenizer)
  parentPort?.on('message', async (question: string) => {
    let answer = ''
    for await (const event of engine.chat([{ role: 'user', content: question }], { temperature: 0 })) {
      if (event.type === 'text') answer += event.text
    }
    parentPort?.postMessage(answer)
  })
}
