// Measures the AMX kernel on one core against what bounds it: the time of its products alone, and
// that of its weights from memory. Beside it the integer kernels that take fewer tokens. Run by
// `run`.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/host_peak.h"
#include "bench/support/timing.h"
#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "runtime/base/bf16.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/topology/bandwidth.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::cpu_experts {
namespace {

constexpr int64_t kNumColBlocks = 112;  // hidden_size 7168
constexpr int64_t kRunRowBlocks = 4;
constexpr int64_t kRunRows = kRunRowBlocks * kBlockRows;
constexpr int64_t kMemoryRuns = 4096;  // 1 GiB, more than caches hold
constexpr int64_t kCacheRuns = 2;
// Of a product of tiles: 16 tokens by 16 rows by 32 columns.
constexpr int32_t kTileTokens = 16;
constexpr double kOpsOfProduct = 2.0 * kTileTokens * kBlockRows * kGroupCols;
constexpr int64_t kRunBytes = kRunRowBlocks * kNumColBlocks * kBlockSizeBytes;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) { return bench::summarise(std::move(values)).median_s; }

// Activations in the records of some kernels, the same for every token, since speed does not depend
// on values, and where their results go.
class Tokens {
 public:
  Tokens(const ExpertKernels& kernels, int32_t num_tokens)
      : kernels_(kernels),
        num_tokens_(num_tokens),
        x_(2 * kNumColBlocks * kernels.input_record_size_bytes * num_tokens + kReadBehindBytes, -1),
        out_(static_cast<size_t>(num_tokens * kRunRows)),
        routing_weights_(static_cast<size_t>(num_tokens), 0.125f) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<bf16> values(kNumColBlocks * kBlockCols);
    for (bf16& value : values) value = bf16(normal(random));
    const auto record_size = static_cast<size_t>(kernels.input_record_size_bytes);
    std::vector<std::byte> row(2 * kNumColBlocks * record_size);
    kernels.prepare(&values[0].bits, static_cast<int64_t>(values.size()), row.data());
    std::byte* x = x_.data();
    for (size_t group = 0; group < 2 * kNumColBlocks; ++group) {
      for (int32_t token = 0; token < num_tokens; ++token, x += record_size) {
        std::memcpy(x, &row[group * record_size], record_size);
      }
    }
    for (int32_t token = 0; token < num_tokens; ++token) {
      outputs_.push_back(&out_[static_cast<size_t>(token * kRunRows)]);
    }
  }

  void multiply(const std::byte* weights) const {
    kernels_.input_product({.weights = reinterpret_cast<const uint8_t*>(weights),
                            .num_row_blocks = kRunRowBlocks,
                            .num_col_blocks = kNumColBlocks,
                            .x = x_.data(),
                            .routing_weights = routing_weights_.data(),
                            .out = outputs_.data(),
                            .num_tokens = num_tokens_});
  }

 private:
  const ExpertKernels& kernels_;
  int32_t num_tokens_;
  NumaBuffer x_;
  std::vector<float> out_;
  std::vector<float*> outputs_;
  std::vector<float> routing_weights_;
};

// Seconds of a run of row blocks, by turns over the first `num_runs` of the weights.
double seconds_of_run(const Tokens& tokens, const NumaBuffer& weights, int64_t num_runs) {
  static int64_t next = 0;
  int64_t count = 0;
  const double begin_s = now_s();
  double end_s = begin_s;
  for (; end_s - begin_s < 0.02; end_s = now_s(), ++count) {
    tokens.multiply(weights.data() + next++ % num_runs * kRunBytes);
  }
  return (end_s - begin_s) / static_cast<double>(count);
}

// A line of the table: times of a tile of weights beside its limits, the time of its products alone
// and that of reading it, and speeds.
void print_tokens(const NumaBuffer& weights,
                  int32_t num_tokens,
                  double product_s,
                  double tile_read_s) {
  const IntegerKernels& integers = *avx512_vnni_kernels();
  const Tokens exact(amx_bf16_kernels()->exact, num_tokens);
  const Tokens rounded(amx_bf16_kernels()->rounded, num_tokens);
  const Tokens words(integers.words, num_tokens);
  const Tokens bytes(integers.bytes, num_tokens);
  enum { kExactL2, kExactMemory, kRoundedL2, kRoundedMemory, kWords, kBytes, kNumColumns };
  std::vector<double> seconds[kNumColumns];
  for (int turn = 0; turn < 9; ++turn) {
    seconds[kExactL2].push_back(seconds_of_run(exact, weights, kCacheRuns));
    seconds[kExactMemory].push_back(seconds_of_run(exact, weights, kMemoryRuns));
    seconds[kRoundedL2].push_back(seconds_of_run(rounded, weights, kCacheRuns));
    seconds[kRoundedMemory].push_back(seconds_of_run(rounded, weights, kMemoryRuns));
    seconds[kWords].push_back(seconds_of_run(words, weights, kMemoryRuns));
    seconds[kBytes].push_back(seconds_of_run(bytes, weights, kMemoryRuns));
  }
  std::printf("%6d", num_tokens);
  const int num_tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
  const auto print_tile = [&](int num_terms, int l2, int memory) {
    constexpr double kTilesOfRun = 2.0 * kNumColBlocks * kRunRowBlocks;
    const double products_s = num_terms * num_tiles * product_s;
    const double memory_s = median(seconds[memory]) / kTilesOfRun;
    std::printf("  %8.1f  %7.1f  %6.1f  %10.0f", 1e9 * products_s,
                1e9 * median(seconds[l2]) / kTilesOfRun, 1e9 * memory_s,
                100.0 * std::max(products_s, tile_read_s) / memory_s);
  };
  print_tile(2, kExactL2, kExactMemory);
  print_tile(1, kRoundedL2, kRoundedMemory);
  const auto giga_macs = [&](int column) {
    return 1e-9 * kNumColBlocks * kBlockCols * kRunRows * num_tokens / median(seconds[column]);
  };
  std::printf("  %5.0f  %7.0f  %5.0f  %5.0f\n", giga_macs(kExactMemory), giga_macs(kRoundedMemory),
              giga_macs(kWords), giga_macs(kBytes));
}

int measure() {
  const std::vector<CpuIsa> isas = supported_isas();
  if (isas.back() != CpuIsa::kAmxBf16) {
    std::puts("SKIPPED: the products of tiles need a CPU with AMX");
    return 0;
  }
  const NumaBuffer weights(kMemoryRuns * kRunBytes, -1);
  std::mt19937 random(4);
  for (int64_t idx = 0; idx < weights.size_bytes(); idx += 4) {
    // Codes are any; as scales these are about 0.01.
    const uint32_t word =
        idx % kBlockSizeBytes < kScalesSizeBytes ? 0x3c203c20u : static_cast<uint32_t>(random());
    std::memcpy(weights.data() + idx, &word, sizeof(word));
  }
  WorkerPool pool(Topology::detect(), {.num_threads = 1});
  const double product_s =
      1e-9 * kOpsOfProduct / bench::measure_peak_gflop_per_s(pool, bench::MultiplyAdd::kAmxBf16);
  const double tile_read_s =
      1e-9 * kBlockSizeBytes / 2 /
      measure_read_bandwidth_gb_per_s(pool, int64_t{512} << 20, /*repeats=*/5);
  std::printf("a TDPBF16PS: %.1f ns, so %.2f GHz beside tiles; 288 bytes from memory: %.1f ns\n",
              1e9 * product_s, 16e-9 / product_s, 1e9 * tile_read_s);
  std::puts(
      "        a tile of weights, ns: exact              rounded                              "
      "multiply-adds, 1e9 a second, from memory");
  std::puts(
      "tokens  products  from L2  memory  % of limit  products  from L2  memory  % of limit  "
      "exact  rounded  words  bytes");
  for (const int32_t num_tokens : {4, 6, 8, 10, 12, 16, 24, 32, 48, 64}) {
    print_tokens(weights, num_tokens, product_s, tile_read_s);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_experts

int main(int num_args, char** args) {
  if (num_args == 1) return tandem::cpu_experts::measure();
  std::puts(
      "usage: bench_amx_tiles\n"
      "The AMX kernel on one core, beside its products alone and its weights from memory.");
  const std::string_view first = args[1];
  return first == "-h" || first == "--help" ? 0 : 2;
}
