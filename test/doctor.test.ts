import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { depthSpec } from '../benchmarks/cost.js'
import binding from '../lib/binding.cjs'
import { parseCommandLine } from '../lib/cli/args.js'
import type { Diagnosis } from '../lib/cli/doctor.js'
import { bytesOfDepth, kernelChoice, memory } from '../lib/cli/machine.js'
import { seededGPT } from '../lib/load.js'
import { native } from '../lib/native.js'
import { closeSandbox, describeSandbox } from '../lib/python.js'
import { runCli, runShell, type Run } from './support/cli.js'

const root = binding.packageRoot
const diagnosisOf = ({ stdout }: Run): Diagnosis => JSON.parse(stdout) as Diagnosis

const doctor = suite('doctor')
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'nanochat-doctor-')))
doctor.after(() => rmSync(folder, { recursive: true }))

/** The sources of this package in a directory of their own, without binary and demo model. */
function copyOfPackage(name: string): string {
  const copy = join(folder, name)
  for (const path of ['lib', 'benchmarks', 'package.json', 'binding.gyp']) cpSync(join(root, path), join(copy, path), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  return copy
}

doctor('says what works here, on one screen and in one document', async () => {
  const [text, run] = await Promise.all([runCli(['doctor']), runCli(['doctor', '--json'])])
  assert.is(run.status, 0, run.stdout + run.stderr)
  const { ok, failed, binary, kernels, threads, cuda, sandbox, python, demo, memory } = diagnosisOf(run)
  assert.equal([ok, failed], [true, []])
  assert.ok(!('error' in binary) && binary.path === binding.addonPath() && binary.bytes > 1e5)
  assert.equal([kernels?.isa, kernels?.isas, threads.default], [native().info().isa, native().info().isas, native().info().physicalCores])
  const { devices, reason } = await native().cudaDevices()
  assert.equal([cuda.devices.length, cuda.reason], [devices.length, reason])
  const { tier, layers, python: path, pythonVersion } = await describeSandbox()
  assert.is(sandbox.tier, tier)
  assert.equal(sandbox.layers.flatMap(({ layer, state }) => state === 'on' ? [layer] : []), layers)
  if (path !== null) assert.ok('path' in python && python.path === path && python.version === pythonVersion)
  assert.ok('correct' in demo && demo.correct && /7006652/.test(demo.answer) && demo.tokensPerSecond > 0 && demo.ttftMs > 0)
  assert.ok(memory.available > 0 && memory.available <= memory.total && memory.fits.int4.depth >= memory.fits.bfloat16.depth)
  await closeSandbox()
  assert.equal([text.status, text.stderr], [0, ''])
  for (const name of ['platform', 'node', 'binary', 'kernels', 'threads', 'cuda', 'sandbox', ' {2}seccomp', 'python', 'demo', 'memory', ' {2}fits']) assert.match(text.stdout, new RegExp(`^${name} +\\S`, 'm'))
  assert.match(text.stdout, /^demo +"The answer is 7006652\.": \d+ tok\/s, first token after [\d.]+ ms/m)
  assert.match(text.stdout, /\n\nEverything needed works\.\n$/)
  assert.ok(text.stdout.split('\n').length <= 30, text.stdout)
})

doctor('a binary that is not there, or that no system loads, is diagnosed', async () => {
  const without = copyOfPackage('without'), broken = copyOfPackage('broken')
  mkdirSync(join(broken, 'build', 'Release'), { recursive: true })
  writeFileSync(join(broken, 'build', 'Release', 'nanochat.node'), 'not a library')
  const [missing, asJson, unloadable] = await Promise.all([
    runCli(['doctor'], { directory: without }), runCli(['doctor', '--json'], { directory: without }), runCli(['doctor'], { directory: broken })
  ])
  for (const run of [missing, asJson, unloadable]) assert.equal([run.status, run.stderr], [1, ''], run.stdout)
  assert.match(missing.stdout, /^binary +ERR_BINDING_NOT_FOUND: .*No native build was found for platform=.*npm rebuild nanochat-node/m)
  assert.match(missing.stdout, /\n\nDoes not work: binary, demo\.\n$/)
  assert.not.match(missing.stdout, /^ +at /m)
  assert.match(unloadable.stdout, /^binary +ERR_BINDING_NOT_FOUND: .*nanochat\.node/m)
  const { ok, failed, kernels, threads, sandbox, memory } = diagnosisOf(asJson)
  assert.equal([ok, failed, kernels, threads.default, sandbox.tier], [false, ['binary', 'demo'], null, null, null])
  assert.ok(memory.fits.bfloat16.depth > 0)
})

if (process.platform === 'linux') {
  doctor('a launcher that is not there leaves no sandbox, and the interpreter is still found', async () => {
    const copy = copyOfPackage('no-launcher')
    for (const name of ['native', 'models']) symlinkSync(join(root, name), join(copy, name))
    mkdirSync(join(copy, 'build', 'Release'), { recursive: true })
    symlinkSync(binding.addonPath(), join(copy, 'build', 'Release', 'nanochat.node'))
    const run = await runCli(['doctor', '--json'], { directory: copy })
    assert.is(run.status, 0, run.stdout + run.stderr)
    const { ok, sandbox, python } = diagnosisOf(run)
    assert.equal([ok, sandbox.tier], [true, 'none'])
    assert.match(sandbox.problems.join(), /nanochat-sandbox is missing\. Run `npm rebuild nanochat-node`/)
    assert.ok('path' in python ? python.version.startsWith('3.') : python.lookedFor.length > 0)
  })
}

doctor('a demo that is not there, or that answers wrong, fails', async () => {
  const without = copyOfPackage('no-demo'), wrong = copyOfPackage('wrong-demo')
  for (const copy of [without, wrong]) for (const name of ['build', 'prebuilds', 'native']) symlinkSync(join(root, name), join(copy, name))
  for (const name of ['nanochat/g6-auto2', 'tokenizer']) cpSync(join(root, 'test/fixtures', name), join(wrong, 'models/demo'), { recursive: true })
  const [missing, run] = await Promise.all([without, wrong].map((directory) => runCli(['doctor', '--json'], { directory }))) as [Run, Run]
  const { demo: { error } } = JSON.parse(missing.stdout) as { demo: { error: string } }
  assert.is(missing.status, 1)
  assert.match(error, /^ERR_CHECKPOINT_NOT_FOUND: /)
  assert.is(run.status, 1, run.stderr)
  const { failed, demo, package: { directory } } = diagnosisOf(run)
  assert.equal([failed, directory], [['demo'], wrong])
  assert.ok('correct' in demo && !demo.correct, JSON.stringify(demo))
})

if (process.platform !== 'linux' || spawnSync('python3', ['--version']).status !== 0) {
  console.log('SKIP doctor on poorer machines: made with a seccomp filter of Linux, installed by python3')
  doctor.skip('a weaker sandbox is a remark', () => {})
} else {
  doctor('a weaker sandbox is a remark', () => {
    const without = (layer: string): Run => runShell(`python3 test/support/deny.py ${layer} -- $CLI doctor`)
    const container = without('namespaces'), none = without('seccomp')
    assert.is(container.status, 0, container.stderr)
    assert.match(container.stdout, /^sandbox +(?:container|sealed) tier: a cage/m)
    assert.match(container.stdout, /^ {2}namespaces +missing: clone: Operation not permitted\. .*Remedy: allow user namespaces/m)
    assert.match(container.stdout, /^ {2}seccomp +on$/m)
    assert.is(none.status, 0, none.stderr)
    assert.match(none.stdout, /^sandbox +none: the calculator answers/m)
    assert.match(none.stdout, /^ {2}seccomp +missing: .*CONFIG_SECCOMP_FILTER/m)
    assert.match(none.stdout, /^ {2}rlimits +unused/m)
    assert.match(none.stdout, /^python +3\.\d+\.\d+, \//m)
  })
}

const allowed = process.platform === 'linux' ? /^Cpus_allowed_list:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] : undefined
if (allowed === undefined || spawnSync('taskset', ['--version']).status !== 0) {
  console.log('SKIP doctor in an affinity mask: it is set with taskset (Linux)')
  doctor.skip('threads know the affinity mask', () => {})
} else {
  doctor('threads know the affinity mask', () => {
    const run = runShell(`taskset -c ${allowed} $CLI doctor`)
    assert.match(run.stdout, new RegExp(`^threads +1 by default, .* allowed ${allowed},`, 'm'))
  })
}

doctor('takes nothing but --json', () => {
  for (const argv of [['doctor', 'directory'], ['doctor', '-p', 'hi'], ['doctor', '--model', 'a']]) assert.throws(() => parseCommandLine(argv), /doctor (?:takes no argument|has no option)/)
})

doctor.run()

const machine = suite('doctor: the machine')

machine('names what the next better kernels need, as the addon asks for it', () => {
  const haswell = ['sse3', 'avx2', 'fma', 'bmi1', 'bmi2']
  const skylake = [...haswell, 'avx512f', 'avx512bw', 'avx512dq', 'avx512vl']
  assert.equal(kernelChoice({ isa: 'plain', isas: ['plain'] }, ['sse3', 'avx2', 'fma']).next, { isa: 'avx2', lacks: ['bmi1', 'bmi2'] })
  assert.equal(kernelChoice({ isa: 'avx2', isas: ['avx2', 'plain'] }, haswell).next, { isa: 'avx512', lacks: ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'] })
  assert.equal(kernelChoice({ isa: 'avx512vnni', isas: ['avx512vnni', 'avx512', 'avx2', 'plain'] }, [...skylake, 'avx512_vnni']).next, { isa: 'avx512bf16', lacks: ['avx512_bf16'] })
  assert.equal(kernelChoice({ isa: 'avx512', isas: ['avx512', 'avx2', 'plain'] }, skylake).next, { isa: 'avx512vnni', lacks: ['avx512_vnni'] })
  assert.equal(kernelChoice({ isa: 'avx2', isas: ['avx2', 'plain'] }, skylake).next, { isa: 'avx512', lacks: [] })
  assert.equal(kernelChoice({ isa: 'plain', isas: ['plain'] }, []).next, { isa: 'avx2', lacks: null })
  assert.equal(kernelChoice({ isa: 'neon', isas: ['neon', 'plain'] }, ['fp', 'asimd']).next, { isa: 'neondot', lacks: ['asimddp'] })
  assert.equal(kernelChoice({ isa: 'neondot', isas: ['neondot', 'neon', 'plain'] }, ['asimd', 'asimddp']).next, { isa: 'neonbf16', lacks: ['bf16'] })
  assert.is(kernelChoice({ isa: 'neonbf16', isas: ['neonbf16', 'neondot', 'neon', 'plain'] }, ['asimd', 'asimddp', 'bf16']).next, null)

  const dispatch = readFileSync(join(root, 'native/cpu/isa/dispatch.cpp'), 'utf8')
  const asked = [...dispatch.matchAll(/(?:__builtin_cpu_supports\("|&& supports_)(\w+)/g)]
    .map(([, name = '']) => name.replace(/^bmi$/, 'bmi1').replace(/^avx512vnni$/, 'avx512_vnni'))
  const lacking = (isas: string[]) => isas.flatMap((isa) => kernelChoice({ isa, isas: [isa] }, ['none']).next?.lacks ?? []).sort()
  assert.equal(asked.sort(), lacking(['plain', 'avx2', 'avx512', 'avx512vnni']))
  assert.equal([...new Set([...dispatch.matchAll(/\bhas\.(\w+)/g)].map(([, name]) => name))].sort(), lacking(['neon', 'neondot']))
})

machine('counts what a depth needs as the addon does', async () => {
  const { nLayer, nHead, nKvHead, nEmbd, sequenceLen, vocabSize, windowPattern = 'L' } = depthSpec(4)
  for (const dtype of ['bfloat16', 'int8', 'int4'] as const) {
    await using model = await seededGPT({ nLayer, nHead, nKvHead, nEmbd, sequenceLen, vocabSize, windowPattern }, 1, { dtype })
    const actual = model.memoryBytes + sequenceLen * model.backend.kvBytesPerToken
    assert.ok(Math.abs(bytesOfDepth(4, dtype) / actual - 1) < 0.05, `${dtype}: ${bytesOfDepth(4, dtype)} of ${actual}`)
  }
})

machine('the depth that fits is the largest one', () => {
  const available = 3 * 2 ** 30
  for (const dtype of ['bfloat16', 'int8', 'int4'] as const) {
    const { depth, bytes } = memory(available).fits[dtype]
    assert.ok(depth > 10 && bytes === bytesOfDepth(depth, dtype) && bytes <= available && bytesOfDepth(depth + 2, dtype) > available)
  }
  assert.equal(memory(1000).fits.int4, { depth: 0, bytes: 0 })
})

machine.run()
