import { describe } from '../errors.js'
import { ApiError } from './errors.js'

/** The fields of a JSON object, each checked as it is read. null counts as absent. Every method throws an ApiError that names the field. */
export interface Fields {
  /** The value as it is. */
  any(name: string): unknown
  text(name: string): string | undefined
  flag(name: string): boolean | undefined
  number(name: string, least: number, most: number): number | undefined
  integer(name: string, least: number, most: number): number | undefined
  object(name: string): Fields | undefined
  /** Fields that change nothing here, whatever they hold. */
  ignore(...names: string[]): void
  /** Refuses `name`, unless `isHarmless` of its value. */
  refuse(name: string, isHarmless: (value: unknown) => boolean, why: string): void
  /** Refuses every field that was not read. */
  end(): void
}

export function fieldsOf(value: unknown, path = ''): Fields {
  if (!isObject(value)) throw new ApiError(400, `Expected a JSON object${path === '' ? '' : ` for ${path}`} but received ${describe(value)}.`, path || null)
  const unread = new Set(Object.keys(value))
  const invalid = (name: string, expected: string, actual: unknown): ApiError =>
    new ApiError(400, `Expected ${expected} for ${path}${name} but received ${describe(actual)}.`, `${path}${name}`, 'invalid_value')
  const any = (name: string): unknown => {
    unread.delete(name)
    return Object.hasOwn(value, name) ? value[name] ?? undefined : undefined
  }
  const typed = <T>(name: string, expected: string, is: (value: unknown) => value is T): T | undefined => {
    const field = any(name)
    if (field === undefined || is(field)) return field
    throw invalid(name, expected, field)
  }
  return {
    any,
    text: (name) => typed(name, 'a string', (field) => typeof field === 'string'),
    flag: (name) => typed(name, 'true or false', (field) => typeof field === 'boolean'),
    number: (name, least, most) => typed(name, `a number from ${least} to ${most}`, (field): field is number => typeof field === 'number' && field >= least && field <= most),
    integer: (name, least, most) => typed(name, most === Number.MAX_SAFE_INTEGER ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`,
      (field): field is number => Number.isInteger(field) && (field as number) >= least && (field as number) <= most),
    object(name) {
      const field = any(name)
      return field === undefined ? undefined : fieldsOf(field, `${path}${name}.`)
    },
    ignore(...names) {
      for (const name of names) unread.delete(name)
    },
    refuse(name, isHarmless, why) {
      const field = any(name)
      if (field !== undefined && !isHarmless(field)) throw new ApiError(400, `${path}${name} is not supported: ${why}`, `${path}${name}`, 'unsupported_parameter')
    },
    end() {
      for (const name of unread) {
        if (value[name] !== null) throw new ApiError(400, `There is no parameter ${path}${name.slice(0, 60)} here.`, `${path}${name.slice(0, 60)}`, 'unknown_parameter')
      }
    }
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
