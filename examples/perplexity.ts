// How likely is this answer? Logits of every position, no sampling. Run: node --import tsx examples/perplexity.ts
import { loadModel, type Message } from 'nanochat-node'

await using loaded = await loadModel('demo', { dtype: 'float32' })
const { model, tokenizer } = loaded

/** exp of the mean negative log-likelihood of the assistant's tokens. */
async function perplexity(messages: Message[]): Promise<number> {
  const { ids, mask } = tokenizer.renderConversation(messages)
  const V = model.config.vocabSize
  const logits = await model.logits(ids)                  // (T, V); row t predicts token t + 1
  let nats = 0, count = 0
  for (let t = 0; t + 1 < ids.length; t++) {
    if (mask[t + 1] !== 1) continue
    const row = logits.subarray(t * V, (t + 1) * V)
    nats += Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - Number(row[ids[t + 1] ?? 0])
    count++
  }
  return Math.exp(nats / count)
}

for (const answer of ['I am nanochat, in miniature.', 'I am a teapot, short and stout.']) {
  console.log((await perplexity([{ role: 'user', content: 'Who are you?' }, { role: 'assistant', content: answer }])).toFixed(1), answer)
}
