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
  const matchers = stops.map((stop) => ({ stop, fallbacks: fallbacksOf(stop), matched: 0 }))
  let held = ''
  return {
    write(text) {
      const whole = held + text
      for (let i = 0; i < text.length; i++) {
        let longest = 0
        for (const matcher of matchers) {
          const { stop, fallbacks } = matcher
          while (matcher.matched > 0 && stop.charCodeAt(matcher.matched) !== text.charCodeAt(i)) matcher.matched = fallbacks[matcher.matched - 1] as number
          if (stop.charCodeAt(matcher.matched) === text.charCodeAt(i)) matcher.matched++
          if (matcher.matched === stop.length) longest = Math.max(longest, stop.length)
        }
        if (longest > 0) {
          const end = held.length + i + 1
          held = ''
          return { text: whole.slice(0, end - longest), matched: true }
        }
      }
      held = whole.slice(whole.length - matchers.reduce((most, { matched }) => Math.max(most, matched), 0))
      return { text: whole.slice(0, whole.length - held.length), matched: false }
    },
    end() {
      const text = held
      held = ''
      for (const matcher of matchers) matcher.matched = 0
      return text
    }
  }
}

/** For each beginning of `stop`, the length of the longest shorter one that it ends with (Knuth, Morris, Pratt): where a match goes on after a character that differs. */
function fallbacksOf(stop: string): Int32Array {
  const fallbacks = new Int32Array(stop.length)
  for (let i = 1, matched = 0; i < stop.length; i++) {
    while (matched > 0 && stop.charCodeAt(matched) !== stop.charCodeAt(i)) matched = fallbacks[matched - 1] as number
    if (stop.charCodeAt(matched) === stop.charCodeAt(i)) matched++
    fallbacks[i] = matched
  }
  return fallbacks
}
