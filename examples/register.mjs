// node --import ./examples/register.mjs: as --import tsx, in worker threads too, which on Node 20 do not inherit it.
// Only for TypeScript in this repository: an installed nanochat-node needs nothing of the kind.
import { register } from 'tsx/esm/api'

register()
