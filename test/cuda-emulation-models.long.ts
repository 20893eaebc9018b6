// On the emulated CUDA device: whole models through the addon (test/support/cuda-models.ts), every kernel against its twin with its
// threads in several orders and with several numbers of processors, and the commands that know a device. Under AddressSanitizer: cuda-emulation.long.ts.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { DecodeRow } from '../benchmarks/decode.js'
import type { Diagnosis } from '../lib/cli/doctor.js'
import type { Inspection } from '../lib/cli/inspect.js'
import type { Run } from './support/cli.js'
import { buildEmulation, checkKernels, missingTool, runCliOnDevice, runModels, runProgram } from './support/cuda-emulation.js'

interface Document { device: string, rows: DecodeRow[] }

const test = suite('cuda emulation, models')
const missing = missingTool()

if (missing !== null) {
  console.log(`SKIP cuda emulation, models: ${missing}`)
  test.skip('models and kernels', () => {})
} else {
  test.before(() => buildEmulation({ sanitize: false }))

  test('whole models of every generation, through the addon', async () => {
    const { status, output } = await runModels()
    console.log(output.trim())
    assert.is(status, 0, output)
    assert.match(output, /Passed:\s+(?:3[89]|[4-9]\d)/)
  })

  test('every kernel against its fp64 twin, in every order of the threads', () => checkKernels([]))

  test('the bench program runs', () => {
    const { status, output } = runProgram('nc_cuda_emulation_bench', ['2', '1,2', '20', '10'])
    assert.is(status, 0, output)
    const last = JSON.parse(output.trim().split('\n').at(-1) ?? '') as { rows: { ms: number }[] }
    assert.is(last.rows.length, 4)
  })

  test('inspect and doctor say what fits on the device; too little memory is an error before anything is loaded', async () => {
    const [inspected, text, diagnosed] = await runCliOnDevice([['inspect', '-i', 'demo', '--json'], ['inspect', '-i', 'demo'], ['doctor', '--json']], { NANOCHAT_EMULATION_MEMORY_MB: '100' }) as [Run, Run, Run]
    const { cuda, kvBytesPerToken, weightBytes } = JSON.parse(inspected.stdout) as Inspection
    const needs = cuda.needs.bfloat16
    assert.ok(needs !== undefined && needs.workingBytes > 2048 * 256 * 12)
    assert.is(needs.kvBytesPerToken, kvBytesPerToken.bfloat16, 'heads of 64 are not padded')
    assert.ok(Math.abs(needs.weightBytes / (weightBytes.bfloat16 ?? NaN) - 1) < 0.01, `${needs.weightBytes} of ${weightBytes.bfloat16}`)
    const [device] = cuda.devices
    assert.equal([cuda.devices.length, device?.name, device?.totalBytes, device?.freeBytes], [1, 'CPU emulation', 100 << 20, 100 << 20])
    assert.is(device?.rows.bfloat16, Math.floor(((100 << 20) - needs.weightBytes - needs.workingBytes) / (512 * needs.kvBytesPerToken)))
    assert.match(text.stdout, /^ {2}cuda:0 +CPU emulation, 100\.0 MiB free of 100\.0 MiB: \d+ rows of 512 tokens as bfloat16, \d+ rows of 512 tokens as float32$/m)
    assert.is((JSON.parse(diagnosed.stdout) as Diagnosis).cuda.devices[0]?.freeBytes, 100 << 20)

    const args = ['generate', '-i', 'demo', '--device', 'cuda', '--max-tokens', '1', '-p', 'a']
    const [small] = await runCliOnDevice([args], { NANOCHAT_EMULATION_MEMORY_MB: '30' }) as [Run]
    assert.is(small.status, 1)
    assert.match(small.stderr, /ERR_OUT_OF_MEMORY: The model needs \d+ MB on the device \(weights \d+ MB, a pass \d+ MB, one context 2 MB\) and \d+ MB are free/)
  })

  test('bench --device cuda prints the card and the columns of the CPU', async () => {
    const args = ['bench', '--model', 'test/fixtures/nanochat/g6-auto2', '--batch-sizes', '1,2', '--prompt-tokens', '4', '--decode-tokens', '2', '--prefill-tokens', '8', '-r', '1']
    const [onDevice, onCpu] = await runCliOnDevice([[...args, '--device', 'cuda'], [...args, '--threads', '1']]) as [Run, Run]
    assert.is(onDevice.status, 0, onDevice.stderr)
    const document = ({ stdout }: Run): Document => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Document
    const rows = document(onDevice).rows
    assert.equal(document(onDevice).device, 'CPU emulation')
    assert.equal(rows.map(({ device, isa, batch }) => [device, isa, batch]), [['cuda:0', 'cuda', 1], ['cuda:0', 'cuda', 2]])
    for (const row of rows) for (const value of [row.roofTokensPerSecond, row.percentOfRoof, row.prefillPercentOfPeak, row.ttftMs, row.tpotMs.p99]) assert.ok(value > 0 && Number.isFinite(value), JSON.stringify(row))
    assert.equal(Object.keys(rows[0] ?? {}), Object.keys(document(onCpu).rows[0] ?? {}))
    assert.match(onDevice.stdout, /^GPU: CPU emulation \| read [\d.]+ GB\/s \| peak [\d.]+ GFLOP\/s bfloat16 \(mma\.sync\)$/m)
    const shape = ({ stdout }: Run): string => stdout.replace(/\n\{[^]*/, '').replace(/^note.*\n?/gm, '').replace(/GPU: .*|CPU: .*/, '').replace(/bfloat16, .*/, '').replace(/[\d.,]+/g, '0').replace(/ +/g, ' ').replace(/\((?:memory|compute)\)/g, '')
    assert.is(shape(onDevice), shape(onCpu))
  })
}

test.run()
