import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { NanochatError } from './errors.js'
import type { Outcome, RunLimits } from './sandbox-cage.js'
import { encodeRequest, FrameReader, Output } from './sandbox-protocol.js'
import { cageEnvironment, discover, interpreterArguments, pythonCandidates, type CageLimits } from './sandbox-tier.js'

const floodBytes = 4 << 20

/**
 * `sandbox: 'off'`: the same runner and protocol without any cage, for code the caller trusts. The time limit kills the
 * interpreter and nothing that it started.
 */
export async function runUnconfined(code: string, python: string | undefined, cage: CageLimits, limits: RunLimits, signal?: AbortSignal): Promise<Outcome> {
  const executable = pythonCandidates(python)[0]
  if (!executable || process.platform === 'win32') throw new NanochatError('ERR_SANDBOX_UNAVAILABLE', `No usable ${python ?? 'python3'} was found. Install Python 3.8 or later or pass its path as \`python\`.`)
  const interpreter = await discover(executable).catch((cause: Error) => { throw new NanochatError('ERR_SANDBOX_UNAVAILABLE', `${cause.message}.`, { cause }) })
  const scratch = await mkdtemp(join(tmpdir(), 'nanochat-python-'))
  const env = Object.fromEntries(cageEnvironment(interpreter, scratch).map((entry): [string, string] => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]))
  try {
    signal?.throwIfAborted()
    const child = spawn(interpreter.executable, [...interpreterArguments(interpreter, false, 'off', cage).slice(1), ''], { cwd: scratch, env, stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe'] })
    return await new Promise<Outcome>((resolve, reject) => {
      const [, stdoutPipe, stderrPipe, request, result] = child.stdio as unknown as [null, Readable, Readable, Writable, Readable]
      const stdout = new Output(limits.maxOutputBytes), stderr = new Output(limits.maxOutputBytes), reader = new FrameReader(limits.maxOutputBytes)
      const startedAt = performance.now()
      let isReady = false
      const finish = (end: Outcome['end'], exitCode: number | null = null, signalNumber = 0): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        child.kill('SIGKILL')
        for (const stream of [stdoutPipe, stderrPipe, request, result]) stream.destroy()
        resolve({ frame: reader.frame, end: reader.frame ? 'result' : end, exitCode, signal: signalNumber, maxRssBytes: 0, stdout, stderr, startedAt })
      }
      const abort = (): void => { reject(signal?.reason); finish('exit') }
      const timer = setTimeout(() => finish('timeout', null, 9), limits.timeoutMs)
      signal?.addEventListener('abort', abort)
      const collect = (output: Output) => (chunk: Buffer): void => { output.push(chunk); if (output.total > floodBytes) finish('flood', null, 9) }
      stdoutPipe.on('data', collect(stdout)).on('error', () => {})
      stderrPipe.on('data', collect(stderr)).on('error', () => {})
      request.on('error', () => {})
      result.on('error', () => {}).on('data', (chunk: Buffer) => {
        reader.push(isReady ? chunk : chunk.subarray(1))
        isReady = true
      })
      child.on('error', reject)
      child.on('close', (exitCode, name) => finish('exit', exitCode, name === null ? 0 : constants.signals[name]))
      request.end(encodeRequest(code, limits.maxOutputBytes, limits.seed))
    })
  } finally {
    await rm(scratch, { recursive: true, force: true }).catch(() => {})
  }
}
