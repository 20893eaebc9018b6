import * as assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Backend, ForwardRow, Sequence } from '../../lib/backend.js'
import { NanochatError } from '../../lib/errors.js'
import { GPT } from '../../lib/gpt.js'

export interface FakeOptions {
  vocabSize?: number
  sequenceLen?: number
  kvBytesPerToken?: number
  /** How long a pass takes; a function of the tokens in it where it is one. Passes run one after the other. */
  passMs?: number | ((tokens: number) => number)
  /** Throws, or not, before a pass computes anything. */
  fail?: (rows: readonly ForwardRow[]) => void
}

export interface FakePass { rows: { id: number, count: number, logits: ForwardRow['logits'] }[], aborted: boolean, hadSignal: boolean }

/**
 * A backend without a model: the logits are a pure function of a sequence's tokens. It follows scripts ("after this
 * prompt, these tokens") where one fits and pseudo-random logits elsewhere, and it fails the test when a sequence is in two
 * passes, used after dispose or changed while in a pass.
 */
export class FakeBackend implements Backend {
  readonly device = 'fake'
  readonly vocabSize: number
  readonly kvBytesPerToken: number
  readonly passes: FakePass[] = []
  readonly sequences: FakeSequence[] = []
  /** How often it was ended; its sequences can then only be disposed. */
  ended = 0
  readonly #options: FakeOptions
  readonly #scripts: { prompt: number[], tokens: number[] }[] = []
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: FakeOptions = {}) {
    this.#options = options
    this.vocabSize = options.vocabSize ?? 16
    this.kvBytesPerToken = options.kvBytesPerToken ?? 1
  }

  /** After `prompt`, the largest logits are those of `tokens`, one after the other. */
  script(prompt: ArrayLike<number>, tokens: ArrayLike<number>): void {
    this.#scripts.unshift({ prompt: Array.from(prompt), tokens: Array.from(tokens) })
  }

  get live(): number {
    return this.sequences.filter(({ disposed }) => !disposed).length
  }

  newSequence(): Sequence {
    return new FakeSequence(this, [])
  }

  async forward(rows: readonly ForwardRow[], { signal, out }: { signal?: AbortSignal | undefined, out?: Float32Array } = {}): Promise<Float32Array> {
    assert.ok(rows.length > 0, 'a pass has rows')
    const pass: FakePass = { rows: [], aborted: false, hadSignal: signal !== undefined }
    const sequences = rows.map(({ sequence, tokens, logits }) => {
      assert.ok(sequence instanceof FakeSequence && sequence.backend === this, 'a sequence of this backend')
      assert.ok(!sequence.disposed, 'not disposed')
      assert.ok(!sequence.inPass, 'in at most one pass')
      assert.ok(tokens.length > 0 && tokens.every((id) => id >= 0 && id < this.vocabSize), 'tokens in the vocabulary')
      sequence.inPass = true
      pass.rows.push({ id: sequence.id, count: tokens.length, logits })
      return sequence
    })
    this.passes.push(pass)
    const before = this.#last
    const work = (async () => {
      await before
      signal?.throwIfAborted()
      const { passMs = 0 } = this.#options
      const tokens = pass.rows.reduce((sum, { count }) => sum + count, 0)
      const ms = typeof passMs === 'function' ? passMs(tokens) : passMs
      if (ms > 0) await sleep(ms, undefined, signal ? { signal } : {}).catch(() => undefined)
      signal?.throwIfAborted()
      this.#options.fail?.(rows)
    })()
    this.#last = work.catch(() => undefined)
    try {
      await work
    } catch (error) {
      pass.aborted = true
      throw error
    } finally {
      for (const sequence of sequences) sequence.inPass = false
    }
    const wanted = rows.reduce((sum, { tokens, logits }) => sum + (logits === 'none' ? 0 : logits === 'last' ? 1 : tokens.length), 0)
    const result = out && out.length >= wanted * this.vocabSize ? out : new Float32Array(wanted * this.vocabSize)
    let at = 0
    rows.forEach(({ tokens, logits }, i) => {
      const { ids } = sequences[i] as FakeSequence
      tokens.forEach((id, t) => {
        ids.push(id)
        if (logits === 'all' || (logits === 'last' && t === tokens.length - 1)) result.set(this.logitsAfter(ids), this.vocabSize * at++)
      })
    })
    return result
  }

  /** What the next token's logits are after `ids`. */
  logitsAfter(ids: readonly number[]): Float32Array {
    let hash = 2166136261
    for (const id of ids) hash = Math.imul(hash ^ id, 16777619)
    const logits = Float32Array.from({ length: this.vocabSize }, (_, id) => {
      let mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b1), 0x85ebca6b)
      mixed = Math.imul(mixed ^ mixed >>> 15, 0xc2b2ae35)
      return ((mixed ^ mixed >>> 13) >>> 0) / 2 ** 30
    })
    const next = this.#scripted(ids)
    if (next !== undefined) logits[next] = 100
    return logits
  }

  #scripted(ids: readonly number[]): number | undefined {
    for (const { prompt, tokens } of this.#scripts) {
      const done = ids.length - prompt.length
      if (done >= 0 && done < tokens.length && prompt.every((id, i) => ids[i] === id) && ids.slice(prompt.length).every((id, i) => tokens[i] === id)) return tokens[done]
    }
    return undefined
  }
}

export class FakeSequence implements Sequence {
  readonly id: number
  readonly backend: FakeBackend
  readonly ids: number[]
  inPass = false
  disposed = false

  constructor(backend: FakeBackend, ids: number[]) {
    this.backend = backend
    this.ids = ids
    this.id = backend.sequences.push(this) - 1
  }

  get length(): number {
    if (this.backend.ended > 0) throw new NanochatError('ERR_DISPOSED', 'The backend has ended.')
    return this.ids.length
  }

  fork(): Sequence {
    this.#checkUsable()
    return new FakeSequence(this.backend, [...this.ids])
  }

  truncate(length: number): void {
    this.#checkUsable()
    assert.ok(length >= 0 && length <= this.ids.length, 'truncates to a position it holds')
    this.ids.length = length
  }

  dispose(): void {
    assert.ok(!this.inPass, 'not disposed in a pass')
    assert.ok(!this.disposed, 'disposed once')
    this.disposed = true
  }

  #checkUsable(): void {
    assert.ok(!this.disposed, 'not disposed')
    assert.ok(!this.inPass, 'not in a pass')
  }
}

/** A GPT over a fake backend. */
export function fakeModel(options: FakeOptions = {}): { backend: FakeBackend, model: GPT } {
  const backend = new FakeBackend(options)
  const model = GPT.create({
    backend,
    config: { generation: 'G6', sequenceLen: options.sequenceLen ?? 64, vocabSize: backend.vocabSize, nLayer: 1, nHead: 1, nKvHead: 1, nEmbd: 8, windowPattern: 'L' },
    device: 'fake', dtype: 'float32', numParams: 0, memoryBytes: 0,
    dispose: async () => { backend.ended++ }
  })
  return { backend, model }
}
