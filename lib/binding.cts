import fs = require('node:fs')
import path = require('node:path')

/** Finds and loads the addon. CommonJS in both builds, because it needs `__dirname` and `require`. */
namespace binding {
  const nodeGypBuild = require('node-gyp-build') as { (dir: string): unknown, path(dir: string): string }

  /** The package's own root: the nearest folder above this file that has a binding.gyp. */
  export const packageRoot: string = (() => {
    let dir = __dirname
    while (!fs.existsSync(path.join(dir, 'binding.gyp'))) {
      const parent = path.dirname(dir)
      if (parent === dir) return __dirname
      dir = parent
    }
    return dir
  })()

  /** Absolute path of the `.node` file that {@link load} would load. Throws when there is none. */
  export function addonPath(): string {
    return nodeGypBuild.path(packageRoot)
  }

  let addon: unknown

  /** Loads the addon once. Throws node-gyp-build's error when no binary fits. */
  export function load(): unknown {
    addon ??= nodeGypBuild(packageRoot)
    return addon
  }
}
export = binding
