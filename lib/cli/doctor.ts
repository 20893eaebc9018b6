import { readFileSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import binding from '../binding.cjs'
import { cudaMemory, type DeviceMemory } from '../device.js'
import { Engine } from '../engine.js'
import { NanochatError } from '../errors.js'
import { loadModel } from '../load.js'
import { native } from '../native.js'
import { discover, findCage, layersOf, pythonCandidates, type Layer, type Refusal, type Tier } from '../sandbox-tier.js'
import type { Command } from './args.js'
import { kernelChoice, memory, platform, threads, type KernelChoice, type Memory, type Platform, type Threads } from './machine.js'
import { jsonLine, painter, short, withoutControls } from './terminal.js'

/** What `doctor` found. Where something does not work, `error` says why and what to do. */
export interface Diagnosis {
  ok: boolean
  /** What is needed and does not work: 'node', 'binary', 'demo'. */
  failed: string[]
  package: { version: string, directory: string }
  platform: Platform
  node: { version: string, required: string }
  binary: { path: string, kind: 'build' | 'prebuild', bytes: number } | { error: string }
  kernels: KernelChoice | null
  threads: Threads
  cuda: { devices: DeviceMemory[], reason: string | null }
  /** Without the binary nothing is tried: the tier is null. */
  sandbox: { tier: Tier | 'none' | null, layers: LayerState[], problems: string[] }
  python: { path: string, version: string, passedOver: string[] } | { lookedFor: string[], problems: string[] }
  demo: { question: string, answer: string, correct: boolean, loadMs: number, ttftMs: number, tokensPerSecond: number } | { error: string }
  memory: Memory
}

/** `unused`: no weaker cage has it, and the stronger one lacks something else. */
export interface LayerState { layer: Layer, state: 'on' | 'missing' | 'unused', reason: string | null, remedy: string | null }

const question = 'What is 1234 * 5678?'
const expected = String(1234 * 5678)

const remedies: Record<Layer, string> = {
  namespaces: 'allow user namespaces: sysctl user.max_user_namespaces, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0, in a container a profile that permits clone and mount',
  landlock: 'boot such a kernel; gVisor and the like have none',
  seccomp: 'a kernel with CONFIG_SECCOMP_FILTER, and a container profile that permits prctl',
  seal: 'as for seccomp',
  rlimits: 'limits of the host that are no lower than those of the cage (docs/sandbox.md)',
  capabilities: 'start Node as an ordinary user, or with CAP_SETUID, CAP_SETGID and CAP_SETPCAP'
}

/** Prints what works here and what does not; the exit code is 1 when something that is needed does not. */
export async function doctor({ json }: Command): Promise<void> {
  const diagnosis = await diagnose()
  process.stdout.write(json ? jsonLine(diagnosis) : asText(diagnosis))
  if (!diagnosis.ok) process.exitCode = 1
}

async function diagnose(): Promise<Diagnosis> {
  const { version, engines } = JSON.parse(readFileSync(join(binding.packageRoot, 'package.json'), 'utf8')) as { version: string, engines: { node: string } }
  const binary = findBinary()
  const isLoaded = !('error' in binary)
  const demo = isLoaded ? await tryDemo() : { error: 'not tried: it needs the binary' }
  const node = { version: process.versions.node, required: engines.node }
  const failed = [
    ...isEnough(node) ? [] : ['node'], ...isLoaded ? [] : ['binary'], ...'error' in demo || !demo.correct ? ['demo'] : []
  ]
  return {
    ok: failed.length === 0, failed,
    package: { version, directory: binding.packageRoot },
    platform: platform(), node, binary,
    kernels: isLoaded ? kernelChoice(native().info()) : null,
    threads: threads(isLoaded ? native().info().physicalCores : null),
    cuda: isLoaded ? await cudaMemory() : { devices: [], reason: 'unknown without the binary' },
    ...isLoaded ? await trySandbox() : withoutBinary(),
    demo, memory: memory()
  }
}

/** `required` is a '>=20.17'. */
function isEnough({ version, required }: Diagnosis['node']): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const [leastMajor = 0, leastMinor = 0] = required.replace(/^\D+/, '').split('.').map(Number)
  return major > leastMajor || (major === leastMajor && minor >= leastMinor)
}

function findBinary(): Diagnosis['binary'] {
  try {
    native().info()
    const path = binding.addonPath()
    return { path, kind: /(?:^|[\\/])prebuilds[\\/]/.test(relative(binding.packageRoot, path)) ? 'prebuild' : 'build', bytes: statSync(path).size }
  } catch (error) { return { error: message(error) } }
}


async function tryDemo(): Promise<Diagnosis['demo']> {
  const startedAt = performance.now()
  try {
    await using loaded = await loadModel('demo')
    const loadMs = performance.now() - startedAt
    await using engine = new Engine(loaded.model, loaded.tokenizer)
    let answer = ''
    for await (const event of engine.chat([{ role: 'user', content: question }], { temperature: 0, maxTokens: 64 })) {
      if (event.type === 'text') answer += event.text
      if (event.type === 'finish') {
        const { ttftMs, tokensPerSecond } = event.stats
        return { question, answer: answer.trim(), correct: answer.includes(expected), loadMs, ttftMs, tokensPerSecond }
      }
    }
    return { error: 'the answer has no end' }
  } catch (error) { return { error: message(error) } }
}

async function trySandbox(): Promise<Pick<Diagnosis, 'sandbox' | 'python'>> {
  const search = await findCage().catch(message)
  if (typeof search === 'string') return { sandbox: { tier: 'none', layers: [], problems: [search] }, python: await findPython([]) }
  const { plan, refusals } = search
  const layers = layersOf.full.map((layer): LayerState => {
    if (plan?.layers.includes(layer)) return { layer, state: 'on', reason: null, remedy: null }
    const refusal = refusals.find((refused) => refused.layer === layer)
    return refusal ? { layer, state: 'missing', reason: refusal.reason, remedy: remedies[layer] } : { layer, state: 'unused', reason: null, remedy: null }
  })
  const others = refusals.filter(({ layer }) => !(layersOf.full as readonly string[]).includes(layer))
  // A process that no cage can start is the cage's problem; where one can, it is that interpreter's.
  const isOfPython = ({ layer }: Refusal): boolean => layer === 'python' || (layer === 'process' && plan !== null)
  const problems = [...new Set(others.filter((refusal) => !isOfPython(refusal)).map(({ reason }) => reason))]
  const passedOver = [...new Set(others.filter(isOfPython).map(({ python, reason }) => reason.startsWith(python) ? reason : `${python}: ${reason}`))]
  return { sandbox: { tier: plan?.tier ?? 'none', layers, problems }, python: plan ? { path: plan.interpreter.executable, version: plan.interpreter.version, passedOver } : await findPython(passedOver) }
}

/** The interpreter that the cage would have had. */
async function findPython(problems: string[]): Promise<Diagnosis['python']> {
  const lookedFor = pythonCandidates()
  const reasons = new Set(problems)
  for (const path of lookedFor) {
    try {
      const { executable, version } = await discover(path)
      return { path: executable, version, passedOver: [...reasons] }
    } catch (error) { reasons.add(message(error)) }
  }
  return { lookedFor: lookedFor.length > 0 ? lookedFor : ['python3 on the PATH, in /usr/bin, /usr/local/bin and /opt/homebrew/bin'], problems: [...reasons] }
}

function withoutBinary(): Pick<Diagnosis, 'sandbox' | 'python'> {
  const problems = ['not tried: it needs the binary']
  return { sandbox: { tier: null, layers: [], problems }, python: { lookedFor: pythonCandidates(), problems } }
}

function message(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return `${NanochatError.is(error) ? `${error.code}: ` : ''}${text}`.replace(/\s*\n\s*/g, ' ')
}

function asText(diagnosis: Diagnosis): string {
  const { ok, failed, package: { version, directory }, platform: { os, arch, release, libc, cpu }, node, binary, kernels, cuda } = diagnosis
  const paint = painter(process.stdout)
  const rows: [string, string][] = [
    ['nanochat-node', `${version} in ${directory}`],
    ['platform', [`${os}-${arch}`, release, libc, cpu].filter((part) => part !== null).join(', ')],
    ['node', isEnough(node) ? node.version : `${node.version}; ${node.required} is needed`],
    ['binary', 'error' in binary ? binary.error : `${binary.kind}, ${short(binary.bytes, 'B')}, ${binary.path}`],
    ['kernels', kernels ? kernelsText(kernels) : 'unknown without the binary'],
    ['threads', threadsText(diagnosis.threads)],
    ['cuda', cuda.devices.length > 0 ? cuda.devices.map(({ name, freeBytes, totalBytes }) => `${name}, ${short(freeBytes, 'B')} free of ${short(totalBytes, 'B')}`).join('; ') : `none: ${cuda.reason ?? 'no reason given'}`],
    ...sandboxRows(diagnosis.sandbox),
    ...pythonRows(diagnosis.python),
    ['demo', demoText(diagnosis.demo)],
    ...memoryRows(diagnosis.memory)
  ]
  const lines = rows.map(([name, value]) => `${failed.includes(name) ? paint('error', name.padEnd(16)) : name.padEnd(16)}${withoutControls(value)}\n`)
  return `${lines.join('')}\n${ok ? paint('output', 'Everything needed works.') : paint('error', `Does not work: ${failed.join(', ')}.`)}\n`
}

function kernelsText({ isa, isas, next }: KernelChoice): string {
  const why = next === null ? 'the best there is' : next.lacks === null ? `${next.isa} does not run here` : next.lacks.length > 0 ? `for ${next.isa} this processor lacks ${next.lacks.join(', ')}` : `this binary was built without ${next.isa}`
  return `${isa} of ${isas.join(', ')}: ${why}`
}

function threadsText({ default: cores, processors, allowed, quota }: Threads): string {
  const limits = [`${processors} processor${processors === 1 ? '' : 's'}`, ...allowed === null ? [] : [`allowed ${allowed}`], quota === null ? 'no cgroup quota' : `a cgroup quota of ${Number(quota.toFixed(2))}`]
  return `${cores === null ? 'unknown without the binary' : `${cores} by default, the physical cores this process may use`}: ${limits.join(', ')}`
}

const stateText: Partial<Record<LayerState['state'], string>> = { on: 'on', unused: 'unused: the tiers that have it lack something else' }

function sandboxRows({ tier, layers, problems }: Diagnosis['sandbox']): [string, string][] {
  const tierText = tier === null ? [] : tier === 'none' ? ['none: the calculator answers, other Python is not run'] : tier === 'full' ? ['full tier'] : [`${tier} tier: a cage, not the strongest (docs/sandbox.md)`]
  return [
    ['sandbox', [...tierText, ...problems].join('; ')],
    ...layers.map(({ layer, state, reason, remedy }): [string, string] => [`  ${layer}`, stateText[state] ?? `missing: ${reason}. Remedy: ${remedy}`])
  ]
}

function pythonRows(python: Diagnosis['python']): [string, string][] {
  if ('lookedFor' in python) return [['python', `looked for ${python.lookedFor.join(', ')}${python.problems.map((problem) => `; ${problem}`).join('')}`]]
  return [['python', `${python.version}, ${python.path}`], ...python.passedOver.map((reason): [string, string] => ['  passed over', reason])]
}

function demoText(demo: Diagnosis['demo']): string {
  if ('error' in demo) return demo.error
  if (!demo.correct) return `expected ${expected} in the answer to ${JSON.stringify(question)} but received ${JSON.stringify(demo.answer)}; the model or the binary is damaged: install the package again`
  return `${JSON.stringify(demo.answer)}: ${Math.round(demo.tokensPerSecond)} tok/s, first token after ${demo.ttftMs.toFixed(1)} ms, loaded in ${Math.round(demo.loadMs)} ms`
}

function memoryRows({ total, limit, available, fits }: Memory): [string, string][] {
  const fit = Object.entries(fits).map(([dtype, { depth, bytes }]) => depth === 0 ? `nothing as ${dtype}` : `d${depth} as ${dtype} (${short(bytes, 'B')})`)
  return [
    ['memory', `${short(available, 'B')} available of ${short(total, 'B')}${limit === null ? '' : `, limited to ${short(limit, 'B')}`}`],
    ['  fits', `${fit.join(', ')}, with one full context`]
  ]
}
