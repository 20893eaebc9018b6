// Loads the demo model on the device of the first argument and prints where it went, or the error, and all warnings.
import { setImmediate as eventLoopTurn } from 'node:timers/promises'
import { NanochatError } from '../../lib/errors.js'
import { loadModel, type LoadOptions } from '../../lib/load.js'

const warnings: string[] = []
process.removeAllListeners('warning')
process.on('warning', ({ name, message }) => { if (name === 'NanochatWarning') warnings.push(message) })
const outcome = { device: null as string | null, code: null as string | null, message: '', warnings }
try {
  await using loaded = await loadModel('demo', { device: process.argv[2] as LoadOptions['device'], threads: 1 })
  outcome.device = loaded.model.device
} catch (error) {
  outcome.code = NanochatError.is(error) ? error.code : 'none'
  outcome.message = String(error)
}
await eventLoopTurn()
console.log(JSON.stringify(outcome))
