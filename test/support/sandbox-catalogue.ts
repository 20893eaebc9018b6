import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync, chmodSync, utimesSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { executeIn, type ExecutionResult } from '../../lib/python.js'
import type { CagePlan } from '../../lib/sandbox-tier.js'

export interface Case { id: string, cat: string, expect: 'blocked' | 'timeout' | 'mem' | 'bounded' | 'error' | 'any' | 'forge' | 'ok', code: string, note: string }
export const cases = JSON.parse(readFileSync(join(dirname(fileURLToPath(import.meta.url)), '../fixtures/sandbox-cases.json'), 'utf8')) as Case[]

const secret = 'canary-secret-7f3a'
const maxOutputBytes = 65536
// a marker that is on the command line of every launcher and interpreter of this test process, and of no other
const marker = (256 << 20) + process.pid

/** A host with something to lose: a process, a file, a folder, two servers. After each program all must be as before. */
export class Host {
  private readonly folder = mkdtempSync(join(tmpdir(), 'canary-'))
  private readonly file = join(this.folder, 'secret.txt')
  private readonly abstract = `nanochat-canary-${process.pid}`
  private process: ChildProcess | null = null
  private heard = ''
  private servers: Server[] = []
  private port = 0
  private connections = 0
  private before = ''

  async open(): Promise<void> {
    writeFileSync(this.file, secret)
    chmodSync(this.file, 0o640)
    chmodSync(this.folder, 0o755)
    utimesSync(this.file, 1e9, 1e9)
    this.process = spawn('/usr/bin/env', ['python3', '-c', 'import signal,time\nfor n in range(1,65):\n  try: signal.signal(n, lambda n,f: print("signal",n,flush=True))\n  except (OSError,ValueError): pass\nprint("up",flush=True)\nwhile True: time.sleep(1000)'], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, CANARY: secret } })
    this.process.stdout?.on('data', (chunk: Buffer) => { this.heard += chunk.toString() })
    while (!this.heard.includes('up\n')) await new Promise((resolve) => setTimeout(resolve, 10))
    process.env.CANARY = secret
    for (const where of [0, `\0${this.abstract}`]) {
      const server = createServer((socket) => { this.connections++; socket.end('hello') })
      await new Promise<void>((resolve) => server.listen(typeof where === 'number' ? { host: '127.0.0.1', port: 0 } : { path: where }, resolve))
      const address = server.address()
      if (typeof address === 'object' && address) this.port = address.port
      this.servers.push(server)
    }
    this.before = this.state()
  }

  close(): void {
    this.process?.kill('SIGKILL')
    for (const server of this.servers) server.close()
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** Runs one program of the catalogue and returns everything that is wrong; empty when the cage held. */
  async check(one: Case, plan: CagePlan): Promise<string[]> {
    const code = one.code.replaceAll('{CANARY_PID}', String(this.process?.pid)).replaceAll('{CANARY_FILE}', this.file)
      .replaceAll('{CANARY_DIR}', this.folder).replaceAll('{CANARY_PORT}', String(this.port)).replaceAll('{ABS}', this.abstract)
    // programs that are to be stopped by the clock get little of it, the others what a busy machine may need
    const timeoutMs = one.expect === 'timeout' ? 1000 : 4000
    const started = performance.now()
    const run = await executeIn(plan, code, { timeoutMs, maxOutputBytes, maximumMemoryBytes: marker, poolSize: 0 })
    const elapsed = performance.now() - started
    const wrong = verdict(one, run).map((text) => `${text}: ${JSON.stringify({ ...run, stdout: run.stdout.slice(-300), stderr: run.stderr.slice(-300) })}`)
    if (elapsed > timeoutMs + 1000) wrong.push(`took ${Math.round(elapsed)} ms`)
    for (const text of [run.stdout, run.stderr, run.result ?? '']) {
      if (Buffer.byteLength(text) > maxOutputBytes + 100) wrong.push(`kept ${Buffer.byteLength(text)} bytes`)
      if (text.includes(secret)) wrong.push('the secret is in the output')
    }
    return [...wrong, ...await this.damage()]
  }

  /** What is left behind or changed, 300 ms given to processes on their way out. */
  async damage(): Promise<string[]> {
    const wrong: string[] = []
    for (let tries = 0; survivors().length > 0 && tries < 30; tries++) await new Promise((resolve) => setTimeout(resolve, 10))
    for (const survivor of survivors()) wrong.push(`survivor: ${survivor}`)
    const after = this.state()
    if (after !== this.before) wrong.push(`the host changed from\n${this.before}\nto\n${after}`)
    if ('polluted' in {}) wrong.push('Object.prototype was changed')
    return wrong
  }

  private state(): string {
    const { mode, mtimeMs, size, nlink } = statSync(this.file)
    return JSON.stringify({
      file: [readFileSync(this.file, 'utf8'), mode, mtimeMs, size, nlink], folder: readdirSync(this.folder), heard: this.heard,
      canary: readFileSync(`/proc/${this.process?.pid}/stat`, 'utf8').split(' ')[2], connections: this.connections,
      shm: readdirSync('/dev/shm').filter((name) => !name.startsWith('sem.')), scratch: readdirSync(tmpdir()).filter((name) => name.startsWith('nanochat-sandbox-') && name.includes(`-${process.pid}-`)),
      cores: readdirSync('.').filter((name) => /^core/.test(name)), mounts: readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length,
    })
  }
}

/** Is what the program said what was expected? A refusal must also show: as BLOCKED, as SIGSYS or as an error. */
function verdict(one: Case, run: ExecutionResult): string[] {
  const wrong: string[] = []
  const said = run.stdout + run.stderr + (run.result ?? '')
  if (one.cat !== 'ok' && said.includes('ESCAPED')) wrong.push('ESCAPED')
  if (one.expect === 'blocked' && !said.includes('BLOCKED') && run.signal !== 'SIGSYS' && run.error === null) wrong.push('no refusal to be seen')
  if (one.expect === 'timeout' && !run.timeout) wrong.push('no timeout')
  if (one.expect === 'mem' && !run.memoryExceeded) wrong.push('memoryExceeded is not set')
  if (one.expect === 'error' && (run.success || run.error === null)) wrong.push('no error reported')
  if (one.expect === 'ok' && !run.success) wrong.push('does not work')
  if (run.success && run.error !== null) wrong.push('success with an error')
  if (run.timeout && (run.success || run.result !== null)) wrong.push('a timeout with a result')
  return wrong
}

/** Command lines of launchers and interpreters of this test process. */
export function survivors(mark: number | string = marker): string[] {
  const found: string[] = []
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      if (line.includes(String(mark))) found.push(`${pid} ${line.filter((text) => text.length < 200).join(' ').slice(0, 200)}`)
    } catch { /* gone meanwhile */ }
  }
  return found
}
