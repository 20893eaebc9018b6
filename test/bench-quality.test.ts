// alone: thousands of short passes, each of which waits for both threads
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { matrixElements, depthSpec } from '../benchmarks/cost.js'
import { LogitError } from '../benchmarks/logit-error.js'
import { run, type QualityRow } from '../benchmarks/quality.js'
import { NanochatError } from '../lib/errors.js'

const quality = suite('bench quality')

quality('divergence, agreement and perplexity are what their definitions say', () => {
  const error = new LogitError(), log = Math.log
  const expected = Float32Array.of(log(0.5), log(0.5), 7, 7), logits = Float32Array.of(log(0.25), log(0.75), 3, 3 + log(3))
  error.add(logits, expected, Int32Array.of(0, 0), () => true)
  const kl = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
  assert.is(error.positions, 2)
  assert.ok(Math.abs(error.meanKl - kl) < 1e-6 && Math.abs(error.largestKl - kl) < 1e-6, `${error.meanKl}`)
  assert.is(error.topAgreement, 0, 'the first of equals is the most likely')
  assert.ok(Math.abs(error.perplexityRatio - 2) < 1e-6, `${error.perplexityRatio}: the one next token is half as likely`)
  error.add(expected, expected, Int32Array.of(1, 1), (t) => t === 0)
  assert.is(error.positions, 3)
  assert.ok(Math.abs(error.meanKl - kl * 2 / 3) < 1e-6)
  assert.ok(Math.abs(error.topAgreement - 1 / 3) < 1e-12)
  assert.ok(Math.abs(error.perplexityRatio - Math.SQRT2) < 1e-6)
})

quality('a seeded model has no conversations', async () => {
  const { rows: [row] } = await run(['--depth', '2', '--dtype', 'int8', '--texts', '1', '--tokens', '20']) as { rows: QualityRow[] }
  assert.equal(row?.texts.map(({ text, positions }) => [text, positions]), [['written', 20]])
  assert.is(row?.answers, null)
  assert.is(row?.bitsPerWeight, 8.25)
  assert.is(matrixElements(depthSpec(2)), 2 * 12 * 128 * 128 + 32768 * 128)
})

quality('names a wrong option', async () => {
  for (const args of [['--dtype', 'float32'], ['--depth', '3'], ['--depth', '2', '--model', 'models/demo'], ['--texts', '0'], ['--tokens', '1'], ['-r', '2']]) {
    try {
      await run(args)
      assert.unreachable(args.join(' '))
    } catch (error) {
      assert.ok(NanochatError.is(error) && error.code === 'ERR_INVALID_ARG', args.join(' '))
    }
  }
})

quality.run()
