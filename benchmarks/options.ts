import { parseArgs, type ParseArgsConfig } from 'node:util'
import { invalidArg } from '../lib/errors.js'

/** The values of a benchmark's options. Throws ERR_INVALID_ARG for anything that is none. */
export function parseOptions<const T extends NonNullable<ParseArgsConfig['options']>>(args: string[], options: T): ReturnType<typeof parseArgs<{ args: string[], options: T }>>['values'] {
  try {
    return parseArgs({ args, options }).values
  } catch (error) {
    throw invalidArg('the options', 'those that --help lists', error instanceof Error ? error.message : error)
  }
}

export function integer(name: string, text: string, least: number): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < least || text.trim() === '') throw invalidArg(name, `an integer from ${least}`, text)
  return value
}

export const integers = (name: string, list: string): number[] => list.split(',').map((text) => integer(name, text, 1))

/** nanochat's d<depth> has depth / 2 heads of 128 channels. */
export function depthOf(text: string): number {
  const depth = integer('--depth', text, 2)
  if (depth % 2 === 1) throw invalidArg('--depth', 'an even number, for heads of 128 channels', depth)
  return depth
}
