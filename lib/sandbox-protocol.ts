/**
 * What goes over the cage's pipes. Everything that comes back is what a hostile program may have written: lengths are
 * checked before anything is kept, only known fields are looked at, nothing is parsed further than text.
 */

/** What the interpreter said about the program: its value, or how it failed. */
export interface Frame {
  kind: 'none' | 'value' | 'error' | 'memory'
  exitCode: number
  truncated: boolean
  text: string
}

const kinds: Record<string, Frame['kind']> = { N: 'none', V: 'value', E: 'error', M: 'memory' }
const frameSlack = 4096                                          // kind, exit code, flag, the note about what was left out

/** u32 result limit, u32 seeded, u32 seed, u32 length, the code in UTF-8. Little-endian. */
export function encodeRequest(code: string, resultLimit: number, seed?: number): Buffer {
  const body = Buffer.from(code, 'utf8')
  const head = Buffer.alloc(16)
  head.writeUInt32LE(resultLimit, 0)
  head.writeUInt32LE(seed === undefined ? 0 : 1, 4)
  head.writeUInt32LE((seed ?? 0) >>> 0, 8)
  head.writeUInt32LE(body.length, 12)
  return Buffer.concat([head, body])
}

/** Reads one length-prefixed frame: u32 length, kind, exit code, truncated, text. Bytes after it are ignored. */
export class FrameReader {
  private bytes = Buffer.alloc(0)
  private length = -1
  state: 'open' | 'complete' | 'invalid' = 'open'
  frame: Frame | null = null

  constructor(private readonly resultLimit: number) {}

  push(chunk: Buffer): void {
    if (this.state !== 'open') return
    this.bytes = Buffer.concat([this.bytes, chunk])
    if (this.length < 0 && this.bytes.length >= 4) {
      this.length = this.bytes.readUInt32LE(0)
      if (this.length < 3 || this.length > this.resultLimit + frameSlack) this.fail()
    }
    if (this.state === 'open' && this.length >= 0 && this.bytes.length >= 4 + this.length) this.finish()
  }

  private finish(): void {
    const kind = kinds[String.fromCharCode(this.bytes[4] ?? 0)]
    if (kind === undefined) return this.fail()
    this.state = 'complete'
    this.frame = { kind, exitCode: this.bytes[5] ?? 0, truncated: this.bytes[6] === 1, text: this.bytes.subarray(7, 4 + this.length).toString('utf8') }
    this.bytes = Buffer.alloc(0)
  }

  private fail(): void {
    this.state = 'invalid'
    this.bytes = Buffer.alloc(0)
  }
}

/** Keeps the head and the tail of a stream: three quarters and one quarter of `limit` bytes. */
export class Output {
  private head: Buffer[] = []
  private tail: Buffer[] = []
  private headBytes = 0
  private tailBytes = 0
  total = 0

  constructor(private readonly limit: number) {}

  push(chunk: Buffer): void {
    this.total += chunk.length
    const room = Math.max(0, this.limit - this.headBytes)
    if (room > 0) {
      this.head.push(chunk.subarray(0, room))
      this.headBytes += Math.min(room, chunk.length)
    }
    // the tail is only needed once the limit is passed, and then it holds the last bytes whatever the head holds
    this.tail.push(chunk)
    this.tailBytes += chunk.length
    while (this.tail[0] && this.tailBytes - this.tail[0].length >= this.tailLimit) this.tailBytes -= this.tail.shift()?.length ?? 0
  }

  get truncated(): boolean { return this.total > this.limit }

  /** The text, invalid UTF-8 replaced, with a note in the middle where something was left out. */
  text(): string {
    const head = Buffer.concat(this.head)
    if (!this.truncated) return head.toString('utf8')
    const kept = head.subarray(0, this.limit - this.tailLimit)
    const tail = Buffer.concat(this.tail).subarray(-this.tailLimit || Infinity)
    return `${wholeCharacters(kept)}\n[... ${this.total - kept.length - tail.length} bytes left out ...]\n${tail.subarray(firstCharacter(tail)).toString('utf8')}`
  }

  private get tailLimit(): number { return Math.floor(this.limit / 4) }
}

/** Text of bytes that may end within a character. */
function wholeCharacters(bytes: Buffer): string {
  for (let end = bytes.length; end > Math.max(0, bytes.length - 4); end--) {
    const byte = bytes[end - 1] ?? 0
    if ((byte & 0xc0) === 0x80) continue
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return bytes.subarray(0, end - 1 + length > bytes.length ? end - 1 : bytes.length).toString('utf8')
  }
  return bytes.toString('utf8')
}

/** Index of the first byte that is not the continuation of a character cut before it. */
function firstCharacter(bytes: Buffer): number {
  let at = 0
  while (at < 3 && ((bytes[at] ?? 0) & 0xc0) === 0x80) at++
  return at
}
