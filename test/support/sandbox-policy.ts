import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import binding from '../../lib/binding.cjs'

// The golden table: name -> numbers on x86_64 and aarch64, answers in the stages start, run and sealed. Kept by hand.
export type Row = [x86_64: number, aarch64: number, start: string, run: string, sealed: string]
export const golden = JSON.parse(readFileSync(join(binding.packageRoot, 'test/fixtures/sandbox-policy.json'), 'utf8')) as Record<string, Row>

export const arches = [{ name: 'x86_64', audit: 0xc000003e }, { name: 'aarch64', audit: 0xc00000b7 }] as const
export const stages = ['start', 'run', 'sealed'] as const
/** The process id that the filters under test are compiled for, and those of the tests' argument rules. */
export const self = 4711

// The argument filters once more, written independently of native/sandbox/filter.c.
const low = (args: readonly bigint[], n: number): number => Number((args[n] ?? 0n) & 0xffffffffn)
const oneOf = (value: number, values: number[], otherwise: string): string => values.includes(value) ? 'ALLOW' : otherwise
export const rules: Record<string, (args: readonly bigint[]) => string> = {
  MMAP: (a) => (low(a, 2) & 4) !== 0 && ((low(a, 2) & 2) !== 0 || (low(a, 3) & 0x20) !== 0) ? 'PERM' : 'ALLOW',
  MMAP_SEALED: (a) => (low(a, 2) & 4) !== 0 ? 'PERM' : 'ALLOW',
  MPROTECT: (a) => (low(a, 2) & 4) !== 0 ? 'ACCES' : 'ALLOW',
  MADVISE: (a) => oneOf(low(a, 2), [0, 1, 2, 3, 4, 8, 14, 15, 16], 'INVAL'),
  FUTEX: (a) => oneOf(low(a, 1) & 127, [0, 1, 3, 4, 5, 9, 10], 'NOSYS'),
  FCNTL: (a) => low(a, 1) === 4 ? (low(a, 2) & 0x2000) !== 0 ? 'PERM' : 'ALLOW' : oneOf(low(a, 1), [0, 1, 2, 3, 1030], 'PERM'),
  IOCTL: (a) => oneOf(low(a, 1), [0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451], 'NOTTY'),
  SELF: (a) => low(a, 0) === self ? 'ALLOW' : 'PERM',
  OWN: (a) => oneOf(low(a, 0), [0, self], 'PERM'),
  PRLIMIT: (a) => low(a, 0) === 0 && (a[2] ?? 0n) === 0n ? 'ALLOW' : 'PERM',
  CLONE: (a) => (low(a, 0) & 0x10000) !== 0 ? 'AGAIN' : 'PERM',
  EXECVEAT: (a) => low(a, 0) === 1000 && low(a, 4) === 0x1000 ? 'ALLOW' : 'PERM',
  PRCTL_START: (a) => low(a, 0) === 22 && low(a, 1) === 2 ? 'ALLOW' : 'INVAL',
  PRCTL_RUN: (a) => oneOf(low(a, 0), [15, 16], 'INVAL'),
  ARCH_PRCTL: (a) => oneOf(low(a, 0), [0x1002], 'INVAL'),
}

/** The golden answer to a call: the table's, or what its argument rule makes of the arguments. */
export function answerTo(arch: typeof arches[number]['name'], stage: typeof stages[number], nr: number, args: readonly bigint[]): string {
  const row = Object.values(golden).find((one) => one[arch === 'x86_64' ? 0 : 1] === nr)
  const answer = row ? String(row[2 + stages.indexOf(stage)]) : 'NOSYS'
  return rules[answer]?.(args) ?? answer
}
