import { readFileSync } from 'node:fs'
import { arch, cpus, release, totalmem } from 'node:os'
import { depthSpec, matrixElements } from '../../benchmarks/cost.js'
import { availableMemory, type WeightDtype } from '../native.js'

export interface Platform { os: string, arch: string, release: string, libc: string | null, cpu: string | null }

/** `next` is the set above the one chosen, and what the processor lacks for it: null is unknown, nothing means that the binary was built without it. */
export interface KernelChoice { isa: string, isas: string[], next: { isa: string, lacks: string[] | null } | null }

/** `default` is what a model is loaded with; null is unknown, and for `quota` none. */
export interface Threads { default: number | null, processors: number, allowed: string | null, quota: number | null }

/** Bytes. `fits` is the largest nanochat of each type with the KV cache of one full context; a depth of 0 is none. */
export interface Memory { total: number, limit: number | null, available: number, fits: Record<FittingDtype, { depth: number, bytes: number }> }

type FittingDtype = Exclude<WeightDtype, 'float32'>

type Needs = readonly [isa: string, flags: readonly string[]][]

// What native/cpu/isa/dispatch.cpp asks of a processor beyond the line below, in the names of /proc/cpuinfo; best first.
const x64Needs: Needs = [
  ['avx512bf16', ['avx512_bf16']],
  ['avx512vnni', ['avx512_vnni']],
  ['avx512', ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl']],
  ['avx2', ['avx2', 'fma', 'bmi1', 'bmi2']],
  ['plain', []]
]
const arm64Needs: Needs = [['neonbf16', ['bf16']], ['neondot', ['asimddp']], ['neon', []], ['plain', []]]

// Bytes of one element of a matrix, scales of 2 bytes per 64 or 32 elements included.
const matrixItemSize: Record<FittingDtype, number> = { bfloat16: 2, int8: 1 + 2 / 64, int4: 0.5 + 2 / 32 }
const deepest = 1024

export function platform(): Platform {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  const libc = process.platform !== 'linux' ? null : header.glibcVersionRuntime === undefined ? 'musl' : `glibc ${header.glibcVersionRuntime}`
  return { os: process.platform, arch: arch(), release: release(), libc, cpu: cpus()[0]?.model.trim() || null }
}

/** `flags` as the processor gives them; empty where the system does not say. */
export function kernelChoice({ isa, isas }: { isa: string, isas: string[] }, flags: readonly string[] = processorFlags()): KernelChoice {
  const needs = isas.some((name) => name.startsWith('neon')) ? arm64Needs : x64Needs
  const next = needs[needs.findIndex(([name]) => name === isa) - 1]
  if (next === undefined || !isas.every((name) => needs.some(([known]) => known === name))) return { isa, isas, next: null }
  return { isa, isas, next: { isa: next[0], lacks: flags.length === 0 ? null : next[1].filter((flag) => !flags.includes(flag)) } }
}

export function threads(physicalCores: number | null): Threads {
  const [quota, period] = (readText('/sys/fs/cgroup/cpu.max') ?? '').trim().split(' ').map(Number)
  return {
    default: physicalCores,
    processors: cpus().length,
    allowed: /^Cpus_allowed_list:\s*(\S+)/m.exec(readText('/proc/self/status') ?? '')?.[1] ?? null,
    quota: quota && period ? quota / period : null
  }
}

export function memory(available = freeMemory()): Memory {
  const total = totalmem()
  const limit = process.constrainedMemory()
  return {
    total, limit: limit > 0 && limit < total ? limit : null, available,
    fits: { bfloat16: largest('bfloat16', available), int8: largest('int8', available), int4: largest('int4', available) }
  }
}

function freeMemory(): number {
  try { return availableMemory() } catch { return process.availableMemory() }   // note: where the addon is missing, which doctor reports
}

/** Of a nanochat of even depth: matrices, the embedding tables in bfloat16 (wte and one for every second layer), and the KV cache of a context. */
export function bytesOfDepth(depth: number, dtype: FittingDtype): number {
  const spec = depthSpec(depth)
  const { nLayer: L, nEmbd: C, vocabSize: V, sequenceLen: T } = spec
  const logits = V * C * matrixItemSize[dtype === 'int4' ? 'int8' : dtype]   // note: lm_head keeps 8 bits
  return Math.ceil(matrixItemSize[dtype] * (matrixElements(spec) - V * C) + logits) + 2 * (1 + L / 2) * V * C + 2 * T * 2 * L * C
}

function largest(dtype: FittingDtype, available: number): { depth: number, bytes: number } {
  let depth = 0
  while (depth < deepest && bytesOfDepth(depth + 2, dtype) <= available) depth += 2
  return { depth, bytes: depth === 0 ? 0 : bytesOfDepth(depth, dtype) }
}

function processorFlags(): string[] {
  return /^(?:flags|Features)\s*:(.*)$/m.exec(readText('/proc/cpuinfo') ?? '')?.[1]?.trim().split(' ') ?? []
}

function readText(path: string): string | null {
  try { return readFileSync(path, 'utf8') } catch { return null }
}
