#include "bench/support/timing.h"

#include <algorithm>
#include <utility>

namespace tandem::bench {

Timing summarise(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  std::vector<double> run_s = seconds;
  std::sort(seconds.begin(), seconds.end());
  // The nearest rank.
  const auto at = [&](double share) {
    return seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1) + 0.5)];
  };
  return {.median_s = at(0.5),
          .p10_s = at(0.1),
          .p90_s = at(0.9),
          .num_runs = static_cast<int64_t>(seconds.size()),
          .run_s = std::move(run_s)};
}

}  // namespace tandem::bench
