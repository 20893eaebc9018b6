import { createServer, type Server, type ServerResponse } from 'node:http'
import { isIP, type AddressInfo, type Socket } from 'node:net'
import { warmSandbox } from '../python.js'
import { openaiApi, type ResponseSummary } from '../server/server.js'
import type { Command } from './args.js'
import { openSession } from './session.js'
import { jsonLine, withoutControls } from './terminal.js'

/** Serves the command's model until a signal ends it: at first no new requests, the second time at once. Throws as `loadModel` and `openaiApi`. */
export async function serve(command: Command): Promise<void> {
  const { listen: { port, host, apiKey, origins, modelName }, temperature, topK, maxTokens, tool, json } = command
  await using session = await openSession(command)
  const { loaded } = session
  const say = (text: string, facts: object): void => { process.stdout.write(json ? jsonLine(facts) : `${withoutControls(text)}\n`) }
  await using api = openaiApi(loaded, {
    modelName, apiKey, origins, ...(tool ? {} : { tool: null }),
    defaults: { topK, maxTokens, ...(temperature === null ? {} : { temperature }) },
    onResponse: (summary) => say(lineOf(summary), { type: 'request', ...summary, error: messageOf(summary.error) })
  })
  if (tool) await warmSandbox().catch((error: unknown) => { process.emitWarning(`Only what the calculator can answer will be: ${messageOf(error)}`) })

  let signals = 0
  const sockets = new Set<Socket>(), open = new Set<ServerResponse>()
  const isIdle = (socket: Socket): boolean => ![...open].some(({ req }) => req.socket === socket)
  const server = createServer((request, response) => {
    const { socket } = request
    open.add(response)
    if (signals > 0) response.setHeader('connection', 'close')
    void api.handle(request, response).finally(() => {
      open.delete(response)
      if (signals > 0 && isIdle(socket)) socket.destroySoon()
    })
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => { sockets.delete(socket) })
  })
  const url = await listening(server, port, host)
  if (apiKey === undefined && !isLoopback(host)) process.emitWarning(`Everybody who reaches ${host} can use this server. NANOCHAT_API_KEY sets a key.`)
  const ended = new Promise((resolve) => server.once('close', resolve))
  const end = (): void => {
    signals++
    if (signals === 1) {
      server.close()
      for (const socket of sockets) if (isIdle(socket)) socket.destroy()
      for (const response of open) if (!response.headersSent) response.setHeader('connection', 'close')
      if (open.size > 0) say('ending when running answers are done; again to end at once', { type: 'ending' })
    } else {
      void api[Symbol.asyncDispose]().then(() => server.closeAllConnections())
    }
  }
  process.on('SIGINT', end).on('SIGTERM', end)
  say(`listening on ${url}`, { type: 'listening', url })
  try {
    await ended
  } finally {
    process.off('SIGINT', end).off('SIGTERM', end)
  }
}

async function listening(server: Server, port: number, host: string): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const why = error.code === 'EADDRINUSE' ? 'something else has it; --port takes another' : error.message
      reject(new Error(`Port ${port} of ${host} can't be listened on: ${why}.`, { cause: error }))
    })
    server.listen(port, host, resolve)
  })
  const { port: taken } = server.address() as AddressInfo
  return `http://${isIP(host) === 6 ? `[${host}]` : host}:${taken}/v1`
}

function lineOf({ method, path, status, durationMs, stats, error }: ResponseSummary): string {
  const tokens = stats.reduce((sum, { generatedTokens, forcedTokens }) => sum + generatedTokens + forcedTokens, 0)
  const prompt = stats[0] ? `, prompt ${stats[0].promptTokens}${stats[0].cachedTokens > 0 ? `, ${stats[0].cachedTokens} of them kept` : ''}` : ''
  return `${method} ${path.slice(0, 100)} ${status} ${Math.round(durationMs)} ms${stats.length > 0 ? ` ${tokens} tokens${prompt}` : ''}${error === null ? '' : ` ${messageOf(error)}`}`
}

function messageOf(error: unknown): string | null {
  return error === null ? null : error instanceof Error ? error.message : String(error)
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host)
}
