// A tool of your own: it gets the code of a python block and returns what the model reads next.
// Run: node --import tsx examples/tool.ts
import { Engine, loadModel, useCalculator, type Tool } from 'nanochat-node'

const tool: Tool = async (code, { signal }) => {
  const list = /^sorted\((\[[\d, ]*\])\)$/.exec(code)?.[1]
  if (list === undefined) return useCalculator(code)      // nanochat's calculator; null when it has no result
  const numbers = JSON.parse(list) as number[]
  signal.throwIfAborted()                                 // aborts when nobody waits for the answer any more
  return `[${numbers.sort((a, b) => a - b).join(', ')}]`
}

await using loaded = await loadModel()
await using engine = new Engine(loaded.model, loaded.tokenizer)
for await (const event of engine.chat([{ role: 'user', content: 'Sort 9 3 7 1' }], { temperature: 0, tool })) {
  if (event.type !== 'finish') console.log(`${event.type}: ${event.text}`)
}
