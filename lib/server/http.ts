import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { finished } from 'node:stream/promises'
import { linkedAbort } from '../linked-abort.js'
import { ApiError, apiError, errorBody } from './errors.js'

/** Why a request is given up when nobody waits for its response. */
export const clientLeft = new Error('The client left.')

const stalledMs = 60_000, bodyMs = 30_000

/** Answers with a JSON document. */
export function sendJson(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body)
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': Buffer.byteLength(text) }).end(text)
}

/** An error as a status, or, in a stream that has begun, as its last event. */
export function sendError(response: ServerResponse, error: unknown): void {
  const failure = apiError(error)
  if (response.headersSent) response.end(`data: ${JSON.stringify(errorBody(failure))}\n\n`)
  else {
    if ([408, 413, 503].includes(failure.status)) response.setHeader('connection', 'close')      // the rest of the body stays unread
    if (failure.status === 401) response.setHeader('www-authenticate', 'Bearer')
    sendJson(response, failure.status, errorBody(failure))
  }
}

/** Writes objects as server-sent events. */
export interface EventStream {
  /** Resolves when more may be sent: no faster than the client reads, which has left when it reads nothing for a minute. null is nothing. */
  send(data: object | null): Promise<void>
  /** Writes what was sent in this turn of the event loop: tokens come several at a time and go out together. */
  flush(): void
}

/** A stream of events to `response`, until `signal`. */
export function eventStream(response: ServerResponse, signal: AbortSignal): EventStream {
  let pending = ''
  const flush = (): void => {
    if (pending !== '' && !response.destroyed) response.write(pending)
    pending = ''
  }
  return {
    flush,
    async send(data) {
      signal.throwIfAborted()
      if (!data) return
      if (pending === '') setImmediate(flush)
      pending += `data: ${JSON.stringify(data)}\n\n`
      if (response.writableNeedDrain) await drained(response, signal)
    }
  }
}

async function drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
  const stalled = AbortSignal.timeout(stalledMs)
  try {
    await once(response, 'drain', { signal: AbortSignal.any([signal, stalled]) })
  } catch (error) {
    signal.throwIfAborted()
    if (!stalled.aborted) throw error
    response.destroy()
    throw clientLeft
  }
}

/** Resolves when the client has what was written, is gone, or `signal` says not to wait; one that reads nothing for a minute is left. */
export async function delivered(response: ServerResponse, signal: AbortSignal): Promise<void> {
  if (response.writableFinished || response.destroyed || signal.aborted) return
  response.setTimeout(stalledMs, () => response.destroy())
  await finished(response, { signal, cleanup: true }).catch(() => undefined)
}

/** The body, read as JSON, unless `signal` ends it. Throws ApiError, and the signal's reason. */
export async function jsonBody(request: IncomingMessage, maxBytes: number, signal: AbortSignal): Promise<unknown> {
  const { controller, unlink } = linkedAbort(signal)
  const slow = setTimeout(() => controller.abort(new ApiError(408, `Expected the whole body within ${bodyMs / 1000} seconds.`, null, 'body_too_slow')), bodyMs)
  const bytes = await bodyOf(request, maxBytes, controller.signal).finally(() => {
    clearTimeout(slow)
    unlink()
  })
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new ApiError(400, `Expected a body of JSON: ${cause instanceof Error ? cause.message : 'it is none'}.`, null, 'invalid_json')
  }
}

async function bodyOf(request: IncomingMessage, maxBytes: number, signal: AbortSignal): Promise<Buffer> {
  signal.throwIfAborted()
  if (request.readableEnded) throw new Error('The body of the request was read before: handle() goes ahead of body parsers.')
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    signal.addEventListener('abort', () => {
      request.pause()
      reject(signal.reason as Error)
    }, { once: true })
    request.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length <= maxBytes) chunks.push(chunk)
      else {
        request.pause()
        reject(new ApiError(413, `Expected a body of at most ${maxBytes} bytes.`, null, 'body_too_large'))
      }
    })
    request.on('end', () => resolve(Buffer.concat(chunks)))
    request.on('error', () => reject(clientLeft))
    request.on('close', () => reject(clientLeft))
  })
}

/** Compares in a time that does not tell how much of the two is the same. */
export function isSame(given: string, wanted: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(wanted))
}
