import { spawn, spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const argsIn = (directory: string): string[] => ['--import', 'tsx', join(directory, 'lib', 'cli', 'main.ts')]
const nodeArgs = argsIn(root)

export interface Run { status: number | null, stdout: string, stderr: string }

/** Runs the command line with these arguments, without a terminal and with nothing on stdin unless `input` is given; `directory` is a copy of the package. */
export function runCli(args: readonly string[], { input = '', env = {}, directory = root }: { input?: string, env?: NodeJS.ProcessEnv, directory?: string } = {}): Promise<Run> {
  const child = spawn(process.execPath, [...argsIn(directory), ...args], { cwd: directory, env: environment(env) })
  const run: Run = { status: null, stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => { run.stdout += text })
  child.stderr.setEncoding('utf8').on('data', (text: string) => { run.stderr += text })
  child.stdin.on('error', () => undefined).end(input)
  return new Promise((resolve) => child.on('close', (status) => resolve({ ...run, status })))
}

export interface RunningServer {
  /** Where it listens, with /v1; rejects with what it wrote when it ends before that. */
  url: Promise<string>
  /** All of stdout so far. */
  stdout(): string
  /** Sends `signal`, unless it is null, and waits until it is gone. */
  end(signal?: NodeJS.Signals | null): Promise<Omit<Run, 'stdout'>>
  signal(signal: NodeJS.Signals): void
}

/** Starts `nanochat-node serve` with `args` on a free port. */
export function startServer(args: readonly string[], env: NodeJS.ProcessEnv = {}): RunningServer {
  const child = spawn(process.execPath, [...nodeArgs, 'serve', '--port', '0', ...args], { cwd: root, env: environment(env), stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = '', stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
  const closed = new Promise<number | null>((resolve) => child.on('close', (status) => resolve(status)))
  const url = new Promise<string>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      const [url] = /http:\/\/\S+?\/v1/.exec(stdout) ?? []
      if (url !== undefined) resolve(url)
    })
    void closed.then((status) => reject(new Error(`the server ended with ${status}: ${stderr}`)))
  })
  url.catch(() => undefined)
  return {
    url,
    stdout: () => stdout,
    signal: (signal) => { child.kill(signal) },
    async end(signal = 'SIGINT') {
      if (signal !== null) child.kill(signal)
      return { status: await closed, stderr }
    }
  }
}

/** As runCli, in a shell line where `$CLI` stands for the command. */
export function runShell(line: string): Run {
  const cli = [process.execPath, ...nodeArgs].map((word) => `'${word}'`).join(' ')
  return spawnSync('bash', ['-c', line.replaceAll('$CLI', cli)], { cwd: root, encoding: 'utf8', env: environment({}) })
}

/** Text to wait for, keys to press, or time to pass. */
export type Step = { expect: string } | { send: string } | { pauseSeconds: number }

export interface TerminalRun {
  status: number
  transcript: string
  missing: string | null
  /** Of each step. */
  seconds: number[]
  /** The transcript as it came, with the seconds since the start. */
  chunks: [seconds: number, text: string][]
}

export const hasTerminal = process.platform !== 'win32' && spawnSync('python3', ['-c', 'import pty']).status === 0

/** Runs it in a pseudo terminal and takes the steps in order; `missing` is the text that did not come within 20 s. */
export async function runInTerminal(args: readonly string[], steps: readonly Step[], env: NodeJS.ProcessEnv = {}): Promise<TerminalRun> {
  const child = spawn('python3', ['-c', terminalDriver, JSON.stringify([process.execPath, ...nodeArgs, ...args]), JSON.stringify(steps)],
    { cwd: root, env: environment({ TERM: 'xterm', ...env }), stdio: ['ignore', 'pipe', 'inherit'] })
  let report = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => { report += text })
  await new Promise((resolve) => child.on('close', resolve))
  return JSON.parse(report) as TerminalRun
}

const terminalDriver = `
import codecs, json, os, pty, select, sys, time
command, steps = json.loads(sys.argv[1]), json.loads(sys.argv[2])
pid, terminal = pty.fork()
if pid == 0:
    os.execv(command[0], command)
seen, transcript, missing, seconds, chunks = b'', b'', None, [], []
begin = time.time()
decoder = codecs.getincrementaldecoder('utf-8')('replace')
def read_more(until):
    ready, _, _ = select.select([terminal], [], [], max(0, until - time.time()))
    try:
        more = os.read(terminal, 65536) if ready else None
    except OSError:
        return b''
    if more:
        chunks.append((time.time() - begin, decoder.decode(more)))
    return more
for step in steps:
    start = time.time()
    if 'send' in step:
        os.write(terminal, step['send'].encode())
    elif 'pauseSeconds' in step:
        while (more := read_more(start + step['pauseSeconds'])):
            seen += more
            transcript += more
    else:
        wanted = step['expect'].encode()
        while wanted not in seen:
            more = read_more(start + 20)
            if not more:
                missing = step['expect']
                break
            seen += more
            transcript += more
        if missing is not None:
            break
        seen = seen[seen.index(wanted) + len(wanted):]
    seconds.append(time.time() - start)
end = time.time() + (0 if missing is not None else 20)
while (more := read_more(end)):
    transcript += more
if more is None:
    os.kill(pid, 9)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps({'status': status, 'transcript': transcript.decode(errors='replace'), 'missing': missing, 'seconds': seconds, 'chunks': chunks}))
`

function environment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { NO_COLOR: _, FORCE_COLOR: __, DEBUG: ___, ...rest } = process.env
  return { ...rest, ...env }
}
