import { NanochatError } from './errors.js'
import { native } from './native.js'

export interface DeviceChoice {
  cudaDevice: number | null                    // null: the CPU
  name: string
  mayFallBack: boolean
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
