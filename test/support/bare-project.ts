import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

export interface Run { status: number | null, stdout: string, stderr: string, seconds: number }

/** Runs a command to its end and times it. */
export function run(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Run {
  const startedAt = performance.now()
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 26 })
  return { status, stdout, stderr, seconds: (performance.now() - startedAt) / 1000 }
}

/** Where `command` is on this machine's PATH. */
export function findCommand(command: string): string | undefined {
  return (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, command)).find((path) => existsSync(path))
}

/** This environment without what npm and a developer put into it: a user has no compiler named, no headers and no build flags. */
export function userEnvironment(extra: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const own = /^(?:CC|CXX|LINK|AR|CFLAGS|CXXFLAGS|LDFLAGS|PYTHON|JOBS|INIT_CWD|NODE_OPTIONS|NODE_PATH|PREBUILDS_ONLY|LIBC|npm_package_.*|npm_lifecycle_.*|npm_config_(?:nodedir|python|build_from_source|local_prefix|prefix|global_prefix|user_agent|noproxy))$/
  return { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name))), ...extra }
}

/** A PATH of one folder with this node, npm and sh: no compiler, no make, no python. */
export function barePath(folder: string, node: string): string {
  mkdirSync(folder, { recursive: true })
  const sh = findCommand('sh'), npm = findCommand('npm')
  if (!sh || !npm) throw new Error('Expected sh and npm on the PATH')
  for (const [name, target] of [['node', node], ['sh', sh], ['npm', npm]] as const) symlinkSync(realpathSync(target), join(folder, name))
  return folder
}

export function emptyProject(parent: string): string {
  const folder = mkdtempSync(join(parent, 'project-'))
  writeFileSync(join(folder, 'package.json'), '{ "name": "project", "version": "1.0.0", "private": true }\n')
  return folder
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'nanochat-install-'))
}

/** A Node binary out of npm's package for this platform, kept in `cache`; a reason where there is none. */
export function nodeBinary(cache: string, arch: string, version: string): { node: string } | { reason: string } {
  const folder = join(cache, `${arch}-${version}`), node = join(folder, 'package/bin/node')
  if (existsSync(node)) return { node }
  mkdirSync(folder, { recursive: true })
  const pack = run('npm', ['pack', '--silent', `node-linux-${arch}@${version}`], folder, process.env)
  if (pack.status !== 0) return { reason: `npm has no node-linux-${arch}@${version}: ${pack.stderr.trim().split('\n')[0] ?? ''}` }
  execFileSync('tar', ['xzf', pack.stdout.trim(), 'package/bin/node'], { cwd: folder })
  return { node }
}

/** Bytes of the files below a folder. */
export function bytesBelow(folder: string): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).reduce((sum, { parentPath, name }) => sum + lstatSync(join(parentPath, name)).size, 0)
}

/** The folder that has node's headers, where node-gyp needs no download. */
export function nodeHeaders(): string | undefined {
  const prefix = dirname(dirname(process.execPath))
  return existsSync(join(prefix, 'include/node/common.gypi')) ? prefix : undefined
}
