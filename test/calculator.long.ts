import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { useCalculator } from '../lib/calculator.js'

const differential = suite('calculator against python3')
const python = spawnSync('python3', ['--version'], { encoding: 'utf8' })
const count = 100_000

if (!/^Python 3\.11\./.test(python.stdout ?? '')) {
  console.log(`SKIP calculator against python3: needs version 3.11, whose tokenizer is followed; found ${(python.stdout ?? '').trim() || 'none'}`)
  differential.skip('random expressions give what Python gives', () => {})
} else {
  differential(`${count} random expressions give what Python gives`, () => {
    const dir = mkdtempSync(join(tmpdir(), 'nanochat-calculator-'))
    try {
      const out = join(dir, 'vectors.json')
      const made = spawnSync('python3', ['scripts/make-calculator-vectors.py', '--seed', '2026', '--count', String(count), '--out', out], { encoding: 'utf8' })
      assert.is(made.status, 0, made.stderr)
      const vectors = JSON.parse(readFileSync(out, 'utf8')) as [string, string | null][]
      assert.ok(vectors.length > count * 0.9)
      const wrong = vectors.filter(([expr, expected]) => useCalculator(expr) !== expected)
      assert.equal(wrong.map(([expr, expected]) => ({ expr, expected, actual: useCalculator(expr) })).slice(0, 10), [])
    } finally {
      rmSync(dir, { recursive: true })
    }
  })
}

differential.run()
