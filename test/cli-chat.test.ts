// alone: it types at a terminal and waits for answers
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { hasTerminal, runInTerminal, type Step } from './support/cli.js'

const chat = suite('chat in a terminal')

const prompt = { expect: '> \x1b[0m' }
const ctrlC = { send: '\x03' }
const type = (line: string): Step => ({ send: `${line}\r` })
const plain = (text: string): string => text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '').replaceAll('\r', '')

if (!hasTerminal) {
  console.log('SKIP chat in a terminal: the tests need python3 with the pty module')
  chat.skip('conversation', () => {})
} else {
  chat('a conversation of several turns computes only what is new', async () => {
    const { status, transcript, missing } = await runInTerminal(['demo'], [
      { expect: '/help lists the commands' }, prompt, type('What is 12 * 12?'), { expect: '144' }, prompt, type('and plus 5?'), { expect: '149' }, { expect: 'of them kept' }, prompt,
      type('/stats'), { expect: '4 messages' }, prompt, type('/clear'), { expect: 'a new conversation' }, prompt, type('/stats'), { expect: '0 messages, 0 of 512 tokens' }, prompt, type('/exit')
    ])
    assert.is(missing, null, transcript)
    assert.is(status, 0)
    assert.match(transcript, /\x1b\[36m>>> 12 \* 12\x1b\[0m\r\n\x1b\[32m144\x1b\[0m\r\n/)
    assert.match(plain(transcript), /\d+ tokens \| 4 from the tool \| \d+ tok\/s \| first after /)
  })

  chat('slash commands show and set the sampling', async () => {
    const { status, transcript, missing } = await runInTerminal(['chat', '-i', 'demo'], [
      prompt, type('/temperature'), { expect: 'temperature 0.6' }, prompt, type('/temperature 0.9'), { expect: 'temperature 0.9' }, prompt, type('/temperature hot'), { expect: 'Expected a number' },
      prompt, type('/topk'), { expect: 'topk 50' }, prompt, type('/topk 7'), { expect: 'topk 7' }, prompt, type('/seed 3'), { expect: 'seed 3' }, prompt, type('/sing'), { expect: 'there is no /sing' },
      prompt, type('/help'), { expect: '/temperature' }, { expect: '/exit' }, prompt, { send: '\x04' }
    ], { NO_COLOR: '' })
    assert.is(missing, null, transcript)
    assert.is(status, 0)
  })

  chat('Ctrl+C stops an answer at once and forgets what was typed ahead; the conversation goes on', async () => {
    const { status, transcript, missing, seconds } = await runInTerminal(['demo', '--no-tool', '--max-tokens', '4000'], [
      prompt, { send: 'List the primes up to 30.\rWho are you?\r' }, { expect: 'range(2' }, { expect: 'primes' }, ctrlC, { expect: 'stopped' }, prompt,
      type('/stats'), { expect: '2 messages' }, prompt, type('What is 3 * 5?'), { expect: '3 * 5' }, prompt, type('/exit')
    ])
    assert.is(missing, null, transcript)
    assert.is(status, 0)
    assert.ok((seconds[5] ?? Infinity) < 1, `it took ${seconds[5]} s to stop`)
  })

  chat('Ctrl+C drops a line that was begun; twice it ends the chat', async () => {
    const { status, transcript, missing } = await runInTerminal(['demo'], [prompt, { send: 'abc' }, { expect: 'abc' }, ctrlC, prompt, ctrlC, { expect: 'Ctrl+C again' }, prompt, ctrlC])
    assert.is(missing, null, transcript)
    assert.is(status, 0)
    const during = await runInTerminal(['demo', '--no-tool', '--max-tokens', '4000'], [prompt, type('List the primes up to 30.'), { expect: 'range(2' }, ctrlC, ctrlC])
    assert.is(during.missing, null, during.transcript)
    assert.is(during.status, 0)
  })

  chat('a conversation that does not fit says what to do, and nothing is dropped in silence', async () => {
    const { transcript, missing } = await runInTerminal(['demo'], [
      prompt, type('What is 2 + 2?'), { expect: '4' }, prompt, type('word '.repeat(520)), { expect: 'ERR_CONTEXT_OVERFLOW' }, { expect: '/clear' }, prompt,
      type('and plus 5?'), { expect: '9' }, prompt, { send: '\x04' }
    ])
    assert.is(missing, null, transcript)
  })

  chat('what is typed ahead is kept and not mixed into the answer', async () => {
    const { transcript, missing } = await runInTerminal(['demo'], [prompt, { send: 'What is 6 * 7?\rWho are you?\r' }, { expect: '42' }, { expect: 'Who are you?' }, { expect: 'nanochat' }, prompt, { send: '\x04' }], { NO_COLOR: '', FORCE_COLOR: '1' })
    assert.is(missing, null, transcript)
    assert.match(plain(transcript), /The answer is 42\.\n[^\n]*tok\/s[^\n]*\n> Who are you\?\nI am nanochat/)
  })

  chat('NO_COLOR', async () => {
    const { transcript, missing } = await runInTerminal(['demo', 'What is 2 + 2?'], [{ expect: 'tok/s' }], { NO_COLOR: '1' })
    assert.is(missing, null, transcript)
    assert.not.match(transcript, /\x1b\[\d*m/)
    assert.match(transcript, />>> 2 \+ 2\r\n4\r\n/)
  })
}

chat.run()
