// The dense operations of a layer on a card (or the host as a device) at Kimi-K2's dimensions, each
// beside a limit measured in the same run: copies, a large BF16 product.
//   bench_gpu [--gpus 0|none] [--only NAME] [--small] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef TANDEM_WITH_CUDA
#include "bench/gpu/bench_card.h"
#endif
#include "bench/gpu/decode_step.h"
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

// --- products of few rows: every weight once from memory

struct Product {
  enum class Form { kFloat, kBf16, kAdd, kSwiglu };
  const char* what;
  int64_t out;  // rows of the weight
  int64_t in;
  Form form;

  [[nodiscard]] double output_bytes() const {
    const double bytes_a_row = form == Form::kFloat  ? 4.0
                               : form == Form::kBf16 ? 2.0
                               : form == Form::kAdd  ? 8.0
                                                     : 1.0;  // of a pair of rows 2
    return bytes_a_row * static_cast<double>(out);
  }
};

// As the model has them.
std::vector<Product> products_of(const ModelConfig& config) {
  using Form = Product::Form;
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t shared = config.shared_intermediate_size();
  const int64_t intermediate = config.intermediate_size;
  return {{"q_a|kv_a", config.q_lora_rank + config.kv_dim(), hidden, Form::kFloat},
          {"q_b", heads * config.qk_head_dim(), config.q_lora_rank, Form::kBf16},
          {"o_proj", hidden, heads * config.v_head_dim, Form::kAdd},
          {"router", config.n_routed_experts, hidden, Form::kFloat},
          {"shared gate|up", 2 * shared, hidden, Form::kSwiglu},
          {"shared down", hidden, shared, Form::kFloat},
          {"dense gate|up", 2 * intermediate, hidden, Form::kSwiglu},
          {"dense down", hidden, intermediate, Form::kAdd},
          {"lm_head", config.vocab_size, hidden, Form::kFloat}};
}

void bench_products(DeviceBench& bench, Report& report) {
  for (const Product& product : products_of(bench.config())) {
    const double weight_bytes = bf16_bytes(static_cast<double>(product.out * product.in));
    const int64_t num_weights = bench.num_copies(weight_bytes);
    std::vector<std::unique_ptr<gpu::LinearWeight>> weights;
    for (int64_t idx = 0; idx < num_weights; ++idx) {
      weights.push_back(bench.random_linear(product.out, product.in));
    }
    for (const int32_t num_rows : {1, 4, 16}) {
      const MatrixView<bf16> x = bench.random_matrix(num_rows, product.in);
      const MatrixView<float> out = bench.matrix<float>(num_rows, product.out);
      const MatrixView<bf16> out_bf16 = bench.matrix<bf16>(num_rows, product.out);
      const auto run = [&](gpu::Ops& ops, int64_t run_idx) {
        const gpu::LinearWeight& weight = *weights[static_cast<size_t>(run_idx % num_weights)];
        switch (product.form) {
          case Product::Form::kFloat:
            return ops.linear(x, weight, out);
          case Product::Form::kBf16:
            return ops.linear(x, weight, out_bf16);
          case Product::Form::kAdd:
            return ops.linear_add(x, weight, out);
          case Product::Form::kSwiglu:
            return ops.linear_swiglu(x, weight, out, out_bf16.columns(0, product.out / 2));
        }
      };
      const StepTime time = bench.time_decode(num_rows, /*context_tokens=*/64, run);
      const double bytes = weight_bytes + num_rows * (bf16_bytes(static_cast<double>(product.in)) +
                                                      product.output_bytes());
      report.add_row(kFewRows, join({{"product", std::string(product.what)},
                                     {"out x in", fmt::format("{}x{}", product.out, product.in)},
                                     {"rows", int64_t{num_rows}}},
                                    memory_fields(time, bytes, bench.limits(), kFewRowsGoal)));
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
               memory_fields(time, bytes, bench.limits(), context_tokens >= 65536 ? 0.85 : 0.0)));
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

// Layers of both kinds and the head, each by itself; the step is as many of them as the model has.
void bench_decode_step(DeviceBench& bench, Report& report) {
  const ModelConfig& config = bench.config();
  const int32_t context_tokens = bench.decode_contexts().front();
  for (const int32_t num_rows : {1, 4, 16}) {
    DecodeLayer moe(bench, DecodeLayer::Kind::kMoe, num_rows, context_tokens);
    DecodeLayer dense(bench, DecodeLayer::Kind::kDense, num_rows, context_tokens);
    DecodeHead head(bench, num_rows);
    const auto time = [&](auto& part) {
      return bench.time_decode(num_rows, context_tokens,
                               [&](gpu::Ops& ops, int64_t) { part.run(ops); });
    };
    const StepTime moe_time = time(moe);
    const StepTime dense_time = time(dense);
    const StepTime head_time = time(head);
    const double num_moe = config.num_moe_layers();
    const double num_dense = config.num_hidden_layers - config.num_moe_layers();
    const double step_s =
        num_moe * moe_time.median_s + num_dense * dense_time.median_s + head_time.median_s;
    const double step_bytes =
        num_moe * moe.read_bytes() + num_dense * dense.read_bytes() + head.read_bytes();
    const double limit_s = step_bytes / (bench.limits().copy_gb_per_s * 1e9);
    report.add_row("dense part of a decode step",
                   {{"sequences", int64_t{num_rows}},
                    {"context", int64_t{context_tokens}},
                    {"MoE layer us", Number{moe_time.median_s * 1e6, 1}},
                    {"its kernels", Number{moe_time.num_kernels, 1}},
                    {"dense layer us", Number{dense_time.median_s * 1e6, 1}},
                    {"head us", Number{head_time.median_s * 1e6, 1}},
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
  if (!devices.front().is_host()) {
    parts.emplace_back("head_products", bench_head_products);
    parts.emplace_back("experts", bench_experts);
  }
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
  app.add_option("--gpus", options.gpus,
                 "none or a card (default: first of sm_80 or later, else none)");
  app.add_option("--only", options.only, "One part alone")
      ->check(CLI::IsMember(
          {"products", "head_products", "mla_decode", "mla_prefill", "decode_step", "experts"}));
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
