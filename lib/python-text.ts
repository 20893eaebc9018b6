/**
 * The part of Python's str, bytes, list and tuple that an expression without commas, operators and builtins can reach.
 * All text is printable ASCII without a backslash (the calculator's alphabet), so case and classes are those of ASCII.
 * A result of `undefined` means that Python raises, or that the method is not covered.
 */
export interface Text { kind: 'str' | 'bytes', text: string }
export interface Sequence { kind: 'list' | 'tuple', items: Text[] }
export type TextResult = Text | Sequence | bigint | boolean | undefined

/** What is left of the work one expression may cost, in characters touched. */
export interface WorkBudget { left: number }

const maxTextLength = 1_000_000

/** `self.name()` or `self.name(argument)`; a str or bytes argument, an int, None (null) or a sequence. */
export function callTextMethod(self: Text, name: string, args: unknown[], budget: WorkBudget): TextResult {
  const [arg] = args
  const size = self.text.length + 1
  if (!spend(budget, size * (isText(arg) ? arg.text.length + 1 : 1))) return undefined
  const same = (text: string): Text => ({ kind: self.kind, text })
  if (self.kind === 'bytes' && strOnly.has(name)) return undefined

  const transform = transforms.get(name)
  if (transform) return args.length === 0 ? same(transform(self.text)) : undefined
  const predicate = predicates.get(name)
  if (predicate) return args.length === 0 ? predicate(self.text) : undefined
  const search = searches.get(name)
  if (search) {
    const needle = needleOf(self, arg)
    return needle === undefined ? undefined : search(self.text, needle)
  }
  const pad = pads.get(name)
  if (pad) {
    const width = toInt(arg)
    if (width === undefined || width > maxTextLength || !spend(budget, Math.max(width, 0))) return undefined
    return same(width > self.text.length ? pad(self.text, width) : self.text)
  }
  const strip = strips.get(name)
  if (strip) {
    if (arg === null || args.length === 0) return same(strip(self.text, ' '))
    return isText(arg) && arg.kind === self.kind ? same(strip(self.text, arg.text)) : undefined
  }
  const split = splits.get(name)
  if (split) {
    const whitespace = (arg === null || args.length === 0) && name.endsWith('split')
    if (whitespace) return { kind: 'list', items: self.text.split(' ').filter((word) => word !== '').map(same) }
    if (!isText(arg) || arg.kind !== self.kind || arg.text === '') return undefined
    return { kind: name.endsWith('partition') ? 'tuple' : 'list', items: split(self.text, arg.text).map(same) }
  }
  switch (name) {
    case 'startswith': return matchesAffix(self, arg, (text, affix) => text.startsWith(affix))
    case 'endswith': return matchesAffix(self, arg, (text, affix) => text.endsWith(affix))
    case 'removeprefix':
    case 'removesuffix': return isText(arg) && arg.kind === self.kind ? same(withoutAffix(self.text, arg.text, name)) : undefined
    case 'join': return join(self, arg, budget)
    case 'splitlines': return args.length === 0 || toInt(arg) !== undefined ? { kind: 'list', items: self.text === '' ? [] : [self] } : undefined
    case 'expandtabs': return args.length === 0 || toInt(arg) !== undefined ? self : undefined
    case 'format': return self
    case 'encode': return args.length === 0 ? { kind: 'bytes', text: self.text } : undefined
    case 'decode': return args.length === 0 && self.kind === 'bytes' ? { kind: 'str', text: self.text } : undefined
    case 'hex': return args.length === 0 && self.kind === 'bytes' ? { kind: 'str', text: Buffer.from(self.text, 'latin1').toString('hex') } : undefined
    default: return undefined
  }
}

/** `self.count(item)` and `self.index(item)`. */
export function callSequenceMethod(self: Sequence, name: string, args: unknown[], budget: WorkBudget): TextResult {
  if (args.length !== 1 || !spend(budget, self.items.length + 1)) return undefined
  const found = self.items.map((item) => sameText(item, args[0]))
  if (name === 'count') return BigInt(found.filter(Boolean).length)
  if (name === 'index' && found.includes(true)) return BigInt(found.indexOf(true))
  return undefined
}

/** `needle in container`. */
export function contains(container: Text | Sequence, needle: unknown, budget: WorkBudget): boolean | undefined {
  if ('items' in container) return container.items.some((item) => sameText(item, needle))
  const text = needleOf(container, needle)
  if (text === undefined || !spend(budget, (container.text.length + 1) * (text.length + 1))) return undefined
  return container.text.includes(text)
}

/** `repr(value)`: single quotes unless only double quotes avoid an escape. */
export function reprText(value: Text | Sequence): string {
  if ('items' in value) {
    const items = value.items.map(reprText).join(', ')
    return value.kind === 'list' ? `[${items}]` : `(${items})`
  }
  const quote = value.text.includes("'") && !value.text.includes('"') ? '"' : "'"
  const escaped = quote === "'" ? value.text.replaceAll("'", "\\'") : value.text
  return `${value.kind === 'bytes' ? 'b' : ''}${quote}${escaped}${quote}`
}

export function isText(value: unknown): value is Text {
  return typeof value === 'object' && value !== null && 'text' in value
}

export function isSequence(value: unknown): value is Sequence {
  return typeof value === 'object' && value !== null && 'items' in value
}

const strOnly = new Set(['casefold', 'encode', 'format', 'isdecimal', 'isidentifier', 'isnumeric', 'isprintable'])

const transforms = new Map<string, (text: string) => string>([
  ['lower', (text) => text.toLowerCase()],
  ['casefold', (text) => text.toLowerCase()],
  ['upper', (text) => text.toUpperCase()],
  ['capitalize', (text) => text.charAt(0).toUpperCase() + text.slice(1).toLowerCase()],
  ['title', (text) => text.replace(/[A-Za-z]+/g, (word) => word.charAt(0).toUpperCase() + word.slice(1).toLowerCase())],
  ['swapcase', (text) => text.replace(/[A-Za-z]+/g, (word) => [...word].map((c) => c < 'a' ? c.toLowerCase() : c.toUpperCase()).join(''))],
])

const predicates = new Map<string, (text: string) => boolean>([
  ['isalpha', (text) => /^[A-Za-z]+$/.test(text)],
  ['isalnum', (text) => /^[A-Za-z0-9]+$/.test(text)],
  ['isdigit', (text) => /^[0-9]+$/.test(text)],
  ['isdecimal', (text) => /^[0-9]+$/.test(text)],
  ['isnumeric', (text) => /^[0-9]+$/.test(text)],
  ['isspace', (text) => /^ +$/.test(text)],
  ['isupper', (text) => /[A-Z]/.test(text) && !/[a-z]/.test(text)],
  ['islower', (text) => /[a-z]/.test(text) && !/[A-Z]/.test(text)],
  ['istitle', (text) => /[A-Z]/.test(text) && !/[A-Za-z][A-Z]|(?<![A-Za-z])[a-z]/.test(text)],
  ['isidentifier', (text) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(text)],
  ['isascii', () => true],
  ['isprintable', () => true],
])

const searches = new Map<string, (text: string, needle: string) => bigint | undefined>([
  ['count', (text, needle) => BigInt(needle === '' ? text.length + 1 : text.split(needle).length - 1)],
  ['find', (text, needle) => BigInt(text.indexOf(needle))],
  ['rfind', (text, needle) => BigInt(text.lastIndexOf(needle))],
  ['index', (text, needle) => text.includes(needle) ? BigInt(text.indexOf(needle)) : undefined],
  ['rindex', (text, needle) => text.includes(needle) ? BigInt(text.lastIndexOf(needle)) : undefined],
])

const pads = new Map<string, (text: string, width: number) => string>([
  ['ljust', (text, width) => text.padEnd(width)],
  ['rjust', (text, width) => text.padStart(width)],
  ['zfill', (text, width) => text.padStart(width, '0')],
  // note: an odd space goes to the left of an odd width, else to the right.
  ['center', (text, width) => text.padStart(text.length + ((width - text.length) >> 1) + ((width - text.length) & width & 1)).padEnd(width)],
])

const strips = new Map<string, (text: string, chars: string) => string>([
  ['strip', (text, chars) => stripEnd(stripStart(text, chars), chars)],
  ['lstrip', stripStart],
  ['rstrip', stripEnd],
])

const splits = new Map<string, (text: string, separator: string) => string[]>([
  ['split', (text, separator) => text.split(separator)],
  ['rsplit', rsplit],
  ['partition', (text, separator) => cut(text, separator, text.indexOf(separator)) ?? [text, '', '']],
  ['rpartition', (text, separator) => cut(text, separator, text.lastIndexOf(separator)) ?? ['', '', text]],
])

function spend(budget: WorkBudget, work: number): boolean {
  budget.left -= work
  return budget.left >= 0
}

function sameText(item: Text, other: unknown): boolean {
  return isText(other) && other.kind === item.kind && other.text === item.text
}

/** What to look for in `self`: text of the same kind; for bytes also one byte as an int. */
function needleOf(self: Text, arg: unknown): string | undefined {
  if (isText(arg)) return arg.kind === self.kind ? arg.text : undefined
  const byte = self.kind === 'bytes' ? toInt(arg) : undefined
  return byte !== undefined && byte >= 0 && byte < 256 ? String.fromCharCode(byte) : undefined
}

/** An int argument as a number; bools are ints. `undefined` for what C's int cannot hold. */
function toInt(arg: unknown): number | undefined {
  if (typeof arg === 'boolean') return Number(arg)
  return typeof arg === 'bigint' && arg <= 0x7fffffffn && arg >= -0x80000000n ? Number(arg) : undefined
}

function matchesAffix(self: Text, arg: unknown, matches: (text: string, affix: string) => boolean): boolean | undefined {
  const affixes = isSequence(arg) && arg.kind === 'tuple' ? arg.items : [arg]
  for (const affix of affixes) {
    if (!isText(affix) || affix.kind !== self.kind) return undefined
    if (matches(self.text, affix.text)) return true
  }
  return false
}

function withoutAffix(text: string, affix: string, name: 'removeprefix' | 'removesuffix'): string {
  if (name === 'removeprefix') return text.startsWith(affix) ? text.slice(affix.length) : text
  return text.endsWith(affix) ? text.slice(0, text.length - affix.length) : text
}

function join(self: Text, arg: unknown, budget: WorkBudget): Text | undefined {
  const parts = partsToJoin(self, arg)
  if (parts === undefined) return undefined
  const length = parts.reduce((sum, part) => sum + part.length, self.text.length * Math.max(parts.length - 1, 0))
  if (length > maxTextLength || !spend(budget, length)) return undefined
  return { kind: self.kind, text: parts.join(self.text) }
}

/** note: a bytes object iterates as ints, which bytes.join refuses. */
function partsToJoin(self: Text, arg: unknown): string[] | undefined {
  if (isSequence(arg)) return arg.items.every((item) => item.kind === self.kind) ? arg.items.map((item) => item.text) : undefined
  if (!isText(arg)) return undefined
  if (arg.kind === 'bytes') return arg.text === '' ? [] : undefined
  return self.kind === 'str' || arg.text === '' ? [...arg.text] : undefined
}

function stripStart(text: string, chars: string): string {
  let start = 0
  while (start < text.length && chars.includes(text.charAt(start))) start++
  return text.slice(start)
}

function stripEnd(text: string, chars: string): string {
  let end = text.length
  while (end > 0 && chars.includes(text.charAt(end - 1))) end--
  return text.slice(0, end)
}

/** Splits from the right, which differs from the left where separators overlap. */
function rsplit(text: string, separator: string): string[] {
  const parts: string[] = []
  let end = text.length
  while (end >= separator.length) {
    const at = text.lastIndexOf(separator, end - separator.length)
    if (at < 0) break
    parts.push(text.slice(at + separator.length, end))
    end = at
  }
  return [...parts, text.slice(0, end)].toReversed()
}

function cut(text: string, separator: string, at: number): string[] | undefined {
  return at < 0 ? undefined : [text.slice(0, at), separator, text.slice(at + separator.length)]
}
