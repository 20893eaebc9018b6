// On the emulated CUDA device: whole models through the addon (test/support/cuda-models.ts), and the kernels with their threads
// in other orders and with other numbers of processors.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { buildEmulation, checkKernels, missingTool, runModels } from './support/cuda-emulation.js'

const test = suite('cuda emulation, models')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation, models: ${missing}`)
  test.skip('models and kernels', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: false }))

  test('whole models of every generation, through the addon', async () => {
    const { status, output } = await runModels()
    console.log(output.trim())
    assert.is(status, 0, output)
    assert.match(output, /Passed:\s+(?:3[89]|[4-9]\d)/)
  })

  test('every kernel in every order of the threads', () => checkKernels([]))
}

test.run()
