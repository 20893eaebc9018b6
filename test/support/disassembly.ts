import { spawnSync } from 'node:child_process'
import binding from '../../lib/binding.cjs'

/** The addon's disassembly as objdump prints it, symbols demangled; or why there is none. */
export function disassemble(): { listing: string } | { reason: string } {
  if (process.platform !== 'linux' || process.arch !== 'x64') return { reason: 'it reads x64 ELF files' }
  const { error, status, stdout, stderr } = spawnSync('objdump', ['-dCw', binding.addonPath()], { encoding: 'utf8', maxBuffer: 1 << 29 })
  if (error) return { reason: 'no objdump (binutils)' }
  if (status !== 0) throw new Error(stderr)
  return stdout.includes('nanochat::') ? { listing: stdout } : { reason: 'the addon is stripped (npm run prebuilds); npm run build:native keeps its names' }
}
