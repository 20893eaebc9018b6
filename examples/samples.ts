// Many answers to one question: one prefill, rows decoded together. Run: node --import tsx examples/samples.ts
import { Engine, loadModel } from 'nanochat-node'

await using loaded = await loadModel()
const { model, tokenizer } = loaded
await using engine = new Engine(model, tokenizer)

const prompt = tokenizer.renderForCompletion([{ role: 'user', content: 'Who are you?' }])
const { results, finishReasons, stats } = await engine.generateBatch(prompt, { numSamples: 8, temperature: 1, topK: 50, maxTokens: 64, seed: 7 })
results.forEach((ids, row) => console.log(`${row} (${finishReasons[row]}): ${tokenizer.decode(ids.subarray(prompt.length))}`))
console.log(`${stats.generatedTokens} tokens, ${Math.round(stats.tokensPerSecond)} tok/s`)
