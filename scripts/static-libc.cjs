// Prints 1 where a C program can be linked statically (libc.a is there), else 0: the cage's launcher starts 1 ms faster that way.
const { spawnSync } = require('child_process')

const compiler = (process.env.CC ?? 'cc').split(' ')
const input = 'int main(void) { return 0; }\n'
const linked = process.platform === 'linux' && spawnSync(compiler[0], [...compiler.slice(1), '-static', '-xc', '-', '-o', '/dev/null'], { input }).status === 0
console.log(linked ? 1 : 0)
