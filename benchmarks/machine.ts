import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { native, type MachineLimits } from '../lib/native.js'

/** The limits of this machine with some number of threads. */
export interface Roof extends MachineLimits {
  /** Multiply-adds of all threads over those of one: about `threads` when each has a core of its own. */
  cores: number
}

/** Measures the machine with one thread and with `threads`, again and again between the repetitions of a benchmark. */
export class Roofs {
  readonly #threads: number
  readonly #measureOnce: () => Promise<MachineLimits[]>
  /** Every measurement, in order: with one thread, and with all where they are more. */
  readonly measured: MachineLimits[][] = []

  constructor(threads: number, measureOnce: () => Promise<MachineLimits[]>) {
    this.#threads = threads
    this.#measureOnce = measureOnce
  }

  /** Of this processor, for what reads `bytes` from memory again and again: a cache keeps the same part of as many. */
  static ofCpu(threads: number, isa: string | undefined, bytes = 0, probe = native().probe): Roofs {
    const readBytes = Math.min(Math.max(bytes, 2 ** 28), 2 ** 30)
    return new Roofs(threads, () => probe(threads === 1 ? [1] : [1, threads], isa, readBytes))
  }

  /** Of a CUDA device, which has no int8 products here and no median. */
  static ofCuda(device: number): Roofs {
    return new Roofs(1, async () => [{ threads: 1, readMedianBytesPerSecond: NaN, int8OpsPerSecond: 0, ...await native().cudaProbe(device) }])
  }

  async measure(): Promise<void> {
    this.measured.push(await this.#measureOnce())
  }

  /** The better of the measurements before and after repetition `r`: a shared machine's memory is not equally fast all the time. */
  around(r: number): Roof {
    return this.#best(this.measured.slice(r, r + 2))
  }

  /** The largest ratio of two bandwidths that were measured one after the other. */
  get memoryChange(): number {
    const bandwidths = this.measured.flatMap((limits) => limits.filter((of) => of.threads === this.#threads).map((of) => of.readBytesPerSecond))
    return Math.max(1, ...bandwidths.slice(1).map((next, i) => Math.max(next / (bandwidths[i] ?? next), (bandwidths[i] ?? next) / next)))
  }

  get best(): Roof {
    return this.#best(this.measured)
  }

  #best(measured: MachineLimits[][]): Roof {
    const most = (key: keyof MachineLimits, threads: number): number =>
      Math.max(...measured.flatMap((limits) => limits.filter((of) => of.threads === threads).map((of) => of[key])))
    const float32FlopsPerSecond = most('float32FlopsPerSecond', this.#threads)
    return {
      threads: this.#threads,
      readBytesPerSecond: most('readBytesPerSecond', this.#threads),
      readMedianBytesPerSecond: most('readMedianBytesPerSecond', this.#threads),
      float32FlopsPerSecond,
      bfloat16FlopsPerSecond: most('bfloat16FlopsPerSecond', this.#threads),
      int8OpsPerSecond: most('int8OpsPerSecond', this.#threads),
      cores: float32FlopsPerSecond / most('float32FlopsPerSecond', 1)
    }
  }
}

/** Processors that other processes kept busy between two calls, on average: a measurement beside them is not worth much. */
export function otherLoad(): () => number {
  const busy = (): number => cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0)
  const startBusy = busy(), startOwn = process.cpuUsage(), start = performance.now()
  return () => {
    const own = process.cpuUsage(startOwn)
    return Math.max(0, (busy() - startBusy - (own.user + own.system) / 1000) / (performance.now() - start))
  }
}

export function cpuName(): string {
  return cpus()[0]?.model.trim() ?? 'unknown'
}

/** Bytes of the largest cache, 32 MiB where the system does not say. */
export function lastLevelCacheBytes(): number {
  const sizes = [2, 3, 4].map((index) => {
    try {
      return Number(readFileSync(`/sys/devices/system/cpu/cpu0/cache/index${index}/size`, 'utf8').replace('K', '')) * 1024
    } catch {
      return 0
    }
  })
  return Math.max(...sizes) || 32 << 20
}
