/** The stable codes a {@link NanochatError} can carry. */
export type ErrorCode =
  `ERR_${'INVALID_ARG' | 'INVALID_CONVERSATION' | 'CHECKPOINT_NOT_FOUND' | 'CHECKPOINT_FORMAT' | 'CHECKPOINT_ARCH' | 'CHECKPOINT_WRITE' | 'TOKENIZER_FORMAT' | 'TOKENIZER_MISMATCH'
  | 'CONTEXT_OVERFLOW' | 'OUT_OF_MEMORY' | 'DEVICE_UNAVAILABLE' | 'CUDA' | 'BINDING_NOT_FOUND' | 'SANDBOX_UNAVAILABLE' | 'DISPOSED'}`

const brand = Symbol.for('nanochat-node.NanochatError')

/**
 * The one error class of the package. `code` is stable; the message says what was expected, what came and what to do.
 * An app that loads both the ESM and the CommonJS build has two classes: test with {@link NanochatError.is}, not `instanceof`.
 */
export class NanochatError extends Error {
  /** For programs; the table of when each comes is in docs/api.md. */
  readonly code: ErrorCode

  /** For tools and other code that wants to throw one of these: a `code` and a `message` for a person. Throws nothing. */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'NanochatError'
    this.code = code
    Object.defineProperty(this, brand, { value: true })
  }

  /** Whether `e` is one, of this build or of the other. Throws nothing. */
  static is(e: unknown): e is NanochatError {
    return typeof e === 'object' && e !== null && brand in e
  }
}

/** Expected `expected` for `name` but received `actual`. */
export function invalidArg(name: string, expected: string, actual: unknown): NanochatError {
  return new NanochatError('ERR_INVALID_ARG', `Expected ${expected} for ${name} but received ${describe(actual)}.`)
}

/** A short, safe rendering of any value for a message. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `${JSON.stringify(value.slice(0, 57))}...` : JSON.stringify(value)
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return `an array of length ${value.length}`
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name} of ${value.byteLength} bytes`
  if (typeof value === 'object' && value !== null) return `an object {${Object.keys(value).slice(0, 5).join(', ')}}`
  return String(value)
}
