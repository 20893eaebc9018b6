import { native } from '../../lib/native.js'

/** The instruction sets to test: all of this machine, or the one in TEST_ISA, where another emulated processor has the others (scripts/test-emulated.mjs). */
export function testedIsas(): readonly string[] {
  const { isas } = native().info(), only = process.env.TEST_ISA
  return only === undefined ? isas : isas.filter((isa) => isa === only)
}
