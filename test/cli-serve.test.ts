import { connect, createServer, type AddressInfo } from 'node:net'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runCli, startServer } from './support/cli.js'

const serve = suite('serve on the command line')

const ask = (url: string, content: string, more: object = {}, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${url}/chat/completions`, { method: 'POST', headers, body: JSON.stringify({ messages: [{ role: 'user', content }], ...more }) })

serve('answers, says so line by line, and ends with Ctrl+C', async () => {
  const server = startServer(['-i', 'demo', '--name', 'mini', '-t', '0', '--max-tokens', '30'])
  const url = await server.url
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/v1$/)
  const answer = await (await ask(url, 'What is 1234 * 5678?', { model: 'mini' })).json() as { model: string, choices: { message: { content: string } }[] }
  assert.equal([answer.model, answer.choices[0]?.message.content], ['mini', 'The answer is 7006652.'])
  assert.is((await ask(url, 'Hi', { n: 0 })).status, 400)
  assert.is((await fetch(`${url}/\x1b[2J`)).status, 404)
  assert.equal(await server.end(), { status: 0, stderr: '' })
  const [listening, ok, wrong, missing, ...rest] = server.stdout().split('\n')
  assert.is(listening, `listening on ${url}`)
  assert.match(ok ?? '', /^POST \/v1\/chat\/completions 200 \d+ ms 24 tokens, prompt 14$/)
  assert.match(wrong ?? '', /^POST \/v1\/chat\/completions 400 \d+ ms Expected an integer from 1 to 64 for n but received 0\.$/)
  assert.match(missing ?? '', /^GET \/v1\/%1B\[2J 404 \d+ ms There is no /)
  assert.equal(rest, [''])
})

serve('a key from the environment, and documents instead of lines', async () => {
  const server = startServer(['-i', 'demo', '--json', '--no-tool'], { NANOCHAT_API_KEY: 'sesame' })
  const url = await server.url
  assert.is((await ask(url, 'Hi')).status, 401)
  assert.is((await ask(url, 'Who are you?', { max_tokens: 2, n: 2 }, { authorization: 'Bearer sesame' })).status, 200)
  assert.equal(await server.end('SIGTERM'), { status: 0, stderr: '' })
  const documents = server.stdout().trimEnd().split('\n').map((line) => JSON.parse(line) as { type: string, url?: string, status?: number, error?: string | null, stats?: unknown[] })
  assert.equal(documents.map(({ type, url, status, stats }) => [type, url, status, stats?.length]), [['listening', url, undefined, undefined], ['request', undefined, 401, 0], ['request', undefined, 200, 2]])
  assert.match(documents[1]?.error ?? '', /Authorization: Bearer/)
})

serve('running answers are finished, at the second signal they are ended', async () => {
  const long = { temperature: 2, top_k: 0, logit_bias: Object.fromEntries([2039, 2040, 2041, 2042, 2043, 2044, 2045, 2046, 2047].map((id) => [id, -100])), stream: true }
  for (const signals of [1, 2]) {
    const server = startServer(['-i', 'demo', '--threads', '1'])
    const response = await ask(await server.url, 'Who are you?', { ...long, n: 8 })
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
    let text = (await reader?.read())?.value ?? ''
    server.signal('SIGINT')
    while (!server.stdout().includes('again to end at once')) await new Promise((resolve) => setTimeout(resolve, 5))
    if (signals === 2) server.signal('SIGINT')
    for (let next = await reader?.read(); next && !next.done; next = await reader?.read()) text += next.value
    assert.is(text.endsWith('data: [DONE]\n\n'), signals === 1, text.slice(-300))
    if (signals === 2) assert.match(text, /data: \{"error":\{"message":"The server is ending\.".*\}\n\n$/)
    assert.equal(await server.end(null), { status: 0, stderr: '' })
  }
})

serve('connections without a request, and a body that never comes, keep nothing from ending', async () => {
  const server = startServer(['-i', 'demo', '--threads', '1'])
  const { port } = new URL(await server.url)
  const closed: Promise<unknown>[] = ['', 'POST /v1/ch', 'POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"m'].map((sent) => {
    const socket = connect(Number(port), '127.0.0.1', () => { socket.write(sent) })
    return new Promise((resolve) => { socket.on('error', () => {}).on('data', () => {}).on('close', resolve) })
  })
  await new Promise((resolve) => setTimeout(resolve, 200))
  server.signal('SIGINT')
  await Promise.all(closed.slice(0, 2))
  server.signal('SIGINT')
  await closed[2]
  assert.equal(await server.end(null), { status: 0, stderr: '' })
})

serve('what can not be served: one line', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => taken.once('listening', resolve))
  const { port } = taken.address() as AddressInfo
  const [busy, address, ...wrong] = await Promise.all([
    runCli(['serve', '-i', 'demo', '--port', String(port)]), runCli(['serve', '-i', 'demo', '--port', '0', '--host', '203.0.113.7']),
    runCli(['serve', '-i', 'demo', '--port', '65536']), runCli(['serve', '-i', 'demo', 'hello']), runCli(['serve', '-i', 'demo', '-p', 'hello']), runCli(['serve', '--seed', '1']), runCli(['serve', '-i', 'demo', '-t', 'x']),
    runCli(['serve', '-i', 'demo', '--api-key', ''])
  ])
  taken.close()
  assert.equal([busy.status, busy.stdout], [1, ''])
  assert.match(busy.stderr, new RegExp(`^error: Port ${port} of 127\\.0\\.0\\.1 can't be listened on: something else has it; --port takes another\\.\\n$`))
  assert.is(address.status, 1)
  assert.match(address.stderr, /^(?:warning: .*\n)?error: Port 0 of 203\.0\.113\.7 can't be listened on: .*EADDRNOTAVAIL.*\n$/)
  for (const { status, stderr } of wrong) {
    assert.is(status, 2, stderr)
    assert.match(stderr, /^error: ERR_INVALID_ARG: .*\n$/)
  }
})

serve('everybody may use it: a warning', async () => {
  const server = startServer(['-i', 'demo', '--host', '0.0.0.0'])
  await server.url
  assert.match((await server.end()).stderr, /^warning: Everybody who reaches 0\.0\.0\.0 can use this server\. NANOCHAT_API_KEY sets a key\.\n$/)
})

serve.run()
