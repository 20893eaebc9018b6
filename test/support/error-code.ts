import { NanochatError } from '../../lib/errors.js'

/** The code of the error that `work` ends with, the error's text when it is not one of ours, or 'none'. */
export async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work()
  } catch (error) {
    return NanochatError.is(error) ? error.code : String(error)
  }
  return 'none'
}
