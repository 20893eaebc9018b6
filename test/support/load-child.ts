// Loads the model in the directory of the first argument with the dtype of the second and prints its memory, in bytes.
import { readFileSync } from 'node:fs'
import { loadGPT } from '../../lib/load.js'

function statusBytes(key: string): number {
  const line = readFileSync('/proc/self/status', 'utf8').split('\n').find((text) => text.startsWith(`${key}:`)) ?? ''
  return Number(line.replace(/\D+/g, '')) * 1024
}

const [dir = '', dtype] = process.argv.slice(2)
const before = statusBytes('VmRSS')
const model = await loadGPT(dir, { dtype: dtype === 'float32' ? 'float32' : 'bfloat16' })
console.log(JSON.stringify({ before, peak: statusBytes('VmHWM'), resident: statusBytes('VmRSS'), memoryBytes: model.memoryBytes }))
await model[Symbol.asyncDispose]()
