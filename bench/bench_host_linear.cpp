// out = x W^T of gpu/host on Kimi-K2's shapes, beside oneDNN and the limits measured in this run:
// few rows against the read bandwidth (2 bytes a weight), many against the peak of multiply-adds.
//   bench_host_linear [--isa NAME] [--threads N] [--rows N,N,..] [--no-onednn]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include "bench/host_peak.h"
#include "gpu/host/dispatch.h"
#include "gpu/host/host_ops.h"
#include "gpu/host/onednn/onednn_matmul.h"
#include "runtime/topology/bandwidth.h"

namespace tandem::bench {
namespace {

namespace host = gpu::host;

struct Shape {
  const char* what;
  int64_t in;
  int64_t out;
};
// The vocabulary of lm_head is an eighth of the real one: the same kernel, 0.3 GB in place of 2.3.
constexpr Shape kShapes[] = {{"q_a|kv_a", 7168, 2112}, {"q_b", 1536, 12288},
                             {"o_proj", 8192, 7168},   {"gate|up", 7168, 36864},
                             {"down", 18432, 7168},    {"lm_head/8", 7168, 20480}};

struct Options {
  std::string isa;
  int num_threads = 0;
  std::vector<int64_t> rows{1, 4, 8, 32, 512};
  bool onednn = true;
};

struct Limits {
  double read_gb_per_s;
  double fma_gflop_per_s;
  double bf16_gflop_per_s;
};

struct Timing {
  double median_s;
  double p10_s;
  double p90_s;
};

// At least 7 runs and 0.4 s.
template <typename Run>
Timing time_of(const Run& run) {
  std::vector<double> seconds;
  double total = 0.0;
  run();
  while (seconds.size() < 7 || (total < 0.4 && seconds.size() < 200)) {
    const auto start = std::chrono::steady_clock::now();
    run();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1) + 0.5)];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

std::vector<bf16> random_values(int64_t num) {
  std::vector<bf16> values(static_cast<size_t>(num));
  std::minstd_rand engine(7);
  for (bf16& value : values) {
    value = bf16(static_cast<float>(engine() % 2048) / 1024.0f - 1.0f);
  }
  return values;
}

void print_row(const Shape& shape,
               int64_t rows,
               const char* kernel,
               int bytes_a_weight,
               double peak_gflop_per_s,
               const Limits& limits,
               const Timing& timing) {
  const auto weights = static_cast<double>(shape.in * shape.out);
  const double gb_per_s = weights * bytes_a_weight * 1e-9 / timing.median_s;
  const double gflop_per_s = 2e-9 * weights * static_cast<double>(rows) / timing.median_s;
  fmt::print(
      "{:10} {:>6}x{:<6} {:>4}  {:14} {:9.3f} {:9.3f} {:9.3f}  {:7.1f} {:5.1f} %  {:8.1f} {:5.1f} "
      "%\n",
      shape.what, shape.in, shape.out, rows, kernel, timing.median_s * 1e3, timing.p10_s * 1e3,
      timing.p90_s * 1e3, gb_per_s, 100.0 * gb_per_s / limits.read_gb_per_s, gflop_per_s,
      100.0 * gflop_per_s / peak_gflop_per_s);
  std::fflush(stdout);
}

void bench_onednn(const Shape& shape,
                  MatrixView<const bf16> x,
                  MatrixView<const bf16> weight,
                  MatrixView<const float> ours,
                  const Limits& limits) {
  for (const auto type : {host::OnednnType::kFloat, host::OnednnType::kBf16}) {
    const bool is_float = type == host::OnednnType::kFloat;
    host::OnednnMatmul product(type, x.rows, weight);
    if (!product.is_supported()) {
      fmt::print("{:10} {:>6}x{:<6} {:>4}  oneDNN {}: not on this CPU\n", shape.what, shape.in,
                 shape.out, x.rows, is_float ? "FP32" : "BF16");
      continue;
    }
    product.set_input(x);
    const Timing timing = time_of([&] { product.run(); });
    print_row(shape, x.rows, is_float ? "oneDNN FP32" : "oneDNN BF16", is_float ? 4 : 2,
              is_float ? limits.fma_gflop_per_s : limits.bf16_gflop_per_s, limits, timing);
    int64_t num_different = 0;
    for (int64_t row = 0; row < x.rows; ++row) {
      for (int64_t col = 0; col < weight.rows; ++col) {
        num_different += product.out()(row, col) != ours(row, col);
      }
    }
    fmt::print(
        "{:>34} values that differ in a bit from ours: {:.1f} %\n", "",
        100.0 * static_cast<double>(num_different) / static_cast<double>(x.rows * weight.rows));
  }
}

void bench_shape(const Shape& shape,
                 const Options& options,
                 const host::Kernels& kernels,
                 WorkerPool& pool,
                 const Limits& limits) {
  const std::vector<bf16> weight_values = random_values(shape.in * shape.out);
  const MatrixView<const bf16> weight(weight_values.data(), shape.out, shape.in);
  const auto ops = host::make_host_ops(pool, kernels);
  const auto packed = ops->load_linear(weight);
  for (const int64_t rows : options.rows) {
    const std::vector<bf16> x_values = random_values(rows * shape.in);
    const MatrixView<const bf16> x(x_values.data(), rows, shape.in);
    std::vector<float> out_values(static_cast<size_t>(rows * shape.out));
    const MatrixView<float> out(out_values.data(), rows, shape.out);
    const Timing timing = time_of([&] { ops->linear(x, *packed, out); });
    print_row(shape, rows, kernels.isa_name, 2,
              kernels.gemm_bf16 != nullptr ? limits.bf16_gflop_per_s : limits.fma_gflop_per_s,
              limits, timing);
    if (options.onednn) bench_onednn(shape, x, weight, out, limits);
  }
}

void run(const Options& options) {
  const host::Kernels& kernels = host::choose_kernels(options.isa.c_str());
  const Topology topology = Topology::detect();
  WorkerPool pool(topology, {.num_threads = options.num_threads});
  const bool is_avx512 = std::strncmp(kernels.isa_name, "avx512", 6) == 0;
  const Limits limits{.read_gb_per_s = measure_read_bandwidth_gb_per_s(pool, int64_t{512} << 20, 9),
                      .fma_gflop_per_s = measure_peak_gflop_per_s(
                          pool, is_avx512 ? MultiplyAdd::kAvx512Fma : MultiplyAdd::kAvx2Fma),
                      .bf16_gflop_per_s = measure_peak_gflop_per_s(pool, MultiplyAdd::kAvx512Bf16)};
  fmt::print(
      "{}, {} threads; measured: read {:.1f} GB/s, FP32 {:.0f} GFLOP/s, BF16 {:.0f} GFLOP/s\n",
      topology.cpu_name, pool.num_workers(), limits.read_gb_per_s, limits.fma_gflop_per_s,
      limits.bf16_gflop_per_s);
  fmt::print("{:10} {:>13} {:>4}  {:14} {:>9} {:>9} {:>9}  {:>15}  {:>16}\n", "product", "in x out",
             "rows", "kernel", "median ms", "p10", "p90", "GB/s of read", "GFLOP/s of peak");
  for (const Shape& shape : kShapes) bench_shape(shape, options, kernels, pool, limits);
}

int run_command_line(int argc, char** argv) {
  Options options;
  CLI::App app("Measures products of the dense part on the host", "bench_host_linear");
  app.add_option("--isa", options.isa, "instruction set, default: the best of this CPU");
  app.add_option("--threads", options.num_threads, "default: one a core")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--rows", options.rows, "numbers of rows, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_flag("!--no-onednn", options.onednn, "our own products alone");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_host_linear: {}\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::run_command_line(argc, argv); }
