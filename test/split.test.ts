import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { pieceEnd } from '../lib/split.js'
import { randomInts, randomText } from './support/random-text.js'

const test = suite('split')

// The pattern as a JavaScript expression, with Rust's white space and (?i:) spelled out.
const pattern = new RegExp([
  '\'(?:[sSdDmMtT\\u017f]|[lL][lL]|[vV][eE]|[rR][eE])', '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+', '\\p{N}{1,2}', ' ?[^\\p{White_Space}\\p{L}\\p{N}]+[\\r\\n]*',
  '\\p{White_Space}*[\\r\\n]', '\\p{White_Space}+(?!\\P{White_Space})', '\\p{White_Space}+',
].join('|'), 'gu')

function pieces(text: string): string[] {
  const found: string[] = []
  for (let start = 0, end = 0; start < text.length; start = end) {
    end = pieceEnd(text, start)
    if (end <= start) throw new Error(`no progress at ${start}`)
    found.push(text.slice(start, end))
  }
  return found
}

function wellFormed(text: string): string {
  return Buffer.from(text).toString()
}

test('cuts the traps of MODEL.md 3', () => {
  const cases: [string, string[]][] = [
    ['I\'LL we\'ve DON\'T it\'S it\'\u017ft', ['I', '\'LL', ' we', '\'ve', ' DON', '\'T', ' it', '\'S', ' it', '\'\u017f', 't']],
    ['\'Twas it\'lL it\'le \'s', ['\'T', 'was', ' it', '\'lL', ' it', '\'le', ' \'', 's']],
    ['12345 1\u00bd\u0663', ['12', '34', '5', ' ', '1\u00bd', '\u0663']],
    ['a\u0085b\u0085\u0085 c', ['a', '\u0085b', '\u0085\u0085', ' c']],
    ['a\ufeffb \ufeff\ufeff c', ['a', '\ufeffb', ' \ufeff\ufeff', ' c']],
    ['  \n  x', ['  \n', ' ', ' x']],
    ['x!\r\n\n y \n\n z  ', ['x', '!\r\n\n', ' y', ' \n\n', ' z', '  ']],
    ['a   1', ['a', '  ', ' ', '1']],
    ['\u{10400}\u{10400}\u{1d7ce}\u{1f642}\u{1f642}', ['\u{10400}\u{10400}', '\u{1d7ce}', '\u{1f642}\u{1f642}']],
    ['\n\ta', ['\n', '\ta']],
  ]
  for (const [text, expected] of cases) assert.equal(pieces(text), expected, JSON.stringify(text))
})

test('equals the regular expression on 20,000 random texts', () => {
  const random = randomInts(1)
  for (let i = 0; i < 20_000; i++) {
    const text = randomText(random, 1 + random(30))
    assert.equal(pieces(text), text.match(pattern), JSON.stringify(text))
  }
})

test('white space is exactly the 25 characters of Unicode\'s White_Space', () => {
  const found: string[] = []
  for (let codePoint = 0; codePoint < 0x110000; codePoint++) {
    const char = String.fromCodePoint(codePoint)
    if (['a', '1', '!'].every((before) => pieceEnd(before + char, 0) === 1)) found.push(codePoint.toString(16))
  }
  // '!' takes line ends along, so LF and CR are not in this list
  assert.is(found.join(' '), '9 b c 20 85 a0 1680 2000 2001 2002 2003 2004 2005 2006 2007 2008 2009 200a 2028 2029 202f 205f 3000')
})

test('a lone surrogate splits as U+FFFD does', () => {
  const random = randomInts(2)
  for (let i = 0; i < 2000; i++) {
    const text = Array.from({ length: 12 }, () => random(3) ? randomText(random, 1) : String.fromCharCode(0xd800 + random(0x800))).join('')
    assert.equal(pieces(text).map(wellFormed), pieces(wellFormed(text)), JSON.stringify(text))
  }
})

test.run()
