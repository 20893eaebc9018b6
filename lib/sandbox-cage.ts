import { readSync } from 'node:fs'
import { Socket } from 'node:net'
import { constants } from 'node:os'
import { encodeRequest, FrameReader, Output, type Frame } from './sandbox-protocol.js'
import { removeTree, startProcess, type Started } from './sandbox-process.js'

/** How to start one caged interpreter: the launcher's command line and environment. */
export interface CageSpec {
  launcher: string
  argv: string[]
  env: string[]
  scratch: string | null             // a directory of the host that the launcher makes and removes
}

export interface RunLimits {
  timeoutMs: number
  maxOutputBytes: number
  seed?: number
}

/** How a run ended. Exactly one of `frame` and `end` says so; the output is what was kept either way. */
export interface Outcome {
  frame: Frame | null
  end: 'result' | 'timeout' | 'flood' | 'disk' | 'exit'
  exitCode: number | null
  signal: number
  maxRssBytes: number
  stdout: Output
  stderr: Output
  startedAt: number                  // performance.now() when the code was sent
}

/** Why no interpreter came up: the layer that refused and the launcher's own words. */
export class CageFailure extends Error {
  /** `mayPass`: it was the time that ran out; another attempt may do. */
  constructor(readonly layer: string, message: string, readonly mayPass = false) { super(message) }
}

const floodBytes = 4 << 20
const startTimeoutMs = 10_000
const graceMs = 2_000                // the launcher's own timer decides; this is for a launcher that no longer runs

/**
 * One launcher and the interpreter it confines, used for one program. The launcher's clock decides about the time limit
 * and its report about the end, so that a blocked event loop changes neither.
 */
export class Cage {
  readonly startedAt = performance.now()
  /** Resolves when the launcher, and with it everything inside, is gone. */
  readonly gone: Promise<void>
  private readonly outputs: { socket: Socket, fd: number, output: () => Output }[]
  private readonly sockets: Socket[] = []
  private readonly request: Socket
  private readonly control: Socket
  private report = ''
  private beforeReady = ''
  private isReady = false
  private isGone = false
  private closed = false
  private openStreams = 0
  private reader: FrameReader | null = null
  private stdout = new Output(0)
  private stderr = new Output(2048)
  private onReady: (error?: CageFailure) => void = () => {}
  private settle: ((end: Outcome['end']) => void) | null = null

  private constructor(private readonly process: Started, spec: CageSpec) {
    this.outputs = [
      { fd: process.stdout, output: () => this.stdout, socket: this.listen(process.stdout, (chunk) => { this.stdout.push(chunk); this.checkFlood() }) },
      { fd: process.stderr, output: () => this.stderr, socket: this.listen(process.stderr, (chunk) => { this.stderr.push(chunk); this.checkFlood() }) }
    ]
    this.listen(process.result, (chunk) => this.onResult(chunk))
    this.listen(process.report, (chunk) => { if (this.report.length < 4096) this.report += chunk.toString('utf8') })
    this.request = this.writeTo(process.request)
    this.control = this.writeTo(process.control)
    this.gone = process.exited.then(async () => {
      this.isGone = true
      this.checkEnd()
      if (spec.scratch !== null) await removeTree(spec.scratch).catch(() => {})
    })
  }

  /** Starts an interpreter and waits until it is warm and confined. Rejects with a {@link CageFailure}. */
  static async start(spec: CageSpec): Promise<Cage> {
    const process = await startProcess(spec.launcher, spec.argv, spec.env).catch((error: Error) => { throw new CageFailure('process', error.message) })
    const cage = new Cage(process, spec)
    const tooLate = (): void => cage.onReady(new CageFailure('process', `the interpreter was not ready within ${startTimeoutMs} ms`, true))
    const timer = setTimeout(() => setImmediate(tooLate), startTimeoutMs)   // note: after a blocked event loop, what was said in time is read first
    try {
      await new Promise<void>((resolve, reject) => { cage.onReady = (error) => error ? reject(error) : resolve() })
      return cage
    } catch (error) {
      cage.close()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  get isUsable(): boolean { return this.isReady && !this.isGone && !this.closed }

  /** Sends the program and waits for its end. Once per cage. */
  run(code: string, limits: RunLimits): Promise<Outcome> {
    return new Promise((resolve) => {
      this.stdout = new Output(limits.maxOutputBytes)
      this.stderr = new Output(limits.maxOutputBytes)
      this.reader = new FrameReader(limits.maxOutputBytes)
      const tooLate = (): void => {
        if (this.settle === null) return
        this.process.kill()
        this.settle('timeout')
      }
      const timer = setTimeout(() => setImmediate(tooLate), limits.timeoutMs + graceMs)
      const startedAt = performance.now()
      this.settle = (end) => {
        this.settle = null
        clearTimeout(timer)
        resolve(this.outcome(end, startedAt))
        this.close()
      }
      const timeout = Buffer.alloc(4)
      timeout.writeUInt32LE(limits.timeoutMs)
      this.control.write(timeout)
      this.request.end(encodeRequest(code, limits.maxOutputBytes, limits.seed))
      this.checkEnd()
    })
  }

  /** Ends the interpreter, whatever it does: the end of the control pipe is the launcher's order. */
  close(): void {
    if (this.closed) return
    this.closed = true
    for (const socket of [this.control, this.request, ...this.sockets]) socket.destroy()
    const timer = setTimeout(() => this.process.kill(), graceMs)
    timer.unref()
    void this.gone.then(() => clearTimeout(timer))
  }

  private writeTo(fd: number): Socket {
    return new Socket({ fd, readable: false, writable: true }).on('error', () => {}).unref()   // the other end is gone: its exit tells
  }

  private listen(fd: number, onData: (chunk: Buffer) => void): Socket {
    const socket = new Socket({ fd, readable: true, writable: false })
    this.openStreams++
    socket.on('data', onData).on('error', () => {}).on('close', () => { this.openStreams--; this.checkEnd() }).unref()
    this.sockets.push(socket)
    return socket
  }

  private onResult(chunk: Buffer): void {
    if (!this.isReady) {
      this.beforeReady += chunk.toString('latin1', 0, 16)
      this.isReady = this.beforeReady === 'R'
      this.onReady(this.isReady ? undefined : new CageFailure('process', 'the interpreter said something else than that it is ready'))
      return
    }
    if (this.reader === null) return this.close()                // a frame before any request
    this.reader.push(chunk)
    if (this.reader.state === 'complete') {
      // note: the program can close its output, and then the number of a destroyed socket's descriptor is anybody's
      for (const { socket, fd, output } of this.outputs) if (!socket.destroyed) drain(fd, output())
      this.settle?.('result')
    } else if (this.reader.state === 'invalid') this.settle?.('exit')
  }

  private checkFlood(): void {
    if (this.stdout.total > floodBytes || this.stderr.total > floodBytes) this.settle?.('flood')
  }

  /** Everything has been read and the launcher is gone: no result will come any more. */
  private checkEnd(): void {
    if (!this.isGone || this.openStreams > 0) return
    const failure = /^fail ([a-z]+): (.*)/.exec(this.report)
    if (!this.isReady) this.onReady(new CageFailure(failure?.[1] ?? 'process', failure?.[2] ?? `the interpreter ended before it was ready: ${this.stderr.text() || this.report || 'no reason given'}`))
    const reason = /reason=(\w+)/.exec(this.report)?.[1]
    this.settle?.(reason === 'timeout' || reason === 'disk' ? reason : 'exit')
  }

  private outcome(end: Outcome['end'], startedAt: number): Outcome {
    const number = (name: string): number => Number(new RegExp(`${name}=(-?\\d+)`).exec(this.report)?.[1] ?? Number.NaN)
    const exitCode = number('code')
    return {
      frame: end === 'result' ? this.reader?.frame ?? null : null, end, startedAt,
      exitCode: exitCode >= 0 ? exitCode : null, signal: end === 'flood' ? constants.signals.SIGKILL : number('signal') || 0, maxRssBytes: (number('rss') || 0) * 1024,
      stdout: this.stdout, stderr: this.stderr,
    }
  }
}

/** Reads what the program wrote before its result: it is in the pipe, but the event loop may not have come to it yet. */
function drain(fd: number, output: Output): void {
  const buffer = Buffer.allocUnsafe(65536)
  for (let total = 0; total <= floodBytes;) {
    let count = 0
    try { count = readSync(fd, buffer) } catch { return }        // EAGAIN: that was all
    if (count === 0) return
    output.push(Buffer.from(buffer.subarray(0, count)))
    total += count
  }
}
