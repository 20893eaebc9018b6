import type { ChatEvent, FinishReason, Stats } from '../types.js'
import { jsonLine, withoutControls, type Paint } from './terminal.js'

/** Shows one answer after the other. */
export interface Renderer {
  question(text: string): void
  event(event: ChatEvent): void
  /** Ends an answer that was stopped before its finish event. */
  stopped(): void
}

interface Output { write(text: string): unknown }

/** Answers as text: python blocks as a Python prompt shows them, in other colours. `echo` repeats the questions. */
export function textRenderer(out: Output, paint: Paint, echo: boolean): Renderer {
  let atLineStart = true
  const write = (text: string, style?: Parameters<Paint>[0]): void => {
    if (text === '') return
    const safe = withoutControls(text)
    out.write(style === undefined ? safe : paint(style, safe))
    atLineStart = safe.endsWith('\n')
  }
  const line = (text: string, style: Parameters<Paint>[0]): void => {
    endLine()
    write(text, style)
    endLine()
  }
  const endLine = (): void => { if (!atLineStart) write('\n') }
  return {
    question(text) {
      if (echo) line(`> ${text}`, 'prompt')
    },
    event(event) {
      if (event.type === 'text') write(event.text)
      if (event.type === 'python') line(event.text.split('\n').map((code, i) => `${i === 0 ? '>>>' : '...'} ${code}`).join('\n'), 'code')
      if (event.type === 'python_output' && event.text === null) line('(the tool has no result for this: what follows is a guess)', 'dim')
      if (event.type === 'python_output' && event.text !== null) line(event.text, 'output')
      if (event.type === 'finish') endLine()
    },
    stopped() {
      endLine()
    }
  }
}

/** Every question and event as one JSON document per line. */
export function jsonRenderer(out: Output): Renderer {
  return {
    question: (text) => { out.write(jsonLine({ type: 'question', text })) },
    event: (event) => { out.write(jsonLine(event)) },
    stopped: () => undefined
  }
}

/** The line under an answer. */
export function footer({ generatedTokens, forcedTokens, promptTokens, cachedTokens, ttftMs, tokensPerSecond }: Stats, finishReason: FinishReason): string {
  const figures = [
    `${generatedTokens} tokens`,
    ...(forcedTokens > 0 ? [`${forcedTokens} from the tool`] : []),
    ...(tokensPerSecond > 0 ? [`${Math.round(tokensPerSecond)} tok/s`] : []),
    `first after ${ttftMs < 10 ? ttftMs.toFixed(1) : Math.round(ttftMs)} ms`,
    `prompt ${promptTokens}${cachedTokens > 0 ? `, ${cachedTokens} of them kept` : ''}`,
    ...(finishReason === 'length' ? ['cut at the token limit'] : [])
  ]
  return `[${figures.join(' | ')}]`
}
