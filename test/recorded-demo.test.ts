// alone: it types at a terminal and waits for answers
import { readFileSync, statSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readSvg, recordDemo, svgOf, textOf } from '../scripts/record-demo.js'
import { hasTerminal } from './support/cli.js'

const file = new URL('../docs/demo.svg', import.meta.url)
const svg = readFileSync(file, 'utf8')
const demo = suite('recorded demo')

demo('is small, animated, and describes itself', () => {
  assert.ok(statSync(file).size < 100_000)
  const [, description = ''] = /<desc>([^<]*)<\/desc>/.exec(svg) ?? []
  assert.is(description.replaceAll('&gt;', '>'), textOf(readSvg(svg)))
  const shown = new Set([...svg.matchAll(/animation-name:(t\d+)/g)].map(([, name]) => name))
  const timed = [...svg.matchAll(/@keyframes (t\d+)\{0%,([\d.]+)%/g)].map(([, name, percent]) => ({ name, percent: Number(percent) }))
  assert.equal(timed.map(({ name }) => name).filter((name) => !shown.has(name)), [])
  assert.is(timed.length, shown.size)
  assert.ok(timed.length > 50 && timed.every(({ percent }, i) => percent <= 100 && percent >= (timed[i - 1]?.percent ?? 0)))
})

if (!hasTerminal) {
  console.log('SKIP the recorded demo against a run of today: it needs python3 with the pty module')
  demo.skip('is what the command line prints', () => {})
} else {
  demo('is what the command line prints', async () => {
    const today = await recordDemo(0)
    assert.is(textOf(today), textOf(readSvg(svg)), 'run `npm run record`')
    assert.is(textOf(readSvg(svgOf(today))), textOf(today))
    for (const line of ['>>> 1234 * 5678', '7006652', 'The letter r appears 3 times in strawberry.']) assert.ok(textOf(today).split('\n').includes(line), line)
  })
}

demo.run()
