import { stopMatcher } from './stop.js'
import type { Tokenizer } from './tokenizer.js'

/** The visible text of one row, token by token, up to a stop string. */
export interface VisibleText {
  /**
   * Adds the row's `index`-th output token. `text` can be shown now; `stopFrom` is null, or, when a stop string is
   * complete, the index of the first token that holds part of it.
   */
  write(id: number, index: number): { text: string, stopFrom: number | null }
  /** Ends a stretch of text, at a block or the end of the row: what was held back. Stop strings do not reach across. */
  end(): string
}

/** Text comes in whole characters; what a stop string may begin with is held back until it is decided. */
export function visibleText(tokenizer: Tokenizer, stops: readonly string[]): VisibleText {
  const matcher = stopMatcher(stops)
  let decoder = tokenizer.decoder()
  let decoded = 0, shown = 0                   // characters of this stretch
  let ends: { index: number, end: number }[] = []   // of this stretch's tokens: characters decoded up to and with them

  return {
    write(id, index) {
      const piece = decoder.write(id)
      decoded += piece.length
      if (stops.length > 0) ends.push({ index, end: decoded })
      const { text, matched } = matcher.write(piece)
      shown += text.length
      return { text, stopFrom: matched ? firstTokenAfter(shown, ends) : null }
    },
    end() {
      const text = matcher.end() + decoder.end()
      decoder = tokenizer.decoder()
      decoded = shown = 0
      ends = []
      return text
    }
  }
}

/** The first token with a part, be it an incomplete character, behind the first `shown` characters. */
function firstTokenAfter(shown: number, ends: readonly { index: number, end: number }[]): number {
  const kept = ends.findLast(({ end }, i) => end <= shown && end !== ends[i - 1]?.end && end > 0)
  const first = kept ? ends.find(({ index }) => index > kept.index) : ends[0]
  return (first ?? ends.at(-1))?.index ?? 0
}
