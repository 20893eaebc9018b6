// The CUDA kernels on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer: an index beyond an array, on the
// device or in shared memory, ends the program.
import { randomInt } from 'node:crypto'
import { suite } from 'uvu'
import { buildEmulation, checkKernels, missingTool } from './support/cuda-emulation.js'

const test = suite('cuda emulation, sanitized')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation, sanitized: ${missing}`)
  test.skip('kernels', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: true }))

  test('kernels and models touch nothing that is not theirs', () => checkKernels([String(randomInt(2 ** 32)), 'once'], { sanitize: true }))
}

test.run()
