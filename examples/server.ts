// Server-sent events over node:http; a client that leaves ends its generation. Run: node --import tsx examples/server.ts
//   curl -N localhost:8000 -d '[{"role":"user","content":"What is 1234 * 5678?"}]'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Engine, loadModel, NanochatError, type Message } from 'nanochat-node'

const loaded = await loadModel()
const engine = new Engine(loaded.model, loaded.tokenizer)    // one for all requests: they are decoded together

const server = createServer(async (request, response) => {
  const gone = new AbortController()
  response.on('close', () => gone.abort())
  try {
    const messages = JSON.parse(await text(request)) as Message[]
    for await (const event of engine.chat(messages, { temperature: 0, signal: gone.signal })) {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`data: ${JSON.stringify(event)}\n\n`)
    }
  } catch (error) {
    if (!response.headersSent) response.writeHead(400)
    if (gone.signal.aborted) console.log('a client left')
    else response.write(`data: ${JSON.stringify({ type: 'error', code: NanochatError.is(error) ? error.code : 'ERR_REQUEST' })}\n\n`)
  }
  response.end()
})
server.listen(Number(process.env.PORT ?? 8000), () => console.log(`listening on http://localhost:${(server.address() as AddressInfo).port}`))
