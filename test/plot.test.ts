import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { kernelCases } from '../benchmarks/kernel-cases.js'

const plot = suite('npm run plot')
const dir = mkdtempSync(join(tmpdir(), 'nanochat-test-'))
const out = join(dir, 'plots')

plot.after(() => rmSync(dir, { recursive: true }))

const draw = (...args: string[]): { status: number | null, stderr: string } => spawnSync(process.execPath, ['scripts/plot.mjs', ...args, '-o', out], { encoding: 'utf8' })
const textOf = (name: string): string[] => [...readFileSync(join(out, name), 'utf8').matchAll(/<text[^>]*>([^<]+)<\/text>/g)].map(([, text = '']) => text)

function written(name: string, document: object): string {
  const path = join(dir, name)
  writeFileSync(path, `a table before it\n${JSON.stringify(document)}\n`)
  return path
}

const decode = (depth: number, dtype: string, threads: number, rates: number[]): object => ({
  benchmark: 'decode',
  rows: rates.map((tokensPerSecond, i) => ({ depth, dtype, threads, batch: 2 ** i, tokensPerSecond, roofTokensPerSecond: 2 * tokensPerSecond, percentOfRoof: 50 + depth + i }))
})

plot('draws decode documents of several depths and types, with the most threads', () => {
  const { status, stderr } = draw(
    written('a.txt', decode(12, 'bfloat16', 2, [100, 190, 350])), written('b.txt', decode(12, 'float32', 2, [50, 90])),
    written('c.txt', decode(20, 'bfloat16', 2, [40, 70])), written('d.txt', decode(26, 'bfloat16', 1, [20, 30])))
  assert.is(status, 0, stderr)
  const batch = textOf('decode-batch.svg')
  assert.ok(batch.some((text) => text.includes('tokens per second, all rows, 2 threads')), batch.join('|'))
  assert.equal(batch.filter((text) => /^d\d+$/.test(text)).sort(), ['d12', 'd12', 'd20'])
  assert.is(batch.filter((text) => text === 'roof').length, 3)
  const roof = textOf('decode-roof.svg')
  assert.equal(roof.filter((text) => /^\d\d$/.test(text) && Number(text) % 20 !== 0).sort(), ['62', '62', '70'], 'the smallest batch of each')
  assert.match(readFileSync(join(out, 'decode-roof.svg'), 'utf8'), /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/)
  assert.not.ok(existsSync(join(out, 'decode-step.svg')))
})

plot('adds up a decode step from a kernels document', () => {
  const rows = [...kernelCases(['float32', 'bfloat16'])].map(({ kernel, model, rows, shape, dtype, inCache }) => ({
    kernel, model, rows, shape, dtype, isa: 'plain', us: dtype === 'float32' ? 20 : 10, percentOfPeak: 50, bound: inCache ? 'cache' : 'memory'
  }))
  const { status, stderr } = draw(written('kernels.txt', { benchmark: 'kernels', rows }))
  assert.is(status, 0, stderr)
  const texts = textOf('decode-step.svg')
  const calls = 4 * 12 + 1 + 12 + 24 + 26 + 14 + 6 + 12
  assert.ok(texts.includes(`float32, together ${(20 * calls / 1000).toFixed(1)} ms`), texts.join('|'))
  assert.ok(texts.includes(`bfloat16, together ${((10 * calls + 10 * (24 + 14)) / 1000).toFixed(1)} ms`), 'rotary and mix are float32 in both')
  for (const kernel of ['qkv', 'lm_head', 'decode attention', 'appendKvCache']) assert.ok(texts.includes(kernel), kernel)

  const part = draw(written('part.txt', { benchmark: 'kernels', rows: rows.filter(({ kernel }) => kernel !== 'mix') }))
  assert.is(part.status, 2)
  assert.match(part.stderr, /Expected a row of mix for d12 in the kernels document/)
})

plot('says what is wrong with its arguments', () => {
  for (const [args, message] of [[[], /npm run plot/], [[join(dir, 'none')], /last line is a JSON document/], [[written('load.txt', { benchmark: 'load', rows: [{}] })], /found load/], [['--size'], /npm run plot/]] as const) {
    const { status, stderr } = draw(...args)
    assert.is(status, 2)
    assert.match(stderr, message)
  }
})

plot.run()
