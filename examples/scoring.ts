// Multiple choice: the log-probability of each answer, given the question. One prefill for all. Run: node --import tsx examples/scoring.ts
import { loadModel } from 'nanochat-node'

await using loaded = await loadModel('demo', { dtype: 'float32' })
const { model, tokenizer } = loaded

/** log softmax(logits)[id], in nats. */
function logprob(logits: Float32Array, id: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b))
  return (logits[id] ?? NaN) - most - Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0))
}

const question = tokenizer.renderForCompletion([{ role: 'user', content: 'Who are you?' }])
using kvCache = model.newCache()
const first = await model.forward(question, kvCache)       // (V): what the answer begins with

for (const choice of ['I am nanochat', 'I am a dog', 'It is raining']) {
  const ids = tokenizer.encode(choice)
  let nats = logprob(first, ids[0] ?? -1), logits = first
  for (let t = 1; t < ids.length; t++) {
    logits = await model.forward([ids[t - 1] ?? -1], kvCache)
    nats += logprob(logits, ids[t] ?? -1)
  }
  kvCache.truncate(question.length)                        // back to the question, for the next choice
  console.log(`${nats.toFixed(2).padStart(7)} nats, ${(nats / ids.length).toFixed(2)} per token: ${choice}`)
}
