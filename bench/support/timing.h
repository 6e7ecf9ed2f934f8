// Repeats a piece of work and says how long it took: the median, and how far the rest lies from it.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace tandem::bench {

struct Timing {
  double median_s = 0.0;
  double p10_s = 0.0;
  double p90_s = 0.0;
  int64_t num_runs = 0;
  std::vector<double> run_s;  // [num_runs] in the order given
};

// Of seconds, or of any other measure that is to be summed up so, in any order; at least one.
Timing summarise(std::vector<double> seconds);

struct TimingLimits {
  int64_t min_runs = 7;
  double min_total_s = 0.5;
  int64_t max_runs = 10'000;
};

// `prepare(run_idx)` is not timed, `run()` is. The first run warms up and is not counted.
template <typename Prepare, typename Run>
Timing time_runs(const TimingLimits& limits, const Prepare& prepare, const Run& run) {
  std::vector<double> seconds;
  double total_s = 0.0;
  prepare(int64_t{0});
  run();
  for (int64_t run_idx = 1; run_idx <= limits.max_runs; ++run_idx) {
    if (run_idx > limits.min_runs && total_s >= limits.min_total_s) break;
    prepare(run_idx);
    const auto begin = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    seconds.push_back(elapsed.count());
    total_s += elapsed.count();
  }
  return summarise(std::move(seconds));
}

}  // namespace tandem::bench
