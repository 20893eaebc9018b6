import type { Source } from './async-generator.js'
import type { Message, Part } from './conversation.js'
import { endedByReturn } from './generation.js'
import type { Generation, RowObserver } from './generation.js'
import type { ChatEvent, TokenLogprob } from './types.js'

/** The events of the generation that `start` makes; each row's fold into the message of its finish event. */
export function chatSource(start: (observer: RowObserver) => Generation): Source<ChatEvent, void> {
  const queue: ChatEvent[] = []
  const messages = new Map<number, Part[]>()
  const partsOf = (row: number): Part[] => {
    const parts = messages.get(row) ?? []
    messages.set(row, parts)
    return parts
  }
  const sampled = new Map<number, TokenLogprob[]>()
  const push = (event: ChatEvent): void => {
    const logprobs = sampled.get(event.row)
    sampled.delete(event.row)
    queue.push(logprobs ? { ...event, logprobs } : event)
  }
  const generation = start({
    logprobs(row, id, { token, top }) {
      const logprobs = sampled.get(row) ?? []
      sampled.set(row, logprobs)
      logprobs.push({ id, logprob: token, top })
    },
    text(row, text) {
      const parts = partsOf(row)
      const last = parts.at(-1)
      if (last?.type === 'text') last.text += text
      else parts.push({ type: 'text', text })
      push({ type: 'text', row, text })
    },
    python(row, text) {
      partsOf(row).push({ type: 'python', text })
      push({ type: 'python', row, text })
    },
    pythonOutput(row, text) {
      if (text !== null) partsOf(row).push({ type: 'python_output', text })
      push({ type: 'python_output', row, text })
    },
    finish(row, finishReason) {
      push({ type: 'finish', row, finishReason, message: assistantMessage(partsOf(row)), stats: generation.stats(row) })
    }
  })
  return {
    async next() {
      for (;;) {
        const event = generation.closed ? undefined : queue.shift()
        if (event) return { done: false, value: event }
        if (!await generation.next()) return { done: true, value: undefined }
      }
    },
    close: () => generation.close(endedByReturn())
  }
}

/** A string where the answer is one plain text, else its parts. */
function assistantMessage(parts: readonly Part[]): Message {
  const [only, second] = parts
  if (!only) return { role: 'assistant', content: '' }
  return { role: 'assistant', content: !second && only.type === 'text' ? only.text : [...parts] }
}
