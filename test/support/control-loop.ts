// An event loop beside the one under test, which does nothing: how late its timers are is the machine's doing.
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'

const source = `
const { parentPort } = require('node:worker_threads')
let gaps = [], last = performance.now()
setInterval(() => {
  const now = performance.now()
  gaps.push(now - last)
  last = now
}, 10)
parentPort.on('message', () => {
  parentPort.postMessage([...gaps, performance.now() - last])
  gaps = []
})
parentPort.postMessage([])
`

export class ControlLoop {
  readonly #worker = new Worker(source, { eval: true })

  static async start(): Promise<ControlLoop> {
    const loop = new ControlLoop()
    await loop.#answer()
    return loop
  }

  /** Milliseconds between the ticks of its 10 ms timer since the last call, the time since the last tick included. */
  gaps(): Promise<number[]> {
    const answer = this.#answer()
    this.#worker.postMessage(null)
    return answer
  }

  async stop(): Promise<void> {
    await this.#worker.terminate()
  }

  async #answer(): Promise<number[]> {
    const [gaps] = await once(this.#worker, 'message') as [number[]]
    return gaps
  }
}
