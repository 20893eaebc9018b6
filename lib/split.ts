/**
 * The split pattern of every nanochat tokenizer, as its files spell it (MODEL.md 3). It decides where byte pairs may
 * merge; {@link pieceEnd} is the same rule as a scanner, because JavaScript's `\s` is another set and a backtracking
 * engine runs out of stack on a megabyte of spaces.
 */
export const SPLIT_PATTERN =
  '\'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+'

/**
 * Where the piece that starts at `start` ends, in UTF-16 units; `start < text.length`. Pieces cover the text without
 * gaps, and cutting a text into them takes time linear in its length. A lone surrogate counts as U+FFFD does. Letters
 * and numbers are those of the runtime's Unicode version (process.versions.unicode): a character younger than that of
 * the Python side may split there differently.
 */
export function pieceEnd(text: string, start: number): number {
  const first = text.charCodeAt(start)
  if (first === APOSTROPHE) {
    const end = contractionEnd(text, start + 1)
    if (end > 0) return end
  }
  const firstClass = classAt(text, start)
  if (firstClass === LETTER) return runEnd(text, start, LETTER)
  const second = start + widthAt(text, start)
  const secondClass = classAt(text, second)
  if (firstClass === NUMBER) return secondClass === NUMBER ? second + widthAt(text, second) : second
  if (secondClass === LETTER && first !== CR && first !== LF) return runEnd(text, second, LETTER)
  if (firstClass === OTHER) return newlinesEnd(text, runEnd(text, start, OTHER))
  if (first === SPACE && secondClass === OTHER) return newlinesEnd(text, runEnd(text, second, OTHER))
  return whitespaceEnd(text, start)
}

const LETTER = 1, NUMBER = 2, WHITESPACE = 3, OTHER = 4, END = 5
const LF = 0x0a, CR = 0x0d, SPACE = 0x20, APOSTROPHE = 0x27

/** `(?i:[sdmt]|ll|ve|re)` at `i`: the end of the match, or 0. */
function contractionEnd(text: string, i: number): number {
  // note: without regard to case, s is also U+017F; no other letter here has a third form
  if (/[sdmt\u017f]/i.test(text.charAt(i))) return i + 1
  return /^(?:ll|ve|re)$/i.test(text.slice(i, i + 2)) ? i + 2 : 0
}

function runEnd(text: string, i: number, wanted: number): number {
  while (classAt(text, i) === wanted) i += widthAt(text, i)
  return i
}

function newlinesEnd(text: string, i: number): number {
  while (isNewline(text, i)) i++
  return i
}

/** `\s*[\r\n]`, else `\s+(?!\S)`, else `\s+`. Every white space character is one UTF-16 unit. */
function whitespaceEnd(text: string, start: number): number {
  const end = runEnd(text, start, WHITESPACE)
  for (let i = end - 1; i >= start; i--) if (isNewline(text, i)) return i + 1
  return end === text.length ? end : Math.max(end - 1, start + 1)
}

function isNewline(text: string, i: number): boolean {
  const unit = text.charCodeAt(i)
  return unit === LF || unit === CR
}

function widthAt(text: string, i: number): number {
  return isPairAt(text, i, text.charCodeAt(i)) ? 2 : 1
}

function isPairAt(text: string, i: number, unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00
}

// Class of each code point, 0 = not asked for yet; filled in pages of 256.
const classes = new Uint8Array(0x110000)

function classAt(text: string, i: number): number {
  if (i >= text.length) return END
  const unit = text.charCodeAt(i)
  const codePoint = isPairAt(text, i, unit) ? 0x10000 + ((unit & 0x3ff) << 10) + (text.charCodeAt(i + 1) & 0x3ff) : unit
  return classes[codePoint] || classify(codePoint)
}

function classify(codePoint: number): number {
  const page = codePoint & ~0xff
  for (let c = page; c < page + 256; c++) {
    const char = String.fromCodePoint(c)
    // note: not \s, which has U+FEFF and lacks U+0085
    classes[c] = /\p{L}/u.test(char) ? LETTER : /\p{N}/u.test(char) ? NUMBER : /\p{White_Space}/u.test(char) ? WHITESPACE : OTHER
  }
  return classes[codePoint] ?? OTHER
}
