import { open, stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { NanochatError, describe } from '../errors.js'

/** A regular file, open for reading at any place. */
export interface OpenFile {
  name: string                     // without its directory, for messages
  size: number                     // bytes
  /** Exactly `length` bytes from `offset`; the caller has bounded `length`. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/** Opens `path`, hands it to `use` and closes it. Throws ERR_CHECKPOINT_NOT_FOUND when it is no readable file. */
export async function withFile<T>(path: string, use: (file: OpenFile) => Promise<T>): Promise<T> {
  const name = basename(path)
  const size = await fileSize(path)
  const handle = await open(path).catch((cause: unknown) => { throw unreadable(path, cause) })
  try {
    return await use({
      name, size, async read(offset, length) {
        if (offset < 0 || length < 0 || offset + length > size) {
          throw damaged(name, `expected ${length} bytes at ${offset} but the file has ${size}`)
        }
        const bytes = new Uint8Array(length)
        for (let done = 0; done < length;) {
          const { bytesRead } = await handle.read(bytes, done, length - done, offset + done)
            .catch((cause: unknown) => { throw unreadable(path, cause) })
          if (bytesRead === 0) throw damaged(name, `it became shorter while it was read`)
          done += bytesRead
        }
        return bytes
      }
    })
  } finally {
    await handle.close()
  }
}

/**
 * A JSON object of at most `maxBytes`. Python's json.dump writes NaN and Infinity (nanochat's `min_val_bpb` before the
 * first evaluation): they become null. Throws ERR_CHECKPOINT_FORMAT when it is anything else.
 */
export function readJsonObject(path: string, maxBytes: number): Promise<Record<string, unknown>> {
  return withFile(path, async (file) => {
    if (file.size > maxBytes) throw damaged(file.name, `expected a JSON file of at most ${maxBytes} bytes but it has ${file.size}`)
    return parseJsonObject(await file.read(0, file.size), file.name)
  })
}

export function parseJsonObject(bytes: Uint8Array, name: string): Record<string, unknown> {
  let value: unknown
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    value = JSON.parse(/NaN|Infinity/.test(text) ? withoutNonFinite(text) : text)
  } catch (cause) {
    throw damaged(name, `expected JSON (${cause instanceof Error ? cause.message.slice(0, 200) : 'unreadable'})`, cause)
  }
  if (!isRecord(value)) throw damaged(name, `expected a JSON object but found ${describe(value)}`)
  return value
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The file exists and is not what it should be. */
export function damaged(name: string, what: string, cause?: unknown): NanochatError {
  return new NanochatError('ERR_CHECKPOINT_FORMAT',
    `${name}: ${what}. The file is damaged or incomplete: copy or download it again.`, { cause })
}

async function fileSize(path: string): Promise<number> {
  const found = await stat(path).catch((cause: unknown) => { throw unreadable(path, cause) })
  if (!found.isFile()) throw new NanochatError('ERR_CHECKPOINT_NOT_FOUND', `Expected a file at ${path} but found something else.`)
  return found.size
}

function unreadable(path: string, cause: unknown): NanochatError {
  const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
  const what = reason === 'ENOENT' ? 'does not exist' : `cannot be read (${reason})`
  return new NanochatError('ERR_CHECKPOINT_NOT_FOUND', `${path} ${what}. Check the path and its permissions.`, { cause })
}

/** Replaces NaN, Infinity and -Infinity outside strings by null. */
function withoutNonFinite(text: string): string {
  const parts: string[] = []
  let inString = false
  let copied = 0
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (inString && c === '\\') i++
    else if (c === '"') inString = !inString
    else if (!inString && (c === 'N' || c === 'I' || c === '-')) {
      const word = ['NaN', 'Infinity', '-Infinity'].find((w) => text.startsWith(w, i))
      if (word === undefined) continue
      parts.push(text.slice(copied, i), 'null')
      i += word.length - 1
      copied = i + 1
    }
  }
  return parts.join('') + text.slice(copied)
}
