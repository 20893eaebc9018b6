// Builds and runs the CUDA backend over the emulated device (native/cuda/emulation).
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { runCli, type Run } from './cli.js'
import { emptyDriver, withLibraries } from './stub-libraries.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Ended { status: number | null, output: string }

/** What it takes and this machine lacks, or null. */
export function missingTool(): string | null {
  if (process.platform !== 'linux') return 'the emulation is for Linux'
  if (process.arch !== 'x64' && process.arch !== 'arm64') return 'the emulation switches stacks on x64 and arm64'
  for (const tool of ['cmake', 'c++']) if (spawnSync(tool, ['--version']).status !== 0) return `no ${tool} here`
  return null
}

function folder(sanitize: boolean): string {
  return join(root, sanitize ? 'build-emulation-asan' : 'build-emulation')
}

/** Throws with the compiler's output when it does not build. */
export function buildEmulation({ sanitize }: { sanitize: boolean }): void {
  const steps = [
    ['-S', join(root, 'native/cuda/emulation'), '-B', folder(sanitize), `-DSANITIZE=${sanitize ? 'ON' : 'OFF'}`],
    ['--build', folder(sanitize), '--parallel', String(Math.min(4, availableParallelism()))]
  ]
  for (const args of steps) {
    const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 1 << 26 })
    if (status !== 0) throw new Error(`cmake ${args.join(' ')} ended with ${status}\n${stdout}${stderr}`)
  }
}

export function runProgram(name: string, args: readonly string[] = [], { sanitize = false } = {}): Ended {
  const { status, stdout, stderr } = spawnSync(join(folder(sanitize), name), args, { encoding: 'utf8', maxBuffer: 1 << 26 })
  return { status, output: stdout + stderr }
}

/** Runs nc_cuda_emulation_test, prints what it says and expects thousands of checks without a failure. */
export function checkKernels(args: readonly string[], options: { sanitize?: boolean } = {}): void {
  const { status, output } = runProgram('nc_cuda_emulation_test', args, options)
  console.log(output.trim().split('\n').map((line) => `  ${line}`).join('\n'))
  assert.is(status, 0, output)
  assert.match(output, /\n\d{4,} checks, 0 failures/)
}

/** Environment of a process that finds a driver in `dir` and the emulated backend. */
function emulatedDevice(dir: string): NodeJS.ProcessEnv {
  return { LD_LIBRARY_PATH: dir, NANOCHAT_CUDA_LIBRARY: join(folder(false), 'nanochat_cuda.so'), NO_COLOR: '1' }
}

/** The command line with each of these arguments, at once, where there is the emulated device. */
export function runCliOnDevice(commands: readonly string[][], env: NodeJS.ProcessEnv = {}): Promise<Run[]> {
  return withLibraries({ 'libcuda.so.1': emptyDriver }, (dir) => Promise.all(commands.map((args) => runCli(args, { env: { ...emulatedDevice(dir), ...env } }))))
}

/** The suite of test/support/cuda-models.ts in a process that finds a driver and the emulated backend. */
export function runModels(): Promise<Ended> {
  return withLibraries({ 'libcuda.so.1': emptyDriver }, (dir) => {
    const env = { ...process.env, ...emulatedDevice(dir) }
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', fileURLToPath(new URL('./cuda-models.ts', import.meta.url))], { encoding: 'utf8', env, maxBuffer: 1 << 26 })
    return { status, output: stdout + stderr }
  })
}
