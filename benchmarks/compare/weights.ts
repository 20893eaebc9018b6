import { closeSync, openSync, writeSync } from 'node:fs'

/** How a matrix lies in a file: blocks of `elements` values in `bytes` bytes, made from random bits by `settle`. */
export interface BlockFormat {
  elements: number
  bytes: number
  settle(blocks: Buffer): void
}

/** Values of magnitude 1/64 to 1/32, of either sign, in every format: activations keep their size through a layer. */
export const blockFormats = {
  float32: { elements: 1, bytes: 4, settle: (blocks) => maskWords(blocks, 0x807fffff, 0x3c800000) },
  bfloat16: { elements: 1, bytes: 2, settle: (blocks) => maskWords(blocks, 0x807f807f, 0x3c803c80) },
  q8_0: { elements: 32, bytes: 34, settle: (blocks) => { oddBytes(blocks); setScales(blocks, 34, 0x0d00) } },     // f16 scale 3.1e-4, 32 int8
  q4_0: { elements: 32, bytes: 18, settle: (blocks) => { oddNibbles(blocks); setScales(blocks, 18, 0x1d00) } },   // f16 scale 4.9e-3, 32 nibbles, zero at 8
  bytes: { elements: 1, bytes: 1, settle: oddBytes },                                                             // zero at 128, scales are a tensor of their own
  nibbles: { elements: 2, bytes: 1, settle: oddNibbles }
} satisfies Record<string, BlockFormat>

export function sizeOf({ elements, bytes }: BlockFormat, count: number): number {
  if (count % elements !== 0) throw new RangeError(`${count} values are no whole number of blocks of ${elements}`)
  return count / elements * bytes
}

/** A file that is written front to back. */
export class RandomFile {
  readonly #fd: number
  readonly #chunk = Buffer.alloc(612 * 4096)   // whole blocks of every format
  #state = 0x9e3779b9
  position = 0

  constructor(path: string) {
    this.#fd = openSync(path, 'wx')
  }

  append(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) at += writeSync(this.#fd, bytes, at)
    this.position += bytes.length
  }

  align(alignment: number): void {
    this.append(Buffer.alloc(alignUp(this.position, alignment) - this.position))
  }

  /** `count` random values, the same in every run. */
  weights(format: BlockFormat, count: number): void {
    for (let left = sizeOf(format, count); left > 0;) {
      const words = new Uint32Array(this.#chunk.buffer, this.#chunk.byteOffset, this.#chunk.length / 4)
      this.#state = fillRandom(words, this.#state)
      format.settle(this.#chunk)
      const part = this.#chunk.subarray(0, Math.min(left, this.#chunk.length))
      this.append(part)
      left -= part.length
    }
  }

  close(): void {
    closeSync(this.#fd)
  }
}

export const alignUp = (position: number, alignment: number): number => Math.ceil(position / alignment) * alignment

/** Marsaglia's xorshift32. */
function fillRandom(words: Uint32Array, state: number): number {
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    words[i] = state
  }
  return state
}

// Odd numbers lie symmetric around zero: a mean other than zero would grow through ReLU^2 until all tokens look alike.
function oddBytes(blocks: Buffer): void {
  maskWords(blocks, 0xffffffff, 0x01010101)
}

function oddNibbles(blocks: Buffer): void {
  maskWords(blocks, 0xffffffff, 0x11111111)
}

function maskWords(blocks: Buffer, keep: number, set: number): void {
  const words = new Uint32Array(blocks.buffer, blocks.byteOffset, blocks.length / 4)
  for (let i = 0; i < words.length; i++) words[i] = ((words[i] as number) & keep) | set
}

function setScales(blocks: Buffer, stride: number, scale: number): void {
  for (let at = 0; at < blocks.length; at += stride) blocks.writeUInt16LE(scale, at)
}
