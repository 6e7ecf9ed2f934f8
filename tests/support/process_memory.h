// Memory of this process as the kernel counts it.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

namespace tandem::tests {

// A field of /proc/self/status, such as "RssFile:", in bytes; -1 where there is none.
inline int64_t process_memory_bytes(std::string_view field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field)) return std::stoll(line.substr(field.size())) * 1024;
  }
  return -1;
}

}  // namespace tandem::tests
