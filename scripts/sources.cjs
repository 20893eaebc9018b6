// node scripts/sources.cjs [computing | rest]     prints the source list, or one part of it, for binding.gyp; CMakeLists.txt reads the same file.
const fs = require('fs')
const path = require('path')

const list = fs.readFileSync(path.join(__dirname, '..', 'native', 'sources.txt'), 'utf8')
const part = process.argv[2]
for (const line of list.split('\n')) {
  const source = line.replace(/#.*/, '').trim()
  if (source && (!part || /^(?:cpu|model|reference)\//.test(source) === (part === 'computing'))) console.log(`native/${source}`)
}
