// Runs campaigns of seeds-child.ts in child processes: a crash, a hang or a failed check names its seed.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { loader, programPath } from './program.js'

export interface SeedOptions {
  timeoutMs?: number
  exitCodes?: number[]             // how a child may end besides 0; the next one goes on with the seed after
  env?: Record<string, string>
  child?: string                   // another seeds-child, compiled
}

/** The sums of what the seeds reported. */
export async function runSeeds(kind: string, from: number, to: number, size: number, options: SeedOptions = {}): Promise<Record<string, number>> {
  const { exitCodes = [] } = options
  const sums: Record<string, number> = {}
  for (let next = from; next < to;) {
    const { lines, code, signal, stderr } = await runChild([kind, String(next), String(to), String(size)], options)
    for (const line of lines) {
      const [, seed = '', report = '{}'] = /^(\d+) (.*)$/.exec(line) ?? []
      next = Number(seed) + 1
      for (const [key, value] of Object.entries(JSON.parse(report === '' ? '{}' : report) as Record<string, number>)) sums[key] = (sums[key] ?? 0) + value
    }
    if (signal !== null || (code !== 0 && !exitCodes.includes(code ?? -1)) || lines.length === 0) {
      throw new Error(`${kind}: seed ${next - 1} ended with ${signal ?? code}\n${stderr.slice(-4000)}`)
    }
  }
  return sums
}

interface Ending { lines: string[], code: number | null, signal: string | null, stderr: string }

const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()      // for small files by the million

function runChild(args: string[], { timeoutMs = 120_000, env, child }: SeedOptions): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const node = spawn(process.execPath, [...child === undefined ? loader : [], '--expose-gc', child ?? programPath('support/seeds-child'), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs, killSignal: 'SIGKILL', env: { ...process.env, TMPDIR: memory, ...env }
    })
    const out: Buffer[] = [], err: Buffer[] = []
    node.stdout.on('data', (chunk: Buffer) => out.push(chunk))
    node.stderr.on('data', (chunk: Buffer) => err.push(chunk))
    node.on('error', reject)
    node.on('close', (code, signal) => resolve({ lines: String(Buffer.concat(out)).split('\n').filter((line) => line !== ''), code, signal, stderr: String(Buffer.concat(err)) }))
  })
}
