// alone: its programs have deadlines and its checks look at every process
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'

// CI runs as root; the cage of an ordinary user is another one, made in a user namespace. So the same files once more, as nobody.
const test = suite('sandbox: as an unprivileged user')
const nobody = 65534

/** Why the tests can't run as nobody here, or null. */
function hindrance(): string | null {
  if (process.getuid?.() !== 0) return 'these tests already run as an ordinary user'
  const probe = spawnSync(process.execPath, ['-e', `require(${JSON.stringify(binding.addonPath())})`], { uid: nobody, gid: nobody, cwd: '/', encoding: 'utf8' })
  return probe.status === 0 ? null : `user nobody can't use ${binding.packageRoot}: ${(probe.error?.message ?? probe.stderr).split('\n')[0]}`
}

const reason = hindrance()
if (reason !== null) console.log(`not tested here as user nobody: ${reason}`)

test('the reason for not testing is one of the two known ones', () => { assert.ok(reason === null || /already run|can't use/.test(reason)) })

for (const file of reason === null ? ['sandbox.test', 'sandbox-layers', 'sandbox-full'] : []) {
  test(file, () => {
    const run = spawnSync(process.execPath, [join(binding.packageRoot, 'test/run.mjs'), file], { uid: nobody, gid: nobody, cwd: binding.packageRoot, encoding: 'utf8', env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp' } })
    assert.is(run.status, 0, run.stdout + run.stderr)
    assert.match(run.stdout, /[1-9]\d* passed, 0 failed/)
  })
}
test.run()
