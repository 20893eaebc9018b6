// Small shared libraries that stand in for the driver and for the backend, compiled where there is a C compiler.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0)

/** A driver that has nothing: it is only there. */
export const emptyDriver = 'int nanochat_stub(void) { return 0; }'

/** A driver of version `version` whose every call fails with `result`; the runtime asks for its functions one by one. */
export function failingDriver(version: number, result: number): string {
  return `
#include <string.h>
int cuDriverGetVersion(int* version) { *version = ${version}; return 0; }
int cuInit(unsigned flags) { (void)flags; return ${result}; }
int cuGetErrorName(int error, const char** text) { (void)error; *text = "CUDA_STUB"; return 0; }
int cuGetErrorString(int error, const char** text) { (void)error; *text = "stub"; return 0; }
static int fails(void) { return ${result}; }
int cuGetProcAddress_v2(const char* symbol, void** function, int wanted, unsigned long long flags, int* status) {
  (void)wanted; (void)flags;
  *function = (void*)fails;
  if (strcmp(symbol, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strcmp(symbol, "cuInit") == 0) *function = (void*)cuInit;
  if (strcmp(symbol, "cuGetProcAddress") == 0) *function = (void*)cuGetProcAddress_v2;
  if (strcmp(symbol, "cuGetErrorName") == 0) *function = (void*)cuGetErrorName;
  if (strcmp(symbol, "cuGetErrorString") == 0) *function = (void*)cuGetErrorString;
  if (status) *status = 0;
  return 0;
}
int cuGetProcAddress(const char* symbol, void** function, int wanted, unsigned long long flags) { return cuGetProcAddress_v2(symbol, function, wanted, flags, 0); }
`
}

/** A backend library with interface `abi`, and nothing behind it. */
export function backendOf(abi: number): string {
  return `static const unsigned table[64] = {${abi}, sizeof table}; const void* nc_cuda_get_api(void) { return table; }`
}

/** Compiles the sources, named by their libraries, into a folder for the time of `use`. */
export async function withLibraries<T>(sources: Record<string, string>, use: (dir: string) => T | Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-stub-'))
  try {
    for (const [name, source] of Object.entries(sources)) {
      writeFileSync(join(dir, 'stub.c'), source)
      execFileSync(compiler ?? 'cc', ['-shared', '-fPIC', '-o', join(dir, name), join(dir, 'stub.c')])
    }
    return await use(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const child = fileURLToPath(new URL('./device-child.ts', import.meta.url))

export interface Outcome { device: string | null, code: string | null, message: string, warnings: string[] }

/** What loading the demo model on `device` comes to in a process that finds libraries in `dir`. */
export function loadIn(dir: string, device: string, env: Record<string, string> = {}): Outcome {
  const output = execFileSync(process.execPath, ['--import', 'tsx', child, device], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, LD_LIBRARY_PATH: dir, ...env } })
  return JSON.parse(output) as Outcome
}
