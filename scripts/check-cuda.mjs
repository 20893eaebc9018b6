// node scripts/check-cuda.mjs [sm_80 sm_90a ...]     default: all that the package is built for. What ptxas says of every kernel; fails on anything that costs speed
// Compiles native/cuda/*.cu for each architecture with warnings as errors. Errors: spills, stack frames, more registers
// than the table below allows, and messages C7500 to C7599 (matrix instructions that were serialised). Needs nvcc 13.
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** Registers that still let as many blocks run at once as the kernel was written for. */
const mostRegisters = {
  gemm_kernel: 168, gemm_hopper_kernel: 168, attention_prefill_kernel: 255, attention_prefill_hopper_kernel: 240, attention_decode_kernel: 128, decode_step_kernel: 128, gemv_kernel: 128, skinny_kernel: 255
}
const otherKernels = 96

const native = join(dirname(dirname(fileURLToPath(import.meta.url))), 'native')
const architectures = process.argv.slice(2)
if (architectures.length === 0) architectures.push('sm_80', 'sm_86', 'sm_89', 'sm_90a', 'sm_100', 'sm_120')
const out = mkdtempSync(join(tmpdir(), 'nanochat-cuda-'))
const problems = []
let kernels = 0

const files = readdirSync(join(native, 'cuda')).filter((name) => name.endsWith('.cu')).sort()
const jobs = files.flatMap((file) => architectures.map((architecture) => ({ file, architecture }))), queue = [...jobs]
const next = async () => {
  for (let job = queue.shift(); job !== undefined; job = queue.shift()) Object.assign(job, await compile(job))
}
await Promise.all(Array.from({ length: availableParallelism() }, next))
for (const { file, architecture, failed, text } of jobs) {
  if (failed) problems.push(`${file} ${architecture} does not compile:\n${text}`)
  for (const [message] of text.matchAll(/.*\bC75\d\d\b.*/g)) problems.push(`${file} ${architecture}: ${message}`)
  check(file, architecture, text)
}
rmSync(out, { recursive: true })
if (kernels === 0) problems.push('no kernel was compiled')
if (problems.length > 0) fail(problems)
console.log(`${kernels} kernels, no spill, no stack frame`)

async function compile({ file, architecture }) {
  const args = ['-std=c++17', '-O3', `-gencode=arch=${architecture.replace('sm', 'compute')},code=${architecture}`, '-Werror=all-warnings', '-Xptxas', '-v', '-I', native, '-cubin', join(native, 'cuda', file), '-o', join(out, `${file}.${architecture}.cubin`)]
  try {
    const { stdout, stderr } = await promisify(execFile)('nvcc', args, { maxBuffer: 1 << 26 })
    return { failed: false, text: stdout + stderr }
  } catch (error) {
    if (error.syscall !== undefined) fail([`nvcc cannot be run: ${error.message}`])
    return { failed: true, text: error.stdout + error.stderr }
  }
}

function check(file, architecture, text) {
  for (const part of text.split('Compiling entry function').slice(1)) {
    const [, name = '?'] = /'([^']+)'/.exec(part) ?? []
    const [, stack, stores, loads] = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(part) ?? []
    const registers = Number(/Used (\d+) registers/.exec(part)?.[1])
    const kernel = /\d+([a-z_]+_kernel)/.exec(name)?.[1] ?? name
    const most = mostRegisters[kernel] ?? otherKernels
    kernels++
    console.log(`${architecture} ${kernel.padEnd(26)} ${String(registers).padStart(3)} registers  ${stack} B stack  ${name}`)
    const where = `${file} ${architecture} ${name}`
    if (stack === undefined || !Number.isInteger(registers)) problems.push(`${where}: ptxas said nothing of it`)
    if (stack !== '0' || stores !== '0' || loads !== '0') problems.push(`${where}: ${stack} bytes of stack, ${stores} + ${loads} of spills`)
    if (registers > most) problems.push(`${where}: ${registers} registers, more than ${most}`)
  }
}

function fail(lines) {
  console.error(lines.map((line) => `FAIL ${line}`).join('\n'))
  process.exit(1)
}
