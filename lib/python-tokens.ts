import { maxIntDigits, type PythonNumber } from './python-number.js'

/** One token of a Python expression. `value` of a number is `undefined` where it is not covered (complex). */
export type Token =
  | { kind: 'number', text: string, value: PythonNumber | undefined }
  | { kind: 'string', text: string, bytes: boolean }
  | { kind: 'name' | 'keyword' | 'op' | 'end', text: string }

const keywords = new Set(('False None True and as assert async await break class continue def del elif else except finally for from global if '
  + 'import in is lambda nonlocal not or pass raise return try while with yield').split(' '))
const stringPrefixes = new Set(['r', 'u', 'b', 'f', 'br', 'rb', 'fr', 'rf'])
const maxParentheses = 200

const spaces = / */y
const name = /[A-Za-z_][A-Za-z0-9_]*/y
const op = /\.\.\.|\/\/|[-+*\/.()]/y
const radixInt = /0(?:[xX](?:_?[0-9a-fA-F])+|[oO](?:_?[0-7])+|[bB](?:_?[01])+)/y
const decimal = /(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][-+]?[0-9](?:_?[0-9])*)?[jJ]?/y
const mayFollowNumber = /(?:and|else|for|if|in|is|not|or)|(?![A-Za-z0-9_])/y

/**
 * Python's tokens of one line; throws SyntaxError where CPython 3.11's tokenizer would. Covers the calculator's alphabet:
 * no backslash in strings, no braces in f-strings, no brackets, no comments.
 */
export function tokenize(source: string): Token[] {
  const tokens: Token[] = []
  let at = 0
  let depth = 0
  for (;;) {
    at += matchAt(spaces, source, at)?.length ?? 0
    if (at >= source.length) break
    const number = matchAt(radixInt, source, at) ?? matchAt(decimal, source, at)
    const word = number === undefined ? matchAt(name, source, at) : undefined
    const quoteAt = at + (word !== undefined && stringPrefixes.has(word.toLowerCase()) ? word.length : 0)
    if (number !== undefined) {
      at += number.length
      const next = source.charAt(at)
      // note: CPython reads `0or` as an octal prefix, though `00or` and `1or` are a number and a keyword.
      if (matchAt(mayFollowNumber, source, at) === undefined || (number === '0' && next === 'o')) throw new SyntaxError('invalid number')
      tokens.push({ kind: 'number', text: number, value: numberValue(number) })
    } else if (source.charAt(quoteAt) === "'" || source.charAt(quoteAt) === '"') {
      const quoted = quotedAt(source, quoteAt)
      tokens.push({ kind: 'string', text: quoted.text, bytes: /b/i.test(source.slice(at, quoteAt)) })
      at = quoted.end
    } else if (word !== undefined) {
      tokens.push({ kind: keywords.has(word) ? 'keyword' : 'name', text: word })
      at += word.length
    } else {
      const text = matchAt(op, source, at)
      if (text === undefined) throw new SyntaxError('invalid character')
      if (text === '(') depth++
      if (text === ')') depth--
      if (depth > maxParentheses) throw new SyntaxError('too many nested parentheses')
      tokens.push({ kind: 'op', text })
      at += text.length
    }
  }
  tokens.push({ kind: 'end', text: '' })
  return tokens
}

function matchAt(pattern: RegExp, source: string, at: number): string | undefined {
  pattern.lastIndex = at
  return pattern.exec(source)?.[0]
}

/** The content of a '...', "...", '''...''' or """...""" literal that opens at `at`. */
function quotedAt(source: string, at: number): { text: string, end: number } {
  const single = source.charAt(at)
  const quote = source.startsWith(single.repeat(3), at) ? single.repeat(3) : single
  const start = at + quote.length
  const end = source.indexOf(quote, start)
  if (end < 0) throw new SyntaxError('unterminated string')
  return { text: source.slice(start, end), end: end + quote.length }
}

function numberValue(literal: string): PythonNumber | undefined {
  const digits = literal.replaceAll('_', '')
  if (/^0[xXoObB]/.test(digits)) return BigInt(digits.toLowerCase())
  if (/[jJ]$/.test(digits)) return undefined
  if (!/^[0-9]+$/.test(digits)) return Number(digits)
  if (/^0+$/.test(digits)) return 0n
  if (digits.startsWith('0')) throw new SyntaxError('leading zeros in a decimal integer')
  if (digits.length > maxIntDigits) throw new SyntaxError('too many digits in an integer')
  return BigInt(digits)
}
