import type { ParseArgsConfig } from 'node:util'

export const commands = ['chat', 'generate', 'serve', 'inspect', 'quantize', 'demo', 'doctor'] as const
export type CommandName = typeof commands[number]

interface Option {
  short?: string
  /** What stands for the value in the help; without one the option is a flag. */
  value?: string
  commands: readonly CommandName[]
  help: string
}

const asking = ['chat', 'generate', 'demo'] as const
const loading = [...asking, 'serve'] as const
const ownModel = ['chat', 'generate', 'serve', 'inspect', 'quantize'] as const

/** Every option but --help and --version. The letters are those of nanochat's scripts/chat_cli.py. */
export const options: Record<string, Option> = {
  'source': { short: 'i', value: 'demo|base|sft|rl', commands: ownModel, help: "which of nanochat's checkpoints; default sft, for generate base" },
  'model-tag': { short: 'g', value: 'd24', commands: ownModel, help: 'default: the largest d<N> on disk' },
  'step': { short: 's', value: 'n', commands: ownModel, help: 'default: the last one' },
  'model': { value: 'dir', commands: ownModel, help: 'a checkpoint directory or a packed file, instead of -i and -g' },
  'tokenizer': { value: 'dir', commands: ownModel, help: 'with --model; default: that directory, else ../../tokenizer' },
  'out': { short: 'o', value: 'path', commands: ['quantize'], help: 'a directory, which gets model-<dtype>.safetensors, or a path that ends with .safetensors' },
  'prompt': { short: 'p', value: 'text', commands: asking, help: 'answer this once and end' },
  'temperature': { short: 't', value: 'x', commands: loading, help: 'default 0.6 in the interactive chat, 0.8 for what a server is not told, else 0 (always the likeliest token)' },
  'top-k': { short: 'k', value: 'n', commands: loading, help: 'only the n likeliest tokens, default 50; 0 = all' },
  'seed': { value: 'n', commands: asking, help: 'default 42: the same seed gives the same text' },
  'max-tokens': { value: 'n', commands: loading, help: "tokens per answer; default: what is left of the model's context" },
  'no-tool': { commands: loading, help: 'run nothing the model writes between python tokens' },
  'port': { value: 'n', commands: ['serve'], help: 'default 8000; 0 takes a free one' },
  'host': { value: 'address', commands: ['serve'], help: 'default 127.0.0.1: this machine alone; 0.0.0.0 is everybody who reaches it' },
  'api-key': { value: 'key', commands: ['serve'], help: 'what requests must show; default $NANOCHAT_API_KEY, which no list of processes tells' },
  'origin': { value: 'url', commands: ['serve'], help: 'of web pages that may ask, several with commas, or *; default none' },
  'name': { value: 'name', commands: ['serve'], help: 'what requests call the model; default nanochat' },
  'device': { value: 'auto|cpu|cuda[:n]', commands: loading, help: 'also as --device-type' },
  'dtype': { short: 'd', value: 'auto|float32|bfloat16|int8|int4', commands: [...loading, 'quantize'], help: 'weights in memory; auto is bfloat16. For quantize in the file; default int8' },
  'threads': { value: 'n', commands: [...loading, 'quantize'], help: 'default: physical cores' },
  'softcap': { value: 'x', commands: ownModel, help: 'what some older checkpoints do not record, ...' },
  'window-pattern': { value: 'SSSL', commands: ownModel, help: '... likewise ...' },
  'rope-table': { value: 'float32|bfloat16', commands: ownModel, help: '... likewise (docs/api.md)' },
  'json': { commands, help: 'one JSON document per line: the events, of serve the requests; for inspect, quantize and doctor the result' }
}

/** The same as a node:util parseArgs configuration. */
export const parseArgsOptions: NonNullable<ParseArgsConfig['options']> = Object.fromEntries([
  ...Object.entries(options).map(([name, { short, value }]) => [name, { type: value === undefined ? 'boolean' : 'string', ...(short === undefined ? {} : { short }) }] as const),
  ['device-type', { type: 'string' }], ['help', { type: 'boolean', short: 'h' }], ['version', { type: 'boolean' }]
])

/** The text of --help: of one command, or of all. */
export function helpText(command?: CommandName): string {
  const lines = Object.entries(options).filter(([, option]) => command === undefined || option.commands.includes(command)).map(([name, { short, value, help }]) =>
    `  ${short === undefined ? '    ' : `-${short}, `}${`--${name}${value === undefined ? '' : ` ${value}`}`.padEnd(32)} ${help}`)
  return `${command === undefined ? overview : usage[command]}\n\n${lines.join('\n')}\n`
}

const usage: Record<CommandName, string> = {
  chat: `nanochat-node chat [question]

In a terminal a conversation; with a question (or -p, or text on stdin) one answer.`,
  generate: `nanochat-node generate [text]

Continues a text (the argument, -p or stdin) as a base model does; prints the continuation.`,
  serve: `nanochat-node serve

OpenAI's chat and text completions over HTTP, under /v1. Ctrl+C ends it when running answers are done, twice at once.`,
  inspect: `nanochat-node inspect [directory]

What a checkpoint is and needs, without loading its weights.`,
  quantize: `nanochat-node quantize [directory] -o path

Writes the model as one safetensors file with weights of 8 bits (or as --dtype says) that loads without
conversion, and its tokenizer beside it.`,
  demo: `nanochat-node demo [question]

Chat with the small model of the package. Without a terminal and a question: a few questions of its own.`,
  doctor: `nanochat-node doctor

What works on this machine and what does not: binary, kernels, threads, sandbox, Python, demo model, memory.
The exit code is 1 when something that is needed does not work.`
}

const overview = `nanochat-node <command> [options]

  chat [question]      talk to a nanochat model; one answer with a question, -p or text on stdin
  generate [text]      continue a text
  serve                answer OpenAI's HTTP requests
  inspect [directory]  what a checkpoint is and needs
  quantize [directory] -o path   write it as one file of fewer bits that loads at once
  demo [question]      chat with the small model of the package
  doctor               what works on this machine, what does not, and why
  bench [name]         measure this machine: decode, kernels, load, quality, sandbox; without a name lists them

  -h, --help           also nanochat-node <command> --help
      --version`
