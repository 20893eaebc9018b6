// A child process with one contender: it loads, says so, and runs one repetition for each message.
import type { Contender, FromWorker, Repetition, Runner, Task } from './contender.js'

const [contender, task, file] = JSON.parse(process.argv[2] ?? '') as [Contender, Task, string]

async function load(): Promise<Runner> {
  switch (contender.engine) {
    case 'nanochat-node': return (await import('./nanochat.js')).load(contender.format, task)
    case 'node-llama-cpp': return (await import('./llama.js')).load(file, task)
    case 'onnxruntime-node': return (await import('./onnxruntime.js')).load(file, task)
  }
}

async function timed(action: () => Promise<void>): Promise<{ seconds: number, processors: number }> {
  const before = process.cpuUsage(), start = performance.now()
  await action()
  const ms = performance.now() - start, { user, system } = process.cpuUsage(before)
  return { seconds: ms / 1000, processors: (user + system) / 1000 / ms }
}

async function repetition(runner: Runner, { batches, decodeTokens, prefillTokens }: Task): Promise<Repetition> {
  const prefill = await timed(() => runner.prefill(prefillTokens))
  const decode: Repetition['decode'] = []
  for (const batch of batches) {
    await runner.decode(batch, 1)   // threads awake, caches of the machine as in the middle of a long answer
    decode.push({ batch, ...await timed(() => runner.decode(batch, decodeTokens)) })
  }
  return { prefill, decode }
}

const send = (message: FromWorker): void => { process.send?.(message) }

process.once('disconnect', () => process.exit())   // the benchmark has ended, however

try {
  const runner = await load()
  await runner.prepare()
  await repetition(runner, { ...task, decodeTokens: 2 })
  process.on('message', () => {
    repetition(runner, task).then((result) => send({ repetition: result }), (error: unknown) => send({ error: String(error) }))
  })
  send({ ready: { settings: runner.settings, kvBytesPerToken: runner.kvBytesPerToken, matrixBytes: runner.matrixBytes } })
} catch (error) {
  send({ error: error instanceof Error ? error.message : String(error) })
}
