import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isDict, isObject, readPickle, type Pickled } from '../lib/checkpoint/pickle.js'
import { NanochatError } from '../lib/errors.js'

const test = suite('pickle')

const read = (pickle: string | Uint8Array, globals = ['some.thing']): Pickled =>
  readPickle(typeof pickle === 'string' ? Buffer.from(pickle, 'latin1') : pickle, { globals, fileName: 'a.pt', code: 'ERR_CHECKPOINT_FORMAT' })

const refuses = (pickle: string | Uint8Array, message: RegExp, globals?: string[]): void => {
  const isExpected = (error: unknown): boolean => NanochatError.is(error) && error.code === 'ERR_CHECKPOINT_FORMAT' && message.test(error.message)
  assert.throws(() => read(pickle, globals), isExpected, `${JSON.stringify(pickle)} ${message}`)
}

test('every value a checkpoint or tokenizer holds', () => {
  assert.equal(read('\x80\x02N.'), null)
  assert.equal(read('\x80\x02\x88\x89\x86.'), [true, false])
  assert.equal(read('\x80\x02J\xff\xff\xff\xffK\xffM\x01\x02\x87.'), [-1, 255, 513])
  assert.equal(read('\x80\x02\x8a\x05\x00\x00\x00\x00\x01\x8a\x01\xff\x8a\x00\x87.'), [2 ** 32, -1, 0])
  assert.equal(read('\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.'), 2n ** 63n - 1n)
  assert.equal(read(`\x80\x02\x8a\xff${'\xff'.repeat(254)}\x7f.`), 2n ** 2039n - 1n)
  assert.equal(read('\x80\x02\x8a\x07\x01\x00\x00\x00\x00\x00\x20.'), 2n ** 53n + 1n)
  assert.equal(read('\x80\x02X\x03\x00\x00\x00a\xc3\xa9.'), 'aé')
  assert.equal(read('\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x02hi.'), 'hi')
  assert.equal(read('\x80\x03C\x02\x00\xffB\x01\x00\x00\x00z\x86.'), [Uint8Array.of(0, 255), Uint8Array.of(122)])
  assert.equal(read('\x80\x02(K\x01K\x02K\x03t.'), [1, 2, 3])
  assert.equal(read('\x80\x02)K\x01\x85\x86.'), [[], [1]])
  assert.equal(read('\x80\x02}(K\x01K\x02K\x01K\x03u.'), { kind: 'dict', entries: [[1, 2], [1, 3]] })
  assert.equal(read('\x80\x02K\x05Q.'), { kind: 'persistent', id: 5 })
})

test('objects are described, not made', () => {
  const expected = { kind: 'object', global: 'some.thing', args: [1], state: { kind: 'dict', entries: [] }, entries: [['k', 2]] }
  assert.equal(read('\x80\x02csome\nthing\nK\x01\x85RX\x01\x00\x00\x00kK\x02s}b.'), expected)
  assert.equal(read('\x80\x04\x8c\x04some\x8c\x05thing\x93K\x01\x85\x81X\x01\x00\x00\x00kK\x02s}b.'), expected)
})

test('memo: BINPUT, LONG_BINPUT and MEMOIZE share one value', () => {
  const value = read('\x80\x02}q\x00r\x05\x00\x00\x00h\x00j\x05\x00\x00\x00\x87.')
  assert.ok(Array.isArray(value) && value[0] === value[1] && value[1] === value[2])
  assert.equal(read('\x80\x04K\x07\x94h\x00\x86.'), [7, 7])
  refuses('\x80\x02h\x09.', /memo entry 9/)
})

test('bytes of protocol 2 are a form, not a call', () => {
  assert.equal(read('\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc3\xbfX\x06\x00\x00\x00latin1\x86R.'), Uint8Array.of(255))
  refuses('\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.', /latin1/)
  refuses('\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.', /not latin1/)
  refuses('\x80\x02c_codecs\nencode\n)R.', /latin1/)
})

test('hostile globals are refused by name', () => {
  refuses('\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.', /os\.system.*Nothing was executed/s)
  refuses('cos\nsystem\n(S\'ls\'\ntR.', /os\.system/)
  refuses('\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.', /os\.system/)
  refuses('\x80\x04\x8c\x08builtins\x8c\x04eval\x93.', /builtins\.eval/)
  refuses('\x80\x02cbuiltins\nexec\n.', /builtins\.exec/)
  refuses('\x80\x02csome\nthing.__reduce__\n.', /some\.thing\.__reduce__/)
  refuses('\x80\x02ca\nb\nc\n', /a\.b/)
  refuses('\x80\x02cx\n\x1b[2J\n.', /x\.\\u001b/)
})

test('opcodes outside the whitelist are refused by name', () => {
  const names = {
    i: 'INST', o: 'OBJ', '\x82': 'EXT1', '\x92': 'NEWOBJ_EX', ']': 'EMPTY_LIST', '0': 'POP', '2': 'DUP', P: 'PERSID', I: 'INT',
    S: 'STRING', G: 'BINFLOAT', '\x8f': 'EMPTY_SET',
    '\x8b': 'LONG4', '\x8d': 'BINUNICODE8', '\x8e': 'BINBYTES8', '\x96': 'BYTEARRAY8', '\x97': 'NEXT_BUFFER', '\xff': '0xff', '\x00': '0x00'
  }
  for (const [opcode, name] of Object.entries(names)) refuses(`\x80\x02${opcode}os\nsystem\n.`, new RegExp(`opcode ${name} `))
})

test('calls need a global and a tuple', () => {
  refuses('\x80\x02K\x01)R.', /REDUCE needs/)
  refuses('\x80\x02csome\nthing\nK\x01R.', /REDUCE needs/)
  refuses('\x80\x02csome\nthing\n)R)R.', /REDUCE needs/)
  refuses('\x80\x02csome\nthing\n}b.', /BUILD needs/)
  refuses('\x80\x02csome\nthing\n)R}b}b.', /BUILD needs/)
  refuses('\x80\x02csome\nthing\nK\x01K\x01s.', /SETITEMS needs/)
  refuses('\x80\x02}(K\x01u.', /SETITEMS needs/)
})

test('stack and marks are kept apart', () => {
  refuses('\x80\x02.', /stack is empty/)
  refuses('\x80\x02K\x01\x86.', /stack is empty/)
  refuses('\x80\x02K\x01(\x85.', /stack is empty/)
  refuses('\x80\x02t.', /MARK is missing/)
  refuses('\x80\x02K\x01K\x02.', /left over/)
  refuses('\x80\x02K\x01(.', /stack is empty/)
  refuses('\x80\x02K\x01.K', /1 bytes left over/)
})

test('every declared length is checked against what is left', () => {
  refuses('', /expected 1 more bytes/)
  refuses('\x80', /expected 1 more bytes/)
  refuses('\x80\x06.', /protocol 2 to 5/)
  refuses('\x80\x01.', /protocol 2 to 5/)
  refuses('K\x01\x80\x02.', /protocol 2 to 5/)
  refuses('\x80\x02X\xff\xff\xff\xffa.', /expected 4294967295 more bytes but 2 are left/)
  refuses('\x80\x02B\xff\xff\xff\x7fa.', /more bytes/)
  refuses('\x80\x04\x8c\xffa.', /more bytes/)
  refuses('\x80\x04C\xffa.', /more bytes/)
  refuses('\x80\x02\x8a\xffa.', /more bytes/)
  refuses('\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.', /frame of 18446744073709551615 bytes/)
  refuses('\x80\x02csome', /a name has no end/)
  refuses(`\x80\x02c${'a'.repeat(2000)}\nb\n.`, /a name has no end/)
  refuses('\x80\x02X\x01\x00\x00\x00\xff.', /not UTF-8/)
})

test('a bomb of shared tuples takes linear time and memory', () => {
  const doublings = 20_000
  const parts = [Buffer.from('\x80\x02K\x01K\x02\x86q\x00', 'latin1')]
  for (let i = 0; i < doublings; i++) parts.push(Buffer.from('h\x00\x86q\x00', 'latin1'))
  const started = performance.now()
  const value = read(Buffer.concat([...parts, Buffer.from('.')]))
  assert.ok(Array.isArray(value) && value.length === 2)
  assert.ok(performance.now() - started < 2000)
})

test('repeated bytes through the memo share one copy', () => {
  const text = Buffer.alloc(200_000, 'a')
  const length = Buffer.alloc(4)
  length.writeUInt32LE(text.length)
  const once = Buffer.from('h\x00h\x01R', 'latin1')
  const pickle = Buffer.concat([Buffer.from('\x80\x02c_codecs\nencode\nq\x00X', 'latin1'), length, text, Buffer.from('X\x06\x00\x00\x00latin1\x86q\x01R(', 'latin1'),
    ...Array.from({ length: 10_000 }, () => once), Buffer.from('t\x86.', 'latin1')])
  const before = process.memoryUsage().arrayBuffers
  const value = read(pickle)
  assert.ok(process.memoryUsage().arrayBuffers - before < 2 * pickle.length)
  assert.ok(Array.isArray(value) && Array.isArray(value[1]) && value[1].length === 10_000 && value[1][0] === value[0])
})

test('stack, marks and objects are bounded', () => {
  refuses(`\x80\x02${'N'.repeat(100_000)}.`, /deeper than/)
  refuses(`\x80\x02${'('.repeat(100_000)}.`, /too many marks/)
  refuses(`\x80\x02${'}'.repeat(10_000)}.`, /more objects than its size explains/)
})

test('the tokenizer fixtures, three protocols', () => {
  const values = [2, 4, 5].map((protocol) =>
    read(readFileSync(new URL(`fixtures/tokenizer/tokenizer_proto${protocol}.pkl`, import.meta.url)), ['tiktoken.core.Encoding']))
  for (const value of values) {
    assert.equal(value, values[1])
    assert.ok(isObject(value) && value.global === 'tiktoken.core.Encoding' && isDict(value.state))
    const state = new Map(value.state.entries)
    assert.equal([...state.keys()], ['name', 'pat_str', 'mergeable_ranks', 'special_tokens'])
    const ranks = state.get('mergeable_ranks')
    assert.ok(isDict(ranks) && ranks.entries.length === 311)
    ranks.entries.slice(0, 256).forEach((entry, i) => assert.equal(entry, [Uint8Array.of(i), i]))
  }
})

test('no byte of a fixture can be lost or changed without a typed error or a value', () => {
  for (const name of ['tokenizer_proto2.pkl', 'tokenizer_proto4.pkl']) {
    const bytes = readFileSync(new URL(`fixtures/tokenizer/${name}`, import.meta.url))
    let refused = 0
    for (let i = 0; i < bytes.length; i += 7) {
      refuses(bytes.subarray(0, i), /./, ['tiktoken.core.Encoding'])
      const changed = Uint8Array.from(bytes)
      changed[i] = (changed[i] as number) ^ 1 << i % 8
      try {
        read(changed, ['tiktoken.core.Encoding'])
      } catch (error) {
        assert.ok(NanochatError.is(error), String(error))
        refused++
      }
    }
    assert.ok(refused > 10)
  }
})

test.run()
