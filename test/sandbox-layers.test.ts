// alone: its programs have deadlines and its checks look at every process
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { closeSandbox, executeIn, type ExecutionResult } from '../lib/python.js'
import { findCage, type CagePlan, type Layer, type Tier } from '../lib/sandbox-tier.js'
import { survivors } from './support/sandbox-catalogue.js'

// Each layer earns its place: a program that the whole cage holds gets through when that one layer is left out.
const test = suite('sandbox: every layer is needed')
const options = { poolSize: 0, timeoutMs: 10_000, maximumMemoryBytes: (256 << 20) + process.pid }

async function planOf(tier: Tier, without: Layer[] = []): Promise<CagePlan> {
  const { plan, refusals } = await findCage(undefined, [tier])
  // without namespaces only an interpreter will do that the cage's own user can read
  const { plan: readable } = await findCage(undefined, ['container', 'sealed'])
  if (!plan || !readable) throw new Error(`no ${tier} tier on this machine: ${JSON.stringify(refusals)}`)
  return { ...plan, interpreter: readable.interpreter, layers: plan.layers.filter((layer) => !without.includes(layer)) }
}

const filterReachesKernel = 'import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.prctl(22, 2, 0, 0, 0)\n"through" if ctypes.get_errno() == 14 else "held"'
const opensPasswd = 'try: open("/etc/passwd"); r = "through"\nexcept OSError: r = "held"\nr'

// `without` lists what goes together: the first filter can only be missed where the second is not there either
const programs: { tier: Tier, without: Layer[], threat: string, code: string }[] = [
  { tier: 'full', without: ['namespaces'], threat: 'which files the host has can be told', code: 'import os\n"through" if os.path.exists("/etc/passwd") else "held"' },
  { tier: 'full', without: ['landlock'], threat: 'the root is listed', code: 'import os\ntry: os.listdir("/"); r = "through"\nexcept OSError: r = "held"\nr' },
  { tier: 'full', without: ['seccomp', 'seal'], threat: 'a socket is made', code: 'import socket\ntry: socket.socket(); r = "through"\nexcept OSError: r = "held"\nr' },
  { tier: 'full', without: ['seal'], threat: 'a filter of its own reaches the kernel', code: filterReachesKernel },
  { tier: 'full', without: ['rlimits'], threat: '400 MB are allocated', code: 'try: bytearray(400 << 20); r = "through"\nexcept MemoryError: r = "held"\nr' },
  { tier: 'container', without: ['landlock'], threat: 'a file of the host is read', code: opensPasswd },
  { tier: 'container', without: ['seccomp', 'seal'], threat: 'a socket is made', code: 'import socket\ntry: socket.socket(); r = "through"\nexcept OSError: r = "held"\nr' },
  { tier: 'sealed', without: ['seal'], threat: 'a file of the host is read', code: opensPasswd },
]

for (const { tier, without, threat, code } of programs) {
  test(`${tier}: without ${without.join(' and ')} ${threat}`, async () => {
    assert.is((await executeIn(await planOf(tier), code, options)).result, 'held')
    assert.is((await executeIn(await planOf(tier, without), code, options)).result, 'through')
  })
}

/** /proc/PID/status of the interpreter while its program sleeps. */
async function statusOf(plan: CagePlan): Promise<Record<string, string>> {
  const run: Promise<ExecutionResult> = executeIn(plan, 'import time\ntime.sleep(0.4)', options)
  try {
    for (let tries = 0; tries < 100; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 20))
      const line = survivors(options.maximumMemoryBytes).find((text) => !text.includes('nanochat-sandbox'))
      if (!line) continue
      const text = readFileSync(`/proc/${line.split(' ')[0]}/status`, 'utf8')
      const status = Object.fromEntries(text.split('\n').map((row): [string, string] => [row.slice(0, row.indexOf(':')), row.slice(row.indexOf(':') + 1).trim()]))
      if (status.Seccomp_filters === String(plan.layers.filter((layer) => layer === 'seccomp' || layer === 'seal').length)) return status
    }
    throw new Error('the interpreter was not seen at work')
  } finally {
    await run
  }
}

test('seen from outside: no capabilities, no new privileges, two filters, not root', async () => {
  const status = await statusOf(await planOf('full'))
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.is(Number.parseInt(status[set] ?? '1', 16), 0, set)
  assert.is(status.NoNewPrivs, '1')
  assert.is(status.Seccomp, '2')
  for (const id of (status.Uid ?? '0').split('\t')) assert.is.not(id, '0')
  assert.match(status.NSpid ?? '', /\t1$/)
})

test('without capabilities the bounding set is still full', async () => {
  const status = await statusOf(await planOf('full', ['capabilities']))
  assert.is.not(Number.parseInt(status.CapBnd ?? '0', 16), 0)
})

test.after(closeSandbox)
test.run()
