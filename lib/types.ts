import type { Message } from './conversation.js'
import type { KVCache } from './kv-cache.js'

/** How tokens are drawn (MODEL.md 5 gives order and precision). */
export interface SamplingOptions {
  /** Default 1; 0 takes the largest logit and ignores the filters below. */
  temperature?: number | undefined
  /** Only the k largest logits; 0, the default, is the whole vocabulary. */
  topK?: number | undefined
  /** Only the most likely tokens whose probabilities reach p together; 1, the default, is off. */
  topP?: number | undefined
  /** Only tokens at least p times as likely as the likeliest; 0, the default, is off. */
  minP?: number | undefined
  /** Divides positive and multiplies negative logits of ids already in prompt or output; 1, the default, is off. */
  repetitionPenalty?: number | undefined
  /** Added to the logit of an id; -Infinity forbids it. */
  logitBias?: Record<number, number> | undefined
  /** Default 42. Every row draws from its own stream, a function of (seed, row, position). */
  seed?: number | undefined
}

/** How much to generate, how to draw it, and what ends it. */
export interface GenerateOptions extends SamplingOptions {
  /** Rows decoded from one shared prefill; default 1, at most the engine's maxRows. */
  numSamples?: number | undefined
  /** Tokens per row at most: sampled, forced and terminal ones. Default: what is left of the model's sequenceLen. */
  maxTokens?: number | undefined
  /** Ends a row when its visible text contains one of these. */
  stop?: string | readonly string[] | undefined
  /** Log-probability of each sampled token and of this many most likely alternatives. */
  logprobs?: number | undefined
  /** Reuses the longest common prefix of the cache and `tokens`, and keeps what this call computes. */
  kvCache?: KVCache | undefined
  /** What answers a python block; default pythonTool(). null: nothing runs. */
  tool?: Tool | null | undefined
  /** Rejects the pending and every later next() with signal.reason. */
  signal?: AbortSignal | undefined
}

/**
 * Answers one python block: `code` is its text, `row` the row that wrote it; gives the text to inject, or null for nothing.
 * `signal` aborts when the call ends before the answer. What it throws, the call rejects with.
 */
export type Tool = (code: string, context: { row: number, signal: AbortSignal }) => string | null | Promise<string | null>

/**
 * One step of all rows, one entry per row. With `stop`, the tokens that spell a stop string are here like any other (they
 * were sampled, and are in the KV cache); the last of them comes with `finished` 'stop-sequence'.
 */
export interface TokenColumn {
  /** -1: nothing from this row in this column, because it is finished or waits for its tool. */
  tokenColumn: Int32Array
  /** 1 sampled, 0 forced by the tool, or nothing. */
  tokenMasks: Uint8Array
  /** null while the row goes on; from the column of its last token on, why it ended. */
  finished: (FinishReason | null)[]
  /**
   * Only with the option: log-probabilities under the softmax of the raw logits at temperature 1, in nats. `token`: of each row's sampled
   * token, NaN where there is none; `top`: of each row the likeliest ones, `id` and `logprob`, [] where nothing was sampled.
   */
  logprobs?: { token: Float32Array, top: { id: number, logprob: number }[][] }
}

/** `stop`: the model ended its turn; `length`: maxTokens or the end of the context; `stop-sequence`: a stop string. */
export type FinishReason = 'stop' | 'length' | 'stop-sequence'

/** Of one call, or of one row of a chat. */
export interface Stats {
  /** Tokens of the prompt, once for all rows. */
  promptTokens: number
  /** Prompt tokens that came out of the kvCache. */
  cachedTokens: number
  /** Sampled tokens, of all rows. */
  generatedTokens: number
  /** Tokens forced by the tool, of all rows. */
  forcedTokens: number
  /** Milliseconds from the first next() to the first token, waiting for other calls included. */
  ttftMs: number
  /** Mean milliseconds of a decoding step after the first token. Tools and the consumer of the tokens are not in it. */
  tpotMs: number
  /** Tokens sampled by all rows in those steps, per second of them; 0 where there was none. */
  tokensPerSecond: number
}

/** A sampled token's log-probability and the likeliest ones', as in {@link TokenColumn}. */
export interface TokenLogprob {
  /** The token. */
  id: number
  /** In nats. */
  logprob: number
  /** The likeliest tokens, as many as the option asks for: `id` and `logprob`. */
  top: { id: number, logprob: number }[]
}

/**
 * What a row of a chat does. The events of a row fold into the message that its finish event carries. With the option `logprobs` an
 * event has those of the tokens that the row sampled since its last event, also of tokens that are no text.
 */
export type ChatEvent =
  /** More visible text, always whole characters. */
  | { type: 'text', row: number, text: string, logprobs?: TokenLogprob[] }
  /** The code of one whole python block, as the tool gets it. */
  | { type: 'python', row: number, text: string, logprobs?: TokenLogprob[] }
  /** The whole output after it; null: the tool had no result, nothing was injected. */
  | { type: 'python_output', row: number, text: string | null, logprobs?: TokenLogprob[] }
  /** The row's message; `stats` counts this row's tokens. */
  | { type: 'finish', row: number, finishReason: FinishReason, message: Message, stats: Stats, logprobs?: TokenLogprob[] }
