#pragma once
#include <cstdint>

namespace nanochat {

// Physical cores this process may use: affinity mask, hyper-threads counted once, quota of its cgroups (version 2). At least 1.
int physical_cores();

// Bytes that can be allocated without swapping or being killed, by /proc/meminfo and the limits of its cgroups (version 2), where
// pages that only cache files are free; a very large number where the platform does not say.
int64_t available_memory_bytes();

}  // namespace nanochat
