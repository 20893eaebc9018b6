#include "cpu/machine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace nanochat {

#if defined(__linux__)

static bool read_first_word(const std::string& path, std::string* word) {
  std::ifstream file(path);
  return static_cast<bool>(file >> *word);
}

// Processors that the cgroup's quota grants, or a large number.
static double cgroup_processors() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) return std::max(1.0, std::floor(std::atof(quota.c_str()) / period));
  return 1e9;
}

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string siblings;
    const bool known = read_first_word("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", &siblings);
    cores.insert(known ? siblings : std::to_string(cpu));
  }
  return static_cast<int>(std::max(1.0, std::min<double>(static_cast<double>(cores.size()), cgroup_processors())));
}

int64_t available_memory_bytes() {
  int64_t available = INT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes;
  while (meminfo >> key >> kilobytes) {
    if (key == "MemAvailable:") available = kilobytes * 1024;
    std::getline(meminfo, unit);
  }
  std::string limit, used;
  if (read_first_word("/sys/fs/cgroup/memory.max", &limit) && limit != "max" && read_first_word("/sys/fs/cgroup/memory.current", &used)) {
    available = std::min<int64_t>(available, std::atoll(limit.c_str()) - std::atoll(used.c_str()));
  }
  return available;
}

#else

int physical_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }
int64_t available_memory_bytes() { return INT64_MAX; }

#endif

}  // namespace nanochat
