/**
 * A controller that aborts, with the same reason, when the first of `signals` does; `unlink` ends that. (AbortSignal.any holds
 * on to a long-lived source signal for every signal made of it.)
 */
export function linkedAbort(...signals: (AbortSignal | null | undefined)[]): { controller: AbortController, unlink(): void } {
  const controller = new AbortController()
  const follow = (): void => controller.abort(signals.find((signal) => signal?.aborted)?.reason)
  if (signals.some((signal) => signal?.aborted)) follow()
  for (const signal of signals) signal?.addEventListener('abort', follow)
  return { controller, unlink: () => { for (const signal of signals) signal?.removeEventListener('abort', follow) } }
}
