// npm run build: lib/ and benchmarks/ -> dist/esm, lib/ without its command line -> dist/cjs. The package has a limit: programs go without
// their comments, which are in the declarations, and what has no types to import goes without declarations.
import { execFile } from 'node:child_process'
import { chmodSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const tsc = (...args) => promisify(execFile)(process.execPath, ['node_modules/typescript/bin/tsc', ...args]).catch(({ stdout, stderr }) => {
  process.stderr.write(stdout + stderr)
  process.exit(1)
})

async function build(format) {
  await tsc('-p', `tsconfig.${format}.json`, '--removeComments', '--declaration', 'false')
  await tsc('-p', `tsconfig.${format}.json`, '--emitDeclarationOnly')
}

rmSync('dist', { recursive: true, force: true })
await Promise.all([build('esm'), build('cjs')])
for (const folder of ['benchmarks', 'lib/cli']) {
  for (const name of readdirSync(join('dist/esm', folder), { recursive: true })) if (name.endsWith('.d.ts')) rmSync(join('dist/esm', folder, name))
}
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n')
chmodSync('dist/esm/lib/cli/main.js', 0o755)
