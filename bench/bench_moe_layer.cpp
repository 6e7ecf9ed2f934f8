// One layer of routed experts at Kimi-K2's dimensions: time, bytes of the checkpoint's form (4.5
// bits a weight) a second and operations a second, each beside the limit measured next to it.
//   bench_moe_layer [--mode bf16|int8] [--tokens 1,4,..] [--experts N] [--json] ...; TANDEM_CPU_ISA
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bench/host_peak.h"
#include "bench/support/report.h"
#include "bench/support/timing.h"
#include "cpu_experts/moe_experts.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/topology/bandwidth.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::bench {
namespace {

using cpu_experts::ActivationMode;
using cpu_experts::MoeExperts;
using cpu_experts::MoeShape;
using cpu_experts::RoutedTokens;

struct Options {
  std::vector<int32_t> tokens{1, 4, 16, 64, 512, 2048};
  ActivationMode mode = ActivationMode::kBf16;
  int32_t hidden_size = 7168;
  int32_t moe_intermediate_size = 2048;
  int32_t num_experts_per_tok = 8;
  int32_t num_experts = 0;  // 0: 384, or what half of the free memory holds
  int num_threads = 0;
  int64_t min_runs = 9;
  double min_seconds = 2.0;
  bool json = false;
};

int64_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  int64_t kib = 0;
  std::string unit;
  while (file >> name >> kib >> unit) {
    if (name == "MemAvailable:") return kib << 10;
  }
  return int64_t{4} << 30;
}

MoeShape shape_of(const Options& options) {
  MoeShape shape{.hidden_size = options.hidden_size,
                 .moe_intermediate_size = options.moe_intermediate_size,
                 .n_routed_experts = options.num_experts,
                 .num_experts_per_tok = options.num_experts_per_tok,
                 .num_moe_layers = 1,
                 .max_tokens = *std::max_element(options.tokens.begin(), options.tokens.end()),
                 .activations = options.mode};
  if (shape.n_routed_experts == 0) {
    const int64_t fitting = available_memory_bytes() / 2 / MoeExperts::layer_read_bytes(shape, 1);
    shape.n_routed_experts = static_cast<int32_t>(std::clamp<int64_t>(fitting, 8, 384));
  }
  shape.num_experts_per_tok = std::min(shape.num_experts_per_tok, shape.n_routed_experts);
  return shape;
}

// One expert's tensors of random codes and scales around 0.01. Speed does not depend on values, so
// that all experts may be packed from these.
class RandomExpert {
 public:
  explicit RandomExpert(const MoeShape& shape) : shape_(shape) {
    const int64_t num_weights = int64_t{shape.hidden_size} * shape.moe_intermediate_size;
    std::mt19937 engine(11);
    for (size_t matrix = 0; matrix < packed_.size(); ++matrix) {
      packed_[matrix].resize(static_cast<size_t>(num_weights / 2));
      scale_[matrix].resize(static_cast<size_t>(num_weights / kInt4GroupSize));
      for (uint8_t& byte : packed_[matrix]) byte = static_cast<uint8_t>(engine());
      for (bf16& scale : scale_[matrix]) {
        scale = bf16(0.005f + static_cast<float>(engine() % 1024) * 1e-5f);
      }
    }
  }

  [[nodiscard]] ExpertTensors tensors() const {
    const int64_t hidden = shape_.hidden_size;
    const int64_t intermediate = shape_.moe_intermediate_size;
    return {.gate_proj = matrix(0, intermediate, hidden),
            .up_proj = matrix(1, intermediate, hidden),
            .down_proj = matrix(2, hidden, intermediate)};
  }

 private:
  [[nodiscard]] Int4Matrix matrix(size_t idx, int64_t out, int64_t in) const {
    return {.packed = MatrixView<const uint8_t>(packed_[idx].data(), out, in / 2),
            .scale = MatrixView<const bf16>(scale_[idx].data(), out, in / kInt4GroupSize)};
  }

  MoeShape shape_;
  std::array<std::vector<uint8_t>, 3> packed_;
  std::array<std::vector<bf16>, 3> scale_;
};

// Random tokens whose experts are drawn anew for every run. In huge pages, as the model's own.
class Step {
 public:
  Step(const MoeShape& shape, int32_t num_tokens)
      : shape_(shape),
        num_tokens_(num_tokens),
        hidden_(int64_t{num_tokens} * shape.hidden_size * int64_t{sizeof(bf16)}, -1),
        ids_(size_of(num_tokens, shape.num_experts_per_tok)),
        weights_(ids_.size(), 1.0f / static_cast<float>(shape.num_experts_per_tok)),
        out_(int64_t{num_tokens} * shape.hidden_size * int64_t{sizeof(float)}, -1),
        order_(static_cast<size_t>(shape.n_routed_experts)) {
    std::normal_distribution<float> normal;
    const std::span<bf16> hidden(reinterpret_cast<bf16*>(hidden_.data()),
                                 size_of(num_tokens, shape.hidden_size));
    for (bf16& value : hidden) value = bf16(normal(engine_));
    std::iota(order_.begin(), order_.end(), 0);
    draw();
  }

  // Top-k ids without repetition; remembers how many experts have a token.
  void draw() {
    std::vector<bool> used(order_.size());
    for (size_t pair = 0; pair < ids_.size(); ++pair) {
      const size_t slot = pair % static_cast<size_t>(shape_.num_experts_per_tok);
      std::swap(order_[slot], order_[slot + engine_() % (order_.size() - slot)]);
      ids_[pair] = order_[slot];
      used[static_cast<size_t>(order_[slot])] = true;
    }
    distinct_.push_back(std::count(used.begin(), used.end(), true));
  }

  void run(MoeExperts& experts) {
    const int32_t top_k = shape_.num_experts_per_tok;
    experts.forward(
        0,
        RoutedTokens{
            .hidden = MatrixView<const bf16>(reinterpret_cast<const bf16*>(hidden_.data()),
                                             num_tokens_, shape_.hidden_size),
            .expert_ids = MatrixView<const int32_t>(ids_.data(), num_tokens_, top_k),
            .expert_weights = MatrixView<const float>(weights_.data(), num_tokens_, top_k)},
        MatrixView<float>(reinterpret_cast<float*>(out_.data()), num_tokens_, shape_.hidden_size));
  }

  // Of the draw of this number, the constructor's being the first.
  [[nodiscard]] int64_t distinct_experts(size_t draw_idx) const { return distinct_[draw_idx]; }

  [[nodiscard]] double mean_distinct_experts() const {
    return std::accumulate(distinct_.begin(), distinct_.end(), 0.0) /
           static_cast<double>(distinct_.size());
  }

 private:
  static size_t size_of(int64_t rows, int64_t cols) { return static_cast<size_t>(rows * cols); }

  MoeShape shape_;
  int32_t num_tokens_;
  NumaBuffer hidden_;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
  NumaBuffer out_;
  std::vector<int32_t> order_;
  std::vector<int64_t> distinct_;
  std::mt19937 engine_{5};
};

// The instruction that limits a mode on this CPU, whichever the kernels use, and how many of its
// operations a multiply-add takes: a word is two bytes.
struct Limiter {
  MultiplyAdd instruction = MultiplyAdd::kAvx2Fma;
  std::string_view name;
  double share = 1.0;
  double giga_ops_per_s = 0.0;
};

Limiter limiter_of(ActivationMode mode, WorkerPool& pool) {
  Limiter best;
  for (const InstructionPeak& peak : measure_instruction_peaks(pool)) {
    const bool is_int8 = peak.instruction == MultiplyAdd::kAvx2MaddInt8 ||
                         peak.instruction == MultiplyAdd::kAvxVnniInt8 ||
                         peak.instruction == MultiplyAdd::kAvx512VnniInt8 ||
                         peak.instruction == MultiplyAdd::kAmxInt8;
    if (mode == ActivationMode::kInt8 && !is_int8) continue;
    const double share = mode == ActivationMode::kBf16 && is_int8 ? 0.5 : 1.0;
    if (share * peak.giga_ops_per_s <= best.giga_ops_per_s) continue;
    best = {.instruction = peak.instruction,
            .name = peak.name,
            .share = share,
            .giga_ops_per_s = share * peak.giga_ops_per_s};
  }
  return best;
}

void bench_tokens(Report& report,
                  MoeExperts& experts,
                  WorkerPool& pool,
                  const MoeShape& shape,
                  int32_t num_tokens,
                  const Limiter& limiter,
                  const Options& options) {
  const auto peak = [&] {
    return limiter.share * measure_peak_gflop_per_s(pool, limiter.instruction);
  };
  const double peak_before = peak();
  Step step(shape, num_tokens);
  // On a shared machine a limit from another minute is no limit: memory is read before every run.
  ReadProbe probe(pool, int64_t{512} << 20);
  std::vector<double> reads;
  const WorkerPool::Step awake(pool);  // as inside a step of the model
  const Timing timing = time_runs(
      {.min_runs = options.min_runs, .min_total_s = options.min_seconds},
      [&](int64_t) {
        step.draw();
        reads.push_back(probe.read_gb_per_s());
      },
      [&] { step.run(experts); });
  const double flop_limit = std::max(peak_before, peak());

  const double distinct = step.mean_distinct_experts();
  const double gb = 1e-9 * distinct * static_cast<double>(MoeExperts::layer_read_bytes(shape, 1));
  const double gflop = 6e-9 * num_tokens * shape.num_experts_per_tok *
                       static_cast<double>(shape.hidden_size) * shape.moe_intermediate_size;
  // A run's own shares, by the memory just read before it; run 0 warmed up.
  std::vector<double> read_shares, roofline_shares;
  for (size_t run_idx = 1; run_idx < reads.size(); ++run_idx) {
    const double run_s = timing.run_s[run_idx - 1];
    const double read_s = 1e-9 *
                          static_cast<double>(MoeExperts::layer_read_bytes(
                              shape, step.distinct_experts(run_idx + 1))) /
                          reads[run_idx];
    const double flop_s = flop_limit > 0.0 ? gflop / flop_limit : 0.0;
    read_shares.push_back(read_s / run_s);
    roofline_shares.push_back(std::max(read_s, flop_s) / run_s);
  }
  report.add_row(
      "layer", {{"tokens", int64_t{num_tokens}},
                {"experts", Number{distinct, 1}},
                {"median ms", Number{timing.median_s * 1e3, 3}},
                {"p10 ms", Number{timing.p10_s * 1e3, 3}},
                {"p90 ms", Number{timing.p90_s * 1e3, 3}},
                {"runs", timing.num_runs},
                {"GB/s", Number{gb / timing.median_s, 1}},
                {"read limit GB/s", Number{summarise(reads).median_s, 1}},
                {"% of read", Number{100.0 * summarise(read_shares).median_s, 1}},
                {"GFLOP/s", Number{gflop / timing.median_s, 1}},
                {"peak GFLOP/s", Number{flop_limit, 0}},
                {"% of peak",
                 Number{flop_limit > 0.0 ? 100.0 * gflop / timing.median_s / flop_limit : 0.0, 1}},
                {"% of roofline", Number{100.0 * summarise(roofline_shares).median_s, 1}}});
}

void run(const Options& options) {
  const Topology topology = Topology::detect();
  WorkerPool pool(topology, {.num_threads = options.num_threads});
  const MoeShape shape = shape_of(options);
  MoeExperts experts(shape, pool);
  Report report("bench_moe_layer", options.json);
  report.add_machine(topology, pool.num_workers(), experts.isa_name());
  report.add_fact("activations", std::string(mode_name(options.mode)));
  report.add_fact("hidden_size", int64_t{shape.hidden_size});
  report.add_fact("moe_intermediate_size", int64_t{shape.moe_intermediate_size});
  report.add_fact("n_routed_experts", int64_t{shape.n_routed_experts});
  report.add_fact("num_experts_per_tok", int64_t{shape.num_experts_per_tok});
  {
    const RandomExpert source(shape);
    const auto begin = std::chrono::steady_clock::now();
    experts.load_layer(0, [&](int32_t, int32_t) { return source.tensors(); });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    const auto layer_bytes =
        static_cast<double>(MoeExperts::layer_read_bytes(shape, shape.n_routed_experts));
    report.add_fact("resident over checkpoint bytes",
                    Number{static_cast<double>(experts.resident_size_bytes()) / layer_bytes, 4});
    report.add_fact("packing GB/s", Number{1e-9 * layer_bytes / elapsed.count(), 2});
  }
  for (const InstructionPeak& peak : measure_instruction_peaks(pool)) {
    report.add_fact(fmt::format("peak {} G/s", peak.name), Number{peak.giga_ops_per_s, 0});
  }
  const Limiter limiter = limiter_of(options.mode, pool);
  report.add_fact("limited by", limiter.share < 1.0 ? fmt::format("{} / 2", limiter.name)
                                                    : std::string(limiter.name));
  for (const int32_t num_tokens : options.tokens) {
    bench_tokens(report, experts, pool, shape, num_tokens, limiter, options);
  }
  report.print();
}

int run_command_line(int argc, char** argv) {
  Options options;
  CLI::App app("Measures one layer of routed experts against the machine's limits",
               "bench_moe_layer");
  const auto positive = CLI::Range(1, 1 << 24);
  app.add_option("--tokens", options.tokens, "numbers of tokens, separated by commas")
      ->delimiter(',')
      ->check(positive)
      ->capture_default_str();
  const std::map<std::string, ActivationMode> modes{{"bf16", ActivationMode::kBf16},
                                                    {"int8", ActivationMode::kInt8}};
  app.add_option("--mode", options.mode, "activations: bf16 or int8 (lossy)")
      ->transform(CLI::CheckedTransformer(modes));
  app.add_option("--hidden-size", options.hidden_size)->check(positive)->capture_default_str();
  app.add_option("--moe-intermediate-size", options.moe_intermediate_size)
      ->check(positive)
      ->capture_default_str();
  app.add_option("--top-k", options.num_experts_per_tok)->check(positive)->capture_default_str();
  app.add_option("--experts", options.num_experts,
                 "default: 384, or what half of the free memory holds")
      ->check(positive);
  app.add_option("--threads", options.num_threads, "default: one a core")->check(positive);
  app.add_option("--min-runs", options.min_runs)->check(positive)->capture_default_str();
  app.add_option("--min-seconds", options.min_seconds, "of one row")->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object instead of a table");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_moe_layer: {}\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::run_command_line(argc, argv); }
