import { isatty } from 'node:tty'

export type Style = 'code' | 'output' | 'dim' | 'error' | 'prompt'
export type Paint = (style: Style, text: string) => string

const styles: Record<Style, string> = { code: '36', output: '32', dim: '2', error: '31', prompt: '1' }

/** Colours `text` for `stream`: FORCE_COLOR decides first (0 is no), then NO_COLOR, then whether it is a terminal that can. */
export function painter(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): Paint {
  const { FORCE_COLOR: force, NO_COLOR: no, TERM: term } = env
  const colored = force !== undefined ? force !== '0' && force !== 'false' : no === undefined || no === '' ? stream.isTTY === true && term !== 'dumb' : false
  return colored ? (style, text) => `\x1b[${styles[style]}m${text}\x1b[0m` : (_, text) => text
}

/** `text` with every control character but newline and tab spelled out (\x1b): nothing a model says can drive the terminal. */
export function withoutControls(text: string): string {
  return text.replace(/[^\P{Cc}\t\n]/gu, (char) => `\\x${hex(char, 2)}`)
}

/** JSON of `value` on one line; DEL and the C1 controls, which JSON leaves as they are, are escaped too. */
export function jsonLine(value: unknown): string {
  return `${JSON.stringify(value).replace(/[\x7f-\x9f]/g, (char) => `\\u${hex(char, 4)}`)}\n`
}

/** Whether somebody sits there: both stdin and stdout are a terminal. */
export function isInteractive(): boolean {
  return isatty(0) && isatty(1)
}

/** 1234567 as 1.2 M: `unit` 'B' counts in steps of 1024, anything else in steps of 1000. */
export function short(n: number, unit = ''): string {
  const step = unit === 'B' ? 1024 : 1000
  const prefixes = unit === 'B' ? ['', 'Ki', 'Mi', 'Gi', 'Ti'] : ['', 'K', 'M', 'G', 'T']
  let power = 0
  let scaled = n
  for (; scaled >= step && power < prefixes.length - 1; power++) scaled /= step
  return `${power === 0 ? scaled : scaled.toFixed(scaled < 10 ? 2 : 1)} ${prefixes[power]}${unit}`.trim()
}

function hex(char: string, digits: number): string {
  return char.charCodeAt(0).toString(16).padStart(digits, '0')
}
