import { arithmetic, formatFloat, formatNumber, type PythonNumber } from './python-number.js'
import { callSequenceMethod, callTextMethod, contains, isSequence, isText, reprText, type Sequence, type Text, type WorkBudget } from './python-text.js'
import { tokenize, type Token } from './python-tokens.js'

/**
 * A Python object: int (bigint), float (number), bool, None (null), text, list or tuple, a bound method, Ellipsis.
 * `undefined` stands for "Python raises here, or this is not covered": operators hand it on, and a branch not taken drops it.
 */
type Value = PythonNumber | boolean | null | Text | Sequence | { method: string, self: Text | Sequence } | typeof ellipsis | undefined

const ellipsis = Symbol('Ellipsis')
const maxWork = 50_000_000
const maxRecursion = 500

interface Cursor { tokens: Token[], at: number, recursion: number, budget: WorkBudget }

/**
 * `str(eval(source))` without builtins or variables, and null where eval gives None or raises or the expression is not
 * covered: see {@link useCalculator} for what is. Every cost is bounded: the nesting, the characters that methods touch.
 */
export function evaluatePython(source: string): string | null {
  try {
    const cursor: Cursor = { tokens: tokenize(source), at: 0, recursion: 0, budget: { left: maxWork } }
    const value = expression(cursor)
    if (peek(cursor).kind !== 'end') throw new SyntaxError('unexpected token')
    return format(value) ?? null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

/** disjunction ['if' disjunction 'else' expression] */
function expression(cursor: Cursor): Value {
  if (++cursor.recursion > maxRecursion) throw new SyntaxError('nested too deeply')
  const value = disjunction(cursor)
  let result = value
  if (accept(cursor, 'keyword', 'if')) {
    const condition = disjunction(cursor)
    expect(cursor, 'keyword', 'else')
    const otherwise = expression(cursor)
    result = condition === undefined ? undefined : truth(condition) ? value : otherwise
  }
  cursor.recursion--
  return result
}

function disjunction(cursor: Cursor): Value {
  let value = conjunction(cursor)
  while (accept(cursor, 'keyword', 'or')) {
    const right = conjunction(cursor)
    if (value !== undefined && !truth(value)) value = right
  }
  return value
}

function conjunction(cursor: Cursor): Value {
  let value = inversion(cursor)
  while (accept(cursor, 'keyword', 'and')) {
    const right = inversion(cursor)
    if (value !== undefined && truth(value)) value = right
  }
  return value
}

function inversion(cursor: Cursor): Value {
  let inversions = 0
  while (accept(cursor, 'keyword', 'not')) inversions++
  const value = comparison(cursor)
  if (inversions === 0 || value === undefined) return value
  return truth(value) === (inversions % 2 === 0)
}

/** `a in b in c` means `a in b and b in c`. */
function comparison(cursor: Cursor): Value {
  let left = sum(cursor)
  let result: Value = left
  let decided = false
  for (;;) {
    const operator = comparisonOperator(cursor)
    if (operator === undefined) return result
    const right = sum(cursor)
    if (!decided) {
      result = compare(operator, left, right, cursor.budget)
      decided = result !== true
    }
    left = right
  }
}

function comparisonOperator(cursor: Cursor): 'in' | 'not in' | 'is' | undefined {
  if (accept(cursor, 'keyword', 'in')) return 'in'
  if (accept(cursor, 'keyword', 'not')) {
    expect(cursor, 'keyword', 'in')
    return 'not in'
  }
  if (!accept(cursor, 'keyword', 'is')) return undefined
  accept(cursor, 'keyword', 'not')
  return 'is'
}

function sum(cursor: Cursor): Value {
  let value = product(cursor)
  for (;;) {
    const op = accept(cursor, 'op', '+') ?? accept(cursor, 'op', '-')
    if (op === undefined) return value
    value = binary(op, value, product(cursor))
  }
}

function product(cursor: Cursor): Value {
  let value = signed(cursor)
  for (;;) {
    const op = accept(cursor, 'op', '*') ?? accept(cursor, 'op', '/') ?? accept(cursor, 'op', '//')
    if (op === undefined) return value
    value = binary(op, value, signed(cursor))
  }
}

function signed(cursor: Cursor): Value {
  let signs = 0
  let negative = false
  for (;;) {
    const sign = accept(cursor, 'op', '-') ?? accept(cursor, 'op', '+')
    if (sign === undefined) break
    signs++
    negative = negative !== (sign === '-')
  }
  const value = primary(cursor)
  if (signs === 0) return value
  const number = typeof value === 'boolean' ? BigInt(value) : value
  if (typeof number !== 'bigint' && typeof number !== 'number') return undefined
  return negative ? -number : number
}

/** atom, then any number of `.name`, `()` and `(argument)` */
function primary(cursor: Cursor): Value {
  let value = atom(cursor)
  for (;;) {
    if (accept(cursor, 'op', '.')) {
      const name = peek(cursor)
      if (name.kind !== 'name') throw new SyntaxError('expected an attribute name')
      cursor.at++
      value = isText(value) || isSequence(value) ? { method: name.text, self: value } : undefined
    } else if (accept(cursor, 'op', '(')) {
      const args: Value[] = []
      if (!accept(cursor, 'op', ')')) {
        args.push(expression(cursor))
        expect(cursor, 'op', ')')
      }
      value = call(value, args, cursor.budget)
    } else {
      return value
    }
  }
}

function atom(cursor: Cursor): Value {
  const token = peek(cursor)
  cursor.at++
  if (token.kind === 'number') return token.value
  if (token.kind === 'string') return adjacentStrings(cursor, token.text, token.bytes)
  if (token.kind === 'name') return undefined
  if (token.kind === 'keyword' && constants.has(token.text)) return constants.get(token.text)
  if (token.text === '...') return ellipsis
  if (token.text !== '(') throw new SyntaxError('expected an expression')
  if (accept(cursor, 'op', ')')) return { kind: 'tuple', items: [] }
  const value = expression(cursor)
  expect(cursor, 'op', ')')
  return value
}

const constants = new Map<string, boolean | null>([['True', true], ['False', false], ['None', null]])

function adjacentStrings(cursor: Cursor, first: string, bytes: boolean): Text {
  const parts = [first]
  for (;;) {
    const token = peek(cursor)
    if (token.kind !== 'string') return { kind: bytes ? 'bytes' : 'str', text: parts.join('') }
    if (token.bytes !== bytes) throw new SyntaxError('cannot mix bytes and nonbytes literals')
    parts.push(token.text)
    cursor.at++
  }
}

function compare(operator: 'in' | 'not in' | 'is', left: Value, right: Value, budget: WorkBudget): boolean | undefined {
  if (left === undefined || operator === 'is' || !(isText(right) || isSequence(right))) return undefined
  const found = contains(right, left, budget)
  return found === undefined ? undefined : found === (operator === 'in')
}

/** note: text cannot meet an operator (no alphabet has both), but the empty tuple can: `() + ()` and `3 * ()` are `()`. */
function binary(op: string, a: Value, b: Value): Value {
  if (op !== '+' && op !== '-' && op !== '*' && op !== '/' && op !== '//') return undefined
  if (isNumber(a) && isNumber(b)) return arithmetic(op, a, b)
  if (op === '+' && isSequence(a) && isSequence(b)) return a
  if (op === '*' && isSequence(a) && isRepeatCount(b)) return a
  if (op === '*' && isRepeatCount(a) && isSequence(b)) return b
  return undefined
}

function isNumber(value: Value): value is PythonNumber {
  return typeof value === 'bigint' || typeof value === 'number'
}

/** Python raises where the count does not fit a machine word, even for nothing to repeat. */
function isRepeatCount(value: Value): boolean {
  return typeof value === 'bigint' && BigInt.asIntN(64, value) === value
}

function call(callee: Value, args: Value[], budget: WorkBudget): Value {
  if (typeof callee !== 'object' || callee === null || !('method' in callee) || args.includes(undefined)) return undefined
  const { self, method } = callee
  return isText(self) ? callTextMethod(self, method, args, budget) : callSequenceMethod(self, method, args, budget)
}

function truth(value: Exclude<Value, undefined>): boolean {
  if (isText(value)) return value.text !== ''
  if (isSequence(value)) return value.items.length > 0
  return Number.isNaN(value) || Boolean(value)
}

function format(value: Value): string | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === 'bigint') return formatNumber(value)
  if (typeof value === 'number') return formatFloat(value)
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (value === ellipsis) return 'Ellipsis'
  if (isText(value) && value.kind === 'str') return value.text
  return isText(value) || isSequence(value) ? reprText(value) : undefined
}

function peek(cursor: Cursor): Token {
  return cursor.tokens[cursor.at] ?? { kind: 'end', text: '' }
}

/** The token's text when it is the next one, which is then consumed. */
function accept<T extends string>(cursor: Cursor, kind: Token['kind'], text: T): T | undefined {
  const token = peek(cursor)
  if (token.kind !== kind || token.text !== text) return undefined
  cursor.at++
  return text
}

function expect(cursor: Cursor, kind: Token['kind'], text: string): void {
  if (accept(cursor, kind, text) === undefined) throw new SyntaxError(`expected ${text}`)
}
