// One beginning, many endings: its keys and values are computed once. Run: node --import tsx examples/shared-prefix.ts
import { Engine, loadModel } from 'nanochat-node'

await using loaded = await loadModel()
const { model, tokenizer } = loaded
await using engine = new Engine(model, tokenizer)

const system = 'Please be quick. '
const prefix = [tokenizer.getBosTokenId(), tokenizer.encodeSpecial('<|user_start|>'), ...tokenizer.encode(system)]
using kvCache = await engine.prefill(prefix)
for (const question of ['What is 3 * 5?', 'What is 20 - 7?', 'Who are you?']) {
  const prompt = tokenizer.renderForCompletion([{ role: 'user', content: system + question }])
  const { results, stats } = await engine.generateBatch(prompt, { kvCache, temperature: 0 })
  console.log(tokenizer.decode(results[0]?.subarray(prompt.length) ?? []), `(${stats.cachedTokens} of ${stats.promptTokens} cached)`)
}
