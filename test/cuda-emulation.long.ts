// The CUDA kernels on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer: an index beyond an array, on the
// device or in shared memory, ends the program.
import { randomInt } from 'node:crypto'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { buildEmulation, missingTool, runProgram } from './support/cuda-emulation.js'

const test = suite('cuda emulation, sanitized')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation, sanitized: ${missing}`)
  test.skip('kernels', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: true }))

  test('kernels and models touch nothing that is not theirs', () => {
    const { status, output } = runProgram('nc_cuda_emulation_test', [String(randomInt(2 ** 32)), 'once'], { sanitize: true })
    console.log(output.trim().split('\n').map((line) => `  ${line}`).join('\n'))
    assert.is(status, 0, output)
    assert.match(output, /\n\d{4,} checks, 0 failures/)
  })
}

test.run()
