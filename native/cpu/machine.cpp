#include "cpu/machine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <thread>
#include <vector>

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

// The number after a name at the beginning of a line, or 0.
static int64_t number_after(const std::string& text, const std::string& name) {
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    if (at == 0 || text[at - 1] == '\n') return std::atoll(text.c_str() + at + name.size());
  }
  return 0;
}

// The directories of this process's cgroup and of those above it, whose limits hold, too. In a container the first is the last.
static std::vector<std::string> cgroups() {
  std::vector<std::string> all;
  const std::string own = read_file("/proc/self/cgroup");
  const size_t at = own.find("0::/");
  std::string path = at == std::string::npos ? "" : own.substr(at + 3, own.find('\n', at) - at - 3);
  while (path.size() > 1) {
    all.push_back("/sys/fs/cgroup" + path + "/");
    path.resize(path.rfind('/'));
  }
  all.push_back("/sys/fs/cgroup/");
  return all;
}

// Processors that the quotas grant, or a large number.
static double cgroup_processors() {
  double least = 1e9;
  for (const std::string& group : cgroups()) {
    const std::string limit = read_file(group + "cpu.max");
    char* rest;
    const double quota = std::strtod(limit.c_str(), &rest), period = std::strtod(rest, nullptr);
    if (quota > 0 && period > 0) least = std::min(least, std::max(1.0, std::floor(quota / period)));
  }
  return least;
}

// What is left of a cgroup's limit. note: memory.current counts the cache of files, which the kernel only drops when the limit is reached.
static int64_t left_of(const std::string& cgroup) {
  const std::string limit = first_word(read_file(cgroup + "memory.max")), used = first_word(read_file(cgroup + "memory.current"));
  if (limit.empty() || limit == "max" || used.empty()) return INT64_MAX;
  const std::string stat = read_file(cgroup + "memory.stat");
  const int64_t cached = number_after(stat, "inactive_file ") + number_after(stat, "active_file ");
  return std::max<int64_t>(0, std::atoll(limit.c_str()) - std::max<int64_t>(0, std::atoll(used.c_str()) - cached));
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
  if (meminfo.find("MemAvailable:") != std::string::npos) available = number_after(meminfo, "MemAvailable:") * 1024;
  for (const std::string& group : cgroups()) available = std::min(available, left_of(group));
  return available;
}

#else

int physical_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }
int64_t available_memory_bytes() { return INT64_MAX; }

#endif

}  // namespace nanochat
