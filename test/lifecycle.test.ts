// alone: it ends processes at chosen moments
// Processes that end at every stage of a model's life; each must end as it says and never by a signal.
import { spawn } from 'node:child_process'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { loader, programPath } from './support/program.js'

interface Ending { code: number | null, signal: string | null, stdout: string, stderr: string, ms: number }

const test = suite('lifecycle')

function run(scenario: string): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const started = performance.now()
    const node = spawn(process.execPath, [...loader, '--expose-gc', programPath('support/lifecycle-child'), scenario], { stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000, killSignal: 'SIGKILL' })
    const out: string[] = []
    const err: string[] = []
    node.stdout.on('data', (text: Buffer) => out.push(String(text)))
    node.stderr.on('data', (text: Buffer) => err.push(String(text)))
    node.on('error', reject)
    node.on('close', (code, signal) => resolve({ code, signal, stdout: out.join('').trim(), stderr: err.join(''), ms: performance.now() - started }))
  })
}

function endsWith(scenario: string, code: number, stdout: string): void {
  test(`${scenario}: ends with ${code}${stdout && ` and says ${stdout}`}`, async () => {
    const ending = await run(scenario)
    assert.is(ending.signal, null, `${scenario} died by ${ending.signal}\n${ending.stderr}`)
    assert.is(ending.code, code, ending.stderr)
    assert.is(ending.stdout, stdout)
  })
}

endsWith('exitWhileLoading', 7, '')
endsWith('exitDuringPrefill', 7, '')
endsWith('exitDuringDecode', 7, '')
endsWith('exitWhileDisposing', 7, '')
endsWith('exitAfterDispose', 7, '')
endsWith('throwDuringDecode', 1, '')
endsWith('endWithoutDispose', 0, '')
endsWith('pendingWorkKeepsTheProcess', 0, String(300 * 4096))
endsWith('disposeDuringDecode', 0, 'ERR_DISPOSED')
endsWith('disposeEngineDuringDecode', 0, 'ERR_DISPOSED 2048')
endsWith('workerTerminated', 0, '4096')
endsWith('workerEndsByItself', 0, '0')
endsWith('forgottenModelsAreFreed', 0, 'flat')

test.run()
