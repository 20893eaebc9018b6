import type { Message } from '../conversation.js'
import { NanochatError } from '../errors.js'
import { showAnswer, type Finish } from './answer.js'
import { decimal, integer, type Command } from './args.js'
import { openKeyboard } from './keyboard.js'
import { footer, textRenderer } from './render.js'
import { generateOptions, openSession, type Session } from './session.js'
import { painter, short, withoutControls } from './terminal.js'

const slashCommands: Record<string, string> = {
  '/clear': 'start a new conversation',
  '/temperature': 'show it, or set it: /temperature 0.6',
  '/topk': 'show it, or set it: /topk 50 (0 = all tokens)',
  '/seed': 'show it, or set it: /seed 42',
  '/stats': 'the conversation, the last answer, memory',
  '/help': 'this list',
  '/exit': 'end, as Ctrl+D and Ctrl+C twice do; Ctrl+C once stops an answer'
}

/** A conversation in a terminal. One KV cache lives as long as it does: each turn computes only what is new. */
export async function chatInTerminal(command: Command): Promise<void> {
  await using session = await openSession(command)
  const { model } = session.loaded
  using kvCache = model.newCache()
  const options = { ...generateOptions(command, command.name === 'demo' ? 0 : 0.6), kvCache }
  const paint = painter(process.stdout)
  const renderer = textRenderer(process.stdout, paint, false)
  const say = (text: string): void => { process.stdout.write(`${paint('dim', withoutControls(text))}\n`) }

  let messages: Message[] = []
  let last: Finish | null = null
  let stopAnswer: (() => void) | null = null
  let interrupted = false
  using keyboard = openKeyboard(process.stdin, process.stdout, () => {
    if (interrupted) return keyboard.close()
    interrupted = true
    if (stopAnswer) stopAnswer()
    else process.stdout.write(`\n${paint('dim', 'Ctrl+C again, or /exit, to end')}\n`)
  }, Object.keys(slashCommands))

  const answer = async (content: string): Promise<void> => {
    const events = session.engine.chat([...messages, { role: 'user', content }], options)
    stopAnswer = () => { void events.return() }
    try {
      const { message, finish } = await showAnswer(events, renderer)
      last = finish ?? last
      if (message) messages.push({ role: 'user', content }, message)
      say(finish ? footer(finish.stats, finish.finishReason) : message ? 'stopped' : 'stopped; the question is dropped')
      if (finish?.finishReason === 'length' && options.maxTokens === undefined) say(`The context of ${model.config.sequenceLen} tokens is full: /clear starts a new conversation.`)
    } catch (error) {
      if (!NanochatError.is(error)) throw error
      process.stdout.write(`${paint('error', `error: ${error.code}: ${withoutControls(error.message)}`)}\n`)
      say(`The question is dropped, the conversation kept.${error.code === 'ERR_CONTEXT_OVERFLOW' ? ' /clear starts a new one.' : ''}`)
    } finally {
      stopAnswer = null
    }
  }

  const runSlashCommand = (name: string, value: string | undefined): void => {
    if (name === '/clear') {
      messages = []
      kvCache.reset()
      say('a new conversation')
    } else if (name === '/temperature') {
      options.temperature = decimal('temperature', value) ?? options.temperature
      say(`temperature ${options.temperature}`)
    } else if (name === '/topk') {
      options.topK = integer('topk', value) ?? options.topK
      say(`topk ${options.topK}`)
    } else if (name === '/seed') {
      options.seed = integer('seed', value) ?? options.seed
      say(`seed ${options.seed}`)
    } else if (name === '/stats') {
      say(`${messages.length} messages, ${kvCache.getPos()} of ${model.config.sequenceLen} tokens; KV cache ${short(kvCache.getPos() * model.backend.kvBytesPerToken, 'B')}, weights ${short(model.memoryBytes, 'B')}`)
      if (last) say(`last answer: ${footer(last.stats, last.finishReason)}`)
    } else if (name === '/help') {
      for (const [command, help] of Object.entries(slashCommands)) say(`${command.padEnd(14)}${help}`)
    } else {
      say(`there is no ${name}; /help lists the commands`)
    }
  }

  say(`${describeModel(session)}; /help lists the commands`)
  for (;;) {
    const line = (await keyboard.readLine(paint('prompt', '> ')))?.trim()
    interrupted = false
    if (line === undefined) process.stdout.write('\n')
    if (line === undefined || /^(?:\/?exit|\/?quit)$/i.test(line)) break
    if (line === '') continue
    const [name = '', value] = line.toLowerCase() === 'clear' ? ['/clear'] : line.split(/\s+/)
    if (!name.startsWith('/')) {
      await answer(line)
      continue
    }
    try {
      runSlashCommand(name, value)
    } catch (error) {
      if (!NanochatError.is(error)) throw error
      say(error.message)
    }
  }
}

function describeModel({ loaded: { model } }: Session): string {
  return `nanochat ${model.config.generation}, ${short(model.numParams)} parameters, ${model.dtype} on ${model.device}, context ${model.config.sequenceLen}`
}
