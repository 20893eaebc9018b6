/** The special ids the state machine reacts to; null where there is no tokenizer: every token is then plain text. */
export interface SpecialIds {
  readonly bos: number
  readonly assistantEnd: number
  readonly pythonStart: number
  readonly pythonEnd: number
  readonly outputStart: number
  readonly outputEnd: number
  readonly others: readonly number[]           // user_start, user_end, assistant_start: neither text nor an end
}

/** Where a row stands: what kind of block it is in and at which index of its output the block's content begins. */
export interface RowState {
  readonly block: 'text' | 'python' | 'output'
  readonly from: number
}

/**
 * What one more token means.
 * - `text`: visible assistant text; `hidden`: in a block, or a marker without effect
 * - `open`: a block begins; visible text before it is complete
 * - `python` / `output`: a block is complete, its content is output[from .. index)
 * - `end`: a terminal token; `block` is what it cut off
 */
export type Effect =
  | { readonly type: 'text' | 'hidden' | 'open' }
  | { readonly type: 'python' | 'output', readonly from: number }
  | { readonly type: 'end' }

export const initialRowState: RowState = { block: 'text', from: 0 }

const effects = {
  text: { type: 'text' },
  hidden: { type: 'hidden' },
  open: { type: 'open' },
  end: { type: 'end' }
} as const satisfies Record<string, Effect>

/**
 * nanochat's RowState as a pure function (MODEL.md 5): the state after the row's `index`-th output token, and what it
 * means. `python_start` opens a block even inside one and forgets what was collected; `python_end` outside a python block
 * does nothing; inside a python block every other token but a terminal one is collected.
 */
export function nextRowState(state: RowState, token: number, index: number, ids: SpecialIds | null): { state: RowState, effect: Effect } {
  if (!ids) return { state, effect: effects.text }
  switch (token) {
    case ids.assistantEnd:
    case ids.bos:
      return { state, effect: effects.end }
    case ids.pythonStart:
      return { state: { block: 'python', from: index + 1 }, effect: effects.open }
    case ids.pythonEnd:
      if (state.block !== 'python') return { state, effect: effects.hidden }
      return { state: { block: 'text', from: index + 1 }, effect: { type: 'python', from: state.from } }
  }
  if (state.block === 'python') return { state, effect: effects.hidden }
  if (token === ids.outputStart) return { state: { block: 'output', from: index + 1 }, effect: effects.open }
  if (token === ids.outputEnd && state.block === 'output') {
    return { state: { block: 'text', from: index + 1 }, effect: { type: 'output', from: state.from } }
  }
  if (state.block === 'output' || token === ids.outputEnd || ids.others.includes(token)) return { state, effect: effects.hidden }
  return { state, effect: effects.text }
}
