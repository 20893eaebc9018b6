// alone: its programs have deadlines and its checks look at every process
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'

// Poorer machines are made with a seccomp filter around a whole Node process (support/deny.py): what the cage needs is
// really refused by the kernel, and the tier must be found by trying.
const test = suite('sandbox: tiers, fail closed')

interface Report { tier: string, layers: string[], python: string | null, refused: string[], runs: Record<'full' | 'container' | 'sealed', string>, files: string }

function reportWithout(layers: string[], uid?: number): Report {
  const root = binding.packageRoot
  const argv = [join(root, 'test/support/deny.py'), ...layers, '--', process.execPath, '--import', 'tsx', join(root, 'test/support/print-sandbox.ts')]
  const user = uid === undefined ? {} : { uid, gid: uid }
  return JSON.parse(execFileSync('/usr/bin/env', ['python3', ...argv], { cwd: root, encoding: 'utf8', env: { PATH: uid === undefined ? process.env.PATH : '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp' }, ...user })) as Report
}

const machines: { name: string, denied: string[], tier: string, refused: RegExp }[] = [
  { name: 'everything there', denied: [], tier: 'full', refused: /^$/ },
  { name: "a container with Docker's default profile", denied: ['namespaces'], tier: 'container', refused: /full tier .*namespaces missing: .*not permitted.*profile/ },
  { name: 'no namespaces, no Landlock', denied: ['namespaces', 'landlock'], tier: 'sealed', refused: /container tier .*landlock missing: .*Landlock needs Linux 5\.13/ },
  { name: 'no Landlock', denied: ['landlock'], tier: 'sealed', refused: /full tier .*landlock missing/ },
  { name: 'no seccomp', denied: ['seccomp'], tier: 'none', refused: /sealed tier .*seccomp missing: .*CONFIG_SECCOMP_FILTER/ },
]
const order = ['full', 'container', 'sealed', 'none']

const users: (number | undefined)[] = [undefined]
if (process.getuid?.() !== 0) console.log('not tested here: as root, since these tests run as an ordinary user')
else if (spawnSync('/usr/bin/test', ['-r', binding.addonPath()], { uid: 65534, gid: 65534 }).status !== 0) console.log(`not tested here: as user nobody, who can't read ${binding.packageRoot}`)
else users.push(65534)

for (const uid of users) {
  for (const { name, denied, tier, refused } of machines) {
    test(`${name}${uid === undefined ? '' : ', as user nobody'}: ${tier}`, () => {
      const report = reportWithout(denied, uid)
      assert.is(report.tier, tier, report.refused.join('\n'))
      assert.match(report.refused.join('\n'), refused)
      assert.is(report.files, tier === 'full' || tier === 'container' ? tier : 'ERR_SANDBOX_UNAVAILABLE')
      for (const minTier of ['full', 'container', 'sealed'] as const) {
        if (order.indexOf(tier) <= order.indexOf(minTier)) assert.match(report.runs[minTier], new RegExp(`^42 in ${tier}: .*seccomp`))
        else {
          assert.match(report.runs[minTier], /^ERR_SANDBOX_UNAVAILABLE: Expected a Python sandbox of tier/)
          assert.match(report.runs[minTier], /missing/)
        }
      }
    })
  }
}
test.run()
