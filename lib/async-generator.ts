/** What an async generator is made of. */
export interface Source<T, R> {
  /** The next result; called again only when the last call has settled. */
  next(): Promise<IteratorResult<T, R>>
  /** Ends it: a running `next` rejects soon, and resources are free when this resolves. Idempotent. */
  close(): Promise<void>
}

/**
 * An AsyncGenerator whose `return()`, and so a `break`, takes effect while a `next()` is pending: that one resolves to
 * `{ done: true }`. (An `async function*` would first wait for it.) Calls of `next` are served in order. A generator that
 * is dropped unfinished is closed when it is collected.
 */
export function asyncGenerator<T, R>(source: Source<T, R>): AsyncGenerator<T, R, undefined> {
  let closed = false
  let last: Promise<unknown> = Promise.resolve()
  const ended: IteratorResult<T, R> = { done: true, value: undefined as R }

  const serve = async (before: Promise<unknown>): Promise<IteratorResult<T, R>> => {
    await before
    if (closed) return ended
    try {
      const result = await source.next()
      if (closed) return ended
      if (result.done) {
        closed = true
        dropped.unregister(source)
      }
      return result
    } catch (error) {
      if (closed) return ended
      throw error
    }
  }
  const close = async (): Promise<void> => {
    closed = true
    dropped.unregister(source)
    await source.close()
    await last
  }

  const generator: AsyncGenerator<T, R, undefined> = {
    next() {
      const result = serve(last)
      last = result.catch(() => undefined)
      return result
    },
    async return(value) {
      await close()
      return { done: true, value: await value }
    },
    async throw(error) {
      await close()
      throw error
    },
    async [Symbol.asyncDispose]() {
      await close()
    },
    [Symbol.asyncIterator]: () => generator    // note: this reference keeps the generator from being collected while a next() is pending
  }
  dropped.register(generator, source, source)
  return generator
}

// note: what is closed is taken out, because the registry's call of a collected generator can be long in coming
const dropped = new FinalizationRegistry<Source<unknown, unknown>>((source) => { void source.close() })
