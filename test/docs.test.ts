// The documentation's programs are type-checked or run, and what it prints is what comes out. test/docs-commands.test.ts has its commands.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { useCalculator } from '../lib/calculator.js'
import { describeSandbox } from '../lib/python.js'
import { runCli } from './support/cli.js'
import { blocksOf, pages, root, textOfPage, type Block } from './support/documentation.js'

const docs = suite('documentation')
const written = pages.filter((page) => page !== 'docs/reference.md')           // which test/reference.test.ts holds to its sources
const blocks = written.flatMap(blocksOf)
const block = (page: string, language: string, index = 0): string => blocks.filter((one) => one.page === page && one.language === language)[index]?.code ?? ''

docs('every block says what it is', () => {
  assert.equal(blocks.filter(({ language }) => !['ts', 'sh', 'python', 'text'].includes(language)).map(({ page, line }) => `${page}:${line}`), [])
})

docs('a page for each task, and it begins with a command', () => {
  for (const task of ['api', 'cli', 'server', 'tools', 'sandbox', 'bench', 'build', 'checkpoints']) {
    assert.is(blocks.find(({ page }) => page === `docs/${task}.md`)?.language, 'sh', task)
  }
  assert.is(blocks.find(({ page }) => page === 'README.md')?.language, 'sh')
})

docs('programs type-check', () => {
  const programs = blocks.filter(({ language }) => language === 'ts')
  assert.ok(programs.length >= 19)
  const sources = new Map(programs.map((one) => [join(root, 'examples', `${one.page.replace(/\W/g, '-')}-${one.line}.ts`), { ...one, code: withContext(one) }] as const))
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile) as { config: { compilerOptions: { paths: Record<string, string[]> } } }
  Object.assign(config.compilerOptions.paths, { 'nanochat-node/kernels': ['./lib/kernels.ts'], 'nanochat-node/server': ['./lib/server/server.ts'] })
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const host = ts.createCompilerHost(options)
  const { readFile, fileExists } = host
  host.readFile = (name) => sources.get(name)?.code ?? readFile(name)
  host.fileExists = (name) => sources.has(name) || fileExists(name)
  const program = ts.createProgram([...sources.keys()], { ...options, noUnusedLocals: false }, host)
  const errors = [...sources].flatMap(([name, { page, line }]) => {
    const file = program.getSourceFile(name)
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map((error) => `${page}:${line}: ${ts.flattenDiagnosticMessageText(error.messageText, '\n')}`)
  })
  assert.equal(errors, [])
})

docs('programs that open a page run', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-docs-'))
  const run = (code: string): string => {
    writeFileSync(join(dir, 'block.mts'), code.replace("'nanochat-node'", JSON.stringify(join(root, 'lib', 'index.ts'))).replace("'nanochat-node/kernels'", JSON.stringify(join(root, 'lib', 'kernels.ts'))))
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', join(dir, 'block.mts')], { cwd: root, encoding: 'utf8', timeout: 60_000 })
    assert.is(status, 0, stderr)
    return stdout
  }
  try {
    assert.is(run(block('docs/api.md', 'ts')), 'The answer is 7006652.')
    assert.match(run(block('README.md', 'ts').replace("'sft'", '')), /<\|python_start\|>2 \+ 2<\|python_end\|><\|output_start\|>4<\|output_end\|>/)
    assert.match(run(block('docs/kernels.md', 'ts')), /^plain [\d.]+ GB\/s of weights$/m)
    const { tier } = await describeSandbox()
    if (tier === 'none') console.log('SKIP the program of docs/sandbox.md: this machine has no cage')
    else assert.is(run(block('docs/sandbox.md', 'ts')), `hello\n 45 ${tier}\n`)
  } finally {
    rmSync(dir, { recursive: true })
  }
})

docs('Python is Python', () => {
  const programs = blocks.filter(({ language }) => language === 'python')
  assert.is(programs.length, 1)
  const { status, stderr, error } = spawnSync('python3', ['-c', 'import ast, sys; ast.parse(sys.stdin.read())'], { input: programs[0]?.code ?? '', encoding: 'utf8' })
  if (error) console.log('SKIP the Python of the README: there is no python3')
  else assert.is(status, 0, stderr)
})

docs('output is what comes out', async () => {
  const [demo, inspect, events] = await Promise.all([
    runCli(['demo', 'What is 1234 * 5678?']), runCli(['inspect', 'models/demo']), runCli(['chat', '-i', 'demo', '--json', '-p', 'What is 2 + 2?'])
  ])
  const [answer = '', footer = ''] = block('README.md', 'text').split(/(?=^\[)/m)
  assert.is(demo.stdout, answer)
  assert.match(footer, /^\[18 tokens \| 6 from the tool \| \d+ tok\/s \| first after [\d.]+ ms \| prompt 14\]\n$/)     // as test/cli-chat.test.ts sees it
  assert.is(inspect.stdout.replace(/^ +(?:no device|cuda:\d+) .*\n/gm, ''), block('docs/checkpoints.md', 'text'))  // without what this machine has
  const lines = blocks.find(({ page, code }) => page === 'docs/cli.md' && code.startsWith('{"type":"question"'))?.code.trimEnd().split('\n') ?? []
  assert.ok(lines.length >= 4)
  for (const line of lines) assert.ok(events.stdout.split('\n').some((event) => event.startsWith(line.split('{...}')[0] ?? '')), line)
})

docs('api.md explains every error code, tools.md what the calculator says', () => {
  const codes = /type ErrorCode =\s+`ERR_\$\{(.*?)\}`/s.exec(textOfPage('docs/reference.md'))?.[1]?.match(/[A-Z_]+/g) ?? []
  assert.ok(codes.length >= 15)
  const explained = new Set([...textOfPage('docs/api.md').matchAll(/^\| (`ERR_.*?) \|/gm)].flatMap(([, cell = '']) => cell.match(/[A-Z_]+/g) ?? []))
  assert.equal([...explained].sort(), codes.map((code) => `ERR_${code}`).sort())
  const examples = [...block('docs/tools.md', 'ts', 1).matchAll(/^useCalculator\(('.*'|".*")\) +\/\/ (?:'(.*)'|null)$/gm)]
  assert.is(examples.length, 4)
  for (const [line, argument = '', result] of examples) assert.is(useCalculator(argument.slice(1, -1)), result ?? null, line)
})

const headingsOf = (text: string): Set<string> => new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')))

docs('links lead somewhere', () => {
  for (const page of pages) {
    for (const [, target = ''] of textOfPage(page).matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      const [file = '', heading] = target.split('#')
      const path = file === '' ? page : join(dirname(page), file)
      assert.ok(ts.sys.fileExists(join(root, path)) || ts.sys.directoryExists(join(root, path)), `${page}: ${target}`)
      if (heading !== undefined) assert.ok(headingsOf(textOfPage(path)).has(heading), `${page}: ${target}`)
    }
  }
})

docs('every page is linked from another', () => {
  const linked = pages.flatMap((page) => [...textOfPage(page).matchAll(/\]\(([^)#]+)/g)].map(([, target = '']) => join(dirname(page), target)))
  assert.equal(pages.filter((page) => page !== 'README.md' && !linked.includes(page)), [])
})

docs.run()

/** A block that imports stands alone; any other one finds the names that the text around it speaks of. */
function withContext({ code }: Block): string {
  if (/^import /m.test(code)) return code
  return `import { Engine, GPT, KVCache, NanochatError, convertCheckpoint, loadGPT, loadModel, loadModelFromDir, seededGPT, useCalculator, type GPTConfig, type Loaded, type Message, type Tokenizer, type Tool } from 'nanochat-node'
declare const loaded: Loaded, model: GPT, tokenizer: Tokenizer, engine: Engine, messages: Message[], prompt: Int32Array, ids: Int32Array
export async function block(): Promise<void> {
${code}
}
`
}
