// An ONNX decoder with the matrices of a nanochat model and random weights, from the operators that ONNX Runtime has for language
// models: rotary positions and the cache are GroupQueryAttention's, norms take the residual with them, and 8- and 4-bit
// matrices are MatMulNBits. The weights lie in a file beside the model, `<path>.data`.
import { writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import type { ModelSpec } from '../../lib/native.js'
import { attribute, external, message, text, type Field } from './protobuf.js'
import { blockFormats, RandomFile, type BlockFormat } from './weights.js'

export type OnnxFormat = 'fp32' | 'int8' | 'int4'

const elementType = { float32: 1, uint8: 2, int32: 6, int64: 7 }
const quantised = {
  int8: { bits: 8, blocks: blockFormats.bytes, scale: 3.1e-4 },
  int4: { bits: 4, blocks: blockFormats.nibbles, scale: 4.9e-3 }
}
const blockSize = 32   // values of one scale
const alignment = 4096

/** As a step reads them: the values and their share of a scale. */
export function onnxBytesPerWeight(format: OnnxFormat): number {
  return format === 'fp32' ? 4 : quantised[format].bits / 8 + 4 / blockSize
}

/** Inputs: input_ids (B, T), seqlens_k (B) = keys - 1, total_sequence_length; past_key.L and past_value.L (B, H, S, D), and the same as present. Output: logits (B, V) of the last position. */
export function writeOnnx(path: string, spec: ModelSpec, format: OnnxFormat): void {
  const file = new RandomFile(`${path}.data`)
  try {
    writeFileSync(path, new Graph(file, `${basename(path)}.data`, format).model(spec))
  } finally {
    file.close()
  }
}

class Graph {
  readonly #file: RandomFile
  readonly #location: string
  readonly #format: OnnxFormat
  readonly #nodes: Field[] = []
  readonly #initializers: Field[] = []
  readonly #inputs: Field[] = []
  readonly #outputs: Field[] = []

  constructor(file: RandomFile, location: string, format: OnnxFormat) {
    this.#file = file
    this.#location = location
    this.#format = format
  }

  model(spec: ModelSpec): Uint8Array {
    this.#decoder(spec)
    const graph = message([...this.#nodes, text(2, 'decoder'), ...this.#initializers, ...this.#inputs, ...this.#outputs])
    const opset = (domain: string, version: number): Field => [8, message([text(1, domain), [2, version]])]
    return message([[1, 10], text(2, 'nanochat-node'), [7, graph], opset('', 21), opset('com.microsoft', 1)])
  }

  #decoder({ sequenceLen, nLayer, nHead: H, nKvHead: K, nEmbd: C, vocabSize: V, mlpHidden = 4 * C }: ModelSpec): void {
    const D = C / H
    this.#inputs.push(valueInfo(11, 'input_ids', elementType.int64, ['B', 'T']), valueInfo(11, 'seqlens_k', elementType.int32, ['B']),
      valueInfo(11, 'total_sequence_length', elementType.int32, []))
    this.#outputs.push(valueInfo(12, 'logits', elementType.float32, ['B', V]))
    this.#tensor('wte', elementType.float32, [V, C], () => this.#file.weights(blockFormats.float32, V * C))
    this.#values('one', Float32Array.from({ length: C }, () => 1), [C])
    this.#values('cos', rotaryTable(sequenceLen, D, Math.cos), [sequenceLen, D / 2])
    this.#values('sin', rotaryTable(sequenceLen, D, Math.sin), [sequenceLen, D / 2])
    this.#tensor('last', elementType.int64, [], () => this.#file.append(Buffer.from(BigInt64Array.of(-1n).buffer)))

    this.#node('Gather', ['wte', 'input_ids'], ['x.0'])
    this.#node('SimplifiedLayerNormalization', ['x.0', 'one'], ['n.0'], normAttributes)
    for (let l = 0; l < nLayer; l++) {
      const cache = [`past_key.${l}`, `past_value.${l}`], present = [`present_key.${l}`, `present_value.${l}`]
      for (const name of cache) this.#inputs.push(valueInfo(11, name, elementType.float32, ['B', K, 'S', D]))
      for (const name of present) this.#outputs.push(valueInfo(12, name, elementType.float32, ['B', K, 'S', D]))
      this.#matmul(`n.${2 * l}`, `qkv.${l}`, C, (H + 2 * K) * D)
      this.#node('GroupQueryAttention', [`qkv.${l}`, '', '', ...cache, 'seqlens_k', 'total_sequence_length', 'cos', 'sin'], [`attn.${l}`, ...present],
        [attribute('num_heads', H), attribute('kv_num_heads', K), attribute('do_rotary', 1)], 'com.microsoft')
      this.#matmul(`attn.${l}`, `c_proj.${l}`, H * D, C)
      this.#addAndNorm(2 * l, `c_proj.${l}`)
      this.#matmul(`n.${2 * l + 1}`, `fc.${l}`, C, mlpHidden)
      this.#node('Relu', [`fc.${l}`], [`relu.${l}`])
      this.#node('Mul', [`relu.${l}`, `relu.${l}`], [`square.${l}`])
      this.#matmul(`square.${l}`, `mlp.${l}`, mlpHidden, C)
      this.#addAndNorm(2 * l + 1, `mlp.${l}`)
    }
    this.#node('Gather', [`n.${2 * nLayer}`, 'last'], ['n.last'], [attribute('axis', 1)])
    this.#matmul('n.last', 'logits', C, V)
  }

  /** x.(i + 1) = x.i + y, and n.(i + 1) its norm. */
  #addAndNorm(i: number, y: string): void {
    this.#node('SkipSimplifiedLayerNormalization', [`x.${i}`, y, 'one'], [`n.${i + 1}`, '', '', `x.${i + 1}`], [attribute('epsilon', normEpsilon, 'float')], 'com.microsoft')
  }

  /** y = x W, W (K, N) where it is float32 and otherwise (N, K / 32) blocks. */
  #matmul(x: string, y: string, K: number, N: number): void {
    const weight = `${y}.weight`
    if (this.#format === 'fp32') {
      this.#tensor(weight, elementType.float32, [K, N], () => this.#file.weights(blockFormats.float32, K * N))
      return this.#node('MatMul', [x, weight], [y])
    }
    const { bits, blocks, scale }: { bits: number, blocks: BlockFormat, scale: number } = quantised[this.#format]
    const count = N * K / blockSize
    this.#tensor(weight, elementType.uint8, [N, K / blockSize, blockSize * bits / 8], () => this.#file.weights(blocks, K * N))
    this.#values(`${y}.scales`, new Float32Array(count).fill(scale), [count])
    this.#node('MatMulNBits', [x, weight, `${y}.scales`], [y],
      [attribute('K', K), attribute('N', N), attribute('bits', bits), attribute('block_size', blockSize), attribute('accuracy_level', int8Products)], 'com.microsoft')
  }

  #values(name: string, values: Float32Array, shape: number[]): void {
    this.#tensor(name, elementType.float32, shape, () => this.#file.append(new Uint8Array(values.buffer)))
  }

  #tensor(name: string, type: number, shape: number[], write: () => void): void {
    this.#file.align(alignment)
    const offset = this.#file.position
    write()
    this.#initializers.push([5, message([...shape.map((size): Field => [1, size]), [2, type], text(8, name), ...external(this.#location, offset, this.#file.position - offset)])])
  }

  #node(operator: string, inputs: string[], outputs: string[], attributes: Field[] = [], domain = ''): void {
    const names = (number: number, list: string[]): Field[] => list.map((name) => text(number, name))
    this.#nodes.push([1, message([...names(1, inputs), ...names(2, outputs), text(3, outputs[0] ?? operator), text(4, operator), ...attributes, text(7, domain)])])
  }
}

const normEpsilon = 1e-6
const normAttributes = [attribute('axis', -1), attribute('epsilon', normEpsilon, 'float'), attribute('stash_type', 1)]
const int8Products = 4   // accuracy_level: activations are quantised per block

function rotaryTable(positions: number, D: number, of: (angle: number) => number): Float32Array {
  return Float32Array.from({ length: positions * D / 2 }, (_, i) => of(Math.floor(i / (D / 2)) * 10000 ** (-2 * (i % (D / 2)) / D)))
}

function valueInfo(number: number, name: string, type: number, shape: (number | string)[]): Field {
  const dims = shape.map((size): Field => [1, message([typeof size === 'number' ? [1, size] : text(2, size)])])
  return [number, message([text(1, name), [2, message([[1, message([[1, type], [2, message(dims)]])]])]])]
}
