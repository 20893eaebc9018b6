/** Index of the largest value, the lowest one among equals. */
export function argmax(logits: ArrayLike<number>, begin = 0, end = logits.length): number {
  let best = begin
  for (let i = begin + 1; i < end; i++) if ((logits[i] ?? NaN) > (logits[best] ?? NaN)) best = i
  return best - begin
}

/** |a - b| / |b| in the L2 norm. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`lengths ${a.length} and ${b.length} differ`)
  let error = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    const expected = b[i] ?? NaN
    error += ((a[i] ?? NaN) - expected) ** 2
    norm += expected ** 2
  }
  return Math.sqrt(error / norm)
}

/** Share of rows of V logits whose largest is the same one. */
export function topAgreement(a: ArrayLike<number>, b: ArrayLike<number>, V: number): number {
  const rows = a.length / V
  let equal = 0
  for (let r = 0; r < rows; r++) if (argmax(a, r * V, (r + 1) * V) === argmax(b, r * V, (r + 1) * V)) equal++
  return equal / rows
}
