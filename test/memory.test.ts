// What the addon takes for available memory where a container has a limit: the files of its cgroup are made here, over the system's own, in
// a mount namespace that ends with the process.
import { spawnSync } from 'node:child_process'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'
import { availableMemory } from '../lib/native.js'

const test = suite('available memory')
const MB = 1e6

function inNamespace(script: string): { status: number | null, stdout: string, stderr: string } {
  return spawnSync('unshare', ['--mount', 'sh', '-c', `mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && ${script}`], { encoding: 'utf8', env: { ...process.env, NODE: process.execPath, ADDON: binding.addonPath() } })
}

function withCgroup(files: Record<string, string>): number {
  const write = Object.entries(files).map(([name, text]) => `printf '${text.replaceAll('\n', '\\n')}' > ${name}`).join(' && ')
  const { status, stdout, stderr } = inNamespace(`${write} && exec "$NODE" -p 'require(process.env.ADDON).availableMemory()'`)
  assert.is(status, 0, stderr)
  return Number(stdout)
}

test('of this machine, in bytes', () => {
  assert.ok(availableMemory() > 10 * MB)
})

if (inNamespace('true').status !== 0) {
  console.log('SKIP the limits of a container: no mount namespace can be made here')
} else {
  test('the limit of a container, where what only caches files is free', () => {
    const limit = { 'memory.max': `${400 * MB}\n`, 'memory.current': `${390 * MB}\n` }
    assert.is(withCgroup(limit), 10 * MB)
    assert.is(withCgroup({ ...limit, 'memory.stat': `anon ${90 * MB}\ninactive_file ${200 * MB}\nactive_file ${100 * MB}\n` }), 310 * MB)
    assert.is(withCgroup({ ...limit, 'memory.stat': `inactive_file ${500 * MB}\nactive_file 0\n` }), 400 * MB)
    assert.is(withCgroup({ 'memory.max': `${10 * MB}\n`, 'memory.current': `${11 * MB}\n` }), 0)
    assert.ok(withCgroup({ 'memory.max': 'max\n', 'memory.current': `${390 * MB}\n` }) > 400 * MB)
  })
}

test.run()
