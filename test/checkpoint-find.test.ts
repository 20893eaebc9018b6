import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { findCheckpoint } from '../lib/checkpoint/checkpoint.js'
import { rejects, withDir } from './support/tiny-checkpoint.js'

const test = suite('findCheckpoint')

test('the largest d<N> by number, per source', async () => {
  await withDir(async (baseDir) => {
    for (const dir of ['base_checkpoints/d4', 'base_checkpoints/d20', 'base_checkpoints/d9', 'base_checkpoints/notes',
      'chatsft_checkpoints/d12', 'chatrl_checkpoints/d2']) {
      await mkdir(join(baseDir, dir), { recursive: true })
    }
    const tokenizerDir = join(baseDir, 'tokenizer')
    assert.equal(await findCheckpoint('base', { baseDir }), { checkpointDir: join(baseDir, 'base_checkpoints', 'd20'), tokenizerDir })
    assert.equal(await findCheckpoint('sft', { baseDir }), { checkpointDir: join(baseDir, 'chatsft_checkpoints', 'd12'), tokenizerDir })
    assert.equal(await findCheckpoint('rl', { baseDir }), { checkpointDir: join(baseDir, 'chatrl_checkpoints', 'd2'), tokenizerDir })
    assert.equal((await findCheckpoint('base', { baseDir, modelTag: 'notes' })).checkpointDir, join(baseDir, 'base_checkpoints', 'notes'))
    await rejects(() => findCheckpoint('base', { baseDir, modelTag: 'd32' }), 'ERR_CHECKPOINT_NOT_FOUND', /No model d32 .* modelTag: d20, d4, d9, notes/)
  })
})

test('$NANOCHAT_BASE_DIR is the default base', async () => {
  const before = process.env.NANOCHAT_BASE_DIR
  await withDir(async (baseDir) => {
    await mkdir(join(baseDir, 'base_checkpoints', 'd6'), { recursive: true })
    try {
      process.env.NANOCHAT_BASE_DIR = baseDir
      assert.is((await findCheckpoint('base')).checkpointDir, join(baseDir, 'base_checkpoints', 'd6'))
    } finally {
      if (before === undefined) delete process.env.NANOCHAT_BASE_DIR
      else process.env.NANOCHAT_BASE_DIR = before
    }
  })
})

test('what is missing is named', async () => {
  await withDir(async (baseDir) => {
    await rejects(() => findCheckpoint('sft', { baseDir }), 'ERR_CHECKPOINT_NOT_FOUND', /chatsft_checkpoints does not exist.*NANOCHAT_BASE_DIR/)
    await mkdir(join(baseDir, 'base_checkpoints'))
    await rejects(() => findCheckpoint('base', { baseDir }), 'ERR_CHECKPOINT_NOT_FOUND', /No model d<N> .*It is empty/)
    await mkdir(join(baseDir, 'base_checkpoints', 'mine'))
    await rejects(() => findCheckpoint('base', { baseDir }), 'ERR_CHECKPOINT_NOT_FOUND', /No model d<N> .* modelTag: mine/)
    await writeFile(join(baseDir, 'chatrl_checkpoints'), '')
    await rejects(() => findCheckpoint('rl', { baseDir }), 'ERR_CHECKPOINT_NOT_FOUND', /is a file/)
  })
})

test.run()
