import type { LoadProgress } from '../load.js'
import { short } from './terminal.js'

const delayMs = 200
const redrawMs = 50
const width = 24

/**
 * A bar for `onProgress` on a terminal. It appears when loading takes longer than 200 ms, and `done` takes it away again;
 * on anything else than a terminal nothing is written.
 */
export function progressBar(stream: { isTTY?: boolean, write(text: string): unknown }, now: () => number = () => performance.now()): { onProgress(progress: LoadProgress): void, done(): void } {
  const startedAt = now()
  let drawnAt = -Infinity
  return {
    onProgress({ phase, bytes, total }) {
      if (!stream.isTTY || now() - startedAt < delayMs || now() - drawnAt < redrawMs) return
      drawnAt = now()
      const share = total > 0 ? Math.min(bytes / total, 1) : 0
      const filled = Math.round(share * width)
      stream.write(`\r${phase === 'write' ? 'writing' : 'loading'} [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${Math.floor(share * 100)} % of ${short(total, 'B')} (${phase})\x1b[K`)
    },
    done() {
      if (drawnAt > -Infinity) stream.write('\r\x1b[K')
    }
  }
}
