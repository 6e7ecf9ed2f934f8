// Progress of anything that takes longer than two seconds; main() draws a bar, /health reports the
// share.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace tandem {

struct Progress {
  std::string_view stage;  // "weights", "experts", ...
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};
using ProgressFn = std::function<void(const Progress&)>;  // called from one thread at a time

}  // namespace tandem
