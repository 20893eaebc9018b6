// alone: its programs have deadlines and its checks look at every process
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import binding from '../lib/binding.cjs'
import { NanochatError } from '../lib/errors.js'
import { closeSandbox, describeSandbox, executeCode, pythonTool, warmSandbox } from '../lib/python.js'
import { FrameReader, Output } from '../lib/sandbox-protocol.js'
import { removeTree } from '../lib/sandbox-process.js'

const context = { row: 0, signal: new AbortController().signal }

const api = suite('executeCode')

api('the value of the last expression, what was printed, where it ran', async () => {
  const run = await executeCode('import sys\nprint("out")\nprint("err", file=sys.stderr)\n6 * 7')
  assert.equal({ ...run, durationMs: 0, layers: [] }, { success: true, stdout: 'out\n', stderr: 'err\n', result: '42', error: null, timeout: false, memoryExceeded: false, truncated: false, exitCode: 0, signal: null, durationMs: 0, tier: run.tier, layers: [] })
  assert.ok(run.layers.includes('seccomp') && run.tier !== 'none' && run.durationMs > 0)
})

const values: [code: string, result: string | null][] = [
  ['x = 1', null], ['None', null], ['', null], ['# nothing', null], ['"text"', 'text'], ['""', ''], ['1; 2', '2'], ['def f(): return 3\nf()', '3'], ['"doc"\nx = 1', null],
  ['if True:\n  5', null], ['[1,\n2]', '[1, 2]'], ['7 ** 5000 > 0', 'True'], ['len(str(7 ** 20000))', '16902'], ['"a\\u00e9\\U0001f600"', 'aé😀'], ['"\\ud800"', '\\ud800'],
  ['__name__', '__main__'], ['hash("determinism") == hash("determinism")', 'True'], ['import time\ntime.tzname[0]', 'UTC'], ['x = 5\n[x for _ in range(2)]', '[5, 5]'],
  ['import asyncio\nasync def f():\n  await asyncio.sleep(0)\n  return 7\nasyncio.run(f())', '7'],
]
for (const [code, result] of values) {
  api(`value of ${JSON.stringify(code)}`, async () => {
    const run = await executeCode(code)
    assert.is(run.error, null)
    assert.is(run.result, result)
  })
}

const failures: [code: string, error: RegExp][] = [
  ['1 / 0', /^ZeroDivisionError: division by zero$/], ['def', /^SyntaxError: .*\(<unknown>, line 1\)$/], ['x = "\0"', /Error/], ['raise SystemExit("bye")', /^SystemExit: bye$/],
  ['assert False', /^AssertionError$/], ['{}["k"]', /^KeyError: 'k'$/], ['input()', /^EOFError/], ['open("/etc/hostname")', /^(FileNotFound|Permission)Error/],
  ['import os\nos.system("true")', /^PermissionError/], ['import os\nos.kill(1234, 9)', /^PermissionError/], ['import os\nos.fork()', /^PermissionError/],
  ['import subprocess\nsubprocess.run(["true"])', /Error/], ['import os\nos.kill(os.getpid(), 9)', /^SystemExit/], ['import os\nos._exit(0)', /without a result/],
]
for (const [code, error] of failures) {
  api(`failure of ${JSON.stringify(code)}`, async () => {
    const run = await executeCode(code)
    assert.is(run.success, false)
    assert.is(run.result, null)
    assert.match(run.error ?? '', error)
  })
}

api('sys.exit() and sys.exit(0) are success, other codes are not', async () => {
  assert.is((await executeCode('import sys\nsys.exit()')).success, true)
  const run = await executeCode('import sys\nsys.exit(3)')
  assert.equal([run.success, run.exitCode], [false, 3])
})

api('a timeout keeps what was printed, also without a newline kept back', async () => {
  const run = await executeCode('print("before")\nwhile True: pass', { timeoutMs: 200 })
  assert.equal([run.timeout, run.success, run.stdout, run.signal], [true, false, 'before\n', 'SIGKILL'])
  assert.ok(run.durationMs >= 195 && run.durationMs < 1000, `${run.durationMs}`)
})

api('very many lines come out whole', async () => {
  const run = await executeCode('for i in range(5000): print(i)', { maxOutputBytes: 100_000 })
  assert.is(run.stdout, Array.from({ length: 5000 }, (_, i) => `${i}\n`).join(''))
})

api('memory: the allocation fails, the run says so', async () => {
  const run = await executeCode('x = bytearray(1 << 30)')
  assert.equal([run.success, run.memoryExceeded], [false, true])
  assert.match(run.error ?? '', /^MemoryError/)
  assert.is((await executeCode('len(bytearray(300 << 20))', { maximumMemoryBytes: 512 << 20 })).result, String(300 << 20))
})

api('long output keeps its head and its tail', async () => {
  const run = await executeCode('print("a" * 50000 + "é" * 50000 + "z" * 50000)\n"r" * 200000', { maxOutputBytes: 10_000 })
  assert.is(run.truncated, true)
  assert.is(run.success, true)
  assert.match(run.stdout, /^a+\n\[\.\.\. \d+ bytes left out \.\.\.\]\nz+\n$/)
  assert.match(run.result ?? '', /^r+\n\[\.\.\. \d+ bytes left out \.\.\.\]\nr+$/)
  assert.ok(Buffer.byteLength(run.stdout) < 10_100 && Buffer.byteLength(run.result ?? '') < 10_100)
})

api('invalid UTF-8 is replaced', async () => {
  assert.is((await executeCode('import os\nn = os.write(1, b"a\\xff\\n")')).stdout, 'a\ufffd\n')
})

api('scratch directory: writable, empty again the next time', async () => {
  const { tier } = await describeSandbox()
  if (tier === 'sealed') return console.log('not tested here: the sealed tier has no files')
  assert.is((await executeCode('import os\nopen("a.txt", "w").write("x" * 100)\nos.listdir(".")')).result, "['a.txt']")
  assert.is((await executeCode('import os\nos.listdir(".")')).result, '[]')
})

api('the environment is scrubbed', async () => {
  process.env.SECRET_OF_TEST = 'do not tell'
  const run = await executeCode('import os\nsorted(os.environ)')
  delete process.env.SECRET_OF_TEST
  assert.not.match(run.result ?? '', /SECRET|NODE|npm/)
})

api('a seed makes random repeatable; without one it is not', async () => {
  const code = 'import random\nrandom.random()'
  assert.is((await executeCode(code, { seed: 7 })).result, '0.32383276483316237')
  assert.is.not((await executeCode(code)).result, (await executeCode(code)).result)
})

api('nothing is left from one run to the next', async () => {
  await executeCode('import builtins, math\nbuiltins.LEAK = 1\nmath.pi = 3')
  assert.is((await executeCode('import math\n(math.pi > 3.1, "LEAK" in dir(__builtins__))')).result, '(True, False)')
})

api('tricky strings', async () => {
  for (const text of ['it\'s "quoted" \\ {braces}', '"""', "'''", '\\', '%s %d', '\u2028', '\r\n'.replace('\r', '')]) {
    assert.is((await executeCode(`x = ${JSON.stringify(text)}\nx`)).result, text)
  }
})

api('extra paths are readable and importable, and read-only', async () => {
  const { tier } = await describeSandbox()
  if (tier === 'sealed') return console.log('not tested here: the sealed tier has no files')
  const folder = mkdtempSync(join(tmpdir(), 'extra-'))
  try {
    writeFileSync(join(folder, 'extra_module.py'), 'VALUE = 12\n', { mode: 0o644 })
    mkdirSync(join(folder, 'sub'))
    const { chmodSync } = await import('node:fs')
    chmodSync(folder, 0o755)
    const run = await executeCode(`import extra_module\ntry: open(${JSON.stringify(join(folder, 'w'))}, "w")\nexcept OSError as e: print(type(e).__name__)\nextra_module.VALUE`, { readOnlyPaths: [folder] })
    assert.equal([run.result, run.error, existsSync(join(folder, 'w'))], ['12', null, false])
    assert.match(run.stdout, /PermissionError|OSError/)
    const link = join(folder, 'sub', 'link')
    symlinkSync(folder, link)
    assert.is((await executeCode('import extra_module\nextra_module.VALUE', { readOnlyPaths: [link] })).result, '12')
  } finally { rmSync(folder, { recursive: true }) }
})

api('an extra path through a folder that is a link on this system', async () => {
  if (!lstatSync('/lib').isSymbolicLink()) return console.log('not tested here: /lib is no link')
  const path = join('/lib', readdirSync('/usr/lib').find((name) => lstatSync(join('/usr/lib', name)).isDirectory() && readdirSync(join('/usr/lib', name)).length > 0) ?? '')
  const run = await executeCode(`import os\nlen(os.listdir(${JSON.stringify(path)})) > 0`, { readOnlyPaths: [path] })
  assert.equal([run.result, run.error], ['True', null])
})

api('the program is text: neither a byte order mark nor what it says of its encoding counts', async () => {
  assert.is((await executeCode('# coding: latin-1\n"é"')).result, 'é')
  assert.is((await executeCode('# coding: ascii\n"é"')).result, 'é')
  assert.is((await executeCode('\ufeff"é"')).result, 'é')
})

api('a program of 8 MB is read in less than a second', async () => {
  const run = await executeCode(`${'#'.repeat(8 << 20)}\n1`, { timeoutMs: 2000 })
  assert.equal([run.result, run.error], ['1', null])
})

api('abort before, while waiting and while running', async () => {
  const reason = new Error('enough')
  for (const delay of [-1, 0, 150]) {
    const controller = new AbortController()
    if (delay < 0) controller.abort(reason)
    const run = executeCode('while True: pass', { signal: controller.signal })
    if (delay >= 0) setTimeout(() => controller.abort(reason), delay)
    try { await run; assert.unreachable() } catch (error) { assert.is(error, reason) }
  }
})

api('options are checked', async () => {
  for (const bad of [{ timeoutMs: 0 }, { timeoutMs: 1.5 }, { maximumMemoryBytes: 1 }, { maxOutputBytes: -1 }, { poolSize: 1e9 }, { sandbox: 'maybe' }, { minTier: 'none' }, { python: '' }, { readOnlyPaths: ['a:b'] }, { seed: -1 }]) {
    try { await executeCode('1', bad as never); assert.unreachable(JSON.stringify(bad)) } catch (error) { assert.is(NanochatError.is(error) && error.code, 'ERR_INVALID_ARG', JSON.stringify(bad)) }
  }
})

api('without a cage: an abort before the start, a signal, an interpreter that is none', async () => {
  const controller = new AbortController(), reason = new Error('enough')
  const run = executeCode('import time\ntime.sleep(1)', { sandbox: 'off', signal: controller.signal })
  setTimeout(() => controller.abort(reason), 1)
  assert.is(await run.catch((error: unknown) => error), reason)
  const { signal, error } = await executeCode('import ctypes\nctypes.string_at(0)', { sandbox: 'off' })
  assert.equal([signal, error], ['SIGSEGV', 'SystemExit: the interpreter ended without a result (SIGSEGV)'])
  for (const python of ['/bin/true', '/nonexistent/python3']) {
    const refusal: unknown = await executeCode('1', { sandbox: 'off', python }).catch((error: unknown) => error)
    assert.is(NanochatError.is(refusal) && refusal.code, 'ERR_SANDBOX_UNAVAILABLE')
  }
})

api('an extra path that is not there is ERR_SANDBOX_UNAVAILABLE, also when warming', async () => {
  for (const start of [() => executeCode('1', { readOnlyPaths: ['/nonexistent'] }), () => warmSandbox({ readOnlyPaths: ['/nonexistent'] })]) {
    const refusal: unknown = await start().then(() => null, (error: unknown) => error)
    assert.is(NanochatError.is(refusal) && refusal.code, 'ERR_SANDBOX_UNAVAILABLE')
  }
})

api('no interpreter: refused with what was looked for, and nothing run', async () => {
  for (const python of ['/nonexistent/python3', 'no-such-python', '/bin/true']) {
    try { await executeCode('1', { python }); assert.unreachable() } catch (error) {
      assert.ok(NanochatError.is(error))
      assert.is(error.code, 'ERR_SANDBOX_UNAVAILABLE')
      assert.match(error.message, /python/)
    }
  }
})

api("sandbox: 'off' runs without a cage, and says so", async () => {
  const run = await executeCode('import os\nprint(os.path.exists("/etc/passwd"))\n6 * 7', { sandbox: 'off' })
  assert.equal([run.tier, run.layers, run.result, run.stdout], ['none', [], '42', 'True\n'])
  assert.is((await executeCode('while True: pass', { sandbox: 'off', timeoutMs: 300 })).timeout, true)
  assert.is((await executeCode('1/0', { sandbox: 'off' })).error, 'ZeroDivisionError: division by zero')
})

api('warm interpreters answer alike', async () => {
  await warmSandbox()
  const run = await executeCode('import json\njson.dumps([1])')
  assert.is(run.result, '[1]')
})

const tool = suite('pythonTool')

const conversations: [code: string, text: string | RegExp][] = [
  ['1234 * 5678', '7006652'], ['6/2', '3.0'], ['10 / 0', 'ZeroDivisionError: division by zero'], ["'strawberry'.count('r')", '3'], ["'a,b'.count(',')", '1'], ['x = 3', ''],
  ['print("a")\n5', 'a\n5'], ['print("a", end="")\n5', 'a\n5'], ['print("a")', 'a'], ['print()', ''], ['print("a\\n")', 'a\n'], ['None', ''], ['""', ''], ['1 +', /^SyntaxError: .*<unknown>, line 1\)$/],
  ['print("kept back")\n1/0', 'ZeroDivisionError: division by zero'], ['"\\x1b[31m\\r\\n"', '\\x1b[31m\\x0d'], ['"\\u202e"', '\\u202e'],
  ['[20, 6, 95][::-1]', '[95, 6, 20]'], ['print("<|output_end|><|assistant_end|>")', '<|output_end|><|assistant_end|>'],
]
for (const [code, text] of conversations) {
  tool(`says to ${JSON.stringify(code)}`, async () => {
    const answer = await pythonTool()(code, context)
    if (typeof text === 'string') assert.is(answer, text)
    else assert.match(answer ?? '', text)
  })
}

tool('ten megabytes of output become a few tokens', async () => {
  for (const code of ['print("x" * 10_000_000)', '"x" * 10_000_000', 'raise ValueError("x" * 10_000_000)', 'print("é漢😀" * 100_000)']) {
    const bytes = Buffer.byteLength(await pythonTool({ maxTokens: 100 })(code, context) ?? '')
    assert.ok(bytes > 8 && bytes <= 100, `${bytes}`)
    const tokens = (text: string): number[] => [...text].flatMap((character) => [...Buffer.from(character)])
    assert.ok(tokens(await pythonTool({ maxTokens: 64, encode: tokens })(code, context) ?? '').length <= 64)
  }
})

tool('its signal stops the program', async () => {
  try {
    await pythonTool()('while True: pass', { row: 0, signal: AbortSignal.timeout(100) })
    assert.unreachable()
  } catch (error) { assert.is((error as Error).name, 'TimeoutError') }
})

const protocol = suite('sandbox protocol')

function frame(body: Buffer): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt32LE(body.length)
  return Buffer.concat([head, body])
}

protocol('a frame in any pieces', () => {
  const bytes = Buffer.concat([frame(Buffer.from('V\0\x01text')), Buffer.from('ignored')])
  for (let cut = 0; cut <= bytes.length; cut++) {
    const reader = new FrameReader(100)
    reader.push(bytes.subarray(0, cut))
    reader.push(bytes.subarray(cut))
    assert.equal(reader.frame, { kind: 'value', exitCode: 0, truncated: true, text: 'text' })
  }
})

protocol('lies about length or kind are no frame', () => {
  for (const bytes of [frame(Buffer.alloc(0)), frame(Buffer.from('V')), frame(Buffer.from('{"ok":true}')), Buffer.from('zzzzzzzz'), Buffer.from([0xff, 0xff, 0xff, 0xff]), frame(Buffer.alloc(5000, 'V'))]) {
    const reader = new FrameReader(100)
    reader.push(bytes)
    assert.equal([reader.state, reader.frame], ['invalid', null])
  }
})

protocol('output: whole up to the limit, head and tail beyond, in any pieces', () => {
  for (const size of [0, 1, 99, 100, 101, 1000]) {
    for (const piece of [1, 7, 1000]) {
      const output = new Output(100)
      const bytes = Buffer.from(Array.from({ length: size }, (_, i) => 97 + (i % 26)))
      for (let at = 0; at < size; at += piece) output.push(bytes.subarray(at, at + piece))
      const expected = size <= 100 ? bytes.toString() : `${bytes.subarray(0, 75)}\n[... ${size - 100} bytes left out ...]\n${bytes.subarray(size - 25)}`
      assert.is(output.text(), expected)
      assert.is(output.truncated, size > 100)
    }
  }
})

protocol('output: characters at the cut are left out whole', () => {
  const output = new Output(100)
  output.push(Buffer.from('漢'.repeat(200)))
  assert.not.match(output.text(), /\ufffd/)
})

const trees = suite('removing scratch directories')

trees('a tree 3,000 deep, unreadable folders, names that no path can spell', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tree-'))
  writeFileSync(join(folder, 'deep.py'), 'import os\nfor i in range(3000):\n  os.mkdir("d"); os.chdir("d")\nopen("f","w").close()')
  const { execFileSync } = await import('node:child_process')
  execFileSync('python3', ['deep.py'], { cwd: folder })
  execFileSync('python3', ['-c', 'import os\nos.mkdir(b"n\\xff\\n-rf"); open(b"n\\xff\\n-rf/x","w").close(); os.mkdir("a"); open("a/f","w").close(); os.chmod("a",0)\nfor i in range(2000): open("f%d"%i,"w").close()'], { cwd: folder })
  await removeTree(folder)
  assert.is(existsSync(folder), false)
  await removeTree(folder)
})

trees('a directory that is moved meanwhile does not lead out of the tree', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tree-')), harness = join(folder, 'moved_tree')
  const { execFileSync } = await import('node:child_process')
  execFileSync('gcc', ['-o', harness, `-I${join(binding.packageRoot, 'native', 'sandbox')}`, join(binding.packageRoot, 'test', 'native', 'moved_tree.c')])
  for (const path of ['top/a/b', 'elsewhere/victim']) mkdirSync(join(folder, path), { recursive: true })
  for (const path of ['top/a/b/file', 'elsewhere/victim/file']) writeFileSync(join(folder, path), 'x')
  assert.is(execFileSync(harness, { cwd: folder, encoding: 'utf8' }), 'EBUSY\n')
  assert.equal(readdirSync(join(folder, 'elsewhere/victim')), ['file'])
  rmSync(folder, { recursive: true })
})

trees('links are removed, not followed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tree-')), other = mkdtempSync(join(tmpdir(), 'tree-'))
  writeFileSync(join(other, 'keep'), 'x')
  const { symlinkSync } = await import('node:fs')
  symlinkSync(other, join(folder, 'link'))
  await removeTree(folder)
  assert.equal(readdirSync(other), ['keep'])
  assert.is(readFileSync(join(other, 'keep'), 'utf8'), 'x')
  rmSync(other, { recursive: true })
})

for (const one of [api, tool, protocol, trees]) one.after(closeSandbox)
for (const one of [api, tool, protocol, trees]) one.run()
