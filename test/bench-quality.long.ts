// alone: thousands of short passes, each of which waits for both threads
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run, type QualityRow } from '../benchmarks/quality.js'

const quality = suite('bench quality of the demo model')

quality('the demo model: more bits, less divergence; the recorded answers', async () => {
  const { benchmark, rows } = await run(['--dtype', 'int8,int4', '--texts', '2', '--tokens', '100']) as { benchmark: string, rows: QualityRow[] }
  assert.is(benchmark, 'quality')
  assert.equal(rows.map(({ dtype, bitsPerWeight }) => [dtype, bitsPerWeight]), [['int8', 8.25], ['int4', 141 / 28]])
  for (const [i, { texts, answers, dtype }] of rows.entries()) {
    assert.equal(texts.map(({ text }) => text), ['written', 'conversations', 'answers'])
    assert.is(texts[0]?.positions, 200)
    for (const [t, { meanKl, largestKl, topAgreement, perplexityRatio }] of texts.entries()) {
      const bound = [{ kl: 1e-3, top: 0.99 }, { kl: 5e-2, top: 0.93 }][i]
      assert.ok(meanKl > 0 && meanKl < (bound?.kl ?? 0) && meanKl <= largestKl, `${dtype} KL ${meanKl}`)
      assert.ok(meanKl > (rows[i - 1]?.texts[t]?.meanKl ?? 0), `${dtype} KL ${meanKl}`)
      assert.ok(topAgreement >= (bound?.top ?? 1) && topAgreement <= 1, `${dtype} top-1 ${topAgreement}`)
      assert.ok(Math.abs(perplexityRatio - 1) < 0.05, `${dtype} perplexity ${perplexityRatio}`)
    }
    assert.is(answers?.asked, 76)
    if (dtype !== 'int4') assert.equal([answers?.sameTokens, answers?.sameText], [76, 76])
    else assert.ok((answers?.sameTokens ?? 0) >= 74 && (answers?.sameText ?? 0) >= 74, `${dtype} ${JSON.stringify(answers)}`)
  }
})

quality.run()
