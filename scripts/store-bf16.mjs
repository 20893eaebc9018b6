// Rewrites a .pt with its float32 matrices rounded to bfloat16, to halve a model that ships:
//   node --import tsx scripts/store-bf16.mjs <in.pt> <out.pt>
// Vectors and the tiny gates stay float32: they cost nothing and scale everything.
import { open, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { readPt } from '../lib/checkpoint/pt.ts'
import { itemSizes, ptBytes, toBfloat16 } from '../test/support/write-pt.ts'

const [input, output] = process.argv.slice(2)
if (output === undefined) throw new Error('usage: store-bf16.mjs <in.pt> <out.pt>')

const file = await open(input)
const tensors = []
for (const { name, dtype, shape, offset } of await readPt(input, 0)) {
  const data = new Uint8Array(shape.reduce((product, n) => product * n, 1) * itemSizes[dtype])
  await file.read(data, 0, data.length, offset)
  const isMatrix = dtype === 'float32' && shape.length === 2 && !/_gate\.weight$/.test(name)
  const rounded = isMatrix ? new Uint8Array(toBfloat16(new Float32Array(data.buffer)).buffer) : data
  tensors.push({ name, dtype: isMatrix ? 'bfloat16' : dtype, shape, data: rounded })
}
await file.close()

const bytes = ptBytes(tensors, { root: basename(output, '.pt') })
await writeFile(output, bytes)
console.log(`${output}: ${tensors.length} tensors, ${bytes.length} bytes`)
