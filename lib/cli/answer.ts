import type { Message, Part } from '../conversation.js'
import type { ChatEvent } from '../types.js'
import type { Renderer } from './render.js'

export type Finish = Extract<ChatEvent, { type: 'finish' }>

/**
 * Shows an answer as it comes. `finish` is null when the events were ended before theirs; `message` then holds what had
 * come, or is null when nothing had.
 */
export async function showAnswer(events: AsyncIterable<ChatEvent>, renderer: Renderer): Promise<{ message: Message | null, finish: Finish | null }> {
  const parts: Part[] = []
  for await (const event of events) {
    renderer.event(event)
    if (event.type === 'finish') return { message: event.message, finish: event }
    if (event.text === null) continue
    const last = parts.at(-1)
    if (event.type === 'text' && last?.type === 'text') last.text += event.text
    else parts.push({ type: event.type, text: event.text })
  }
  renderer.stopped()
  return { message: parts.length > 0 ? { role: 'assistant', content: parts } : null, finish: null }
}
