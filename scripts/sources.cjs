// Prints the source list for binding.gyp; CMakeLists.txt reads the same file.
const fs = require('fs')
const path = require('path')

const list = fs.readFileSync(path.join(__dirname, '..', 'native', 'sources.txt'), 'utf8')
for (const line of list.split('\n')) {
  const source = line.replace(/#.*/, '').trim()
  if (source) console.log(`native/${source}`)
}
