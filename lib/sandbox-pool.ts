import { Cage, type CageSpec, type Outcome, type RunLimits } from './sandbox-cage.js'

const maxAgeMs = 10 * 60_000         // a warm interpreter must not outlive an upgrade of its own files for long
const maxPools = 4                   // kinds of cages that keep warm interpreters, those used last
const maxRunning = 16                // cages at work in this process; the others wait their turn

/** Makes the command line of one more cage. Warm: common modules are imported before the program comes. */
export type SpecMaker = (warm: boolean) => CageSpec

const pools = new Map<string, Pool>()
const starting = new Set<Promise<Cage>>()
const cages = new Set<Cage>()        // every cage that has started and is not yet gone
const turns: (() => void)[] = []
let running = 0

/** The pool of one kind of cage, holding `size` warm interpreters from its first use on. */
export function poolFor(key: string, size: number, make: SpecMaker, needsWarm: boolean): Pool {
  const pool = pools.get(key) ?? new Pool(make, needsWarm)
  pools.delete(key)
  pools.set(key, pool)               // the last
  for (const [other, old] of [...pools].slice(0, -maxPools)) {
    old.close()
    pools.delete(other)
  }
  pool.size = size
  return pool
}

/** Ends every interpreter and waits until all are gone. Later calls start again. */
export async function closePools(): Promise<void> {
  for (const pool of pools.values()) pool.close()
  pools.clear()
  await Promise.allSettled(starting)
  for (const cage of cages) cage.close()
  await Promise.all([...cages].map((cage) => cage.gone))
}

/**
 * Warm, confined interpreters of one kind, each used once and started one at a time, off the critical path. When none
 * is warm, a cold one is started for the call.
 */
export class Pool {
  size = 0
  private idle: Cage[] = []
  private starting: Promise<void> | null = null
  private isClosed = false
  private readonly ageing = setInterval(() => this.dropOld(), 60_000).unref()

  constructor(private readonly make: SpecMaker, private readonly needsWarm: boolean) {}

  /** Runs one program in a cage of its own. Rejects with a CageFailure, or with the signal's reason. */
  async run(code: string, limits: RunLimits, signal?: AbortSignal): Promise<Outcome> {
    await turn(signal)
    let cage: Cage | undefined
    try {
      cage = this.takeIdle() ?? await track(this.make(this.needsWarm))
      signal?.throwIfAborted()
      return await abortable(cage.run(code, limits), cage, signal)
    } finally {
      void (cage?.gone ?? Promise.resolve()).then(endTurn)
      cage?.close()
      // when a refill fails, the next call starts its own cage and reports why that fails
      setTimeout(() => void this.refill().catch(() => {}), 1).unref()
    }
  }

  /** Starts interpreters, one after the other, until `size` are warm. */
  refill(): Promise<void> {
    return this.starting ??= this.fill().finally(() => { this.starting = null })
  }

  private async fill(): Promise<void> {
    while (!this.isClosed && this.idle.filter((cage) => cage.isUsable).length < this.size) {
      const cage = await track(this.make(true))
      if (this.isClosed) cage.close()
      else this.idle.push(cage)
    }
  }

  close(): void {
    this.isClosed = true
    clearInterval(this.ageing)
    for (const cage of this.idle.splice(0)) cage.close()
  }

  private takeIdle(): Cage | undefined {
    for (let cage = this.idle.shift(); cage; cage = this.idle.shift()) {
      if (cage.isUsable) return cage
      cage.close()
    }
    return undefined
  }

  private dropOld(): void {
    const old = performance.now() - maxAgeMs
    for (const cage of this.idle) if (cage.startedAt < old) cage.close()
    this.idle = this.idle.filter((cage) => cage.isUsable)
  }
}

async function track(spec: CageSpec): Promise<Cage> {
  const start = Cage.start(spec)
  starting.add(start)
  try {
    const cage = await start
    cages.add(cage)
    void cage.gone.then(() => cages.delete(cage))
    return cage
  } finally {
    starting.delete(start)
  }
}

function abortable<T>(promise: Promise<T>, cage: Cage, signal?: AbortSignal): Promise<T> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const abort = (): void => { cage.close(); reject(signal.reason) }
    signal.addEventListener('abort', abort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

function turn(signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.reject(signal.reason)
  if (running < maxRunning) {
    running++
    return Promise.resolve()
  }
  return new Promise((resolve, reject) => {
    const start = (): void => { signal?.removeEventListener('abort', abort); resolve() }
    const abort = (): void => { turns.splice(turns.indexOf(start), 1); reject(signal?.reason) }
    signal?.addEventListener('abort', abort, { once: true })
    turns.push(start)
  })
}

function endTurn(): void {
  const next = turns.shift()
  if (next) next()
  else running--
}
