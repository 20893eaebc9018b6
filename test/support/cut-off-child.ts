// Cuts off a file while this process has it mapped, and prints what came of it. With two arguments: a packed file in use, which is
// then replaced by the second; with one: the .pt in that directory, at the first progress of its conversion.
import { readdirSync, renameSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { NanochatError } from '../../lib/errors.js'
import { loadGPT } from '../../lib/load.js'

const [path = '', whole] = process.argv.slice(2)
const outcome = (promise: Promise<unknown>, success: string): Promise<string> => promise.then(() => success, (error: unknown) => NanochatError.is(error) ? error.code : String(error))

if (whole !== undefined) {
  const model = await loadGPT(path)
  const outcomes = [await outcome(model.forward([1, 2, 3]), 'ok')]
  truncateSync(path, 4096)
  for (const ids of [[4], [2000, 1]]) outcomes.push(await outcome(model.forward(ids), 'ok'))
  await model[Symbol.asyncDispose]()
  renameSync(whole, path)
  const again = await loadGPT(path)
  outcomes.push(await outcome(again.forward([4]), 'restored'))
  await again[Symbol.asyncDispose]()
  console.log(JSON.stringify(outcomes))
} else {
  const file = join(path, readdirSync(path).find((name) => name.endsWith('.pt')) ?? '')
  let isCut = false
  const onProgress = (): void => {
    if (!isCut) truncateSync(file, 1 << 20)
    isCut = true
  }
  console.log(JSON.stringify([await outcome(loadGPT(path, { onProgress, threads: 1, dtype: 'int4' }), 'loaded')]))
}
