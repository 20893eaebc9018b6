import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** Every page, as its path in the repository. */
export const pages = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)]

/** A block of code; `line` counts from 1. */
export interface Block { page: string, line: number, language: string, code: string }

export function textOfPage(page: string): string {
  return readFileSync(join(root, page), 'utf8')
}

const startsCommand = /^(?:[A-Z_a-z]+=\S+ )*(?:npm|npx|node|bash|apt-get|cmake|cat|git|curl|python3|scripts\/\S+|\.ci\/\S+)(?: |$)/

/** The code blocks of a page: between fences, or indented by four blanks after an empty line; those are commands or plain text. */
export function blocksOf(page: string): Block[] {
  const blocks: Block[] = []
  const lines = textOfPage(page).split('\n')
  for (let at = 0; at < lines.length; at++) {
    const fence = /^```(\S*)$/.exec(lines[at] ?? '')
    if (fence) {
      const end = lines.indexOf('```', at + 1)
      if (end < 0) throw new Error(`${page}:${at + 1}: a fence that does not end`)
      blocks.push({ page, line: at + 1, language: fence[1] ?? '', code: `${lines.slice(at + 1, end).join('\n')}\n` })
      at = end
    } else if (/^ {4}\S/.test(lines[at] ?? '') && (lines[at - 1] ?? '') === '') {
      let end = at
      while (end < lines.length && /^(?: {4}|$)/.test(lines[end] ?? '')) end++
      const code = lines.slice(at, end).map((line) => line.slice(4)).join('\n').trimEnd()
      blocks.push({ page, line: at + 1, language: startsCommand.test(code) ? 'sh' : 'text', code: `${code}\n` })
      at = end - 1
    }
  }
  return blocks
}

/** Commands of shell blocks, one by one: without comments, parts of a line between `&&` and `;` apart. */
export function commandsOf(blocks: readonly Block[]): { where: string, command: string }[] {
  return blocks.filter(({ language }) => language === 'sh').flatMap(({ page, line, code }) => code.split('\n').flatMap((text, i) =>
    text.replace(/(?:^|\s+)#.*$/, '').split(/\s*(?:&&|;)\s*/).filter((command) => command !== '').map((command) => ({ where: `${page}:${line + 1 + i}`, command }))))
}
