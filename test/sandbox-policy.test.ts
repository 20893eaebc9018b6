import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'
import { evaluate, type Call, type Instruction } from './support/bpf.js'
import { arches, golden, rules, self, stages } from './support/sandbox-policy.js'

const bits = Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit))
const small = Array.from({ length: 40 }, (_, n) => BigInt(n))
const special = [0x5401n, 0x5412n, 0x5413n, 0x541bn, 0x5421n, 0x5450n, 0x5451n, 0x5452n, 1000n, 1024n, 1030n, 1031n, 1032n, 0x1002n, 0x1003n, 0x1012n, 0x2003n, 0x1000n, BigInt(self), BigInt(self + 1), 0xffffffffn, 2n ** 64n - 1n]
const values = [...new Set([...small, ...bits, ...special, ...[22n, 15n, 1030n, 1000n, 4n, BigInt(self)].map((value) => value | 1n << 32n)])]
const pairs: Record<string, [first: number, values: bigint[], second: number]> = {
  MMAP: [2, [0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n], 3], FCNTL: [1, [4n, 3n, 8n], 2], EXECVEAT: [0, [1000n, 999n], 4], PRCTL_START: [0, [22n, 21n], 1], PRLIMIT: [0, [0n, 1n], 2],
}

interface Probe { call: Call, expected: string }

/** Every number a call can have, and every argument filter with every value that could matter. */
function probesOf(arch: typeof arches[number], stage: typeof stages[number]): Probe[] {
  const column = arch.name === 'x86_64' ? 0 : 1
  const answers = new Map<number, string>()
  for (const row of Object.values(golden)) if (row[column] >= 0) answers.set(row[column], row[2 + stages.indexOf(stage)] as string)
  const probes: Probe[] = []
  const none = [0n, 0n, 0n, 0n, 0n, 0n]
  for (let nr = 0; nr < 1024; nr++) {
    const answer = answers.get(nr) ?? 'NOSYS'
    const rule = rules[answer]
    if (!rule) { probes.push({ call: { arch: arch.audit, nr, args: none }, expected: answer }); continue }
    const add = (args: bigint[]): void => { probes.push({ call: { arch: arch.audit, nr, args }, expected: rule(args) }) }
    for (let arg = 0; arg < 6; arg++) for (const value of values) add(none.map((zero, index) => index === arg ? value : zero))
    const pair = pairs[answer]
    if (pair) for (const first of pair[1]) for (const value of values) add(none.map((zero, index) => index === pair[0] ? first : index === pair[2] ? value : zero))
  }
  const x32 = arch.name === 'x86_64' ? 'KILL' : 'NOSYS'
  for (const nr of [0x40000000, 0x40000027, 0x40000208, 0x7fffffff, 0xffffffff]) probes.push({ call: { arch: arch.audit, nr, args: none }, expected: x32 })
  for (const nr of [1024, 65536, 0x20000000, 0x80000000]) probes.push({ call: { arch: arch.audit, nr, args: none }, expected: 'NOSYS' })
  for (const audit of [0x40000003, 0x40000028, 0, arches[1 - column]?.audit ?? 0]) for (const nr of [0, 1, 39, 59, 221]) probes.push({ call: { arch: audit, nr, args: none }, expected: 'KILL' })
  return probes
}

function compiled(arch: string, stage: string): Instruction[] {
  const launcher = join(binding.addonPath(), '..', 'nanochat-sandbox')
  return execFileSync(launcher, ['--filter', arch, stage, String(self)], { encoding: 'utf8' }).trim().split('\n').map((line) => {
    const [code = 0, jt = 0, jf = 0, k = 0] = line.split(' ').map(Number)
    return { code, jt, jf, k }
  })
}

/** Small wrongs in one instruction: what a slip of the pen in a rule, or in the compiler, would make of it. */
function mutationsOf({ code, jt, jf, k }: Instruction): Instruction[] {
  const out: Instruction[] = []
  if (code === 0x15 || code === 0x45) {
    out.push({ code, jt: jf, jf: jt, k }, { code, jt, jf: jt, k }, { code, jt: jf, jf, k })
    if (code === 0x15) out.push({ code, jt, jf, k: (k ^ 1) >>> 0 })
    else out.push({ code, jt, jf, k: (k << 1) >>> 0 })
  }
  if (code === 0x20) out.push({ code, jt, jf, k: k === 0 ? 4 : k === 4 ? 0 : k ^ 4 }, { code, jt, jf, k: k === 0 ? 16 : (k + 8) % 64 })
  if (code === 0x54) out.push({ code, jt, jf, k: 0xff }, { code, jt, jf, k: 0x3f })
  if (code === 0x06) for (const value of [0x7fff0000, 0x80000000, 0x00050000, 0x00050001, 0x00050026]) if (value !== k >>> 0) out.push({ code, jt, jf, k: value })
  return out
}

const test = suite('sandbox: the policy')

test('the table has no number twice and no unknown answer', () => {
  for (const column of [0, 1] as const) {
    const numbers = Object.values(golden).map((row) => row[column]).filter((nr) => nr >= 0)
    assert.is(new Set(numbers).size, numbers.length)
  }
  const plain = ['ALLOW', 'FAKE', 'PERM', 'NOSYS', 'NOENT', 'INVAL', 'CHILD', 'NOTSUP', 'KILL']
  for (const [name, row] of Object.entries(golden)) for (const answer of row.slice(2)) assert.ok(plain.includes(String(answer)) || String(answer) in rules, `${name}: ${answer}`)
})

test('the numbers are those of the kernel headers', () => {
  const headers = ['/usr/include/x86_64-linux-gnu/asm/unistd_64.h', '/usr/include/asm-generic/unistd.h']
  for (const [column, path] of headers.entries()) {
    if (!existsSync(path)) { console.log(`not checked against ${path}: not installed here`); continue }
    const numbers = new Map([...readFileSync(path, 'utf8').matchAll(/#define __NR(?:3264)?_(\w+)\s+(\d+)/g)].map((match) => [match[1], Number(match[2])]))
    if (column === 1) numbers.set('newfstatat', numbers.get('fstatat') ?? 79)
    for (const [name, row] of Object.entries(golden)) {
      const number = numbers.get(name)
      if (number !== undefined && !(column === 1 && row[1] === -1)) assert.is(row[column], number, name)
    }
  }
})

for (const arch of arches) {
  for (const stage of stages) {
    test(`${arch.name} ${stage}: the compiled filter gives the golden answer to every call`, () => {
      const program = compiled(arch.name, stage)
      for (const { call, expected } of probesOf(arch, stage)) assert.is(evaluate(program, call), expected, `nr ${call.nr} args ${call.args}`)
    })

    test(`${arch.name} ${stage}: every mutation of an instruction is noticed`, () => {
      const program = compiled(arch.name, stage)
      const probes = probesOf(arch, stage)
      const visitors = visits(program, probes)
      const unnoticed: string[] = []
      let mutations = 0
      for (const [at, instruction] of program.entries()) {
        // a rule that answers like the default may be left out without anybody noticing
        const answer = program[at + 1 + instruction.jt]
        const isDefault = instruction.code === 0x15 && answer?.code === 0x06 && answer.k === 0x00050026
        for (const mutation of mutationsOf(instruction)) {
          mutations++
          const changed = program.slice()
          changed[at] = mutation
          if (!(visitors[at] ?? []).some(({ call, expected }) => differs(changed, call, expected)) && !isDefault) unnoticed.push(`${at}: ${JSON.stringify(instruction)} -> ${JSON.stringify(mutation)}`)
        }
      }
      assert.equal(unnoticed, [])
      assert.ok(mutations > 1200, `${mutations}`)
    })
  }
}

/** For each instruction the probes that pass it, those that end soon after it first: they are the likeliest to notice. */
function visits(program: Instruction[], probes: Probe[]): Probe[][] {
  const near: Probe[][] = program.map(() => []), far: Probe[][] = program.map(() => [])
  for (const probe of probes) {
    const path: number[] = []
    evaluate(program, probe.call, path)
    for (let index = Math.max(0, path.length - 400); index < path.length; index++) (index > path.length - 10 ? near : far)[path[index] ?? 0]?.push(probe)
  }
  return near.map((list, at) => [...list.slice(0, 4000), ...(far[at] ?? []).filter((_, index) => index % 97 === 0)])
}

function differs(program: Instruction[], call: Call, expected: string): boolean {
  try { return evaluate(program, call) !== expected } catch { return true }
}

test.run()
