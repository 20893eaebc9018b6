export interface Command { summary: string, load: () => Promise<{ run: (args: string[]) => Promise<unknown> }> }

const ofThePackage: Record<string, Command> = {
  decode: { summary: 'decode and prefill speed against the measured roof of this machine', load: () => import('./decode.js') },
  kernels: { summary: 'every kernel at the shapes of d12 and d20, against the roof and its reference', load: () => import('./kernels.js') },
  load: { summary: 'from a checkpoint file to the first token, against reading the file', load: () => import('./load.js') },
  quality: { summary: 'what rounded weights cost: divergence from float32, and the demo model\'s answers', load: () => import('./quality.js') },
  sandbox: { summary: 'latency of the Python sandbox: warm, cold, and what a start costs the event loop', load: () => import('./sandbox.js') }
}

/** Runs `<program> <name> <args>`, options without a name as those of decode, and returns its exit code. The benchmark prints tables while it runs; the last line is its JSON document. */
export async function runBenchmark(argv: readonly string[], program: string, more: Record<string, Command> = {}): Promise<number> {
  const [name = '', ...args] = /^-(?!h$|-help$)/.test(argv[0] ?? '') ? ['decode', ...argv] : argv
  const commands = { ...ofThePackage, ...more }
  if (name === '' || name === '--help' || name === '-h') {
    console.log(`${program} [command] [options]; <command> --help lists its options; options without a command are those of decode\n\n${list(commands)}`)
    return name === '' ? 2 : 0
  }
  const command = Object.entries(commands).find(([known]) => known === name)?.[1]
  if (command === undefined) {
    console.error(`error: ERR_INVALID_ARG: Expected a benchmark (${Object.keys(commands).join(', ')}) but received ${JSON.stringify(name)}. See ${program} --help.`)
    return 2
  }
  const { run } = await command.load()
  const document = await run(args)
  if (document !== undefined) console.log(JSON.stringify(document))
  return 0
}

function list(commands: Record<string, Command>): string {
  return Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`).join('\n')
}
