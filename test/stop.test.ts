import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { stopMatcher } from '../lib/stop.js'
import { visibleText } from '../lib/visible-text.js'
import { byteTokenizer } from './support/fake-tokenizer.js'

function run(stops: string[], pieces: string[]): { shown: string[], matched: boolean, rest: string } {
  const matcher = stopMatcher(stops)
  const shown: string[] = []
  for (const piece of pieces) {
    const { text, matched } = matcher.write(piece)
    shown.push(text)
    if (matched) return { shown, matched, rest: '' }
  }
  return { shown, matched: false, rest: matcher.end() }
}

const test = suite('stop strings')

test('without stop strings nothing is held back', () => {
  assert.equal(run([], ['a', 'b']), { shown: ['a', 'b'], matched: false, rest: '' })
})

test('holds back only what may become a match', () => {
  assert.equal(run(['END'], ['xE', 'N', 'x', 'EN']), { shown: ['x', '', 'ENx', ''], matched: false, rest: 'EN' })
  assert.equal(run(['END'], ['xE', 'EN', 'Dy']), { shown: ['x', 'E', ''], matched: true, rest: '' })
  assert.equal(run(['aab'], ['a', 'a', 'a', 'b']), { shown: ['', '', 'a', ''], matched: true, rest: '' })
})

test('the match that ends first counts, of those the one that starts first', () => {
  assert.equal(run(['abcd', 'bc'], ['abcd']), { shown: ['a'], matched: true, rest: '' })
  assert.equal(run(['bc', 'abc'], ['xabc']), { shown: ['x'], matched: true, rest: '' })
})

test('the same however the text is cut, on 3,000 random texts', () => {
  let state = 3
  const random = (n: number): number => { state = (Math.imul(state, 1103515245) + 12345) >>> 0; return (state >>> 8) % n }
  const word = (n: number): string => Array.from({ length: n }, () => 'ab'[random(2)]).join('')
  for (let i = 0; i < 3000; i++) {
    const stops = Array.from({ length: 1 + random(3) }, () => word(2 + random(4)))
    const text = word(random(16))
    const pieces: string[] = []
    for (let at = 0; at < text.length;) {
      const n = 1 + random(4)
      pieces.push(text.slice(at, at + n))
      at += n
    }
    const whole = run(stops, [text]), cut = run(stops, pieces)
    assert.is(cut.shown.join('') + cut.rest, whole.shown.join('') + whole.rest, `${stops} in ${pieces.join('|')}`)
    assert.is(cut.matched, whole.matched)
    assert.is(whole.matched, stops.some((stop) => text.includes(stop)))
  }
})

test('visible text comes in whole characters, and a stop string knows its first token', () => {
  const words = ['Hello', ' wor', 'ld END', ' ND']
  const tokenizer = byteTokenizer(words)
  const word = (text: string): number => 265 + words.indexOf(text)
  const text = visibleText(tokenizer, ['END', '€!'])
  assert.equal(text.write(word('Hello'), 0), { text: 'Hello', stopFrom: null })
  assert.equal([0xe2, 0x82, 0xac].map((byte, i) => text.write(byte, 1 + i).text), ['', '', ''], 'an incomplete character, then one that may begin a stop string')
  assert.equal(text.write(word(' wor'), 4), { text: '€ wor', stopFrom: null })
  assert.equal(text.write(word('ld END'), 5), { text: 'ld ', stopFrom: 5 }, 'the token is shared by text and stop string')

  const split = visibleText(tokenizer, ['€!'])
  const ids = [0x61, 0xe2, 0x82, 0xac, 0x21]
  assert.equal(ids.map((id, i) => split.write(id, 10 + i)), [
    { text: 'a', stopFrom: null }, { text: '', stopFrom: null }, { text: '', stopFrom: null }, { text: '', stopFrom: null }, { text: '', stopFrom: 11 }
  ], 'the first byte of a character of the stop string is part of it')
})

test('a stretch of text ends with what was held back, and stop strings do not reach across', () => {
  const text = visibleText(byteTokenizer(), ['ab'])
  assert.is(text.write(0x61, 0).text, '')
  assert.is(text.end(), 'a')
  assert.equal(text.write(0x62, 1), { text: 'b', stopFrom: null })
  text.write(0xe2, 2)
  assert.is(text.end(), '\ufffd')
})

test.run()
