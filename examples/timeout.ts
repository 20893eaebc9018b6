// An AbortSignal ends a generation, also while the prompt is being read; `break` does too, without an error.
// Run: node --import tsx examples/timeout.ts
import { Engine, loadModel } from 'nanochat-node'

await using loaded = await loadModel()
const { model, tokenizer } = loaded
await using engine = new Engine(model, tokenizer)

const prompt = tokenizer.renderForCompletion([{ role: 'user', content: 'Who are you?' }])
const never = { [tokenizer.encodeSpecial('<|assistant_end|>')]: -Infinity, [tokenizer.getBosTokenId()]: -Infinity }
let columns = 0
try {
  for await (const _ of engine.generate(prompt, { logitBias: never, maxTokens: 5000, tool: null, signal: AbortSignal.timeout(200) })) columns++
} catch (error) {
  console.log(`${error instanceof Error ? error.name : String(error)} after ${columns} tokens`)
}

columns = 0
for await (const _ of engine.generate(prompt, { logitBias: never, maxTokens: 5000, tool: null })) {
  if (++columns === 10) break
}
console.log(`break after ${columns} tokens`)
