// The innermost loops of the products hold every sum in a register: g++ 12 has put some on the stack, at a third of the speed.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { disassemble } from './support/disassembly.js'

interface Loop { products: number, instructions: string[] }

const address = (line: string): string => /^\s*([0-9a-f]+):/.exec(line)?.[1] ?? ''

/** The innermost loops of the functions called `name`, lambdas in them too: what lies between a backward jump and its target, with no such jump inside. */
function innermostLoops(listing: string, name: string, product: RegExp): Loop[] {
  return listing.split('\n\n').filter((section) => /^[0-9a-f]+ <.*>:$/m.exec(section)?.[0].includes(`${name}(`)).flatMap((section) => loopsOf(section, product))
}

function loopsOf(section: string, product: RegExp): Loop[] {
  const lines = section.split('\n').filter((line) => address(line) !== '')
  const at = new Map(lines.map((line, i) => [address(line), i]))
  const jumps = lines.flatMap((line, to) => {
    const begin = at.get(/\sj\w+\s+([0-9a-f]+) </.exec(line)?.[1] ?? '')
    return begin !== undefined && begin <= to ? [{ begin, to }] : []
  })
  return jumps.filter(({ begin, to }) => !jumps.some((other) => other.begin >= begin && other.to <= to && (other.begin !== begin || other.to !== to)))
    .map(({ begin, to }) => lines.slice(begin, to + 1))
    .map((instructions) => ({ instructions, products: instructions.filter((line) => product.test(line)).length }))
    .filter(({ products, instructions }) => products > 0 && !instructions.some((line) => /vdivps/.test(line)))   // note: a softcap's tanh has multiply-adds too
}

// What a tile has: with AVX-512 6 rows and 4 vectors, or 2 beside as many sums of earlier groups; with AVX2 four steps of one row and 8 vectors, of 6 rows
// and 2 vectors, 4 rows and two times 3 of pairs (2 in attention), 4 rows and 2 of codes.
const kernels: [isa: string, register: RegExp, loops: [name: string, product: RegExp, inTile: number][]][] = [
  ['avx512bf16', /zmm/, [['matmul_panel<nanochat::bf16>', /vdpbf16ps/, 24], ['attention_tile<nanochat::bf16>', /vdpbf16ps/, 24]]],
  ['avx512vnni', /zmm/, [
    ['few_rows<(nanochat::WeightFormat)0>', /vpdpbusd/, 24], ['few_rows<(nanochat::WeightFormat)1>', /vpdpbusd/, 24],
    ['few_nibble_rows', /vpdpbusd/, 24],
    ['many_rows<(nanochat::WeightFormat)0>', /vpdpbusd/, 12], ['many_rows<(nanochat::WeightFormat)1>', /vpdpbusd/, 12]
  ]],
  ['avx512', /zmm/, [['matmul_panel<float>', /vfmadd\w+ps/, 24], ['attention_tile<float>', /vfmadd\w+ps/, 24]]],
  ['avx2', /ymm/, [
    ['matmul_panel<float>', /vfmadd\w+ps/, 32], ['matmul_panel<nanochat::bf16>', /vfmadd\w+ps/, 64],
    ['add_rows<float>', /vfmadd\w+ps/, 48], ['add_rows<nanochat::bf16>', /vfmadd\w+ps/, 24],
    ['matmul_quantized<(nanochat::WeightFormat)0>', /vpmaddwd/, 8], ['matmul_quantized<(nanochat::WeightFormat)1>', /vpmaddwd/, 8],
    ['attention_tile<float>', /vfmadd\w+ps/, 12], ['attention_tile<nanochat::bf16>', /vfmadd\w+ps/, 16]
  ]]
]
const test = suite('hot loops')
const disassembled = disassemble()

for (const [isa, register, loopsOfKernels] of kernels) {
  for (const [name, product, inTile] of loopsOfKernels) {
    if ('reason' in disassembled) {
      console.log(`SKIP hot loops: ${disassembled.reason}`)
      test.skip(name, () => {})
      continue
    }
    test(`${isa} ${name}: no vector on the stack`, () => {
      const loops = innermostLoops(disassembled.listing, `nanochat::${isa}::(anonymous namespace)::${name}`, product)
      assert.ok(loops.some(({ products }) => products === inTile), `a tile of ${inTile} among ${loops.map(({ products }) => products)}`)
      for (const { instructions } of loops) {
        const onStack = instructions.filter((line) => register.test(line) && /\(%r[sb]p/.test(line))
        assert.is(onStack.join('\n'), '', `${onStack.length} in a loop of ${instructions.length} instructions`)
      }
    })
  }
}

test.run()
