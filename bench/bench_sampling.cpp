// What choosing one token costs on one core, by the row's shape and the filters, beside one pass
// over the row: the weights of all its tokens.
//   bench_sampling [--vocab N] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/support/report.h"
#include "bench/support/timing.h"
#include "runtime/sampling/row_math.h"
#include "runtime/sampling/sampler.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

constexpr TimingLimits kLimits{.min_runs = 15, .min_total_s = 0.1};

struct Shape {
  std::string name;
  std::vector<float> logits;
};

std::vector<Shape> make_shapes(size_t vocab_size) {
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  const auto shape = [&](std::string name, const std::function<float(size_t)>& logit_of) {
    std::vector<float> logits(vocab_size);
    for (size_t rank = 0; rank < vocab_size; ++rank) logits[rank] = logit_of(rank);
    std::shuffle(logits.begin(), logits.end(), rng);
    return Shape{std::move(name), std::move(logits)};
  };
  // A model's probabilities fall with a power of the rank: the larger it is, the surer the model.
  const auto zipf = [](float power) {
    return [power](size_t rank) { return 20.0f - power * std::log(static_cast<float>(1 + rank)); };
  };
  return {shape("sure", zipf(2.0f)),
          shape("unsure", zipf(1.2f)),
          shape("flat, within 1", [&](size_t) { return 10.0f + uniform(rng); }),
          shape("flat, around 0", [&](size_t) { return uniform(rng) - 0.5f; }),
          shape("all equal", [](size_t) { return 3.0f; }),
          shape("two levels", [](size_t rank) { return rank % 2 == 0 ? 3.0f : 2.5f; })};
}

struct Filters {
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;
};

std::string name_of(const Filters& filters) {
  std::string name;
  if (filters.top_k > 0) name += fmt::format("top_k {} ", filters.top_k);
  if (filters.top_p < 1.0f) name += fmt::format("top_p {} ", filters.top_p);
  if (filters.min_p > 0.0f) name += fmt::format("min_p {} ", filters.min_p);
  return name.empty() ? "none" : name.substr(0, name.size() - 1);
}

void add_rows(const Shape& shape, double pass_s, Report& report) {
  SamplerScratch scratch;
  for (const Filters& filters : std::vector<Filters>{{},
                                                     {.top_k = 64},
                                                     {.top_k = 100'000},
                                                     {.top_p = 0.95f},
                                                     {.top_p = 0.999f},
                                                     {.min_p = 0.05f},
                                                     {.top_p = 0.95f, .min_p = 0.05f},
                                                     {.top_p = 0.95f, .top_k = 64},
                                                     {.top_p = 0.95f, .top_k = 100'000}}) {
    SamplingParams params;
    params.top_p = filters.top_p;
    params.min_p = filters.min_p;
    params.top_k = filters.top_k;
    Sampler sampler(params, 1, {});
    const Timing timing = time_runs(
        kLimits, [](int64_t) {},
        [&] { static_cast<void>(sampler.choose({.logits = shape.logits}, scratch)); });
    report.add_row("choosing a token", {{"row", shape.name},
                                        {"filters", name_of(filters)},
                                        {"median ms", Number{timing.median_s * 1e3, 3}},
                                        {"p10", Number{timing.p10_s * 1e3, 3}},
                                        {"p90", Number{timing.p90_s * 1e3, 3}},
                                        {"passes", Number{timing.median_s / pass_s, 1}}});
  }
}

void run(size_t vocab_size, bool as_json) {
  Report report("bench_sampling", as_json);
  report.add_machine(Topology::detect(), 1, isa_name(active_isa()));
  report.add_fact("vocabulary", static_cast<int64_t>(vocab_size));
  const std::vector<Shape> shapes = make_shapes(vocab_size);
  std::vector<float> weights(vocab_size);
  std::vector<double> block_sums;
  const std::vector<float>& logits = shapes.front().logits;
  const Timing pass = time_runs(
      kLimits, [](int64_t) {},
      [&] { exp_weights(logits, max_of(logits), 1.0f, weights, block_sums); });
  report.add_fact("one pass, ms", Number{pass.median_s * 1e3, 3});
  for (const Shape& shape : shapes) add_rows(shape, pass.median_s, report);
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  size_t vocab_size = 163840;
  bool as_json = false;
  CLI::App app("Measures the choice of a token from a row of logits", "bench_sampling");
  app.add_option("--vocab", vocab_size, "tokens of a row")->check(CLI::Range(1, 1 << 24));
  app.add_flag("--json", as_json, "one JSON object instead of tables");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::bench::run(vocab_size, as_json);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_sampling: {}\n", error.what());
    return 1;
  }
  return 0;
}
