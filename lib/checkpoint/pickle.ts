import { NanochatError } from '../errors.js'

/** A value a pickle describes. Lists and tuples are arrays, bytes are Uint8Array views of the file; nothing was called to make it. */
export type Pickled = null | boolean | number | bigint | string | Uint8Array | Pickled[] | PickledDict | PickledObject | PickledPersistentId

/** Entries in file order; the same key may come twice. */
export interface PickledDict { kind: 'dict', entries: [Pickled, Pickled][] }

/** What REDUCE or NEWOBJ of a whitelisted global would have made; a bare reference to the global has no arguments. */
export interface PickledObject {
  kind: 'object'
  global: string                   // 'torch._utils._rebuild_tensor_v2'
  args: Pickled[]
  state: Pickled | undefined       // of BUILD
  entries: [Pickled, Pickled][]    // of SETITEM and SETITEMS
}

export interface PickledPersistentId { kind: 'persistent', id: Pickled }

export interface PickleOptions {
  globals: readonly string[]       // the only names GLOBAL and STACK_GLOBAL may give, beside the bytes form below
  fileName: string                 // for messages
  code: 'ERR_CHECKPOINT_FORMAT' | 'ERR_TOKENIZER_FORMAT'
}

// How protocol 2 writes bytes: REDUCE of this with (text, 'latin1'). Recognised as a form, not as a call.
const bytesForm = '_codecs.encode'
// CPython's pickler batches containers by 1000, so a real stack stays far below this.
const maxStack = 65_536
// Every real object takes more bytes of pickle than this: a name, a memo entry, numbers.
const bytesPerObject = 4

/**
 * Reads a pickle of protocol 2 to 5 without executing anything: a stack machine over the opcodes that torch.save and a
 * pickled tiktoken encoding use (MODEL.md 3). Any other opcode, or a global that is not listed, is refused by its name.
 * Memory is linear in `bytes`: what the memo repeats is shared, so a value may contain itself or the same part many
 * times; never walk it without a bound.
 */
export function readPickle(bytes: Uint8Array, options: PickleOptions): Pickled {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const stack: Pickled[] = []
  const marks: number[] = []       // stack heights
  const memo = new Map<number, Pickled>()
  const globals = new Map<string, PickledObject>()
  const encoded = new Map<string, Uint8Array>()
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let at = 0
  let objects = 16 + bytes.length / bytesPerObject

  const refuse = (what: string, cause?: unknown): NanochatError => new NanochatError(options.code,
    `${options.fileName}: ${what} (byte ${at} of its pickle). Nothing was executed. `
    + 'The file is damaged, or was not written by nanochat.', { cause })

  /** The next `length` bytes. */
  const take = (length: number): number => {
    const start = at
    if (length > bytes.length - start) throw refuse(`expected ${length} more bytes but ${bytes.length - start} are left`)
    at += length
    return start
  }
  const takeBytes = (length: number): Uint8Array => new Uint8Array(bytes.buffer, bytes.byteOffset + take(length), length)
  const takeText = (length: number): string => {
    const raw = takeBytes(length)
    try {
      return utf8.decode(raw)
    } catch (cause) {
      throw refuse('a string is not UTF-8', cause)
    }
  }
  const takeLine = (): string => {
    const end = bytes.indexOf(10, at)
    if (end < 0 || end - at > 1000) throw refuse('a name has no end')
    const line = takeText(end - at)
    at++
    return line
  }

  const push = (value: Pickled): void => {
    if (stack.length >= maxStack) throw refuse(`its stack is deeper than ${maxStack}`)
    stack.push(value)
  }
  const make = (value: Pickled): void => {
    if (--objects < 0) throw refuse('it has more objects than its size explains')
    push(value)
  }
  const pop = (): Pickled => {
    const value = stack.length > (marks.at(-1) ?? 0) ? stack.pop() : undefined
    if (value === undefined) throw refuse('its stack is empty')
    return value
  }
  const popTuple = (length: number): Pickled[] => {
    if (stack.length - length < (marks.at(-1) ?? 0)) throw refuse('its stack is empty')
    return stack.splice(stack.length - length)
  }
  const popToMark = (): Pickled[] => {
    const height = marks.pop()
    if (height === undefined) throw refuse('a MARK is missing')
    return stack.splice(height)
  }
  const top = (): Pickled => {
    const value = pop()
    stack.push(value)
    return value
  }

  const recall = (index: number): Pickled => {
    const value = memo.get(index)
    if (value === undefined) throw refuse(`memo entry ${index} does not exist`)
    return value
  }
  const pushGlobal = (name: string): void => {
    if (name !== bytesForm && !options.globals.includes(name)) {
      const printable = JSON.stringify(name.slice(0, 200)).slice(1, -1)
      throw refuse(`expected only the globals ${options.globals.join(', ')} but it refers to ${printable}`)
    }
    const known = globals.get(name) ?? { kind: 'object', global: name, args: [], state: undefined, entries: [] }
    globals.set(name, known)
    push(known)
  }
  const isBareGlobal = (value: PickledObject): boolean => globals.get(value.global) === value
  const built = (opcode: string): Pickled => {
    const args = pop()
    const callee = pop()
    if (!Array.isArray(args) || !isObject(callee) || !isBareGlobal(callee)) throw refuse(`${opcode} needs a global and a tuple`)
    if (callee.global !== bytesForm) return { kind: 'object', global: callee.global, args, state: undefined, entries: [] }
    const [text, encoding] = args
    if (opcode !== 'REDUCE' || args.length !== 2 || typeof text !== 'string' || encoding !== 'latin1') {
      throw refuse(`expected ${bytesForm}(text, 'latin1') only`)
    }
    const raw = encoded.get(text) ?? latin1(text)
    if (raw === undefined) throw refuse(`${bytesForm} of text that is not latin1`)
    encoded.set(text, raw)         // repeated through the memo, a long text would else multiply
    return raw
  }
  const setItems = (items: Pickled[]): void => {
    const target = top()
    const entries = isDict(target) || (isObject(target) && !isBareGlobal(target)) ? target.entries : undefined
    if (entries === undefined || items.length % 2 !== 0) throw refuse('SETITEMS needs a dict, keys and values')
    for (let i = 0; i + 1 < items.length; i += 2) entries.push([items[i] as Pickled, items[i + 1] as Pickled])
  }
  const build = (): void => {
    const state = pop()
    const target = top()
    if (!isObject(target) || isBareGlobal(target) || target.state !== undefined) throw refuse('BUILD needs an object without state')
    target.state = state
  }

  for (;;) {
    const opcode = bytes[take(1)] as number
    switch (opcode) {
      case 0x80: checkProtocol(bytes[take(1)] as number, at, refuse); break                                // PROTO
      case 0x95: checkFrame(view.getBigUint64(take(8), true), bytes.length - at, refuse); break            // FRAME
      case 0x28: if (marks.push(stack.length) > maxStack) throw refuse('it has too many marks'); break     // MARK
      case 0x4e: push(null); break                                                                         // NONE
      case 0x88: push(true); break                                                                         // NEWTRUE
      case 0x89: push(false); break                                                                        // NEWFALSE
      case 0x4a: push(view.getInt32(take(4), true)); break                                                 // BININT
      case 0x4b: push(bytes[take(1)] as number); break                                                     // BININT1
      case 0x4d: push(view.getUint16(take(2), true)); break                                                // BININT2
      case 0x8a: push(integer(takeBytes(bytes[take(1)] as number))); break                                 // LONG1
      case 0x58: push(takeText(view.getUint32(take(4), true))); break                                      // BINUNICODE
      case 0x8c: push(takeText(bytes[take(1)] as number)); break                                           // SHORT_BINUNICODE
      case 0x42: make(takeBytes(view.getUint32(take(4), true))); break                                     // BINBYTES
      case 0x43: make(takeBytes(bytes[take(1)] as number)); break                                          // SHORT_BINBYTES
      case 0x7d: make({ kind: 'dict', entries: [] }); break                                                // EMPTY_DICT
      case 0x29: make([]); break                                                                           // EMPTY_TUPLE
      case 0x85: make(popTuple(1)); break                                                                  // TUPLE1
      case 0x86: make(popTuple(2)); break                                                                  // TUPLE2
      case 0x87: make(popTuple(3)); break                                                                  // TUPLE3
      case 0x74: make(popToMark()); break                                                                  // TUPLE
      case 0x71: memo.set(bytes[take(1)] as number, top()); break                                          // BINPUT
      case 0x72: memo.set(view.getUint32(take(4), true), top()); break                                     // LONG_BINPUT
      case 0x94: memo.set(memo.size, top()); break                                                         // MEMOIZE
      case 0x68: push(recall(bytes[take(1)] as number)); break                                             // BINGET
      case 0x6a: push(recall(view.getUint32(take(4), true))); break                                        // LONG_BINGET
      case 0x63: pushGlobal(`${takeLine()}.${takeLine()}`); break                                          // GLOBAL
      case 0x93: pushGlobal(dottedName(popTuple(2), refuse)); break                                        // STACK_GLOBAL
      case 0x51: make({ kind: 'persistent', id: pop() }); break                                            // BINPERSID
      case 0x52: make(built('REDUCE')); break                                                              // REDUCE
      case 0x81: make(built('NEWOBJ')); break                                                              // NEWOBJ
      case 0x73: setItems(popTuple(2)); break                                                              // SETITEM
      case 0x75: setItems(popToMark()); break                                                              // SETITEMS
      case 0x62: build(); break                                                                            // BUILD
      case 0x2e: {                                                                                         // STOP
        const value = pop()
        if (stack.length > 0 || marks.length > 0) throw refuse('it stops with values left over')
        if (at !== bytes.length) throw refuse(`it stops with ${bytes.length - at} bytes left over`)
        return value
      }
      default: throw refuse(`opcode ${opcodeName(opcode)} is not one that a checkpoint or a tokenizer needs`)
    }
  }
}

export function isDict(value: Pickled | undefined): value is PickledDict {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'dict'
}

export function isObject(value: Pickled | undefined): value is PickledObject {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'object'
}

type Refuse = (what: string) => NanochatError

function checkProtocol(protocol: number, at: number, refuse: Refuse): void {
  if (at !== 2 || protocol < 2 || protocol > 5) throw refuse(`expected pickle protocol 2 to 5 at its start but found ${protocol}`)
}

function checkFrame(length: bigint, left: number, refuse: Refuse): void {
  if (length > BigInt(left)) throw refuse(`expected a frame of ${length} bytes but ${left} are left`)
}

function dottedName([module, name]: Pickled[], refuse: Refuse): string {
  if (typeof module !== 'string' || typeof name !== 'string') throw refuse('STACK_GLOBAL needs two names')
  return `${module}.${name}`
}

/** Two's complement, little-endian, any width; a bigint where a number would not be exact. */
function integer(raw: Uint8Array): number | bigint {
  let value = 0n
  for (let i = raw.length - 1; i >= 0; i--) value = value << 8n | BigInt(raw[i] as number)
  value = BigInt.asIntN(8 * raw.length, value)
  return Number.isSafeInteger(Number(value)) ? Number(value) : value
}

function latin1(text: string): Uint8Array | undefined {
  const raw = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0xff) return undefined
    raw[i] = code
  }
  return raw
}

// Refused, but named: those that call, import or build something, and the rest of protocols 0 to 5.
const refusedOpcodes: Record<string, string> = {
  '0': 'POP', '1': 'POP_MARK', '2': 'DUP', F: 'FLOAT', G: 'BINFLOAT', I: 'INT', L: 'LONG', P: 'PERSID', S: 'STRING',
  T: 'BINSTRING', U: 'SHORT_BINSTRING', V: 'UNICODE', a: 'APPEND', d: 'DICT', e: 'APPENDS', g: 'GET', i: 'INST', l: 'LIST',
  o: 'OBJ', p: 'PUT', ']': 'EMPTY_LIST', '\x82': 'EXT1', '\x83': 'EXT2', '\x84': 'EXT4', '\x8b': 'LONG4',
  '\x8d': 'BINUNICODE8', '\x8e': 'BINBYTES8', '\x8f': 'EMPTY_SET', '\x90': 'ADDITEMS', '\x91': 'FROZENSET',
  '\x92': 'NEWOBJ_EX', '\x96': 'BYTEARRAY8', '\x97': 'NEXT_BUFFER', '\x98': 'READONLY_BUFFER'
}

function opcodeName(opcode: number): string {
  return refusedOpcodes[String.fromCharCode(opcode)] ?? `0x${opcode.toString(16).padStart(2, '0')}`
}
