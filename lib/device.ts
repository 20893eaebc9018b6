import { NanochatError } from './errors.js'
import { native, type CudaNeeds } from './native.js'

export interface DeviceChoice {
  cudaDevice: number | null                    // null: the CPU
  name: string
  mayFallBack: boolean
}

export interface DeviceMemory { device: string, name: string, totalBytes: number, freeBytes: number }

/** The CUDA devices with their memory, or why there are none that work. */
export async function cudaMemory(): Promise<{ devices: DeviceMemory[], reason: string | null }> {
  const { devices, reason } = await native().cudaDevices()
  try {
    const free = await Promise.all(devices.map((_, i) => native().cudaFreeMemory(i)))
    return { devices: devices.map(({ name, bytes }, i) => ({ device: `cuda:${i}`, name, totalBytes: bytes, freeBytes: free[i] as number })), reason }
  } catch (error) {
    return { devices: [], reason: error instanceof Error ? error.message : String(error) }
  }
}

/** Rows of `context` tokens whose keys and values fit beside the model into `freeBytes`. */
export function rowsThatFit({ weightBytes, workingBytes, kvBytesPerToken }: CudaNeeds, context: number, freeBytes: number): number {
  return Math.max(0, Math.floor((freeBytes - weightBytes - workingBytes) / (context * kvBytesPerToken)))
}

/** What caches may take by default of what a loaded model leaves free. note: half, because a slot grows by half, and is copied then */
export async function defaultCacheBytes(cudaDevice: number, needs: CudaNeeds | null): Promise<number> {
  return Math.max(0, Math.floor((await native().cudaFreeMemory(cudaDevice) - (needs?.workingBytes ?? 0)) / 2))
}

/**
 * Where a model goes. 'auto' takes the first CUDA device, and the CPU where there is none, with a warning when driver and
 * library are there but do not work. An explicit device that is not there is ERR_DEVICE_UNAVAILABLE, saying why.
 */
export async function chooseDevice(device: string, { isForCpu }: { isForCpu: boolean }): Promise<DeviceChoice> {
  const cpu = { cudaDevice: null, name: 'cpu', mayFallBack: false }
  if (device === 'cpu' || (device === 'auto' && isForCpu)) return cpu
  const { devices, reason, isBroken } = await native().cudaDevices()
  const cudaDevice = Number(device.split(':')[1] ?? 0)
  if (cudaDevice < devices.length) return { cudaDevice, name: `cuda:${cudaDevice}`, mayFallBack: device === 'auto' }
  if (device === 'auto') {
    if (isBroken) warn(reason ?? '')
    return cpu
  }
  throw new NanochatError('ERR_DEVICE_UNAVAILABLE', `Device ${device} is not available. `
    + (reason ?? `This machine has ${devices.map(({ name }, i) => `cuda:${i} (${name})`).join(', ')}.`))
}

/** What 'auto' does when the device turns the model away: takes the CPU and says so. Throws what no other device changes. */
export async function fallBack<T>(choice: DeviceChoice, error: unknown, onCpu: () => Promise<T>): Promise<{ model: T, device: string }> {
  if (!choice.mayFallBack || !NanochatError.is(error) || !['ERR_DEVICE_UNAVAILABLE', 'ERR_OUT_OF_MEMORY', 'ERR_CUDA'].includes(error.code)) throw error
  warn(error.message)
  return { model: await onCpu(), device: 'cpu' }
}

function warn(reason: string): void {
  process.emitWarning(`The model runs on the CPU. ${reason}`, 'NanochatWarning')
}
