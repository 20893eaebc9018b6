/** All cases, or one in TEST_ONE_IN of them: emulated processors are a hundred times slower (scripts/test-emulated.mjs). */
export function someOf<T>(cases: readonly T[]): T[] {
  const oneIn = Number(process.env.TEST_ONE_IN ?? 1)
  return cases.filter((_, i) => i % oneIn === 0)
}
