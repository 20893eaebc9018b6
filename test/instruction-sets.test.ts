// No function of the addon has an instruction that the processors it is for may lack: the disassembly, by namespace.
// What cannot be seen here, whether the dispatch is right, is run by scripts/test-emulated.mjs.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { disassemble } from './support/disassembly.js'

type Encoding = 'VEX' | 'EVEX' | 'legacy'
interface Instruction { encoding: Encoding, bytes: string, mnemonic: string }

/** What each instruction set may not have. Common code, under any other name, is for every x64: SSE2 at most. */
const forbidden: Record<string, (instruction: Instruction) => boolean> = {
  common: ({ encoding, bytes }) => encoding !== 'legacy' || isNewerThanSse3(bytes),
  plain: ({ encoding, bytes }) => encoding !== 'legacy' || isNewerThanSse3(bytes),
  avx2: ({ encoding, mnemonic }) => encoding === 'EVEX' || /^vpdp/.test(mnemonic),
  avx512: ({ mnemonic }) => /bf16|^vpdp/.test(mnemonic),
  avx512vnni: ({ mnemonic }) => /bf16/.test(mnemonic),
  avx512bf16: () => false,
}

/** After its prefixes: opcodes 0F 38 and 0F 3A (SSSE3, SSE4, AES, SHA, MOVBE, ADX), and POPCNT. */
function isNewerThanSse3(bytes: string): boolean {
  return /^(?:(?:66|f2|f3|2e|36|3e|64|65|67) )*(?:4[0-9a-f] )?0f (?:38|3a) /.test(bytes) || /^(?:66 )?f3 (?:4[0-9a-f] )?0f b8 /.test(bytes)
}

// note: in 64-bit code these bytes begin nothing else; segment and address-size prefixes may come before.
function encodingOf(bytes: string): Encoding {
  const first = bytes.replace(/^(?:(?:2e|36|3e|26|64|65|67) )+/, '').slice(0, 2)
  return first === '62' ? 'EVEX' : first === 'c4' || first === 'c5' ? 'VEX' : 'legacy'
}

const namespaceOf = (symbol: string): string => /nanochat::(plain|avx\w+)::/.exec(symbol)?.[1] ?? 'common'

/** Instructions by namespace: how many, and those that it may not have. */
function check(listing: string): Map<string, { count: number, vectors: number, offenders: string[] }> {
  const namespaces = new Map<string, { count: number, vectors: number, offenders: string[] }>()
  let symbol = ''
  for (const line of listing.split('\n')) {
    const header = /^[0-9a-f]+ <(.*)>:$/.exec(line)
    if (header) { symbol = header[1] ?? ''; continue }
    const [, bytes, mnemonic] = /^\s+[0-9a-f]+:\t((?:[0-9a-f]{2} )+)\s*\t\s*(?:\{\w+\} )?(\S+)/.exec(line) ?? []
    if (bytes === undefined || mnemonic === undefined || mnemonic === '(bad)') continue
    const name = namespaceOf(symbol), instruction = { encoding: encodingOf(bytes), bytes, mnemonic }
    const seen = namespaces.get(name) ?? { count: 0, vectors: 0, offenders: [] }
    namespaces.set(name, seen)
    seen.count++
    if (instruction.encoding !== 'legacy') seen.vectors++
    if (forbidden[name]?.(instruction) ?? instruction.encoding !== 'legacy') seen.offenders.push(`${symbol}: ${line.trim()}`)
  }
  return namespaces
}

const test = suite('instruction sets')

test('encodings are told apart', () => {
  assert.equal(['c5 f8 77 ', '62 f1 7c 48 10 06 ', '0f 10 06 ', '2e c5 f8 77 ', '48 89 c5 '].map(encodingOf), ['VEX', 'EVEX', 'legacy', 'VEX', 'legacy'])
  // pmaxsd, pshufb, popcnt, movbe; tzcnt as `rep bsf`, movups, endbr64, a mov with 0f 38 in its constant
  assert.equal(['66 0f 38 3d c1 ', '66 41 0f 38 00 c1 ', 'f3 48 0f b8 c0 ', '0f 38 f0 00 '].map(isNewerThanSse3), [true, true, true, true])
  assert.equal(['f3 0f bc c0 ', '0f 10 06 ', 'f3 0f 1e fa ', 'b8 0f 38 00 00 '].map(isNewerThanSse3), [false, false, false, false])
  assert.equal(['nanochat::avx2::(anonymous namespace)::mix(float)', 'nanochat::Forward::run()', 'std::vector<float>::~vector()'].map(namespaceOf), ['avx2', 'common', 'common'])
})

const disassembled = disassemble()

if ('reason' in disassembled) {
  console.log(`SKIP instruction sets: ${disassembled.reason}`)
  test.skip('no instruction outside its namespace', () => {})
} else {
  test('no instruction outside its namespace', () => {
    const namespaces = check(disassembled.listing)
    for (const name of Object.keys(forbidden)) assert.ok((namespaces.get(name)?.count ?? 0) > 1000, `${name}: nothing disassembled?`)
    for (const name of ['avx2', 'avx512', 'avx512vnni', 'avx512bf16']) assert.ok((namespaces.get(name)?.vectors ?? 0) > 1000, `${name} has no vectors?`)
    for (const [name, { offenders }] of namespaces) assert.is(offenders.slice(0, 20).join('\n'), '', `${offenders.length} instructions that ${name} may not have`)
  })
}

test.run()
