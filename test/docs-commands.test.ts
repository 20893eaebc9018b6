// The documentation's commands. Those of the command line run, with a base directory and files of the names that the pages use, all of them
// the demo model; of the others (builds, tests, benchmarks) scripts, files, folders and options must exist.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { runBenchmark } from '../benchmarks/commands.js'
import { startServer } from './support/cli.js'
import { blocksOf, commandsOf, pages, root, textOfPage } from './support/documentation.js'

const test = suite('commands in the documentation')
const commands = commandsOf(pages.flatMap(blocksOf)).map(({ where, command }) => ({ where, command: command.replace(/^(?:[A-Za-z_]+=\S+ )+/, '').replace(/ > \S+$/, '') }))
const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
const isServer = (command: string): boolean => /^(?:npx nanochat-node serve|curl) /.test(command)
const isOurs = (command: string): boolean => /(?:^|\| )(?:npx nanochat-node|npm run demo)(?: |$)/.test(command) && !isServer(command)

test('the command line runs as written', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-commands-'))
  const demo = join(root, 'models', 'demo')
  const base = join(dir, '.cache', 'nanochat')
  for (const folder of ['base_checkpoints', 'chatsft_checkpoints']) {
    mkdirSync(join(base, folder), { recursive: true })
    symlinkSync(demo, join(base, folder, 'd24'))
  }
  symlinkSync(demo, join(base, 'tokenizer'))
  mkdirSync(join(dir, 'some'))
  symlinkSync(demo, join(dir, 'some', 'directory'))
  writeFileSync(join(dir, 'question.txt'), 'What is 12 * 12?\n')
  const cli = `'${process.execPath}' --import '${import.meta.resolve('tsx')}' '${join(root, 'lib', 'cli', 'main.ts')}'`
  const functions = `npx() { shift; ${cli} "$@"; }; npm() { shift 2; [ "$1" = -- ] && shift; ${cli} demo "$@"; }`
  const { NO_COLOR: _, FORCE_COLOR: __, NANOCHAT_BASE_DIR: ___, ...env } = process.env
  try {
    const lines = new Map(commands.filter(({ command }) => isOurs(command)).map(({ where, command }) => [command, where]))
    assert.ok(lines.size >= 15)
    for (const [command, where] of lines) {
      const { status, stdout, stderr } = spawnSync('bash', ['-c', `${functions}; ${command}`], { cwd: dir, encoding: 'utf8', input: 'What is 2 + 2?', env: { ...env, HOME: dir }, timeout: 60_000 })
      if (command.includes('--device cuda') && status !== 0) {
        assert.match(stderr, /ERR_DEVICE_UNAVAILABLE/, where)
        continue
      }
      assert.is(status, 0, `${where}: ${command}\n${stderr}`)
      assert.is(stderr.replace(/^(?:NanochatWarning|warning).*\n/gm, ''), '', where)
      assert.ok(stdout.trim().length > 0, `${where}: ${command} prints nothing`)
    }
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test('the server starts as written and answers each curl', async () => {
  const [serve, ...more] = commands.filter(({ command, where }) => where.startsWith('docs/server.md') && command.startsWith('npx nanochat-node serve'))
  const curls = commands.filter(({ command }) => command.startsWith('curl '))
  assert.ok(serve && more.length === 0 && curls.length >= 3)
  assert.ok(commands.filter(({ command }) => isServer(command) && command.startsWith('npx')).every(({ command }) => /^npx nanochat-node serve -i (?:demo|sft)$/.test(command)))
  if (spawnSync('curl', ['--version']).error) return console.log('SKIP the curl commands of docs/server.md: there is no curl')
  const server = startServer(serve.command.split(' ').slice(3))
  try {
    const url = await server.url
    for (const { command, where } of curls) {
      const { status, stdout, stderr } = spawnSync('bash', ['-c', command.replace('http://localhost:8000/v1', url)], { encoding: 'utf8', timeout: 60_000 })
      assert.is(status, 0, `${where}: ${stderr}`)
      assert.match(stdout, /"choices":\[\{"index":0,/, where)
      assert.match(stdout, /\n?(?:data: \[DONE\]\n\n|\})$/, where)
    }
  } finally {
    assert.equal(await server.end(), { status: 0, stderr: '' })
  }
})

test('everything else names what is there', async () => {
  const others = commands.filter(({ command }) => !isOurs(command) && !isServer(command))
  assert.ok(others.length > 20)
  for (const { where, command } of others) assert.is(await complaint(command), null, `${where}: ${command}`)
})

test('`npm run ...` in a text is a script', () => {
  for (const page of pages) {
    for (const [, script = ''] of textOfPage(page).matchAll(/npm run ([a-z:]+)/g)) assert.ok(script in scripts, `${page}: npm run ${script}`)
  }
})

test('what does not exist is noticed', async () => {
  for (const command of ['npm run nothing', 'npm test -- no-such-test', 'npm run bench -- decode --no-such-option', 'npm run bench -- nothing', 'node --import tsx examples/nothing.ts',
    'bash nothing', 'scripts/nothing.sh', 'cmake -S nothing', 'frobnicate']) assert.type(await complaint(command), 'string', command)
})

test.run()

/** What is wrong with a command that can't be run here; null for nothing. */
async function complaint(command: string): Promise<string | null> {
  const [program = '', ...words] = command.split(/\s+/)
  const missing = (path: string): string | null => existsSync(join(root, path)) ? null : `${path} does not exist`
  if (program === 'npm') return complaintOfNpm(words)
  if (program === 'node' && words[0] === '-p') return spawnSync('bash', ['-c', command], { cwd: root, encoding: 'utf8' }).status === 0 ? null : 'it fails'
  if (program === 'node' && words[0] === '--import') return missing(words[2] ?? '')
  if (program === 'bash') return missing(words[0] ?? '')
  if (program === 'cmake') return words[0] === '-S' ? missing(words[1] ?? '') : words[0] === '--build' ? null : 'neither -S nor --build'
  if (program === 'apt-get') return words[0] === 'install' ? null : 'not an install'
  return /^(?:scripts|\.ci)\//.test(program) ? missing(program) : `nothing is known of ${program}`
}

async function complaintOfNpm([verb = '', ...words]: string[]): Promise<string | null> {
  const script = verb === 'run' ? words.shift() ?? '' : verb
  if (['install', 'ci', 'rebuild', 'pack'].includes(verb)) return null
  if (!(script in scripts)) return `no script ${script}`
  const args = words[0] === '--' ? words.slice(1) : []
  if (script === 'bench' && args.length > 0) return complaintOfBenchmark(args)
  if (/^test(?::long)?$/.test(script)) {
    const files = readdirSync(join(root, 'test')).filter((name) => name.endsWith(script === 'test' ? '.test.ts' : '.long.ts'))
    return args.every((pattern) => files.some((name) => new RegExp(pattern).test(name))) ? null : 'no test file matches'
  }
  return null
}

/** Whether the benchmark's --help knows all of the options. */
async function complaintOfBenchmark([name = '', ...words]: string[]): Promise<string | null> {
  const lines: string[] = []
  const log = console.log
  console.log = (...values: unknown[]) => { lines.push(values.join(' ')) }
  const error = console.error
  console.error = console.log
  try {
    const compare = { summary: '', load: () => import('../benchmarks/compare/compare.js') }
    if (await runBenchmark([name, '--help'], 'bench', { compare }) !== 0) return `no benchmark ${name}`
  } finally {
    console.log = log
    console.error = error
  }
  const help = lines.join('\n')
  const unknown = words.filter((word) => word !== '--help' && /^--?[a-z]/.test(word) && !new RegExp(`(?<![\\w-])${word}(?![\\w-])`).test(help))
  return unknown.length === 0 ? null : `no option ${unknown.join(', ')}`
}
