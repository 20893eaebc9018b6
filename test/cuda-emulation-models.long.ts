// Whole models through the addon on the emulated CUDA device (test/support/cuda-models.ts).
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { buildEmulation, missingTool, runModels } from './support/cuda-emulation.js'

const test = suite('cuda emulation, models')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation, models: ${missing}`)
  test.skip('models', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: false }))

  test('whole models of every generation, through the addon', async () => {
    const { status, output } = await runModels()
    console.log(output.trim())
    assert.is(status, 0, output)
    assert.match(output, /Passed:\s+(?:3[89]|[4-9]\d)/)
  })
}

test.run()
