// alone: it bounds the time of hostile expressions
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { useCalculator } from '../lib/calculator.js'

const vectors = suite('calculator vectors')

/** MODEL.md 5, made with nanochat's own function. */
const modelVectors: [string, string | null][] = [
  ['1,234*2', '2468'], ['6/2', '3.0'], ['7//2', '3'], ['-7//2', '-4'], ['2**8', null], ['1e5', null], ['007+1', null], ['1/0', null], ['()', '()'],
  ['100000000000000000000.0*10', '1e+21'], ['0.00001*1', '1e-05'], ['123456789012345678.0+1', '1.2345678901234568e+17'],
  ["'strawberry'.count('r')", '3'], ["'director'.count('r')", null], ["'a,b,c'.count(',')", '4'], ["'ABC'.lower().count('a')", '1'],
  ["'ab' 'ab'.count('a')", '2'], ["''.count('')", '1'], ["'aaa'.count('aa')", '1'],
]

vectors('equal to nanochat on the vectors of MODEL.md 5', () => {
  for (const [expr, expected] of modelVectors) assert.is(useCalculator(expr), expected, expr)
})

vectors('equal to Python on the generated set', () => {
  const generated = JSON.parse(readFileSync(new URL('fixtures/calculator.json', import.meta.url), 'utf8')) as [string, string | null][]
  assert.ok(generated.length >= 2500, `only ${generated.length} expressions`)
  assert.ok(generated.filter(([, expected]) => expected !== null).length >= 1000, 'too few expressions with a result')
  const wrong = generated.filter(([expr, expected]) => useCalculator(expr) !== expected)
  assert.equal(wrong.map(([expr, expected]) => ({ expr, expected, actual: useCalculator(expr) })).slice(0, 10), [])
})

vectors.run()

const numbers = suite('calculator numbers')

numbers('integers are exact at any size', () => {
  assert.is(useCalculator('123456789012345678901234567890*987654321098765432109876543210'), '121932631137021795226185032733622923332237463801111263526900')
  assert.is(useCalculator(`${'9'.repeat(4300)}-${'9'.repeat(4299)}0`), '9')
})

numbers('4300 digits are the end, in literals and in results', () => {
  assert.is(useCalculator('9'.repeat(4300)), '9'.repeat(4300))
  assert.is(useCalculator('9'.repeat(4301)), null)
  assert.is(useCalculator(`${'9'.repeat(4300)}+1`), null)
  assert.is(useCalculator(`(${'9'.repeat(4300)}+1)//1${'0'.repeat(4299)}`), '10')
  assert.is(useCalculator('0'.repeat(5000)), '0')
})

numbers('true division of integers rounds once, also where the operands exceed a float', () => {
  const two = (n: number): string => (2n ** BigInt(n)).toString()
  assert.is(useCalculator(`${two(1100)}/${two(1098)}`), '4.0')
  assert.is(useCalculator(`1/${two(1074)}`), '5e-324')
  assert.is(useCalculator(`1/${two(1075)}`), '0.0')
  assert.is(useCalculator(`3/${two(1075)}`), '1e-323')
  assert.is(useCalculator(`-1/${two(1080)}`), '-0.0')
  assert.is(useCalculator(`(${two(1024)}-${two(970)})/1`), null)
  assert.is(useCalculator(`(${two(1024)}-${two(970)}-1)/1`), '1.7976931348623157e+308')
  assert.is(useCalculator(`${two(1024)}/1`), null)
  assert.is(useCalculator(`${two(1024)}*1.0`), null)
  assert.is(useCalculator('9007199254740993/1'), '9007199254740992.0')
})

numbers('floats overflow to inf and nan, and only division by zero is an error', () => {
  const inf = `${'9'.repeat(400)}.0`
  assert.is(useCalculator(inf), 'inf')
  assert.is(useCalculator(`-${inf}`), '-inf')
  assert.is(useCalculator(`${inf}-${inf}`), 'nan')
  assert.is(useCalculator(`${inf}//1`), 'nan')
  assert.is(useCalculator(`-1//${inf}`), '-1.0')
  assert.is(useCalculator('0.0/0'), null)
})

numbers.run()

const bounds = suite('calculator bounds')

bounds('anything outside the two alphabets has no result', () => {
  for (const expr of ['', '1%2', '1\n', '\t1', '1;2', 'abc', '١+١', "'ä'.count('a')", "'a\\n'.count('n')", "{'a'.count('a')}", "['a'].count('a')", "x = 'a'.count('a')"]) {
    assert.is(useCalculator(expr), null, JSON.stringify(expr))
  }
})

bounds("nanochat's forbidden words have no result, in any case and inside a literal", () => {
  for (const word of ['__', 'import', 'exec', 'eval', 'compile', 'open', 'file', 'input', 'raw_input', 'globals', 'locals', 'vars', 'dir', 'getattr', 'setattr', 'delattr', 'hasattr']) {
    assert.is(useCalculator(`'a${word}'.count('a') `), null, word)
    assert.is(useCalculator(`'a${word.toUpperCase()}'.count('a')`), null, word)
  }
  assert.is(useCalculator("'im port'.count('p')"), '1')
})

bounds('what is documented as not covered has no result', () => {
  for (const expr of ["'a'.count('a') is 1", "''.join(x for x in 'abc').count('a')", "'a'.count('a') and 1j", "'a'.count('a').bit_length()",
    "'a'.translate('').count('a')", "'a'.encode('utf8').count(b'a')", "'a'.count"]) {
    assert.is(useCalculator(expr), null, expr)
  }
})

bounds('200 nested parentheses are the end, as in Python', () => {
  const nested = (depth: number): string => `${'-('.repeat(depth)}1${')'.repeat(depth)}`
  assert.is(useCalculator(nested(200)), '1')
  assert.is(useCalculator(nested(201)), null)
})

bounds('hostile expressions end soon and without an exception', () => {
  const join = (depth: number): string => depth === 0 ? "'aaaaaaaa'" : `'aaaaaaaa'.join(${join(depth - 1)})`
  const hostile = [
    '('.repeat(60_000), ')'.repeat(60_000), '-'.repeat(60_000) + '1', '1' + '+1'.repeat(30_000), '9*'.repeat(30_000) + '9', '1,'.repeat(100_000), ' '.repeat(60_000),
    `${'9'.repeat(4300)}*`.repeat(14) + '9', `1/${'7'.repeat(4300)}`.repeat(14), '()'.repeat(30_000), '1 if 1 else '.repeat(5000) + "'.count('", 'not '.repeat(15_000) + "'.count('",
    "'a'".repeat(20_000) + ".count('a')", "'a'" + '.lower()'.repeat(7000) + ".count('a')", `${join(150)}.count('a')`, "'a'.ljust(999999999).count(' ')", `'${'a'.repeat(32_000)}'.count('${'a'.repeat(31_000)}b')`,
    "'a'.count(".repeat(6000), "'".repeat(60_000) + '.count(', '"'.repeat(59_999) + '.count(', `'a'${".ljust(1000000).strip()".repeat(2000)}.count('a')`,
  ]
  for (const expr of hostile) {
    const started = performance.now()
    useCalculator(expr)
    const ms = performance.now() - started
    assert.ok(ms < 2000, `${expr.slice(0, 40)}... took ${ms.toFixed(0)} ms`)
  }
})

bounds('an expression as long as the limit is computed, a longer one is not', () => {
  const sum = (length: number): string => `1${'+1'.repeat((length - 1) / 2)}`
  assert.is(useCalculator(sum(65_535)), '32768')
  assert.is(useCalculator(sum(65_537)), null)
})

bounds.run()
