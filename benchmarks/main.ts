// npm run bench -- <command> [options]: every command prints tables while it runs and one JSON document as its last line.
import { NanochatError } from '../lib/errors.js'

type Command = { summary: string, load: () => Promise<{ run: (args: string[]) => Promise<unknown> }> }

const commands: Record<string, Command> = {
  decode: { summary: 'decode and prefill speed against the measured roof of this machine', load: () => import('./decode.js') },
  compare: { summary: 'decode and prefill beside llama.cpp and ONNX Runtime, from npm', load: () => import('./compare/compare.js') },
  sandbox: { summary: 'latency of the Python sandbox: warm, cold, and what a start costs the event loop', load: () => import('./sandbox.js') }
}

async function main([name = '', ...args]: string[]): Promise<number> {
  if (name === '' || name === '--help' || name === '-h') {
    console.log(`npm run bench -- <command> [options]; <command> --help lists its options\n\n${list()}`)
    return name === '' ? 2 : 0
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (command === undefined) {
    console.error(`Expected a benchmark but received ${JSON.stringify(name)}. There are:\n${list()}`)
    return 2
  }
  const { run } = await command.load()
  const document = await run(args)
  if (document !== undefined) console.log(JSON.stringify(document))
  return 0
}

function list(): string {
  return Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`).join('\n')
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  console.error(NanochatError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
}
