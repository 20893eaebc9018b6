import { constants } from 'node:os'
import { resolve as absolute } from 'node:path'
import { useCalculator } from './calculator.js'
import { invalidArg, NanochatError } from './errors.js'
import { checkInteger, checkKnown, checkSignal } from './options.js'
import { CageFailure, type Outcome } from './sandbox-cage.js'
import { runUnconfined } from './sandbox-off.js'
import { keepAlive } from './sandbox-process.js'
import { closePools, poolFor, type Pool } from './sandbox-pool.js'
import { cageSpec, findCage, planCage, tiers, type CageLimits, type CagePlan, type Tier } from './sandbox-tier.js'

export type { Tier } from './sandbox-tier.js'

/** Limits of a Python program, and the cage it asks for. */
export interface ExecuteOptions {
  /** Wall clock, 1 to 3,600,000; default 5000. */
  timeoutMs?: number | undefined
  /** Address space and data of the interpreter, at least 64 MiB; default 256 MiB. */
  maximumMemoryBytes?: number | undefined
  /** Kept of stdout, of stderr and of the result, each: 16 bytes to 1 MiB; default 64 KiB. */
  maxOutputBytes?: number | undefined
  /** 'off' runs the program with all rights of this process; default 'on'. */
  sandbox?: 'on' | 'off' | undefined
  /** The least cage that will do; below it ERR_SANDBOX_UNAVAILABLE. Default 'sealed'. */
  minTier?: Tier | undefined
  /** CPython 3.8 or newer: a path, or a name on the PATH; default: the first python3 that works in the cage. */
  python?: string | undefined
  /** Shown to the program under their own names; folders are also import paths. */
  readOnlyPaths?: string[] | undefined
  /** Warm interpreters kept, 0 to 64, for each of the four kinds of cage used last; default 2. */
  poolSize?: number | undefined
  /** Of `random`, below 2^32; strings hash alike in every run anyway. */
  seed?: number | undefined
  /** Ends the program; the call rejects with `signal.reason`. */
  signal?: AbortSignal | undefined
}

/** What a Python program did. */
export interface ExecutionResult {
  /** It ran to its end without an error. */
  success: boolean
  /** What it printed, head and tail where that is more than `maxOutputBytes`. */
  stdout: string
  /** Likewise what it wrote to stderr. */
  stderr: string
  /** str() of the last expression's value; null when there is none or it is None. */
  result: string | null
  /** 'Type: message', or null. */
  error: string | null
  /** It ran longer than `timeoutMs`. */
  timeout: boolean
  /** It wanted more than `maximumMemoryBytes`. */
  memoryExceeded: boolean
  /** Part of stdout, stderr or the result is left out. */
  truncated: boolean
  /** Of an interpreter that ended by itself, else null. */
  exitCode: number | null
  /** What ended the interpreter, else null. */
  signal: NodeJS.Signals | null
  /** Milliseconds that the program took, the start of an interpreter not counted. */
  durationMs: number
  /** The cage it ran in; 'none' with `sandbox: 'off'`. */
  tier: Tier | 'none'
  /** The layers of that cage. */
  layers: string[]
}

/**
 * Runs the Python program `code` in a cage made by the kernel (docs/sandbox.md), in a fresh interpreter that is used once. What it does
 * is in the result, also when it fails. The result is what the code said: code that wants to lie about its own value can.
 * Rejects with ERR_SANDBOX_UNAVAILABLE, ERR_INVALID_ARG or the signal's reason.
 */
export function executeCode(code: string, options: ExecuteOptions = {}): Promise<ExecutionResult> {
  return keepAlive(execute(code, options))
}

/** In a given cage, for the tests of single tiers and layers. @internal */
export function executeIn(plan: CagePlan, code: string, options: ExecuteOptions = {}): Promise<ExecutionResult> {
  return keepAlive(execute(code, options, plan))
}

async function execute(code: string, options: ExecuteOptions, given?: CagePlan): Promise<ExecutionResult> {
  const settings = check(code, options)
  const limits = { timeoutMs: settings.timeoutMs, maxOutputBytes: settings.maxOutputBytes, ...options.seed === undefined ? {} : { seed: options.seed } }
  // a signal of its own: hundreds of calls may share the caller's
  const signal = options.signal && AbortSignal.any([options.signal])
  signal?.throwIfAborted()
  try {
    if (options.sandbox === 'off') {
      const outcome = await runUnconfined(code, options.python, settings.cage, limits, signal)
      return describeRun(outcome, settings, 'none', [])
    }
    const plan = given ?? await planCage(options.python, settings.minTier)
    const outcome = await poolOf(plan, settings).run(code, limits, signal)
    return describeRun(outcome, settings, plan.tier, plan.layers)
  } catch (error) {
    throw asUnavailable(error)
  }
}

function asUnavailable(error: unknown): unknown {
  if (!(error instanceof CageFailure)) return error
  return new NanochatError('ERR_SANDBOX_UNAVAILABLE', `The cage did not close: ${error.layer}: ${error.message}. The program was not run.`, { cause: error })
}

/** Of {@link pythonTool}: limits of every program, and of what the model reads. */
export interface PythonToolOptions extends ExecuteOptions {
  /** Of the text given back to the model, which is cut in the middle; default 512. */
  maxTokens?: number | undefined
  /** Counts tokens; without it every byte counts as one, which is never too few. */
  encode?: ((text: string) => ArrayLike<number>) | undefined
}

/**
 * The engine's default tool. What nanochat's calculator answers is answered by it (not with a comma, which it would
 * drop); everything else runs in the cage. Gives back what the program printed, then str() of its last value on a line of
 * its own unless that is None; for an error only `Type: message`. The tool needs no `row` of its context; `signal` ends the program.
 * It rejects as {@link executeCode}. Throws ERR_INVALID_ARG.
 */
export function pythonTool(options: PythonToolOptions = {}): (code: string, context: { row: number, signal: AbortSignal }) => Promise<string | null> {
  checkKnown(options, [...optionNames, 'maxTokens', 'encode'])
  const { maxTokens = 512, encode, ...others } = options
  check('', others)
  checkInteger('maxTokens', maxTokens, 1, Number.MAX_SAFE_INTEGER)
  if (encode !== undefined && typeof encode !== 'function') throw invalidArg('encode', 'a function', encode)
  return async (code, context) => {
    const answer = code.includes(',') ? null : useCalculator(code)
    if (answer !== null) return answer
    const signal = options.signal ? AbortSignal.any([options.signal, context.signal]) : context.signal
    return fitTokens(textForModel(await executeCode(code, { ...others, signal })), maxTokens, encode)
  }
}

/**
 * What the cage is made of on this machine, for a person to read: its `tier` and `layers`, the interpreter (`python`, the first that
 * works where none is named) and its `pythonVersion`, and what was `refused` on the way; no cage is `tier` 'none'. Rejects with ERR_INVALID_ARG.
 */
export async function describeSandbox(python?: string): Promise<{ tier: Tier | 'none', layers: string[], python: string | null, pythonVersion: string | null, refused: string[] }> {
  checkPython(python)
  const { plan, refusals } = await findCage(python)
  const refused = refusals.map((refusal) => `${refusal.tier} tier with ${refusal.python}: ${refusal.layer} missing: ${refusal.reason}`)
  if (!plan) return { tier: 'none', layers: [], python: null, pythonVersion: null, refused }
  return { tier: plan.tier, layers: [...plan.layers], python: plan.interpreter.executable, pythonVersion: plan.interpreter.version, refused }
}

/** Starts the warm interpreters ahead of the first call. Rejects with ERR_SANDBOX_UNAVAILABLE, ERR_INVALID_ARG. */
export async function warmSandbox(options: ExecuteOptions = {}): Promise<void> {
  const settings = check('', options)
  await keepAlive(planCage(options.python, settings.minTier).then((plan) => poolOf(plan, settings).refill()).catch((error: unknown) => { throw asUnavailable(error) }))
}

/** Ends all interpreters of this thread and waits until they are gone. They also end with the process. */
export function closeSandbox(): Promise<void> {
  return keepAlive(closePools())
}

const optionNames = ['timeoutMs', 'maximumMemoryBytes', 'maxOutputBytes', 'sandbox', 'minTier', 'python', 'readOnlyPaths', 'poolSize', 'seed', 'signal']

interface Settings { timeoutMs: number, maxOutputBytes: number, poolSize: number, minTier: Tier, cage: CageLimits }

function poolOf(plan: CagePlan, settings: Settings): Pool {
  const key = JSON.stringify([plan.tier, plan.layers, plan.interpreter.executable, settings.cage])
  return poolFor(key, settings.poolSize, (warm) => cageSpec(plan, settings.cage, warm), plan.tier === 'sealed')
}

// The wall clock is the limit; the limit on CPU seconds is its net, and part of what a warm interpreter is started with, whose start counts, too.
const cpuSteps = [6, 12, 32, 62, 302, 3602]

function check(code: string, options: ExecuteOptions): Settings {
  if (typeof code !== 'string') throw invalidArg('code', 'a string', code)
  checkKnown(options, optionNames)
  checkSignal(options.signal)
  const { timeoutMs = 5000, maximumMemoryBytes = 256 << 20, maxOutputBytes = 65536, poolSize = 2, minTier = 'sealed', readOnlyPaths = [] } = options
  checkInteger('timeoutMs', timeoutMs, 1, 3_600_000)
  checkInteger('maximumMemoryBytes', maximumMemoryBytes, 64 << 20, 2 ** 46)
  checkInteger('maxOutputBytes', maxOutputBytes, 16, 1 << 20)
  checkInteger('poolSize', poolSize, 0, 64)
  if (options.seed !== undefined) checkInteger('seed', options.seed, 0, 2 ** 32 - 1)
  if (!tiers.includes(minTier)) throw invalidArg('minTier', `one of ${tiers.join(', ')}`, minTier)
  if (options.sandbox !== undefined && options.sandbox !== 'on' && options.sandbox !== 'off') throw invalidArg('sandbox', "'on' or 'off'", options.sandbox)
  checkPython(options.python)
  if (!Array.isArray(readOnlyPaths) || readOnlyPaths.some((path) => typeof path !== 'string' || path.includes(':') || path.includes('\0'))) throw invalidArg('readOnlyPaths', 'an array of paths without ":"', readOnlyPaths)
  const cpuSeconds = cpuSteps.find((step) => step * 1000 >= timeoutMs + 1000) ?? Math.ceil(timeoutMs / 1000) + 1
  const needsFiles = readOnlyPaths.length > 0 && minTier === 'sealed'   // a sealed cage opens none
  return { timeoutMs, maxOutputBytes, poolSize, minTier: needsFiles ? 'container' : minTier, cage: { memoryBytes: maximumMemoryBytes, cpuSeconds, readOnlyPaths: readOnlyPaths.map((path) => absolute(path)) } }
}

function checkPython(python: string | undefined): void {
  if (python !== undefined && (typeof python !== 'string' || python === '')) throw invalidArg('python', 'a path or a program name', python)
}

function describeRun(outcome: Outcome, settings: Settings, tier: Tier | 'none', layers: readonly string[]): ExecutionResult {
  const { frame, end, stdout, stderr } = outcome
  const signal = frame ? null : signalName(outcome.signal)
  const memoryExceeded = frame ? frame.kind === 'memory' : end === 'exit' && signal !== null && signal !== 'SIGSYS' && outcome.maxRssBytes > 0.85 * settings.cage.memoryBytes
  return {
    success: frame !== null && (frame.kind === 'none' || frame.kind === 'value'),
    stdout: stdout.text(), stderr: stderr.text(),
    result: frame?.kind === 'value' ? frame.text : null,
    error: errorOf(outcome, settings, signal, memoryExceeded),
    timeout: end === 'timeout', memoryExceeded,
    truncated: stdout.truncated || stderr.truncated || (frame?.truncated ?? false),
    exitCode: frame ? frame.exitCode : outcome.exitCode, signal,
    durationMs: performance.now() - outcome.startedAt, tier, layers: [...layers],
  }
}

function errorOf({ frame, end, exitCode }: Outcome, settings: Settings, signal: NodeJS.Signals | null, memoryExceeded: boolean): string | null {
  if (frame) return frame.kind === 'error' || frame.kind === 'memory' ? frame.text : null
  if (end === 'timeout') return `TimeoutError: the program ran longer than ${settings.timeoutMs} ms`
  if (end === 'flood') return 'OSError: the program wrote more than 4 MiB of output'
  if (end === 'disk') return 'OSError: [Errno 28] No space left on device'
  if (memoryExceeded) return 'MemoryError: the interpreter ran out of memory'
  if (signal === 'SIGSYS') return 'PermissionError: the program made a system call that the sandbox forbids'
  return `SystemExit: the interpreter ended without a result (${signal ?? `exit code ${exitCode}`})`
}

function signalName(number: number): NodeJS.Signals | null {
  const entry = Object.entries(constants.signals).find(([, value]) => value === number)
  return entry ? entry[0] as NodeJS.Signals : null
}

/** What a model reads: see {@link pythonTool}. */
function textForModel(run: ExecutionResult): string {
  if (run.error !== null) return escapeControls(run.error)
  const printed = run.stdout === '' || run.stdout.endsWith('\n') || run.result === null ? run.stdout : `${run.stdout}\n`
  return escapeControls((printed + (run.result ?? '')).replace(/\n$/, ''))
}

/** Control characters but newline and tab, and the ones that turn the direction of text, become visible escapes. */
function escapeControls(text: string): string {
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => {
    const code = c.charCodeAt(0)
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
  })
}

/** The text, or its beginning and end, in at most `limit` tokens. */
function fitTokens(text: string, limit: number, encode: (text: string) => ArrayLike<number> = (part) => Buffer.from(part)): string {
  if (encode(text).length <= limit) return text
  for (let size = Math.min(text.length, limit * 16); size > 8; size = Math.floor(size * 0.8)) {
    const short = `${text.slice(0, size - (size >> 2))} [...] ${text.slice(-(size >> 2))}`.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '')
    if (encode(short).length <= limit) return short
  }
  return ''
}
