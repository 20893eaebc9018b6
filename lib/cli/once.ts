import { showAnswer } from './answer.js'
import { wrongUsage, type Command } from './args.js'
import { footer, jsonRenderer, textRenderer } from './render.js'
import { generateOptions, openSession } from './session.js'
import { jsonLine, painter, withoutControls } from './terminal.js'
import type { FinishReason, Stats } from '../types.js'

/** Answers every question on its own, not as one conversation; `echo` shows the questions too. */
export async function answerOnce(command: Command, questions: readonly string[], echo: boolean): Promise<void> {
  await using session = await openSession(command)
  const renderer = command.json ? jsonRenderer(process.stdout) : textRenderer(process.stdout, painter(process.stdout), echo)
  const options = generateOptions(command, 0)
  for (const [i, content] of questions.entries()) {
    if (i > 0 && !command.json) process.stdout.write('\n')
    renderer.question(content)
    const { finish } = await showAnswer(session.engine.chat([{ role: 'user', content }], options), renderer)
    if (finish && !command.json) writeFooter(finish.stats, finish.finishReason)
  }
}

/** Continues a text as a base model does: it opens a document, and special tokens are printed by their names. */
export async function continueText(command: Command, text: string): Promise<void> {
  await using session = await openSession(command)
  const { tokenizer } = session.loaded
  const ends = [tokenizer.getBosTokenId(), tokenizer.encodeSpecial('<|assistant_end|>')]
  const decoder = tokenizer.decoder()
  const columns = session.engine.generate(tokenizer.encode(text, { prepend: '<|bos|>' }), generateOptions(command, 0))
  let whole = ''
  const show = (piece: string): void => {
    if (piece === '') return
    whole += piece
    process.stdout.write(command.json ? jsonLine({ type: 'text', row: 0, text: piece }) : withoutControls(piece))
  }
  let finishReason: FinishReason = 'stop'
  let next = await columns.next()
  for (; !next.done; next = await columns.next()) {
    const { tokenColumn: [id], finished: [finished] } = next.value
    if (id !== undefined && id >= 0 && !ends.includes(id)) show(decoder.write(id))
    finishReason = finished ?? finishReason
  }
  show(decoder.end())
  if (command.json) process.stdout.write(jsonLine({ type: 'finish', row: 0, finishReason, text: whole, stats: next.value }))
  else {
    if (!whole.endsWith('\n')) process.stdout.write('\n')
    writeFooter(next.value, finishReason)
  }
}

/** All of stdin as one text. Throws ERR_INVALID_ARG when there is none. */
export async function readStdin(): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  const text = Buffer.concat(chunks).toString('utf8')
  if (text.trim() === '') throw wrongUsage('Expected a text as argument, with -p or on stdin but received none.')
  return text.replace(/\r?\n$/, '')
}

/** On stderr, and only for somebody who looks: what stdout gets stays the answer alone. */
function writeFooter(stats: Stats, finishReason: FinishReason): void {
  if (process.stderr.isTTY) process.stderr.write(`${painter(process.stderr)('dim', footer(stats, finishReason))}\n`)
}
