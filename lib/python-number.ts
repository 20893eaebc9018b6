/** Python's int (`bigint`) and float (`number`). A result of `undefined` means that Python raises. */
export type PythonNumber = bigint | number

/** The digits `str()` of an int and a decimal literal may have; Python raises above (sys.set_int_max_str_digits). */
export const maxIntDigits = 4300
const intPrintLimit = 10n ** BigInt(maxIntDigits)

/** `a + b`, `a - b`, `a * b`, `a / b`, `a // b` with Python's conversions: ints stay exact, one float makes both floats. */
export function arithmetic(op: '+' | '-' | '*' | '/' | '//', a: PythonNumber, b: PythonNumber): PythonNumber | undefined {
  if (typeof a === 'bigint' && typeof b === 'bigint') return intArithmetic(op, a, b)
  const x = toFloat(a)
  const y = toFloat(b)
  if (x === undefined || y === undefined) return undefined
  switch (op) {
    case '+': return x + y
    case '-': return x - y
    case '*': return x * y
    case '/': return y === 0 ? undefined : x / y
    case '//': return y === 0 ? undefined : floatFloorDivide(x, y)
  }
}

/** `float(value)`, rounded half to even; `undefined` where Python says that the int is too large. */
export function toFloat(value: PythonNumber): number | undefined {
  if (typeof value === 'number') return value
  const float = Number(value)
  return Number.isFinite(float) ? float : undefined
}

/** `str(value)`. */
export function formatNumber(value: PythonNumber): string | undefined {
  if (typeof value === 'number') return formatFloat(value)
  return value < intPrintLimit && value > -intPrintLimit ? value.toString() : undefined
}

/** `repr(value)` of a float: the shortest digits that read back as the same value; an exponent below 1e-4 and from 1e16 on. */
export function formatFloat(value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf'
  const sign = value < 0 || Object.is(value, -0) ? '-' : ''
  const [mantissa = '', exponentText = ''] = Math.abs(value).toExponential().split('e')
  const digits = mantissa.replace('.', '')
  const exponent = Number(exponentText)
  if (exponent >= 16 || exponent < -4) {
    const point = digits.length > 1 ? `${digits.charAt(0)}.${digits.slice(1)}` : digits
    return `${sign}${point}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  const whole = digits.padEnd(exponent + 1, '0')
  return `${sign}${whole.slice(0, exponent + 1)}.${whole.slice(exponent + 1) || '0'}`
}

function intArithmetic(op: '+' | '-' | '*' | '/' | '//', a: bigint, b: bigint): PythonNumber | undefined {
  switch (op) {
    case '+': return a + b
    case '-': return a - b
    case '*': return a * b
    case '/': return b === 0n ? undefined : intTrueDivide(a, b)
    case '//': return b === 0n ? undefined : intFloorDivide(a, b)
  }
}

function intFloorDivide(a: bigint, b: bigint): bigint {
  const quotient = a / b
  return quotient * b !== a && (a < 0n) !== (b < 0n) ? quotient - 1n : quotient
}

/** The float nearest to a / b (ties to even), also where neither fits a float; `undefined` when the quotient overflows. */
function intTrueDivide(a: bigint, b: bigint): number | undefined {
  const negative = (a < 0n) !== (b < 0n)
  const n = a < 0n ? -a : a
  const d = b < 0n ? -b : b
  if (n === 0n) return negative ? -0 : 0
  // The quotient lies between 2^(exponent-1) and 2^(exponent+1): kept with 55 or 56 bits, the last one sticky and below the half.
  const exponent = bitLength(n) - bitLength(d)
  const shift = Math.max(exponent - 55, -1076)
  const numerator = shift < 0 ? n << BigInt(-shift) : n
  const denominator = shift > 0 ? d << BigInt(shift) : d
  let quotient = numerator / denominator
  if (quotient * denominator !== numerator) quotient |= 1n
  // note: subnormal results keep fewer than 53 bits, so the rounding happens here and the scaling below is exact.
  const dropped = Math.max(bitLength(quotient) - 53, -1074 - shift)
  const half = 1n << BigInt(dropped - 1)
  const rest = quotient & ((half << 1n) - 1n)
  let kept = quotient >> BigInt(dropped)
  if (rest > half || (rest === half && (kept & 1n) === 1n)) kept += 1n
  const float = Number(kept) * 2 ** (shift + dropped)
  if (!Number.isFinite(float)) return undefined
  return negative ? -float : float
}

/** Floor of x / y as CPython computes it: from the exact remainder, so that the rounding of x / y cannot lift it. */
function floatFloorDivide(x: number, y: number): number {
  const remainder = x % y
  let quotient = (x - remainder) / y
  if (remainder !== 0 && (y < 0) !== (remainder < 0)) quotient -= 1
  if (quotient === 0) return Object.is(x / y, -0) || x / y < 0 ? -0 : 0
  const floor = Math.floor(quotient)
  return quotient - floor > 0.5 ? floor + 1 : floor
}

function bitLength(value: bigint): number {
  const hex = value.toString(16)
  return value === 0n ? 0 : hex.length * 4 - Math.clz32(Number.parseInt(hex.charAt(0), 16)) + 28
}
