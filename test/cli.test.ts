import { mkdtempSync, rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { demoQuestions } from '../lib/cli/demo.js'
import type { Inspection } from '../lib/cli/inspect.js'
import { loadModel, loadModelFromDir } from '../lib/load.js'
import type { ChatEvent } from '../lib/types.js'
import { runCli, runShell, type Run } from './support/cli.js'
import { withDir } from './support/tiny-checkpoint.js'

const cli = suite('command line')

const eventsOf = ({ stdout }: Run): (ChatEvent | { type: 'question', text: string })[] => stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as ChatEvent)
const isOneError = ({ stderr }: Run, pattern: RegExp): void => {
  assert.match(stderr, pattern)
  assert.is(stderr.trimEnd().split('\n').length, 1, stderr)
}

cli('demo answers a question, with the help of the tool', async () => {
  assert.equal(await runCli(['demo', 'What is 1234 * 5678?']), { status: 0, stdout: '>>> 1234 * 5678\n7006652\nThe answer is 7006652.\n', stderr: '' })
})

cli('demo without a question and a terminal asks its own, and the tool answers all that need it', async () => {
  const run = await runCli(['demo', '--json'])
  assert.is(run.status, 0, run.stderr)
  const events = eventsOf(run)
  assert.equal(events.flatMap((event) => event.type === 'question' ? [event.text] : []), [...demoQuestions])
  assert.equal(events.flatMap((event) => event.type === 'python_output' ? [event.text] : []), ['7006652', '3', '8', '441', '121932631112635269'])
  const finishes = events.flatMap((event) => event.type === 'finish' ? [event] : [])
  assert.equal(finishes.map(({ finishReason }) => finishReason), demoQuestions.map(() => 'stop'))
  assert.ok((finishes[0]?.stats.forcedTokens ?? 0) > 2)
})

cli('chat takes the question from -p and from stdin alike', async () => {
  const [prompt, piped] = await Promise.all([runCli(['chat', '-i', 'demo', '-p', 'Who are you?']), runCli(['chat', '-i', 'demo'], { input: 'Who are you?\n' })])
  assert.match(prompt.stdout, /^I am nanochat.*\n$/)
  assert.equal(piped, prompt)
})

cli('no tool: the code is shown, nothing runs', async () => {
  const run = await runCli(['demo', '--no-tool', '--max-tokens', '12', '--json', 'What is 1234 * 5678?'])
  const events = eventsOf(run)
  assert.ok(events.some((event) => event.type === 'python' && event.text === '1234 * 5678'))
  const finish = events.at(-1)
  assert.ok(finish?.type === 'finish' && finish.stats.forcedTokens === 0 && finish.stats.generatedTokens <= 12)
})

cli('generate continues a text; a seed gives the same text again', async () => {
  const options = ['generate', '-i', 'demo', '--max-tokens', '20', '-t', '1', '--seed', '7']
  const [first, again, json] = await Promise.all([
    runCli([...options, 'The answer']), runCli(options, { input: 'The answer\n' }), runCli([...options, '--json', '-p', 'The answer'])
  ])
  assert.is(first.status, 0, first.stderr)
  assert.ok(first.stdout.trim().length > 5)
  assert.equal(again, first)
  const last = json.stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as { type: string, text: string }).at(-1)
  assert.is(last?.type, 'finish')
  assert.is(last?.text.trimEnd(), first.stdout.trimEnd())
})

cli('inspect says what a loaded model says', async () => {
  const run = await runCli(['inspect', '-i', 'demo', '--json'])
  const inspection = JSON.parse(run.stdout) as Inspection
  for (const dtype of ['float32', 'bfloat16'] as const) {
    const loaded = await loadModel('demo', { dtype })
    const { model } = loaded
    assert.is(inspection.parameters, model.numParams)
    assert.is(inspection.kvBytesPerToken[dtype], model.backend.kvBytesPerToken)
    const weightBytes = inspection.weightBytes[dtype] ?? NaN
    assert.ok(Math.abs(weightBytes / model.memoryBytes - 1) < 0.1, `${weightBytes} of ${model.memoryBytes}`)
    assert.equal({ ...inspection.config, generation: inspection.generation }, { ...model.config })
    await loaded[Symbol.asyncDispose]()
  }
  assert.equal(inspection.tokenizer, { vocabSize: 2048 })
  assert.equal(inspection.constants.windows, [128, 128, 128, 512])
  assert.ok(inspection.fileBytes > inspection.storedBytes)
})

cli('inspect reads every kind of checkpoint, and passes warnings on', async () => {
  const text = await runCli(['inspect', 'test/fixtures/nanochat/g4a-mid-nowindow'])
  assert.match(text.stdout, /^generation +G4, step 123$/m)
  assert.match(text.stdout, /^warning +meta_000123\.json has no window_pattern/m)
  assert.match((await runCli(['inspect', 'test/fixtures/nanochat/hf-nanochat'])).stdout, /^generation +HF$/m)
})

cli('quantize writes a file that chat answers from and inspect describes', () => withDir(async (dir) => {
  const question = ['-p', 'What is 12 * 12?']
  const written = await runCli(['quantize', '-i', 'demo', '-o', dir, '--json'])
  assert.equal([written.status, written.stderr], [0, ''])
  const { file, dtype } = JSON.parse(written.stdout) as { file: string, dtype: string }
  assert.equal([dtype, (await readdir(dir)).sort()], ['int8', ['model-int8.safetensors', 'tokenizer.pkl']])
  const { stdout } = await runCli(['demo', ...question, '--dtype', 'int8'])
  for (const model of [dir, file]) assert.is((await runCli(['chat', '--model', model, ...question])).stdout, stdout)
  const inspection = JSON.parse((await runCli(['inspect', file, '--json'])).stdout) as Inspection
  assert.equal([inspection.packed, inspection.step, inspection.tokenizer], ['int8', 2814, { vocabSize: 2048 }])
  await using loaded = await loadModelFromDir(dir)
  assert.equal(inspection.weightBytes, { int8: loaded.model.memoryBytes })
  assert.equal(inspection.kvBytesPerToken, { bfloat16: loaded.model.backend.kvBytesPerToken })
  assert.equal({ ...inspection.config, generation: inspection.generation }, { ...loaded.model.config })
  assert.match((await runCli(['inspect', dir])).stdout, /as int8, packed; the embedding tables stay in the file$/m)

  const exact = await runCli(['quantize', 'models/demo', '-o', join(dir, 'x.safetensors'), '-d', 'float32'])
  assert.match(exact.stdout, /x\.safetensors: .* MiB, float32; .*tokenizer\.pkl\n$/)
  assert.is((await runCli(['quantize', 'models/demo'])).status, 2)
  assert.is((await runCli(['chat', '-o', dir])).status, 2)
  assert.match((await runCli(['chat', '--model', file, '--dtype', 'bfloat16', ...question])).stderr, /packed as/)
}))

cli('a checkpoint directory, with its tokenizer elsewhere', async () => {
  const run = await runCli(['generate', '--model', 'test/fixtures/nanochat/g4a-mid-nowindow', '--tokenizer', 'test/fixtures/tokenizer', '--max-tokens', '3', 'a'])
  assert.is(run.status, 0, run.stderr)
  isOneError(run, /^warning: meta_000123\.json has no window_pattern/)
  const loaded = await loadModelFromDir('test/fixtures/nanochat/g6-auto2', { tokenizerDir: 'test/fixtures/tokenizer' })
  assert.is(loaded.model.config.vocabSize, 320)
  await loaded[Symbol.asyncDispose]()
})

cli('bench runs the benchmarks; their last line is one document', async () => {
  const [listed, help, wrong, measured] = await Promise.all([
    runCli(['bench']), runCli(['bench', 'kernels', '--help']), runCli(['bench', 'load', '--depth', '3']), runCli(['bench', 'kernels', '--filter', 'mix rows 1', '-r', '1'])
  ])
  assert.is(listed.status, 2)
  assert.match(listed.stdout, /^nanochat-node bench \[command\][^]*^ {2}decode [^]*^ {2}kernels [^]*^ {2}load /m)
  assert.is(help.status, 0)
  assert.match(help.stdout, /--compare FILE/)
  assert.is(wrong.status, 2)
  isOneError(wrong, /^error: ERR_INVALID_ARG: Expected an even number/)
  assert.is(measured.status, 0, measured.stderr)
  assert.is((JSON.parse(measured.stdout.trimEnd().split('\n').at(-1) ?? '') as { benchmark: string }).benchmark, 'kernels')
})

cli('wrong usage: one line, exit code 2', async () => {
  const runs = await Promise.all([runCli([]), runCli(['chat', '-t', 'x']), runCli(['demo', '--threads', '0', 'hi']), runCli(['demo', '--dtype', 'int3', 'hi']), runCli(['chat', '-i', 'demo'])])
  for (const run of runs) {
    assert.is(run.status, 2, run.stderr)
    assert.is(run.stdout, '')
    isOneError(run, /^error: ERR_INVALID_ARG: Expected /)
  }
})

cli('everything else: one line, exit code 1, no stack unless DEBUG', async () => {
  const empty = mkdtempSync(join(tmpdir(), 'nanochat-'))
  const [missing, device, long, traced] = await Promise.all([
    runCli(['chat', '-p', 'hi'], { env: { NANOCHAT_BASE_DIR: empty } }), runCli(['demo', '--device', 'cuda:99', 'hi']),
    runCli(['demo', 'word '.repeat(600)]), runCli(['inspect', join(empty, 'a\x1b[2Jb')], { env: { DEBUG: '1' } })
  ])
  rmSync(empty, { recursive: true })
  isOneError(missing, /^error: ERR_CHECKPOINT_NOT_FOUND: .*NANOCHAT_BASE_DIR.*nanochat-node demo/)
  isOneError(device, /^error: ERR_DEVICE_UNAVAILABLE: Device cuda:99/)
  isOneError(long, /^error: ERR_CONTEXT_OVERFLOW: The conversation is \d+ tokens and the model's context is 512/)
  assert.match(traced.stderr, /^error: ERR_CHECKPOINT_NOT_FOUND: .*a\\x1b\[2Jb does not exist.*\n.*\n    at /)
  assert.equal([missing, device, long, traced].map(({ status }) => status), [1, 1, 1, 1])
})

cli('colours on request, none by default without a terminal', async () => {
  const run = await runCli(['demo', 'What is 2 + 2?'], { env: { FORCE_COLOR: '1' } })
  assert.match(run.stdout, /^\x1b\[36m>>> 2 \+ 2\x1b\[0m\n\x1b\[32m4\x1b\[0m\n/)
})

cli('a reader that leaves early is no error', () => {
  const run = runShell('$CLI demo | head -n 1; exit ${PIPESTATUS[0]}')
  assert.equal([run.status, run.stdout, run.stderr], [0, '> What is 1234 * 5678?\n', ''])
})

cli('help and version', async () => {
  const [help, ofInspect, version] = await Promise.all([runCli(['--help']), runCli(['inspect', '-h']), runCli(['--version'])])
  assert.match(help.stdout, /--max-tokens n/)
  assert.match(ofInspect.stdout, /^nanochat-node inspect \[directory\]/)
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/)
})

cli.run()
