// node scripts/check-cuda.mjs [sm_80 sm_90a ...]     what ptxas says of every kernel; fails on anything that costs speed
// Compiles native/cuda/*.cu for each architecture with warnings as errors. Errors: spills, stack frames, more registers
// than the table below allows, and messages C7500 to C7599 (matrix instructions that were serialised). Needs nvcc 13.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Registers that still let as many blocks run at once as the kernel was written for. */
const mostRegisters = {
  gemm_kernel: 168, gemm_hopper_kernel: 168, attention_prefill_kernel: 255, attention_prefill_hopper_kernel: 240, attention_decode_kernel: 128, decode_step_kernel: 128, gemv_kernel: 128, skinny_kernel: 255
}
const otherKernels = 96

const native = join(dirname(dirname(fileURLToPath(import.meta.url))), 'native')
const architectures = process.argv.slice(2)
if (architectures.length === 0) architectures.push('sm_80')
const out = mkdtempSync(join(tmpdir(), 'nanochat-cuda-'))
const problems = []
let kernels = 0

for (const file of readdirSync(join(native, 'cuda')).filter((name) => name.endsWith('.cu')).sort()) {
  for (const architecture of architectures) {
    const args = ['-std=c++17', '-O3', `-gencode=arch=${architecture.replace('sm', 'compute')},code=${architecture}`, '-Werror=all-warnings', '-Xptxas', '-v', '-I', native, '-c', join(native, 'cuda', file), '-o', join(out, 'kernels.o')]
    const { status, stderr, stdout, error } = spawnSync('nvcc', args, { encoding: 'utf8' })
    if (error) fail([`nvcc cannot be run: ${error.message}`])
    const text = `${stdout}${stderr}`
    if (status !== 0) problems.push(`${file} ${architecture} does not compile:\n${text}`)
    for (const [message] of text.matchAll(/.*\bC75\d\d\b.*/g)) problems.push(`${file} ${architecture}: ${message}`)
    check(file, architecture, text)
  }
}
rmSync(out, { recursive: true })
if (kernels === 0) problems.push('no kernel was compiled')
if (problems.length > 0) fail(problems)
console.log(`${kernels} kernels, no spill, no stack frame`)

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
