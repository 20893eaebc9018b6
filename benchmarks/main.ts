// npm run bench -- <command> [options]: those of the package, and the comparison with others.
import { NanochatError } from '../lib/errors.js'
import { runBenchmark } from './commands.js'

const compare = { summary: 'ours beside llama.cpp and ONNX Runtime, the same shapes in one run', load: () => import('./compare/compare.js') }

try {
  process.exitCode = await runBenchmark(process.argv.slice(2), 'npm run bench --', { compare })
} catch (error) {
  console.error(NanochatError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
}
