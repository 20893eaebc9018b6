import { invalidArg } from './errors.js'
import { evaluatePython } from './python-expression.js'

const maxLength = 65_536
const arithmeticAlphabet = /^[-0-9*+/.() ]*$/
const stringAlphabet = /^[A-Za-z0-9'"()._ ]*$/
const forbidden = ['__', 'import', 'exec', 'eval', 'compile', 'open', 'file', 'input', 'raw_input', 'globals', 'locals', 'vars', 'dir',
  'getattr', 'setattr', 'delattr', 'hasattr']

/**
 * nanochat's `use_calculator`: Python's `str()` of the value of `expr`, or null when there is no result (MODEL.md 5). Throws ERR_INVALID_ARG when it is no string.
 * Commas are removed first, wherever they stand. Then either
 * - arithmetic: ints of any size, floats, `+ - * / //`, signs and parentheses, but no `**`; or
 * - a string expression of letters, digits, quotes, `().` `_` and blanks that contains `.count(` and none of nanochat's forbidden words.
 *
 * Nothing is ever handed to an evaluator: a parser written for this grammar computes what Python would. Covered of string
 * expressions: string and bytes literals with every prefix, triple quotes and adjacent concatenation; numbers, True, False,
 * None; `and`, `or`, `not`, `in`, `x if c else y`; the methods of str and bytes that take no argument or one (`lower`, `strip`,
 * `split`, `join`, `find`, `center`, ...); `count` and `index` of lists and tuples. Not covered, and therefore null: generator
 * expressions, `is`, complex numbers, attributes of numbers, `translate`, `maketrans`, `format_map`, codec names.
 *
 * nanochat's limit of three seconds is a bound on length, nesting and characters touched here.
 */
export function useCalculator(expr: string): string | null {
  if (typeof expr !== 'string') throw invalidArg('expr', 'a string', expr)
  const source = expr.replaceAll(',', '')
  if (source.length > maxLength) return null
  if (arithmeticAlphabet.test(source)) return source.includes('**') ? null : evaluatePython(source)
  if (!stringAlphabet.test(source) || !source.includes('.count(')) return null
  const lowered = source.toLowerCase()
  return forbidden.some((word) => lowered.includes(word)) ? null : evaluatePython(source)
}
