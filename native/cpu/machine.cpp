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

// The number after a name at the beginning of a line, or 0.
static int64_t number_after(const std::string& text, const char* name) {
  for (const char* line = text.c_str(); line; line = std::strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (std::strncmp(line, name, std::strlen(name)) == 0) return std::atoll(line + std::strlen(name));
  }
  return 0;
}

// The path of this process's cgroup; in a container it is "/".
static std::string own_cgroup() {
  const std::string own = read_file("/proc/self/cgroup");
  const char* at = std::strstr(own.c_str(), "0::/");
  return at ? std::string(at + 3, std::strcspn(at + 3, "\n")) : "/";
}

// Goes from a cgroup to the one above it, whose limits hold, too; false at the root.
static bool go_up(std::string* path) {
  if (path->size() <= 1) return false;
  path->resize(std::max<size_t>(1, path->rfind('/')));
  return true;
}

static std::string cgroup_file(const std::string& path, const char* name) { return read_file("/sys/fs/cgroup" + path + name); }

// Processors that the quotas grant, or a large number.
static double cgroup_processors() {
  double least = 1e9;
  std::string path = own_cgroup();
  do {
    const std::string limit = cgroup_file(path, "/cpu.max");
    char* rest;
    const double quota = std::strtod(limit.c_str(), &rest), period = std::strtod(rest, nullptr);
    if (quota > 0 && period > 0) least = std::min(least, std::max(1.0, std::floor(quota / period)));
  } while (go_up(&path));
  return least;
}

// What is left of a cgroup's limit. note: memory.current counts the cache of files, which the kernel only drops when the limit is reached.
static int64_t left_of(const std::string& path) {
  const std::string limit = cgroup_file(path, "/memory.max"), used = cgroup_file(path, "/memory.current");
  if (limit.empty() || limit[0] == 'm' || used.empty()) return INT64_MAX;  // "max": none
  const std::string stat = cgroup_file(path, "/memory.stat");
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
  if (std::strstr(meminfo.c_str(), "MemAvailable:")) available = number_after(meminfo, "MemAvailable:") * 1024;
  std::string path = own_cgroup();
  do available = std::min(available, left_of(path));
  while (go_up(&path));
  return available;
}

#else

int physical_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }
int64_t available_memory_bytes() { return INT64_MAX; }

#endif

}  // namespace nanochat
