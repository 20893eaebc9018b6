// docs/demo.svg: a real run of `nanochat-node demo` in a pseudo terminal (python3's), typed at a person's speed, as an animated SVG.
//   npm run record
// The screen is xterm.js's. Nothing scrolls, so each piece of text appears once; without animations, or with reduced motion, all of it is there.
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import xterm from '@xterm/headless'
import { runInTerminal, type Step } from '../test/support/cli.js'

const questions = ['What is 1234 * 5678?', 'and plus 5?', "How many r's are in strawberry?", 'Who are you?']
const columns = 96, rows = 30
const cell = { width: 8.4, height: 19 }, margin = 16
const holdSeconds = 6                            // at the end, before it begins again
const svgFile = join(dirname(dirname(fileURLToPath(import.meta.url))), 'docs', 'demo.svg')

/** A run of cells of one style that came at one time. */
interface Piece { row: number, column: number, text: string, style: string, seconds: number }
export interface Recording { pieces: Piece[], seconds: number }

/** Runs the demo and asks the questions, on the CPU; `typingSeconds` passes between two keys. */
export async function recordDemo(typingSeconds: number): Promise<Recording> {
  const prompt: Step = { expect: '> \x1b[0m' }
  const typed = (text: string): Step[] => typingSeconds === 0 ? [{ send: text }] : [...text].flatMap((key): Step[] => [{ pauseSeconds: typingSeconds }, { send: key }])
  const pause: Step[] = typingSeconds === 0 ? [] : [{ pauseSeconds: 12 * typingSeconds }]
  const steps = questions.flatMap((question) => [prompt, ...pause, ...typed(question), { send: '\r' }])
  const { status, missing, chunks } = await runInTerminal(['demo'], [...steps, prompt, ...pause, { send: '\x04' }], { CUDA_VISIBLE_DEVICES: '', NANOCHAT_BASE_DIR: '' })
  if (status !== 0 || missing !== null) throw new Error(`the demo ended with ${status}${missing === null ? '' : `, without ${JSON.stringify(missing)}`}`)
  const command = '$ npx nanochat-node demo'
  const lead = typingSeconds * command.length
  const opening = [...command].map((key, i): [number, string] => [typingSeconds * i, key])
  return screenOf([...opening, [lead, '\r\n'], ...chunks.map(([seconds, text]): [number, string] => [lead + seconds, text])])
}

/** What stays on the screen, and since when. Throws when it scrolls. */
async function screenOf(chunks: readonly [seconds: number, text: string][]): Promise<Recording> {
  const terminal = new xterm.Terminal({ cols: columns, rows, allowProposedApi: true })
  const seen = new Map<string, { text: string, style: string, seconds: number }>()
  for (const [seconds, text] of chunks) {
    await new Promise<void>((resolve) => terminal.write(text, resolve))
    if (terminal.buffer.active.baseY > 0) throw new Error(`the recording has more than ${rows} lines`)
    for (let row = 0; row < rows; row++) {
      const line = terminal.buffer.active.getLine(row)
      for (let column = 0; column < columns; column++) {
        const cell = line?.getCell(column)
        const key = `${row} ${column}`
        const now = { text: cell?.getChars() ?? '', style: cell ? styleOf(cell) : '' }
        const before = seen.get(key)
        if (before?.text !== now.text || before.style !== now.style) seen.set(key, { ...now, seconds })
      }
    }
  }
  const pieces: Piece[] = []
  for (const [key, { text, style, seconds }] of seen) {
    const [row = 0, column = 0] = key.split(' ').map(Number)
    if (text !== '') pieces.push({ row, column, text, style, seconds })
  }
  return { pieces: joined(pieces.sort((a, b) => a.row - b.row || a.column - b.column)).flatMap(withoutBlanks), seconds: chunks.at(-1)?.[0] ?? 0 }
}

function styleOf(cell: { isBold(): number, isDim(): number, isFgPalette(): boolean, getFgColor(): number }): string {
  return cell.isDim() ? 'dim' : cell.isBold() ? 'bold' : cell.isFgPalette() ? `c${cell.getFgColor()}` : ''
}

function joined(cells: readonly Piece[]): Piece[] {
  const pieces: Piece[] = []
  for (const cell of cells) {
    const last = pieces.at(-1)
    const continues = last && last.row === cell.row && last.column + last.text.length === cell.column && last.seconds === cell.seconds && last.style === cell.style
    if (continues) last.text += cell.text
    else pieces.push({ ...cell })
  }
  return pieces
}

/** note: blanks at an end of a text are dropped by some renderers, and the rest is then drawn too wide. */
function withoutBlanks(piece: Piece): Piece[] {
  const text = piece.text.trim()
  return text === '' ? [] : [{ ...piece, text, column: piece.column + piece.text.indexOf(text) }]
}

/** The lines of a recording. Figures of speed, which no two runs share, are `#`. */
export function textOf({ pieces }: Recording): string {
  const lines: string[] = []
  for (const { row, column, text } of pieces) lines[row] = `${(lines[row] ?? '').padEnd(column)}${text}`
  return Array.from(lines, (line = '') => line.trimEnd().replace(/\d+ tok\/s/, '# tok/s').replace(/first after [\d.]+ ms/, 'first after # ms')).join('\n').trimEnd()
}

/** The pieces that an SVG of {@link svgOf} shows. */
export function readSvg(svg: string): Recording {
  const pieces = [...svg.matchAll(/<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<\/text>/g)].map(([, x = '', y = '', text = '']) => ({
    row: Math.round((Number(y) - margin) / cell.height) - 1, column: Math.round((Number(x) - margin) / cell.width), text: unescaped(text), style: '', seconds: 0
  }))
  return { pieces, seconds: 0 }
}

export function svgOf(recording: Recording): string {
  const { pieces } = recording
  const total = recording.seconds + holdSeconds
  const times = [...new Set(pieces.map(({ seconds }) => seconds))].sort((a, b) => a - b)
  const height = 2 * margin + cell.height * (1 + Math.max(...pieces.map(({ row }) => row)))
  const width = Math.ceil(2 * margin + cell.width * columns)
  const frames = times.map((seconds, i) => `@keyframes t${i}{0%,${(100 * seconds / total).toFixed(2)}%{opacity:0}${(100 * seconds / total + 0.01).toFixed(2)}%,to{opacity:1}}`)
  const texts = pieces.map(({ row, column, text, style, seconds }) => {
    const x = (margin + cell.width * column).toFixed(1), y = (margin + cell.height * (row + 1)).toFixed(0)
    const length = text.length > 1 ? ` textLength="${(cell.width * text.length).toFixed(1)}"` : ''
    return `<text x="${x}" y="${y}"${length}${style === '' ? '' : ` class="${style}"`} style="animation-name:t${times.indexOf(seconds)}">${escaped(text)}</text>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>nanochat-node demo in a terminal</title>
<desc>${escaped(textOf(recording))}</desc>
<style>
rect{fill:#16181d}
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d7dae0;animation:${total.toFixed(2)}s linear infinite}
.bold{font-weight:bold}
.dim{fill:#868c98}
.c6{fill:#56c2d6}
.c2{fill:#8fce72}
.c1{fill:#f0716b}
${frames.join('\n')}
@media (prefers-reduced-motion:reduce){text{animation:none!important}}
</style>
<rect width="100%" height="100%" rx="8"/>
${texts.join('\n')}
</svg>
`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function unescaped(text: string): string {
  return text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const svg = svgOf(await recordDemo(0.06))
  writeFileSync(svgFile, svg)
  console.log(`${svgFile}: ${(svg.length / 1000).toFixed(1)} kB\n${textOf(readSvg(svg))}`)
}
