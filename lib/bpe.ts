/** A hash table from two non-negative 31-bit integers to a third. */
export interface PairTable {
  /** The value, or -1. */
  get(left: number, right: number): number
  /** Adds a pair; false, and no change, when it is already there. */
  add(left: number, right: number, value: number): boolean
}

/** Which neighbours merge: `pairs` gives the rank of (left id, right id), lower first; `merged[rank]` is the new id. */
export interface Merges {
  pairs: PairTable
  merged: Int32Array
}

/**
 * Byte-pair merging in O(n log n): always the pair of the lowest rank, the leftmost of equals, until none is left.
 * The returned function merges `ids[0..n)` in place and returns how many remain.
 */
export function bytePairMerger({ pairs, merged }: Merges): (ids: Int32Array, n: number) => number {
  const shared = newWorkspace(SHARED_SYMBOLS)

  /** Looks up the pair that starts at `i` and queues it; the new size of the heap. */
  const queuePair = ({ next, ranks, heap }: Workspace, size: number, ids: Int32Array, n: number, i: number): number => {
    const j = next[i] as number
    const rank = j < n ? pairs.get(ids[i] as number, ids[j] as number) : -1
    ranks[i] = rank
    return rank >= 0 ? push(heap, size, rank * POSITIONS + i) : size
  }

  return (ids, n) => {
    const workspace = n <= SHARED_SYMBOLS ? shared : newWorkspace(n)
    const { next, previous, ranks, heap } = workspace
    let size = 0
    for (let i = 0; i < n; i++) {
      next[i] = i + 1
      previous[i] = i - 1
      size = queuePair(workspace, size, ids, n, i)
    }
    while (size > 0) {
      const key = heap[0] as number
      size = popTop(heap, size)
      const i = key % POSITIONS
      const rank = (key - i) / POSITIONS
      if (ranks[i] !== rank) continue            // the pair changed since it was queued
      const swallowed = next[i] as number
      const j = next[swallowed] as number
      ids[i] = merged[rank] as number
      ranks[swallowed] = -1
      next[i] = j
      if (j < n) previous[j] = i
      size = queuePair(workspace, size, ids, n, i)
      if (i > 0) size = queuePair(workspace, size, ids, n, previous[i] as number)
    }

    let count = 0
    for (let i = 0; i < n; i = next[i] as number) ids[count++] = ids[i] as number
    return count
  }
}

export function newPairTable(expectedPairs: number): PairTable {
  let capacity = 16
  while (capacity < 2 * expectedPairs) capacity *= 2
  let count = 0
  let keys = new Int32Array(2 * capacity).fill(-1)     // (capacity, 2): left, right; left -1 = free
  let values = new Int32Array(capacity)

  const find = (left: number, right: number): number => {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 15), 0x846ca68b)
    let slot = (hash ^ (hash >>> 16)) & (capacity - 1)
    while (keys[2 * slot] !== -1 && (keys[2 * slot] !== left || keys[2 * slot + 1] !== right)) slot = (slot + 1) & (capacity - 1)
    return slot
  }
  const put = (slot: number, left: number, right: number, value: number): void => {
    keys[2 * slot] = left
    keys[2 * slot + 1] = right
    values[slot] = value
    count++
  }
  const grow = (): void => {
    const oldKeys = keys, oldValues = values
    capacity *= 2
    count = 0
    keys = new Int32Array(2 * capacity).fill(-1)
    values = new Int32Array(capacity)
    oldValues.forEach((value, slot) => {
      const left = oldKeys[2 * slot] as number, right = oldKeys[2 * slot + 1] as number
      if (left !== -1) put(find(left, right), left, right, value)
    })
  }

  return {
    get(left, right) {
      const slot = find(left, right)
      return keys[2 * slot] === -1 ? -1 : values[slot] as number
    },
    add(left, right, value) {
      if (2 * count >= capacity) grow()
      const slot = find(left, right)
      if (keys[2 * slot] !== -1) return false
      put(slot, left, right, value)
      return true
    },
  }
}

const SHARED_SYMBOLS = 1024            // pieces up to this length share one workspace
const POSITIONS = 2 ** 31            // a heap key is rank * POSITIONS + position: exact in a double up to rank 2^22

interface Workspace {
  next: Int32Array
  previous: Int32Array
  ranks: Int32Array                  // of the pair that starts here, -1 = none
  heap: Float64Array                 // n - 1 pairs at first, and each merge takes one out and puts at most two in
}

function newWorkspace(n: number): Workspace {
  return { next: new Int32Array(n), previous: new Int32Array(n), ranks: new Int32Array(n), heap: new Float64Array(2 * n) }
}

/** Adds `key` to the min-heap `heap[0..size)`; the new size. */
function push(heap: Float64Array, size: number, key: number): number {
  let i = size
  while (i > 0) {
    const parent = (i - 1) >> 1
    const above = heap[parent] as number
    if (above <= key) break
    heap[i] = above
    i = parent
  }
  heap[i] = key
  return size + 1
}

/** Removes the smallest key of the min-heap `heap[0..size)`; the new size. */
function popTop(heap: Float64Array, size: number): number {
  const last = size - 1
  const key = heap[last] as number
  let i = 0
  for (let child = 1; child < last; child = 2 * i + 1) {
    if (child + 1 < last && (heap[child + 1] as number) < (heap[child] as number)) child++
    const below = heap[child] as number
    if (below >= key) break
    heap[i] = below
    i = child
  }
  heap[i] = key
  return last
}
