import { parseArgs } from 'node:util'
import { NanochatError } from '../errors.js'
import type { LoadOptions } from '../load.js'
import { commands, options, parseArgsOptions, type CommandName } from './options.js'

/** What the user asked for. null where nothing was given and the default depends on how the program runs. */
export interface Command {
  name: CommandName
  model: ModelChoice
  load: LoadOptions
  prompt: string | null
  /** Of quantize alone. */
  out: string | null
  /** Of serve alone. */
  listen: Listen
  temperature: number | null
  topK: number
  seed: number
  maxTokens: number | undefined
  tool: boolean
  json: boolean
}

/** Where and for whom to serve. */
export interface Listen { port: number, host: string, apiKey: string | undefined, origins: string[], modelName: string | undefined }

export type ModelChoice = { dir: string, tokenizerDir: string | undefined } | { source: 'demo' | 'base' | 'sft' | 'rl' }

export type Request = { name: 'help', of: CommandName | undefined } | { name: 'version' } | { name: 'bench', args: readonly string[] } | Command

/** The request in `argv` (without node and the script). Throws ERR_INVALID_ARG, also for an option that the command has no use for. */
export function parseCommandLine(argv: readonly string[]): Request {
  if (argv[0] === 'bench') return { name: 'bench', args: argv.slice(1) }
  const { values, positionals } = parsed(argv)
  const [name, ...words] = positionals
  if (values.version) return { name: 'version' }
  if (name !== undefined && !isCommand(name)) throw wrongUsage(`Expected a command (${commands.join(', ')}, or bench before any option) but received ${JSON.stringify(name)}.`)
  if (values.help) return { name: 'help', of: name }
  if (name === undefined) throw wrongUsage(`Expected a command: ${commands.join(', ')}, bench.`)

  for (const key of Object.keys(values)) {
    if (!options[key]?.commands.includes(name)) throw wrongUsage(`${name} has no option --${key}.`)
  }
  const text = (key: string): string | undefined => values[key] as string | undefined
  const takesDirectory = name === 'inspect' || name === 'quantize'
  if (takesDirectory && words.length > 1) throw wrongUsage(`Expected one directory but received ${words.length}: ${words.map((word) => JSON.stringify(word)).join(', ')}.`)
  const argument = words.length > 0 ? words.join(' ') : undefined
  if (argument !== undefined && text('prompt') !== undefined) throw wrongUsage(`Expected one text but received both -p and ${JSON.stringify(argument)}.`)
  if (name === 'quantize' && text('out') === undefined) throw wrongUsage('Expected -o and where to write to.')
  if ((name === 'doctor' || name === 'serve') && argument !== undefined) throw wrongUsage(`${name} takes no argument but received ${JSON.stringify(argument)}.`)
  return {
    name,
    model: modelChoice(name, text, takesDirectory ? argument : undefined),
    load: loadOptions(text),
    prompt: takesDirectory ? null : text('prompt') ?? argument ?? null,
    out: text('out') ?? null,
    listen: listenOptions(text),
    temperature: decimal('temperature', text('temperature')) ?? null,
    topK: integer('top-k', text('top-k')) ?? 50,
    seed: integer('seed', text('seed')) ?? 42,
    maxTokens: integer('max-tokens', text('max-tokens')),
    tool: !values['no-tool'],
    json: values.json === true
  }
}

/** An error of usage: its exit code is 2. */
export function wrongUsage(message: string, cause?: unknown): NanochatError {
  return new NanochatError('ERR_INVALID_ARG', `${message} See nanochat-node --help.`, { cause })
}

/** Digits only. Throws ERR_INVALID_ARG. */
export function integer(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  if (!/^\d{1,15}$/.test(value)) throw wrongUsage(`Expected a whole number for ${name} but received ${JSON.stringify(value)}.`)
  return Number(value)
}

/** Not negative. Throws ERR_INVALID_ARG. */
export function decimal(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  if (!/^(?:\d+\.?\d*|\.\d+)$/.test(value)) throw wrongUsage(`Expected a number such as 0.6 for ${name} but received ${JSON.stringify(value)}.`)
  return Number(value)
}

function parsed(argv: readonly string[]): { values: Record<string, string | boolean | undefined>, positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({ args: [...argv], options: parseArgsOptions, allowPositionals: true, strict: true })
    const { 'device-type': deviceType, ...rest } = values as Record<string, string | boolean | undefined>
    return { values: deviceType === undefined ? rest : { device: deviceType, ...rest }, positionals }
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && String(cause.code).startsWith('ERR_PARSE_ARGS')) {
      const [problem = '', , remedy] = cause.message.split('\n')   // the remedy is for values that begin with a dash
      throw wrongUsage(`${problem.replace(/\.( .*)?$/, '')}.${remedy === undefined ? '' : ` ${remedy}`}`, cause)
    }
    throw cause
  }
}

function modelChoice(name: CommandName, text: (key: string) => string | undefined, directory: string | undefined): ModelChoice {
  const source = text('source')
  const dir = text('model') ?? directory
  if (text('model') !== undefined && directory !== undefined) throw wrongUsage('Expected one directory but received two.')
  if (dir !== undefined && (source ?? text('model-tag')) !== undefined) throw wrongUsage('Expected either a directory or -i and -g but received both.')
  if (dir === undefined && text('tokenizer') !== undefined) throw wrongUsage('--tokenizer goes with --model.')
  if (dir !== undefined) return { dir, tokenizerDir: text('tokenizer') }
  if (source === undefined) return { source: name === 'demo' ? 'demo' : name === 'generate' ? 'base' : 'sft' }
  if (source !== 'demo' && source !== 'base' && source !== 'sft' && source !== 'rl') throw wrongUsage(`Expected demo, base, sft or rl for --source but received ${JSON.stringify(source)}.`)
  return { source }
}

/** Checked by what they are handed to. */
function loadOptions(text: (key: string) => string | undefined): LoadOptions {
  return {
    modelTag: text('model-tag'),
    step: integer('step', text('step')),
    device: text('device') as LoadOptions['device'],
    dtype: text('dtype') as LoadOptions['dtype'],
    threads: integer('threads', text('threads')),
    softcap: decimal('softcap', text('softcap')),
    windowPattern: text('window-pattern'),
    ropeTable: text('rope-table') as LoadOptions['ropeTable']
  }
}

function listenOptions(text: (key: string) => string | undefined): Listen {
  const port = integer('port', text('port')) ?? 8000
  if (port > 65_535) throw wrongUsage(`Expected a port up to 65535 but received ${port}.`)
  const apiKey = text('api-key') ?? (process.env.NANOCHAT_API_KEY || undefined)
  if (apiKey === '') throw wrongUsage('Expected a key for --api-key but received an empty text.')
  return { port, host: text('host') ?? '127.0.0.1', apiKey, origins: text('origin')?.split(',').map((origin) => origin.trim()) ?? [], modelName: text('name') }
}

function isCommand(name: string): name is CommandName {
  return (commands as readonly string[]).includes(name)
}
