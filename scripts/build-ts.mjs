// npm run build: lib/ and benchmarks/ -> dist/esm, lib/ without its command line -> dist/cjs.
import { execFileSync } from 'node:child_process'
import { chmodSync, rmSync, writeFileSync } from 'node:fs'

rmSync('dist', { recursive: true, force: true })
for (const format of ['esm', 'cjs']) {
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', `tsconfig.${format}.json`], { stdio: 'inherit' })
}
writeFileSync('dist/cjs/package.json', '{"type":"commonjs"}\n')
chmodSync('dist/esm/lib/cli/main.js', 0o755)
