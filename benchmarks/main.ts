// npm run bench -- <command> [options]
import { NanochatError } from '../lib/errors.js'
import { runBenchmark } from './commands.js'

try {
  process.exitCode = await runBenchmark(process.argv.slice(2), 'npm run bench --')
} catch (error) {
  console.error(NanochatError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
}
