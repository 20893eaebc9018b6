/** A field of a protobuf message: its number, and a varint, a float32 or bytes (a string or a message). */
export type Field = [number: number, value: number | { float: number } | Uint8Array]

export function message(fields: Field[]): Uint8Array {
  return Buffer.concat(fields.flatMap(([number, value]) => {
    if (typeof value === 'number') return [varint(number * 8), varint(value)]
    if (value instanceof Uint8Array) return [varint(number * 8 + 2), varint(value.length), value]
    const bytes = Buffer.alloc(4)
    bytes.writeFloatLE(value.float)
    return [varint(number * 8 + 5), bytes]
  }))
}

export const text = (number: number, value: string): Field => [number, Buffer.from(value)]

/** An AttributeProto of a NodeProto. */
export function attribute(name: string, value: number, type: 'int' | 'float' = 'int'): Field {
  const fields: Field[] = type === 'int' ? [[3, value], [20, 2]] : [[2, { float: value }], [20, 1]]
  return [5, message([text(1, name), ...fields])]
}

/** The fields of a TensorProto whose data lie in another file. */
export function external(location: string, offset: number, length: number): Field[] {
  const entry = (key: string, value: string): Field => [13, message([text(1, key), text(2, value)])]
  return [entry('location', location), entry('offset', String(offset)), entry('length', String(length)), [14, 1]]
}

function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let left = BigInt.asUintN(64, BigInt(value))
  for (; left > 127n; left >>= 7n) bytes.push(Number(left & 127n) | 128)
  return Uint8Array.from([...bytes, Number(left)])
}
