// A streaming chat of two turns. Run: node --import tsx examples/chat.ts
import { Engine, loadModel, type Message } from 'nanochat-node'

await using loaded = await loadModel()                    // the demo model; 'sft' is yours in ~/.cache/nanochat
await using engine = new Engine(loaded.model, loaded.tokenizer)
using kvCache = loaded.model.newCache()                   // later turns compute only what is new

const messages: Message[] = []
for (const question of ['What is 12 * 12?', 'and plus 5?']) {
  messages.push({ role: 'user', content: question })
  console.log(`> ${question}`)
  for await (const event of engine.chat(messages, { temperature: 0, kvCache })) {
    if (event.type === 'text') process.stdout.write(event.text)
    if (event.type === 'python') console.log(`python: ${event.text}`)
    if (event.type === 'python_output') console.log(`output: ${event.text ?? '(none)'}`)
    if (event.type === 'finish') {
      messages.push(event.message)
      console.log(`\n(${event.stats.promptTokens} prompt tokens, ${event.stats.cachedTokens} of them cached)`)
    }
  }
}
