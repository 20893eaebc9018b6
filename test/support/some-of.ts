/** Emulated and sanitized runs take one in so many of a test's cases: they are up to a hundred times slower (scripts/test-emulated.mjs). */
const oneIn = Number(process.env.TEST_ONE_IN ?? 1)

/** The first case and every `nth` after it; by default all, or as TEST_ONE_IN says. */
export function someOf<T>(cases: readonly T[], nth = oneIn): T[] {
  return cases.filter((_, i) => i % nth === 0)
}

/** All cases, or the short ones. */
export function shortOf<T>(cases: readonly T[], isShort: (one: T) => boolean): T[] {
  return cases.filter((one) => oneIn === 1 || isShort(one))
}
