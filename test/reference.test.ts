import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readReference } from '../scripts/reference.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const reference = suite('API reference')

reference('every export and public member has a docstring, with its parameters and errors; docs/reference.md is up to date', () => {
  const { markdown, problems } = readReference()
  assert.equal(problems, [])
  assert.is(readFileSync(join(root, 'docs', 'reference.md'), 'utf8'), markdown, 'run `npm run reference`')
})

reference('notices what is missing', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nanochat-reference-'))
  writeFileSync(join(dir, 'index.ts'), `
    interface Hidden { x: number }
    export interface Bare {}
    /** Documented. */
    export interface Options {
      known?: number
      /** Fine. */
      other?: Hidden
      nested(text: string): void
    }
    /** Throws ERR_KNOWN, ERR_WRONG. */
    export function named(a: number, options: Options): void {}
    /** Takes a. */
    export function silent(a: number, b: { inner: string }): { out: number } { return { out: a } }
    /** Takes a. Throws as \`named\`. See {@link absent}. */
    export function fine(a: number): void {}
    /** Of one. */
    export class One {
      #hidden = 1
      /** @internal */
      internal = 2
      bare = 3
      private secret = 4
    }
    /** Cases. */
    export type Cases =
      /** The first. */
      | { type: 'a' }
      | { type: 'b' }
    /** Codes. */
    export type ErrorCode = \`ERR_\${'KNOWN' | 'OTHER'}\`
  `)
  const { problems, markdown } = readReference({ fixture: 'index.ts' }, dir)
  rmSync(dir, { recursive: true })
  assert.equal(problems.map((problem) => problem.replace(/^.*index\.ts: /, '')).sort(), [
    'Bare has no docstring',
    'Options.known has no docstring', 'Options.other uses the type Hidden, which is not exported', 'Options.nested has no docstring',
    'named names ERR_WRONG, which is no ErrorCode', 'named does not speak of its parameter a',
    'silent does not say what it throws', 'silent does not speak of its parameter b', 'silent does not speak of inner', 'silent does not speak of out',
    'fine refers to absent, which is not exported',
    'One.bare has no docstring',
    "Cases.{ type: 'b' } has no docstring"
  ].sort())
  assert.match(markdown, /### fine\n\n```ts\nfunction fine\(a: number\): void\n```\n\nTakes a\. Throws as `named`\./)
  assert.not.match(markdown, /secret|internal/)
})

reference.run()
