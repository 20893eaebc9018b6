import { NanochatError, invalidArg } from './errors.js'
import { KVCache } from './kv-cache.js'
import type { SamplingParams } from './sampling.js'
import type { GenerateOptions, Tool } from './types.js'

/** GenerateOptions, checked and with their defaults. */
export interface CheckedOptions {
  sampling: SamplingParams
  numSamples: number
  maxTokens: number | null
  stops: readonly string[]
  logprobs: number | null
  kvCache: KVCache | null
  tool: Tool | null
  signal: AbortSignal | null
}

export interface OptionLimits {
  vocabSize: number
  maxRows: number
  /** The tool where none is given; null where there is no tokenizer, and so no text and no tools. */
  defaultTool: Tool | null
}

const known = ['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'logitBias', 'seed', 'numSamples', 'maxTokens', 'stop', 'logprobs',
  'kvCache', 'tool', 'signal']
const leastTemperature = 1e-30                 // logit / temperature has to stay within float32

/** Checks every option; undefined means the default. Throws ERR_INVALID_ARG, also for an option it does not know. */
export function checkGenerateOptions(options: GenerateOptions, { vocabSize, maxRows, defaultTool }: OptionLimits): CheckedOptions {
  checkKnown(options, known)
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 42 } = options
  const { numSamples = 1, maxTokens, logprobs, kvCache, tool, signal } = options
  if (temperature !== 0) checkNumber('temperature', temperature, leastTemperature, 1 / leastTemperature)
  checkInteger('topK', topK, 0, Number.MAX_SAFE_INTEGER)
  checkNumber('topP', topP, 0, 1)
  checkNumber('minP', minP, 0, 1)
  checkNumber('repetitionPenalty', repetitionPenalty, 1e-6, 1e6)
  checkInteger('seed', seed, 0, Number.MAX_SAFE_INTEGER)
  checkInteger('numSamples', numSamples, 1, maxRows)
  if (maxTokens !== undefined) checkInteger('maxTokens', maxTokens, 1, Number.MAX_SAFE_INTEGER)
  if (logprobs !== undefined) checkInteger('logprobs', logprobs, 0, vocabSize)
  if (kvCache !== undefined && !(kvCache instanceof KVCache)) throw invalidArg('kvCache', 'a KVCache', kvCache)
  if (tool !== undefined && tool !== null && typeof tool !== 'function') throw invalidArg('tool', 'a function or null', tool)
  if (tool && !defaultTool) throw withoutTokenizer('tool')
  const stops = checkStops(options.stop)
  if (stops.length > 0 && !defaultTool) throw withoutTokenizer('stop')
  return {
    sampling: { temperature, topK, topP, minP, repetitionPenalty, seed, logitBias: checkLogitBias(options.logitBias, vocabSize) },
    numSamples,
    maxTokens: maxTokens ?? null,
    stops,
    logprobs: logprobs ?? null,
    kvCache: kvCache ?? null,
    tool: tool === undefined ? defaultTool : tool,
    signal: checkSignal(signal)
  }
}

export function checkSignal(signal: AbortSignal | undefined): AbortSignal | null {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalidArg('signal', 'an AbortSignal', signal)
  return signal ?? null
}

/** Throws ERR_INVALID_ARG when `options` is no object or has a key that is not in `names`. */
export function checkKnown(options: unknown, names: readonly string[]): void {
  if (typeof options !== 'object' || options === null) throw invalidArg('options', 'an object', options)
  for (const name of Object.keys(options)) {
    if (names.includes(name)) continue
    throw new NanochatError('ERR_INVALID_ARG', `Expected only the options ${names.join(', ')} but received ${JSON.stringify(name)}.`)
  }
}

export function checkInteger(name: string, value: unknown, least: number, most: number): void {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return
  throw invalidArg(name, most === Number.MAX_SAFE_INTEGER ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`, value)
}

function checkNumber(name: string, value: unknown, least: number, most: number): void {
  if (!(typeof value === 'number' && value >= least && value <= most)) throw invalidArg(name, `a number from ${least} to ${most}`, value)
}

function checkStops(stop: GenerateOptions['stop']): readonly string[] {
  if (stop === undefined) return []
  const stops: readonly unknown[] = typeof stop === 'string' ? [stop] : Array.isArray(stop) ? [...stop] : [stop]
  for (const one of stops) if (typeof one !== 'string' || one === '') throw invalidArg('stop', 'non-empty strings', one)
  return stops as readonly string[]
}

function checkLogitBias(logitBias: GenerateOptions['logitBias'], vocabSize: number): SamplingParams['logitBias'] {
  if (logitBias === undefined) return []
  if (typeof logitBias !== 'object' || logitBias === null || logitBias instanceof Map) throw invalidArg('logitBias', 'an object of numbers by token id', logitBias)
  return Object.entries(logitBias).map(([key, bias]: [string, unknown]) => {
    const id = Number(key)
    if (String(id) !== key || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw invalidArg('a key of logitBias', `a token id from 0 to ${vocabSize - 1}`, key)
    }
    if (bias !== -Infinity && !(typeof bias === 'number' && Math.abs(bias) <= 1e6)) {
      throw invalidArg(`logitBias[${id}]`, 'a number from -1e6 to 1e6, or -Infinity,', bias)
    }
    return [id, bias as number] as const
  })
}

function withoutTokenizer(name: string): NanochatError {
  return new NanochatError('ERR_INVALID_ARG', `Expected no ${name} in an engine without a tokenizer. Pass a tokenizer to the Engine.`)
}
