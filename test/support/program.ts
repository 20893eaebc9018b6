// How a test starts a program beside it, in a process or a worker: compiled where the tests are (test:sanitized), else through tsx.
import { fileURLToPath } from 'node:url'

const isCompiled = import.meta.url.endsWith('.js')

/** The path of `name`, relative to test/ and without its ending. */
export function programPath(name: string): string {
  return fileURLToPath(new URL(`../${name}.${isCompiled ? 'js' : 'ts'}`, import.meta.url))
}

/** What node needs before the path. */
export const loader = isCompiled ? [] : ['--import', 'tsx']

/** What a worker for `module` begins with; its workerData has that module, too. */
export function workerEntry(module: string): URL {
  return new URL(isCompiled ? module : './ts-worker.mjs', import.meta.url)
}
