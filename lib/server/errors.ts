import { NanochatError, type ErrorCode } from '../errors.js'

/** What a client gets instead of an answer, in the form of OpenAI's errors. */
export interface ErrorBody { error: { message: string, type: string, param: string | null, code: string | null } }

/** A request that is refused: `status` of HTTP, the parameter at fault, and a code for programs. */
export class ApiError extends Error {
  readonly status: number
  readonly param: string | null
  readonly code: string | null

  constructor(status: number, message: string, param: string | null = null, code: string | null = null) {
    super(message)
    this.name = 'ApiError'
    this.status = status
    this.param = param
    this.code = code
  }
}

const statuses: Partial<Record<ErrorCode, number>> = { ERR_INVALID_ARG: 400, ERR_INVALID_CONVERSATION: 400, ERR_CONTEXT_OVERFLOW: 400, ERR_OUT_OF_MEMORY: 503, ERR_DISPOSED: 503 }

/** Any error as one for the client. What is neither the request's fault nor one of the package's errors is not described to it. */
export function apiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (!NanochatError.is(error)) return new ApiError(500, 'The server failed to answer.', null, null)
  const { code, message } = error
  return new ApiError(statuses[code] ?? 500, message, null, code === 'ERR_CONTEXT_OVERFLOW' ? 'context_length_exceeded' : code.toLowerCase())
}

/** The body that tells a client of `error`. */
export function errorBody({ status, message, param, code }: ApiError): ErrorBody {
  const type = status === 401 ? 'authentication_error' : status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error'
  return { error: { message, type, param, code } }
}
