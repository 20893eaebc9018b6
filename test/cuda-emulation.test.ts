// The CUDA kernels on the CPU: built with the emulation of the device, each against its twin. Campaigns: whole models
// through the addon (cuda-emulation-models.long.ts), and the same under AddressSanitizer (cuda-emulation.long.ts).
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { buildEmulation, missingTool, runProgram } from './support/cuda-emulation.js'

const test = suite('cuda emulation')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation: ${missing}`)
  test.skip('kernels and models', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: false }))

  test('every kernel against its fp64 twin', () => {
    const { status, output } = runProgram('nc_cuda_emulation_test')
    console.log(output.trim().split('\n').map((line) => `  ${line}`).join('\n'))
    assert.is(status, 0, output)
    assert.match(output, /\n\d{4,} checks, 0 failures/)
  })

  test('the bench program runs', () => {
    const { status, output } = runProgram('nc_cuda_emulation_bench', ['2', '1,3', '20', '10'])
    assert.is(status, 0, output)
    const last = JSON.parse(output.trim().split('\n').at(-1) ?? '') as { rows: { ms: number }[] }
    assert.is(last.rows.length, 3)
  })
}

test.run()
