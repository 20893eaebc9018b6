/** What `logits` differ from `expected`, both (T, V), over positions of texts; `add` once for each text. */
export class LogitError {
  positions = 0
  largestKl = 0
  #kl = 0
  #sameTop = 0
  #surprise = 0                    // of the next tokens, nats more than expected
  #next = 0

  /** `counts(t)` says whether position t, which predicts ids[t + 1], is one of those. */
  add(logits: Float32Array, expected: Float32Array, ids: Int32Array, counts: (t: number) => boolean): void {
    const V = expected.length / ids.length
    for (let t = 0; t < ids.length; t++) {
      if (!counts(t)) continue
      const p = logSoftmax(expected.subarray(t * V, (t + 1) * V)), q = logSoftmax(logits.subarray(t * V, (t + 1) * V))
      let kl = 0, topP = 0, topQ = 0
      for (let i = 0; i < V; i++) {
        const logP = p[i] as number, logQ = q[i] as number
        kl += Math.exp(logP) * (logP - logQ)
        if (logP > (p[topP] as number)) topP = i
        if (logQ > (q[topQ] as number)) topQ = i
      }
      this.positions++
      this.#kl += kl
      this.largestKl = Math.max(this.largestKl, kl)
      if (topP === topQ) this.#sameTop++
      const next = ids[t + 1]
      if (next === undefined) continue
      this.#next++
      this.#surprise += (p[next] as number) - (q[next] as number)
    }
  }

  /** Kullback-Leibler divergence from the expected distribution, nats. */
  get meanKl(): number { return this.#kl / this.positions }
  /** Share of positions with the same most likely token. */
  get topAgreement(): number { return this.#sameTop / this.positions }
  /** Perplexity of the next tokens over the expected one. */
  get perplexityRatio(): number { return Math.exp(this.#surprise / this.#next) }
}

function logSoftmax(logits: Float32Array): Float64Array {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity)
  let total = 0
  for (const logit of logits) total += Math.exp(logit - most)
  return Float64Array.from(logits, (logit) => logit - most - Math.log(total))
}
