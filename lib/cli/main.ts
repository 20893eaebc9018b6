#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import binding from '../binding.cjs'
import { NanochatError } from '../errors.js'
import { parseCommandLine, wrongUsage, type Command } from './args.js'
import { chatInTerminal } from './chat.js'
import { demoQuestions } from './demo.js'
import { doctor } from './doctor.js'
import { inspect } from './inspect.js'
import { answerOnce, continueText, readStdin } from './once.js'
import { helpText } from './options.js'
import { quantize } from './quantize.js'
import { serve } from './serve.js'
import { isInteractive, painter, withoutControls } from './terminal.js'

/** Runs a request to its end. */
async function run(argv: readonly string[]): Promise<void> {
  const request = parseCommandLine(argv)
  if (request.name === 'help') process.stdout.write(helpText(request.of))
  else if (request.name === 'version') process.stdout.write(`${version()}\n`)
  else if (request.name === 'bench') process.exitCode = await (await import('../../benchmarks/commands.js')).runBenchmark(request.args, 'nanochat-node bench')
  else if (request.name === 'inspect') await inspect(request)
  else if (request.name === 'quantize') await quantize(request)
  else if (request.name === 'serve') await serve(request)
  else if (request.name === 'doctor') await doctor(request)
  else if (request.name === 'generate') await continueText(request, request.prompt ?? await readStdin())
  else await talk(request)
}

async function talk(command: Command): Promise<void> {
  if (command.prompt !== null) {
    if (command.prompt.trim() === '') throw wrongUsage('Expected a question but received an empty text.')
    return answerOnce(command, [command.prompt.trim()], false)
  }
  if (isInteractive()) {
    if (command.json) throw wrongUsage('--json goes with a question, not with the interactive chat.')
    return chatInTerminal(command)
  }
  if (command.name === 'demo') return answerOnce(command, demoQuestions, true)
  return answerOnce(command, [(await readStdin()).trim()], false)
}

function version(): string {
  const { version } = JSON.parse(readFileSync(join(binding.packageRoot, 'package.json'), 'utf8')) as { version: string }
  return version
}

/** One line on stderr; 2 for wrong usage, 1 for everything else. */
function fail(error: unknown): void {
  const paint = painter(process.stderr)
  const code = NanochatError.is(error) ? error.code : null
  const message = `${code === null ? '' : `${code}: `}${error instanceof Error ? error.message : String(error)}`
  const hint = code === 'ERR_CHECKPOINT_NOT_FOUND' ? ' (--model takes a directory; nanochat-node demo needs none.)' : ''
  process.stderr.write(`${paint('error', 'error:')} ${withoutControls(message.replace(/\s*\n\s*/g, ' '))}${hint}\n`)
  if (process.env.DEBUG && error instanceof Error) process.stderr.write(`${withoutControls(error.stack ?? '')}\n`)
  process.exitCode = code === 'ERR_INVALID_ARG' ? 2 : 1
}

// Whoever reads has gone (`| head -1`): no reason to go on, and none to complain.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') fail(error)
    process.exit()
  })
}
process.removeAllListeners('warning')
process.on('warning', ({ message }) => { process.stderr.write(`warning: ${withoutControls(message)}\n`) })

run(process.argv.slice(2)).catch(fail)
