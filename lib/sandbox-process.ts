import { native } from './native.js'

/** A process started away from the event loop. Its descriptors 1..6 are pipes; these are the host's ends. */
export interface Started {
  pid: number
  stdout: number
  stderr: number
  request: number
  result: number
  control: number
  report: number
  /** Resolves with the raw wait status, when the process is gone and reaped. */
  exited: Promise<number>
  /** SIGKILL, through a descriptor that can't name another process. */
  kill(): void
}

interface SandboxThread {
  spawn(id: number, path: string, argv: string[], env: string[]): void
  kill(id: number): void
  remove(id: number, path: string): void
}
interface SandboxBinding {
  startSandboxThread?(onEvent: (name: string, id: number, status: number, fds: number[], pid: number) => void): SandboxThread
}

let thread: SandboxThread | undefined
let lastId = 0
const waiting = new Map<number, (name: string, status: number, fds: number[], pid: number) => void>()

/**
 * Starts a program with posix_spawn from the sandbox thread: it costs the event loop nothing, however large this process
 * is. `argv` includes argv[0]. Rejects with an Error whose `errno` is the system's.
 */
export function startProcess(path: string, argv: string[], env: string[]): Promise<Started> {
  const id = ++lastId
  return new Promise((resolve, reject) => {
    let exit: (status: number) => void
    const exited = new Promise<number>((settle) => { exit = settle })
    waiting.set(id, (name, status, fds, pid) => {
      if (name === 'exited') {
        waiting.delete(id)
        exit(status)
      } else if (status !== 0) {
        waiting.delete(id)
        reject(Object.assign(new Error(`starting ${path} failed with error ${status}`), { errno: status }))
      } else {
        const [stdout = -1, stderr = -1, request = -1, result = -1, control = -1, report = -1] = fds
        resolve({ pid, stdout, stderr, request, result, control, report, exited, kill: () => sandboxThread().kill(id) })
      }
    })
    sandboxThread().spawn(id, path, argv, env)
  })
}

/** Removes a directory that a hostile program filled: any depth, any names, no link followed. Nothing there is no error. */
export function removeTree(path: string): Promise<void> {
  const id = ++lastId
  return keepAlive(new Promise((resolve, reject) => {
    waiting.set(id, (_name, status) => {
      waiting.delete(id)
      if (status === 0) resolve()
      else reject(Object.assign(new Error(`removing ${path} failed with error ${status}`), { errno: status }))
    })
    sandboxThread().remove(id, path)
  }))
}

/** Keeps the process running until the promise settles: the sandbox thread and idle interpreters alone don't. */
export async function keepAlive<T>(work: Promise<T>): Promise<T> {
  const timer = setInterval(() => {}, 1 << 30)
  try { return await work } finally { clearInterval(timer) }
}

/** Whether this build of the addon can start processes (Linux only). */
export function hasSandboxThread(): boolean {
  return (native() as SandboxBinding).startSandboxThread !== undefined
}

function sandboxThread(): SandboxThread {
  thread ??= (native() as SandboxBinding).startSandboxThread?.((name, id, status, fds, pid) => waiting.get(id)?.(name, status, fds, pid))
  if (!thread) throw new Error('this build of the addon has no sandbox thread')
  return thread
}
