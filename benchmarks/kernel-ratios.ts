import { readFileSync } from 'node:fs'
import { NanochatError } from '../lib/errors.js'
import type { KernelRow } from './kernels.js'

/** Old time over new time of the rows that two runs have in common: above 1 the new one is faster. */
export interface Comparison {
  ratios: { name: string, oldUs: number, newUs: number, ratio: number }[]
  onlyOld: string[]
  onlyNew: string[]
}

export function compareRows(old: readonly KernelRow[], rows: readonly KernelRow[]): Comparison {
  const oldUs = new Map(old.map((row) => [nameOf(row), row.us]))
  const newUs = new Map(rows.map((row) => [nameOf(row), row.us]))
  const ratios = [...newUs].flatMap(([name, us]) => {
    const before = oldUs.get(name)
    return before === undefined ? [] : [{ name, oldUs: before, newUs: us, ratio: before / us }]
  })
  return { ratios, onlyOld: [...oldUs.keys()].filter((name) => !newUs.has(name)), onlyNew: [...newUs.keys()].filter((name) => !oldUs.has(name)) }
}

export function printComparison({ ratios, onlyOld, onlyNew }: Comparison): void {
  console.log(`${'old us / new us'.padEnd(70)}${'old'.padStart(11)}${'new'.padStart(11)}${'ratio'.padStart(8)}`)
  for (const { name, oldUs, newUs, ratio } of ratios) {
    console.log(`${name.padEnd(70)}${oldUs.toFixed(2).padStart(11)}${newUs.toFixed(2).padStart(11)}${ratio.toFixed(2).padStart(8)}`)
  }
  for (const name of onlyOld) console.log(`only in the old run: ${name}`)
  for (const name of onlyNew) console.log(`only in the new run: ${name}`)
}

/** The rows of an earlier run's output, whose last line is the document. Throws ERR_INVALID_ARG. */
export function readRows(path: string): KernelRow[] {
  const refused = (reason: string, cause?: unknown): NanochatError => new NanochatError('ERR_INVALID_ARG', `Expected the output of bench kernels for --compare, but ${path} ${reason}.`, { cause })
  try {
    const document = JSON.parse(readFileSync(path, 'utf8').trimEnd().split('\n').at(-1) ?? '') as { benchmark?: unknown, rows?: KernelRow[] } | null
    if (document?.benchmark === 'kernels' && Array.isArray(document.rows)) return document.rows
  } catch (cause) {
    throw refused(`cannot be read as such: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
  }
  throw refused('is something else')
}

const nameOf = ({ kernel, shape, dtype, isa }: KernelRow): string => `${kernel} ${shape} ${dtype} ${isa}`
