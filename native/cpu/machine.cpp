#include "cpu/machine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace nanochat {

#if defined(__linux__)

// note: stdio, because <fstream> brings 0.4 MB of locales into the addon.
static std::string read_file(const std::string& path) {
  std::string text;
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return text;
  char block[4096];
  for (size_t count; (count = std::fread(block, 1, sizeof block, file)) > 0;) text.append(block, count);
  std::fclose(file);
  return text;
}

static std::string first_word(const std::string& text) { return text.substr(0, text.find_first_of(" \n")); }

// Processors that the cgroup's quota grants, or a large number.
static double cgroup_processors() {
  const std::string limit = read_file("/sys/fs/cgroup/cpu.max");
  char* rest;
  const double quota = std::strtod(limit.c_str(), &rest), period = std::strtod(rest, nullptr);
  if (quota > 0 && period > 0) return std::max(1.0, std::floor(quota / period));
  return 1e9;
}

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string siblings = first_word(read_file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  return static_cast<int>(std::max(1.0, std::min<double>(static_cast<double>(cores.size()), cgroup_processors())));
}

int64_t available_memory_bytes() {
  int64_t available = INT64_MAX;
  const std::string meminfo = read_file("/proc/meminfo");
  const size_t at = meminfo.find("MemAvailable:");
  if (at != std::string::npos) available = std::atoll(meminfo.c_str() + at + std::strlen("MemAvailable:")) * 1024;
  const std::string limit = first_word(read_file("/sys/fs/cgroup/memory.max")), used = first_word(read_file("/sys/fs/cgroup/memory.current"));
  if (!limit.empty() && limit != "max" && !used.empty()) available = std::min<int64_t>(available, std::atoll(limit.c_str()) - std::atoll(used.c_str()));
  return available;
}

#else

int physical_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }
int64_t available_memory_bytes() { return INT64_MAX; }

#endif

}  // namespace nanochat
