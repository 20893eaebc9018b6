/**
 * A controller that aborts, with the same reason, when `signal` does; `unlink` ends that. (AbortSignal.any holds on to a
 * long-lived source signal for every signal made of it.)
 */
export function linkedAbort(signal: AbortSignal | null | undefined): { controller: AbortController, unlink(): void } {
  const controller = new AbortController()
  const follow = (): void => controller.abort(signal?.reason)
  if (signal?.aborted) follow()
  signal?.addEventListener('abort', follow)
  return { controller, unlink: () => signal?.removeEventListener('abort', follow) }
}
