// Compiled tests and sources in a folder of their own, where lib finds the addon of that folder and no other.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** Fills `folder` and returns it; its build/Release is left alone. */
export function layOut(folder) {
  mkdirSync(folder, { recursive: true })
  for (const part of ['lib', 'test']) rmSync(join(folder, part), { recursive: true, force: true })
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', 'false', '--noCheck', '--declaration', 'false',
    '--rootDir', '.', '--outDir', folder], { cwd: root, stdio: 'inherit' })
  for (const file of ['package.json', 'binding.gyp', 'test/run.mjs']) copyFileSync(join(root, file), join(folder, file))
  for (const link of ['node_modules', 'models', 'test/fixtures']) {
    rmSync(join(folder, link), { force: true })
    symlinkSync(join(root, link), join(folder, link))
  }
  return folder
}
