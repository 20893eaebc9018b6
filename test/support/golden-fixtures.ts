// nanochat's own checkpoints, logits and tokens of every generation (fixtures/README.md).
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'

export interface Reference { prompt: number[], greedy_tokens: number[], rope_tables?: string }

export const fixtures = fileURLToPath(new URL('../fixtures/nanochat/', import.meta.url))
export const withBf16Rope = ['g1a-initial', 'g2-origmod-cudatag', 'g3-window-s1024', 'g4a-mid-nowindow', 'g4a-ve32-s1024']
export const others = ['g5-auto1', 'g6-auto2', 'g6-auto2-s1024', 'g6-mha-SSL', 'hf-nanochat']

export function reference(name: string): Reference {
  return JSON.parse(readFileSync(`${fixtures}${name}/reference.json`, 'utf8')) as Reference
}

export function storedLogits(name: string, file: string): Float32Array {
  const bytes = readFileSync(`${fixtures}${name}/${file}`)
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
}

export function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.is(a.length, b.length)
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - (b[i] ?? NaN))), 0)
}
