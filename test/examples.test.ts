import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const loader = (name: string): string => name === 'worker.ts' ? './examples/register.mjs' : 'tsx'

/** What each example prints. The server is tried below. */
const outputs: Record<string, RegExp> = {
  'chat.ts': /^> What is 12 \* 12\?\npython: 12 \* 12\noutput: 144\nThe answer is 144\.\n\(\d+ prompt tokens, 0 of them cached\)\n> and plus 5\?\npython: 144 \+ 5\noutput: 149\n.*149.*\n\(\d+ prompt tokens, [1-9]\d* of them cached\)\n$/,
  'samples.ts': /^(?:[0-7] \(stop\): I.*\n){8}\d+ tokens, \d+ tok\/s\n$/,
  'tool.ts': /^python: sorted\(\[9, 3, 7, 1\]\)\npython_output: \[1, 3, 7, 9\]\n/,
  'perplexity.ts': /^\d+\.\d I am nanochat, in miniature\.\n\d+\.\d I am a teapot, short and stout\.\n$/,
  'shared-prefix.ts': /^.*The answer is 15\. \(6 of \d+ cached\)\n.*The answer is 13\. \([1-9]\d* of \d+ cached\)\nI.*cached\)\n$/,
  'timeout.ts': /^TimeoutError after \d+ tokens\nbreak after 10 tokens\n$/,
  'worker.ts': /^The answer is 7006652\.\n$/
}

const examples = suite('examples')
const files = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.ts'))

examples('are short, say how to run them, and are all tested', () => {
  assert.equal(files, [...Object.keys(outputs), 'server.ts'].sort())
  for (const name of files) {
    const text = readFileSync(join(root, 'examples', name), 'utf8')
    assert.ok(text.trimEnd().split('\n').length <= 30, name)
    assert.ok(text.includes(`Run: node --import ${loader(name)} examples/${name}\n`), name)
    assert.ok(text.includes("from 'nanochat-node'"), name)
  }
})

for (const [name, output] of Object.entries(outputs)) {
  examples(name, () => {
    const run = spawnSync(process.execPath, ['--import', loader(name), `examples/${name}`], { cwd: root, encoding: 'utf8', timeout: 60_000 })
    assert.is(run.status, 0, run.stderr)
    assert.is(run.stderr, '')
    assert.match(run.stdout, output)
  })
}

examples('perplexity.ts prefers what the model was taught', () => {
  const { stdout } = spawnSync(process.execPath, ['--import', 'tsx', 'examples/perplexity.ts'], { cwd: root, encoding: 'utf8', timeout: 60_000 })
  const [taught = NaN, strange = NaN] = stdout.split('\n').map(Number.parseFloat)
  assert.ok(taught < strange, stdout)
})

examples('server.ts streams events, and reports what it can not answer', async () => {
  const server = spawn(process.execPath, ['--import', 'tsx', 'examples/server.ts'], { cwd: root, env: { ...process.env, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    const [line] = await server.stdout.setEncoding('utf8').take(1).toArray() as [string]
    const url = line.trim().replace('listening on ', '')
    const ask = async (body: string): Promise<{ status: number, events: { type: string, text?: string, code?: string }[] }> => {
      const response = await fetch(url, { method: 'POST', body })
      const events = (await response.text()).trim().split('\n\n').map((event) => JSON.parse(event.replace(/^data: /, '')) as { type: string })
      return { status: response.status, events }
    }
    const question = JSON.stringify([{ role: 'user', content: 'What is 1234 * 5678?' }])
    const [one, other] = await Promise.all([ask(question), ask(question)])
    assert.is(one.status, 200)
    assert.equal(one.events.slice(0, 2), [{ type: 'python', row: 0, text: '1234 * 5678' }, { type: 'python_output', row: 0, text: '7006652' }])
    assert.is(one.events.flatMap(({ type, text }) => type === 'text' ? [text] : []).join(''), 'The answer is 7006652.')
    assert.is(one.events.at(-1)?.type, 'finish')
    assert.is(other.events.length, one.events.length)
    assert.equal(await ask('[]'), { status: 400, events: [{ type: 'error', code: 'ERR_INVALID_CONVERSATION' }] })
    assert.equal(await ask('{'), { status: 400, events: [{ type: 'error', code: 'ERR_REQUEST' }] })
  } finally {
    server.kill()
  }
})

examples.run()

const docs = suite('code in the documentation')
const documents = ['README.md', 'docs/api.md', 'docs/tools.md']
const blocksOf = (name: string): string[] => [...readFileSync(join(root, name), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = '']) => code)

docs('type-checks', () => {
  const sources = new Map(documents.flatMap((name) => blocksOf(name).map((code, i) => [join(root, 'examples', `${name.replace(/\W/g, '-')}-${i}.ts`), withContext(code)] as const)))
  assert.ok(sources.size > 15)
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile) as { config: object }
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const host = ts.createCompilerHost(options)
  const { readFile, fileExists } = host
  host.readFile = (name) => sources.get(name) ?? readFile(name)
  host.fileExists = (name) => sources.has(name) || fileExists(name)
  const program = ts.createProgram([...sources.keys()], { ...options, noUnusedLocals: false }, host)
  const errors = [...sources.keys()].flatMap((name) => {
    const file = program.getSourceFile(name)
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map((error) => `${name}: ${ts.flattenDiagnosticMessageText(error.messageText, '\n')}`)
  })
  assert.equal(errors, [])
})

docs('the first blocks run', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-docs-'))
  const run = (code: string): string => {
    writeFileSync(join(dir, 'block.mts'), code.replace("'nanochat-node'", JSON.stringify(join(root, 'lib', 'index.ts'))))
    return spawnSync(process.execPath, ['--import', 'tsx', join(dir, 'block.mts')], { cwd: root, encoding: 'utf8', timeout: 60_000 }).stdout
  }
  assert.is(run(blocksOf('docs/api.md')[0] ?? ''), 'The answer is 7006652.')
  assert.match(run((blocksOf('README.md')[0] ?? '').replace("'sft'", '')), /<\|python_start\|>2 \+ 2<\|python_end\|><\|output_start\|>4<\|output_end\|>/)
  rmSync(dir, { recursive: true })
})

const headingsOf = (text: string): Set<string> => new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading.toLowerCase().replaceAll(' ', '-')))

docs('links lead somewhere', () => {
  for (const name of [...documents, 'docs/cli.md', 'docs/build.md']) {
    const text = readFileSync(join(root, name), 'utf8')
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      const [file = '', heading] = target.split('#')
      const path = file === '' ? join(root, name) : join(root, dirname(name), file)
      assert.ok(ts.sys.fileExists(path) || ts.sys.directoryExists(path), `${name}: ${target}`)
      if (heading !== undefined) assert.ok(headingsOf(readFileSync(path, 'utf8')).has(heading), `${name}: ${target}`)
    }
  }
})

docs.run()

/** A block that imports stands alone; any other one finds the names that the text around it speaks of. */
function withContext(code: string): string {
  if (code.includes("from 'nanochat-node'")) return code
  return `import { Engine, GPT, KVCache, NanochatError, convertCheckpoint, loadGPT, loadModel, loadModelFromDir, seededGPT, useCalculator, type GPTConfig, type Loaded, type Message, type Tokenizer, type Tool } from 'nanochat-node'
declare const loaded: Loaded, model: GPT, tokenizer: Tokenizer, engine: Engine, messages: Message[], prompt: Int32Array, ids: Int32Array
export async function block(): Promise<void> {
${code}
}
`
}
