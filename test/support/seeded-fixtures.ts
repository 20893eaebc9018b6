// The seeded models of the fixtures (fixtures/README.md): what nanochat's own forward pass gave, and the bitwise contract at d12 shapes:
// head_dim 128, windows 512 and 2048.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { Backend, Sequence } from '../../lib/backend.js'
import type { ModelSpec, WeightDtype } from '../../lib/native.js'
import { argmax, relativeError, topAgreement } from './logits.js'
import { firstDifference } from './random-arrays.js'
import { append, formulaPrompt, rowOf, wholePass, withSeeded } from './seeded.js'

interface Fixture {
  config: { sequence_len: number, vocab_size: number, n_layer: number, n_head: number, n_kv_head: number, n_embd: number, window_pattern: string }
  prompt_length: number, prompt_head: number[], ids: number[], greedy_prompt_length: number, greedy_tokens: number[]
  positions: { position: number, argmax: number, top8: [number, number][], mean: number, l2: number, at_ids: number[] }[]
}

export const d4 = fixture('d4'), d12 = fixture('d12')

function fixture(name: string): { spec: ModelSpec, tokens: Int32Array, expected: Fixture } {
  const expected = JSON.parse(readFileSync(new URL(`../fixtures/seeded/${name}.json`, import.meta.url), 'utf8')) as Fixture
  const { sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd, window_pattern } = expected.config
  const spec: ModelSpec = { generation: 'G6', sequenceLen: sequence_len, vocabSize: vocab_size, nLayer: n_layer, nHead: n_head, nKvHead: n_kv_head, nEmbd: n_embd, windowPattern: window_pattern }
  return { spec, tokens: formulaPrompt(expected.prompt_length, vocab_size), expected }
}

/** Every recorded logit within 2e-4, every argmax equal. */
export function checkGolden(logits: Float32Array, { positions, ids }: Fixture, V: number): void {
  let worst = 0
  for (const { position, argmax: best, top8, mean, l2, at_ids } of positions) {
    const row = rowOf(logits, position, V)
    const compare = (id: number, value: number): void => { worst = Math.max(worst, Math.abs((row[id] ?? NaN) - value)) }
    ids.forEach((id, i) => compare(id, at_ids[i] ?? NaN))
    for (const [id, value] of top8) compare(id, value)
    assert.is(argmax(row), best, `argmax at ${position}`)
    const sum = row.reduce((a, b) => a + b), norm = Math.sqrt(row.reduce((a, b) => a + b * b, 0))
    assert.ok(Math.abs(sum / V - mean) <= 1e-5 && Math.abs(norm / l2 - 1) <= 1e-5, `mean ${sum / V} and norm ${norm} at ${position}`)
  }
  assert.ok(worst <= 2e-4, `largest |dlogit| ${worst}`)
}

type Rounded = Exclude<WeightDtype, 'float32'>

/** Of the logits of random weights from those in float32: a trained model's are nearer (docs/bench.md). */
const nearness: Record<Rounded, { relativeError: number, topAgreement: number }> = {
  bfloat16: { relativeError: 3e-2, topAgreement: 0.95 }, int8: { relativeError: 3e-2, topAgreement: 0.93 }, int4: { relativeError: 0.22, topAgreement: 0.6 },
}
const roundedTypes: readonly Rounded[] = ['bfloat16', 'int8', 'int4']

function checkNear(logits: Float32Array, expected: Float32Array, V: number, dtype: Rounded): void {
  const error = relativeError(logits, expected), agreement = topAgreement(logits, expected, V)
  assert.ok(error <= nearness[dtype].relativeError, `${dtype}: relative L2 error ${error}`)
  assert.ok(agreement >= nearness[dtype].topAgreement, `${dtype}: top-1 agreement ${agreement}`)
}

/** The `count` likeliest tokens after `prompt`, one by one. */
export async function greedy(backend: Backend, prompt: Int32Array, count: number): Promise<number[]> {
  const sequence = backend.newSequence(), tokens: number[] = []
  let logits = await append(backend, sequence, prompt, 'last')
  while (tokens.length < count) {
    tokens.push(argmax(logits))
    logits = await append(backend, sequence, Int32Array.of(tokens.at(-1) ?? 0), 'last')
  }
  sequence.dispose()
  return tokens
}

/** d4 on one instruction set: golden logits and greedy tokens in float32, the other types near them. */
export async function checkTypes(isa: string): Promise<void> {
  const { spec, tokens, expected } = d4
  const logits = await withSeeded(spec, { dtype: 'float32', isa }, async (backend) => {
    assert.equal(await greedy(backend, tokens.subarray(0, expected.greedy_prompt_length), expected.greedy_tokens.length), expected.greedy_tokens)
    return wholePass(backend, tokens)
  })
  checkGolden(logits, expected, spec.vocabSize)
  for (const dtype of roundedTypes) checkNear(await withSeeded(spec, { dtype, isa }, (backend) => wholePass(backend, tokens)), logits, spec.vocabSize, dtype)
}

/** Where chunks begin and end: around a page's edge and around both windows. */
const borders = [127, 128, 129, 511, 512, 513, 514, 515, 2047, 2048, 2049, 2050, 2100]

/** The prompt in chunks that end at `borders`; each chunk's last logits are those of the whole pass. Returns forks at the borders. */
async function checkChunks(backend: Backend, tokens: Int32Array, whole: Float32Array, label: string): Promise<Sequence[]> {
  const sequence = backend.newSequence(), forks: Sequence[] = []
  for (const border of borders) {
    const last = await append(backend, sequence, tokens.subarray(sequence.length, border), 'last')
    assert.is(firstDifference(last, rowOf(whole, border - 1, backend.vocabSize)), null, `${label}: the chunk that ends at ${border}`)
    forks.push(sequence.fork())
  }
  sequence.dispose()
  return forks
}

/** The forks, cut back by one token, take it again: one pass with rows of all depths. */
async function checkBatch(backend: Backend, forks: Sequence[], tokens: Int32Array, whole: Float32Array, label: string): Promise<void> {
  const rows = forks.map((fork) => {
    fork.truncate(fork.length - 1)
    return { sequence: fork, tokens: tokens.subarray(fork.length, fork.length + 1), logits: 'last' as const }
  })
  const prompts = [1, 40, 300].map((length) => ({ sequence: backend.newSequence(), tokens: tokens.subarray(0, length), logits: 'last' as const }))
  const logits = await backend.forward([...rows, ...prompts])
  for (const [r, { sequence }] of [...rows, ...prompts].entries()) {
    assert.is(firstDifference(rowOf(logits, r, backend.vocabSize), rowOf(whole, sequence.length - 1, backend.vocabSize)), null, `${label}: a row of length ${sequence.length} among 15 others`)
    sequence.dispose()
  }
}

/** Chunked = whole, forked = independent, alone = in a batch, 1 thread = 2, bit for bit; other types near float32. */
export async function checkContract(dtype: WeightDtype, float32Logits: Float32Array): Promise<void> {
  const { spec, tokens } = d12
  const whole = await withSeeded(spec, { dtype }, async (backend) => {
    const logits = dtype === 'float32' ? float32Logits : await wholePass(backend, tokens)
    await checkBatch(backend, await checkChunks(backend, tokens, logits, '2 threads'), tokens, logits, '2 threads')
    return logits
  })
  await withSeeded(spec, { dtype, threads: 1 }, async (backend) => {
    await checkBatch(backend, await checkChunks(backend, tokens, whole, '1 thread'), tokens, whole, '1 thread')
  })
  if (dtype !== 'float32') checkNear(whole, float32Logits, spec.vocabSize, dtype)
}
