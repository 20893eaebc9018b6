/** Watches a stream of text for stop strings. */
export interface StopMatcher {
  /** Adds text. `text` may be shown: it is not part of a match and cannot become one. After a match nothing follows. */
  write(text: string): { text: string, matched: boolean }
  /** What was held back because it might have become a match. */
  end(): string
}

/**
 * A matcher for `stops` (each non-empty) that does not depend on how the text is cut into pieces: the match that ends
 * first counts, of those the one that starts first. It holds back only the longest tail that a stop string begins with.
 */
export function stopMatcher(stops: readonly string[]): StopMatcher {
  let held = ''
  return {
    write(text) {
      const whole = held + text
      const match = firstMatch(whole, stops)
      held = match ? '' : whole.slice(whole.length - tailLength(whole, stops))
      return { text: whole.slice(0, match ? match.start : whole.length - held.length), matched: match !== null }
    },
    end() {
      const text = held
      held = ''
      return text
    }
  }
}

function firstMatch(text: string, stops: readonly string[]): { start: number, end: number } | null {
  let first: { start: number, end: number } | null = null
  for (const stop of stops) {
    const start = text.indexOf(stop)
    if (start < 0) continue
    const end = start + stop.length
    if (!first || end < first.end || (end === first.end && start < first.start)) first = { start, end }
  }
  return first
}

/** The length of the longest tail of `text` that a stop string begins with. */
function tailLength(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
      if (text.endsWith(stop.slice(0, n))) longest = n
    }
  }
  return longest
}
