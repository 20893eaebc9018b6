// A host to be killed: node sandbox-host.ts TIER STAGE MARK. Does something with the cage and says "at <stage>" when it is there.
import { Worker } from 'node:worker_threads'
import { executeIn, warmSandbox } from '../../lib/python.js'
import { findCage, type Tier } from '../../lib/sandbox-tier.js'

const [tier = 'full', stage = 'running', mark = '0'] = process.argv.slice(2)
const stubborn = 'import signal\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\ntry: open("a-file", "w").write("x")\nexcept OSError: pass\nwhile True: pass'
const options = { maximumMemoryBytes: Number(mark), timeoutMs: 60_000, poolSize: 2 }
const { plan } = await findCage(undefined, [tier as Tier])
if (!plan) throw new Error(`no ${tier} tier`)

if (stage === 'worker') {
  const worker = new Worker(`require('tsx/cjs/api').register(); const { executeIn } = require(${JSON.stringify(new URL('../../lib/python.ts', import.meta.url).pathname)}); const { workerData } = require('worker_threads');
    executeIn(workerData.plan, workerData.code, workerData.options)`, { eval: true, workerData: { plan, code: stubborn, options } })
  setTimeout(() => console.log('at worker'), 1500)
  setTimeout(() => void worker.terminate(), 1800)
} else if (stage === 'idle') {
  await executeIn(plan, '1', options)
  await warmSandbox(options)
  console.log('at idle')
} else {
  void executeIn(plan, stubborn, options).catch(() => {})
  if (stage === 'starting') console.log('at starting')
  else setTimeout(() => console.log('at running'), 400)
  if (stage === 'exit') setTimeout(() => process.exit(0), 600)
  if (stage === 'throw') setTimeout(() => { throw new Error('uncaught') }, 600)
  setTimeout(() => {}, 60_000)
}
