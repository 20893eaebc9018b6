import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { showAnswer } from '../lib/cli/answer.js'
import { parseCommandLine, type Command } from '../lib/cli/args.js'
import { helpText, options } from '../lib/cli/options.js'
import { progressBar } from '../lib/cli/progress.js'
import { footer, jsonRenderer, textRenderer } from '../lib/cli/render.js'
import { jsonLine, painter, short, withoutControls } from '../lib/cli/terminal.js'
import { NanochatError } from '../lib/errors.js'
import type { ChatEvent, Stats } from '../lib/types.js'

const args = suite('command line arguments')

const parse = (...argv: string[]): Command => parseCommandLine(argv) as Command
const refused = (argv: string[], message: RegExp): void => {
  assert.throws(() => parseCommandLine(argv), (error: unknown) => NanochatError.is(error) && error.code === 'ERR_INVALID_ARG' && message.test(error.message))
}

args("takes nanochat's letters", () => {
  const command = parse('chat', '-i', 'rl', '-g', 'd20', '-s', '650', '-p', 'Hello', '-t', '0.8', '-k', '10', '-d', 'float32', '--device-type', 'cpu')
  assert.equal(command.model, { source: 'rl' })
  assert.is(command.load.modelTag, 'd20')
  assert.is(command.load.step, 650)
  assert.is(command.load.dtype, 'float32')
  assert.is(command.load.device, 'cpu')
  assert.is(command.prompt, 'Hello')
  assert.is(command.temperature, 0.8)
  assert.is(command.topK, 10)
})

args('has nanochat\'s defaults, and leaves the temperature to how it runs', () => {
  const command = parse('chat')
  assert.equal([command.model, command.prompt, command.temperature, command.topK, command.seed, command.tool, command.json],
    [{ source: 'sft' }, null, null, 50, 42, true, false])
  assert.equal(parse('generate').model, { source: 'base' })
  assert.equal(parse('demo').model, { source: 'demo' })
})

args('takes a question as argument, and for inspect a directory', () => {
  assert.is(parse('demo', 'What', 'is 2 + 2?').prompt, 'What is 2 + 2?')
  assert.equal(parse('inspect', 'some/dir').model, { dir: 'some/dir', tokenizerDir: undefined })
  assert.equal(parse('chat', '--model', 'a', '--tokenizer', 'b').model, { dir: 'a', tokenizerDir: 'b' })
})

args('hands everything after bench to the benchmarks', () => {
  assert.equal(parseCommandLine(['bench', 'kernels', '--help', '-r', '3']), { name: 'bench', args: ['kernels', '--help', '-r', '3'] })
  assert.match(helpText(), /^ {2}bench \[name\] /m)
  refused(['--json', 'bench'], /bench before any option/)
})

args('refuses what it has no use for', () => {
  refused([], /Expected a command/)
  refused(['sing'], /but received "sing"/)
  refused(['chat', '--loud'], /Unknown option '--loud'\. See/)
  refused(['chat', '-t', '-1'], /ambiguous\. To specify .* '--temperature=-XYZ'.* See/)
  refused(['chat', '-t', 'warm'], /for temperature but received "warm"/)
  refused(['chat', '-k', '1.5'], /whole number for top-k/)
  refused(['chat', '-i', 'mid'], /demo, base, sft or rl/)
  refused(['chat', '-p', 'a', 'b'], /received both/)
  refused(['chat', '--model', 'a', '-g', 'd4'], /either a directory or/)
  refused(['chat', '--tokenizer', 'a'], /goes with --model/)
  refused(['inspect', '--model', 'a', 'b'], /received two/)
  refused(['inspect', 'a', 'b'], /one directory but received 2: "a", "b"/)
  refused(['inspect', '-p', 'a'], /inspect has no option --prompt/)
  refused(['demo', '-i', 'sft'], /demo has no option --source/)
})

args('help lists the options of a command and no others', () => {
  for (const command of ['chat', 'generate', 'inspect', 'demo'] as const) {
    for (const [name, option] of Object.entries(options)) {
      assert.is(helpText(command).includes(`--${name} `), option.commands.includes(command), `${command} --${name}`)
    }
  }
  assert.equal(parseCommandLine(['chat', '--help']), { name: 'help', of: 'chat' })
  assert.equal(parseCommandLine(['--version']), { name: 'version' })
})

args.run()

const terminal = suite('terminal')

terminal('no control character gets through but newline and tab', () => {
  assert.is(withoutControls('a\x1b[2J\tb\r\n\x07\x7f\x9b31m é 😀'), 'a\\x1b[2J\tb\\x0d\n\\x07\\x7f\\x9b31m é 😀')
  for (let code = 0; code < 0xa0; code++) {
    const char = String.fromCharCode(code)
    const isControl = /\p{Cc}/u.test(char) && char !== '\n' && char !== '\t'
    assert.is(withoutControls(char) === char, !isControl, `code ${code}`)
    assert.not.match(jsonLine(char).trimEnd(), /\p{Cc}/u)
    assert.is(JSON.parse(jsonLine(char)), char)
  }
})

terminal('colours: FORCE_COLOR, then NO_COLOR, then the terminal', () => {
  const colored = (isTTY: boolean, env: NodeJS.ProcessEnv): boolean => painter({ isTTY }, env)('code', 'x') !== 'x'
  assert.equal([colored(true, {}), colored(false, {}), colored(true, { TERM: 'dumb' })], [true, false, false])
  assert.equal([colored(true, { NO_COLOR: '1' }), colored(true, { NO_COLOR: '' })], [false, true])
  assert.equal([colored(false, { FORCE_COLOR: '1' }), colored(false, { FORCE_COLOR: '1', NO_COLOR: '1' }), colored(true, { FORCE_COLOR: '0' })], [true, true, false])
})

terminal('short numbers', () => {
  assert.equal([short(0, 'B'), short(1023, 'B'), short(1024, 'B'), short(10 * 1024 * 1024, 'B'), short(5242880), short(999)],
    ['0 B', '1023 B', '1.00 KiB', '10.0 MiB', '5.24 M', '999'])
})

terminal('the progress bar waits 200 ms, and cleans up', () => {
  let time = 0
  const written: string[] = []
  const bar = progressBar({ isTTY: true, write: (text) => written.push(text) }, () => time)
  const at = (ms: number, bytes: number): void => {
    time = ms
    bar.onProgress({ phase: 'convert', bytes, total: 100 })
  }
  at(10, 5)
  at(199, 20)
  assert.equal(written, [])
  at(200, 25)
  at(210, 26)
  at(250, 50)
  assert.is(written.length, 2)
  assert.match(written[0] ?? '', /\[#{6}\.{18}\] 25 % of 100 B \(convert\)/)
  assert.match(written[1] ?? '', /\[#{12}\.{12}\] 50 %/)
  bar.done()
  assert.is(written.at(-1), '\r\x1b[K')
})

terminal('the progress bar is for terminals, and for slow loading', () => {
  const written: string[] = []
  let time = 0
  const piped = progressBar({ write: (text) => written.push(text) }, () => time)
  const quick = progressBar({ isTTY: true, write: (text) => written.push(text) }, () => time)
  quick.onProgress({ phase: 'read', bytes: 100, total: 100 })
  time = 5000
  piped.onProgress({ phase: 'read', bytes: 50, total: 100 })
  piped.done()
  quick.done()
  assert.equal(written, [])
})

terminal.run()

const stats: Stats = { promptTokens: 12, cachedTokens: 0, generatedTokens: 14, forcedTokens: 4, ttftMs: 7.94, tpotMs: 2.5, tokensPerSecond: 400.4 }
const events: ChatEvent[] = [
  { type: 'text', row: 0, text: 'Let me ' }, { type: 'text', row: 0, text: 'see.' },
  { type: 'python', row: 0, text: 'n = 1\nn + \x1b1' }, { type: 'python_output', row: 0, text: '2\x07' },
  { type: 'python', row: 0, text: 'x' }, { type: 'python_output', row: 0, text: null },
  { type: 'text', row: 0, text: 'Two.' }
]
const finish: ChatEvent = { type: 'finish', row: 0, finishReason: 'stop', message: { role: 'assistant', content: 'whole' }, stats }

async function* streamOf(list: readonly ChatEvent[]): AsyncGenerator<ChatEvent, void> {
  yield* list
}

const render = suite('rendering')

render('text: code as at a Python prompt, outputs and text on lines of their own', async () => {
  let text = ''
  const renderer = textRenderer({ write: (more) => { text += more } }, (_, part) => part, true)
  renderer.question('Why?')
  await showAnswer(streamOf([...events, finish]), renderer)
  assert.is(text, '> Why?\nLet me see.\n>>> n = 1\n... n + \\x1b1\n2\\x07\n>>> x\n(the tool has no result for this: what follows is a guess)\nTwo.\n')
})

render('text: styles wrap what they colour', async () => {
  let text = ''
  await showAnswer(streamOf([...events.slice(2, 4), finish]), textRenderer({ write: (more) => { text += more } }, (style, part) => `<${style}>${part}</>`, false))
  assert.is(text, '<code>>>> n = 1\n... n + \\x1b1</>\n<output>2\\x07</>\n')
})

render('json: the question and the events, one per line', async () => {
  let text = ''
  const renderer = jsonRenderer({ write: (more) => { text += more } })
  renderer.question('Why?')
  await showAnswer(streamOf([...events, finish]), renderer)
  assert.equal(text.trimEnd().split('\n').map((line) => JSON.parse(line) as unknown), [{ type: 'question', text: 'Why?' }, ...events, finish])
})

render('an answer that ends early leaves what had come as a message', async () => {
  const silent = { question: () => undefined, event: () => undefined, stopped: () => undefined }
  assert.equal(await showAnswer(streamOf(events.slice(0, 4)), silent), {
    finish: null,
    message: { role: 'assistant', content: [{ type: 'text', text: 'Let me see.' }, { type: 'python', text: 'n = 1\nn + \x1b1' }, { type: 'python_output', text: '2\x07' }] }
  })
  assert.equal(await showAnswer(streamOf([]), silent), { finish: null, message: null })
  const { message } = await showAnswer(streamOf([...events, finish]), silent)
  assert.equal(message, { role: 'assistant', content: 'whole' })
})

render('the footer', () => {
  assert.is(footer(stats, 'stop'), '[14 tokens | 4 from the tool | 400 tok/s | first after 7.9 ms | prompt 12]')
  assert.is(footer({ ...stats, forcedTokens: 0, cachedTokens: 9, tokensPerSecond: 0, ttftMs: 12.3 }, 'length'), '[14 tokens | first after 12 ms | prompt 12, 9 of them kept | cut at the token limit]')
})

render.run()
