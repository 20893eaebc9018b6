/** A classic BPF interpreter, as far as seccomp filters need it, and the names of what they return. */

export interface Instruction { code: number, jt: number, jf: number, k: number }
/** struct seccomp_data: number, architecture, six 64-bit arguments. */
export interface Call { arch: number, nr: number, args: readonly bigint[] }

const errnos: Record<number, string> = { 0: 'FAKE', 1: 'PERM', 2: 'NOENT', 10: 'CHILD', 11: 'AGAIN', 13: 'ACCES', 22: 'INVAL', 25: 'NOTTY', 38: 'NOSYS', 95: 'NOTSUP' }

/** Runs a filter on one call; `visited` receives the instructions it passes. Throws on what a kernel would not load. */
export function evaluate(program: readonly Instruction[], call: Call, visited?: number[]): string {
  let accumulator = 0
  for (let at = 0; ;) {
    visited?.push(at)
    const instruction = program[at++]
    if (!instruction) throw new Error('the program runs off its end')
    const { code, jt, jf, k } = instruction
    if (code === 0x20) accumulator = word(call, k)                              // ld [k]
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0               // and k
    else if (code === 0x15) at += accumulator === k ? jt : jf                   // jeq
    else if (code === 0x45) at += (accumulator & k) !== 0 ? jt : jf             // jset
    else if (code === 0x06) return name(k)                                      // ret
    else throw new Error(`unknown instruction ${code}`)
  }
}

function word(call: Call, offset: number): number {
  if (offset === 0) return call.nr >>> 0
  if (offset === 4) return call.arch >>> 0
  const arg = call.args[(offset - 16) >> 3] ?? 0n
  return Number((offset % 8 === 0 ? arg : arg >> 32n) & 0xffffffffn)
}

function name(value: number): string {
  const action = value & 0xffff0000
  if (action === 0x7fff0000) return 'ALLOW'
  if (action === 0x80000000 >> 0) return 'KILL'
  if (action === 0x00050000) return errnos[value & 0xffff] ?? `ERRNO ${value & 0xffff}`
  return `action ${value >>> 0}`
}
