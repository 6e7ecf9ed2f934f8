// The dense operations of a layer on a card (or the host as a device) at Kimi-K2's dimensions, each
// beside a limit measured in the same run: copies, a large BF16 product.
//   bench_gpu [--gpus 0|none] [--only NAME] [--small] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef TANDEM_WITH_CUDA
#include "bench/gpu/bench_experts.h"
#endif
#include "bench/gpu/device_bench.h"
#include "bench/support/report.h"
#include "gpu/devices.h"
#include "runtime/base/errors.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

struct Options {
  std::string gpus;
  std::string only;
  bool small = false;
  bool json = false;
};

// Bytes of BF16 values.
constexpr double bf16_bytes(double num_values) { return num_values * 2.0; }

Fields memory_row(const StepTime& time, double bytes, const Limits& limits, double goal) {
  const double gb_per_s = bytes / time.median_s * 1e-9;
  const double share = gb_per_s / limits.copy_gb_per_s;
  return {{"median us", Number{time.median_s * 1e6, 1}},
          {"p10-p90 us", fmt::format("{:.1f}-{:.1f}", time.p10_s * 1e6, time.p90_s * 1e6)},
          {"GB/s", Number{gb_per_s, 0}},
          {"of copy %", Number{100.0 * share, 1}},
          {"goal %", Number{100.0 * goal, 0}}};
}

Fields join(Fields first, Fields second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// --- products of few rows: every weight once from memory

struct Product {
  const char* what;
  int64_t out;
  int64_t in;
};

std::vector<Product> products_of(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  return {{"q_a|kv_a", config.q_lora_rank + config.kv_dim(), hidden},
          {"q_b", heads * config.qk_head_dim(), config.q_lora_rank},
          {"o_proj", hidden, heads * config.v_head_dim},
          {"router", config.n_routed_experts, hidden},
          {"shared gate|up", 2 * config.shared_intermediate_size(), hidden},
          {"shared down", hidden, config.shared_intermediate_size()},
          {"dense gate|up", 2 * int64_t{config.intermediate_size}, hidden},
          {"dense down", hidden, config.intermediate_size},
          {"lm_head", config.vocab_size, hidden}};
}

void bench_products(DeviceBench& bench, Report& report) {
  for (const Product& product : products_of(bench.config())) {
    const double weight_bytes = bf16_bytes(static_cast<double>(product.out * product.in));
    // Enough copies that no cache holds what the next run reads.
    const auto num_weights = static_cast<int64_t>(
        std::clamp(bench.cache_size_bytes() * 2.0 / weight_bytes + 1.0, 2.0, 64.0));
    std::vector<std::unique_ptr<gpu::LinearWeight>> weights;
    for (int64_t idx = 0; idx < num_weights; ++idx) {
      weights.push_back(bench.random_linear(product.out, product.in));
    }
    for (const int32_t num_rows : {1, 4, 16}) {
      const MatrixView<bf16> x = bench.random_matrix(num_rows, product.in);
      const MatrixView<float> out = bench.matrix<float>(num_rows, product.out);
      const StepTime time =
          bench.time_decode(num_rows, /*context_tokens=*/64, [&](gpu::Ops& ops, int64_t run_idx) {
            ops.linear(x, *weights[static_cast<size_t>(run_idx % num_weights)], out);
          });
      const double bytes = weight_bytes + bf16_bytes(static_cast<double>(num_rows * product.in)) +
                           4.0 * static_cast<double>(num_rows * product.out);
      report.add_row("product, few rows",
                     join({{"product", std::string(product.what)},
                           {"out x in", fmt::format("{}x{}", product.out, product.in)},
                           {"rows", int64_t{num_rows}}},
                          memory_row(time, bytes, bench.limits(), 0.80)));
    }
    bench.release_matrices();
  }
}

// --- attention

void bench_mla_decode(DeviceBench& bench, Report& report) {
  const gpu::MlaShape shape = bench.mla_shape();
  const auto kv_b = bench.random_kv_b();
  const double kv_b_bytes =
      bf16_bytes(static_cast<double>(shape.num_attention_heads) *
                 (shape.qk_nope_head_dim + shape.v_head_dim) * shape.kv_lora_rank);
  for (const int32_t context_tokens : bench.decode_contexts()) {
    for (const int32_t num_rows : {1, 16}) {
      const MatrixView<bf16> q =
          bench.random_matrix(num_rows, int64_t{shape.num_attention_heads} * shape.qk_head_dim());
      const MatrixView<bf16> out =
          bench.matrix<bf16>(num_rows, int64_t{shape.num_attention_heads} * shape.v_head_dim);
      const gpu::KvCacheLayer cache = bench.kv_cache(num_rows, context_tokens + 1);
      const StepTime time = bench.time_decode(
          num_rows, context_tokens,
          [&](gpu::Ops& ops, int64_t) { ops.mla_attention(shape, q, *kv_b, cache, out); });
      const double bytes =
          kv_b_bytes + bf16_bytes(static_cast<double>(num_rows) * context_tokens * shape.kv_dim());
      report.add_row(
          "MLA decode",
          join({{"context", int64_t{context_tokens}}, {"sequences", int64_t{num_rows}}},
               memory_row(time, bytes, bench.limits(), context_tokens >= 65536 ? 0.85 : 0.0)));
      bench.release_matrices();
    }
  }
}

void bench_mla_prefill(DeviceBench& bench, Report& report) {
  const gpu::MlaShape shape = bench.mla_shape();
  const auto kv_b = bench.random_kv_b();
  const int32_t num_tokens = bench.prefill_tokens();
  for (const int32_t context_tokens : {0, 3 * num_tokens}) {
    const MatrixView<bf16> q =
        bench.random_matrix(num_tokens, int64_t{shape.num_attention_heads} * shape.qk_head_dim());
    const MatrixView<bf16> out =
        bench.matrix<bf16>(num_tokens, int64_t{shape.num_attention_heads} * shape.v_head_dim);
    const gpu::KvCacheLayer cache = bench.kv_cache(1, context_tokens + num_tokens);
    const StepTime time = bench.time_prefill(
        num_tokens, context_tokens,
        [&](gpu::Ops& ops, int64_t) { ops.mla_attention(shape, q, *kv_b, cache, out); });
    // Scores and sums over what each query sees; expanding the keys is extra work of the form.
    const double pairs = static_cast<double>(num_tokens) *
                         (context_tokens + 0.5 * (static_cast<double>(num_tokens) + 1.0));
    const double flop =
        2.0 * shape.num_attention_heads * (shape.qk_head_dim() + shape.v_head_dim) * pairs;
    const double tflop_per_s = flop / time.median_s * 1e-12;
    report.add_row(
        "MLA prefill",
        {{"tokens", int64_t{num_tokens}},
         {"context", int64_t{context_tokens}},
         {"median us", Number{time.median_s * 1e6, 1}},
         {"TFLOP/s", Number{tflop_per_s, 1}},
         {"of matmul %", Number{100.0 * tflop_per_s / bench.limits().matmul_tflop_per_s, 1}},
         {"goal TFLOP/s", int64_t{400}}});
    bench.release_matrices();
  }
}

// --- the dense part of one decode step

void bench_decode_step(DeviceBench& bench, Report& report) {
  for (const int32_t num_rows : {1, 4, 16}) {
    DecodeLayer layer(bench, num_rows, /*context_tokens=*/bench.decode_contexts().front());
    const int32_t num_layers = bench.config().num_hidden_layers;
    const StepTime time = bench.time_decode(num_rows, layer.context_tokens(),
                                            [&](gpu::Ops& ops, int64_t) { layer.run(ops); });
    const double step_s = time.median_s * num_layers;
    const double limit_s = layer.read_bytes() / (bench.limits().copy_gb_per_s * 1e9) * num_layers;
    report.add_row("dense part of a decode step", {{"sequences", int64_t{num_rows}},
                                                   {"context", int64_t{layer.context_tokens()}},
                                                   {"layer us", Number{time.median_s * 1e6, 1}},
                                                   {"kernels a layer", Number{time.num_kernels, 1}},
                                                   {"layers", int64_t{num_layers}},
                                                   {"step ms", Number{step_s * 1e3, 2}},
                                                   {"bytes/bandwidth ms", Number{limit_s * 1e3, 2}},
                                                   {"ratio", Number{step_s / limit_s, 2}},
                                                   {"goal", Number{1.25, 2}}});
    bench.release_matrices();
  }
}

int run(const Options& options) {
  const gpu::CudaSupport support = gpu::detect_cuda();
  const std::vector<gpu::LogicalDevice> devices = gpu::choose_devices(options.gpus, support);
  if (devices.size() != 1) throw ConfigError("--gpus: one device is measured at a time");
  DeviceBench bench(devices.front(), options.small);
  Report report("bench_gpu", options.json);
  report.add_machine(Topology::detect(), bench.num_threads(), bench.description());
  report.add_fact("GPU", gpu::describe(support));
  bench.measure_limits();
  report.add_fact("copy GB/s", Number{bench.limits().copy_gb_per_s, 0});
  report.add_fact("BF16 matmul TFLOP/s", Number{bench.limits().matmul_tflop_per_s, 1});

  std::vector<std::pair<std::string, std::function<void(DeviceBench&, Report&)>>> parts = {
      {"products", bench_products},
      {"mla_decode", bench_mla_decode},
      {"mla_prefill", bench_mla_prefill},
      {"decode_step", bench_decode_step}};
#ifdef TANDEM_WITH_CUDA
  if (!devices.front().is_host()) parts.emplace_back("experts", bench_experts);
#endif
  for (const auto& [name, part] : parts) {
    if (options.only.empty() || options.only == name) part(bench, report);
  }
  report.print();
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  tandem::bench::Options options;
  CLI::App app("The dense part on a card, operation by operation, beside measured limits");
  app.add_option("--gpus", options.gpus, "none or a card (default: 0, else none)");
  app.add_option("--only", options.only, "One part alone")
      ->check(CLI::IsMember({"products", "mla_decode", "mla_prefill", "decode_step", "experts"}));
  app.add_flag("--small", options.small, "Tiny dimensions: shows that it runs, measures nothing");
  app.add_flag("--json", options.json, "Print JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    return tandem::bench::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_gpu: %s\n", error.what());
    return 1;
  }
}
