#include "server/cli/cpu_isa.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

namespace tandem::cli {

std::vector<std::string> cpu_isa() {
  static constexpr std::array<const char*, 15> kKnown = {
      "sse4_2",      "avx2",        "fma",      "f16c",        "avx_vnni",
      "avx512f",     "avx512bw",    "avx512vl", "avx512_vnni", "avx512vbmi",
      "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",    "amx_bf16"};
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  std::vector<std::string> found;
  while (std::getline(cpuinfo, line)) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::vector<std::string> flags;
    for (std::string word; words >> word;) flags.push_back(word);
    for (const char* isa : kKnown)
      if (std::find(flags.begin(), flags.end(), isa) != flags.end()) found.emplace_back(isa);
    break;
  }
  return found;
}

}  // namespace tandem::cli
