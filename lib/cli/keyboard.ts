import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'

/** Lines typed in a terminal. */
export interface Keyboard extends Disposable {
  /** The next line, with `prompt` before it; null when the input has ended. Lines typed ahead, or pasted, are kept. */
  readLine(prompt: string): Promise<string | null>
  close(): void
}

/**
 * Line editing with history on `input`. Between two `readLine` calls typing is kept but not shown, so that it does not mix
 * with what is printed. Ctrl+C drops what was typed ahead, and a line that was begun, as a shell does; unless it did only
 * that, `onInterrupt` gets it.
 */
export function openKeyboard(input: NodeJS.ReadStream, output: NodeJS.WriteStream, onInterrupt: () => void, completions: readonly string[]): Keyboard {
  const screen = new Screen(output)
  const readline = createInterface({
    input, output: screen, terminal: true, historySize: 500, removeHistoryDuplicates: true,
    completer: (line: string) => [line.startsWith('/') ? completions.filter((command) => command.startsWith(line)) : [], line]
  })
  const lines: string[] = []
  let ended = false
  let waiting: ((line: string | null) => void) | null = null
  const deliver = (line: string | null): void => {
    const resolve = waiting
    waiting = null
    screen.muted = true
    resolve?.(line)
  }
  readline.on('line', (line) => {
    if (waiting) deliver(line)
    else lines.push(line)
  })
  readline.on('close', () => {
    ended = true
    deliver(null)
  })
  readline.on('SIGINT', () => {
    const begun = readline.line !== ''
    lines.length = 0
    if (begun) {
      // note: readline has no call for this; to the end of the line, then delete to its start.
      readline.write(null, { ctrl: true, name: 'e' })
      readline.write(null, { ctrl: true, name: 'u' })
    }
    if (!begun || screen.muted) onInterrupt()
    if (waiting) readline.prompt()
  })
  return {
    readLine(prompt) {
      const typedAhead = lines.shift()
      if (typedAhead !== undefined) {
        output.write(`${prompt}${typedAhead}\n`)
        return Promise.resolve(typedAhead)
      }
      if (ended) return Promise.resolve(null)
      screen.muted = false
      readline.setPrompt(prompt)
      readline.prompt(true)
      return new Promise((resolve) => { waiting = resolve })
    },
    close: () => readline.close(),
    [Symbol.dispose]: () => readline.close()
  }
}

/** The terminal as readline sees it; silent while muted. */
class Screen extends Writable {
  muted = true
  readonly isTTY = true
  readonly #terminal: NodeJS.WriteStream

  constructor(terminal: NodeJS.WriteStream) {
    super({ decodeStrings: false })
    this.#terminal = terminal
    terminal.on('resize', () => this.emit('resize'))
  }

  get columns(): number {
    return this.#terminal.columns
  }

  override _write(chunk: string, _: BufferEncoding, done: () => void): void {
    if (!this.muted) this.#terminal.write(chunk)
    done()
  }
}
