// Measures what the AMX kernel does beside its products, on a CPU of the same make without AMX: its
// tiles' loads and stores become as many loads and stores of lines, a product nothing. Beside it
// the integer kernels that take fewer tokens, on one core. Run by `run`.
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/support/timing.h"
#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/bf16-inl.h"
// Tile instructions are macros of the compiler's header, and these take their places.
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
// clang-format off
#define TANDEM_LINES(LINE) LINE(0) LINE(1) LINE(2) LINE(3) LINE(4) LINE(5) LINE(6) LINE(7) \
  LINE(8) LINE(9) LINE(10) LINE(11) LINE(12) LINE(13) LINE(14) LINE(15)
#define TANDEM_LOAD(line) "vmovups " #line "*64(%0), %%zmm31\n"
#define TANDEM_STORE_LINE(line) "vmovups %%zmm31, " #line "*64(%0)\n"
// clang-format on
#define _tile_loadconfig(config) static_cast<void>(config)
#define _tile_release() static_cast<void>(0)
#define _tile_zero(tile) static_cast<void>(0)
#define _tile_loadd(tile, from, stride) \
  asm volatile(TANDEM_LINES(TANDEM_LOAD) : : "r"(from) : "zmm31", "memory")
#define _tile_stored(tile, to, stride)                                              \
  asm volatile("vpxord %%zmm31, %%zmm31, %%zmm31\n" TANDEM_LINES(TANDEM_STORE_LINE) \
               :                                                                    \
               : "r"(to)                                                            \
               : "zmm31", "memory")
#define _tile_dpbf16ps(sum, a, b) static_cast<void>(0)

#include "cpu_experts/kernels/amx-inl.h"
#include "runtime/base/bf16.h"
#include "runtime/memory/numa_buffer.h"

namespace tandem::cpu_experts {
namespace {

constexpr ExpertKernels kTiles = kernels_of_cores<AmxCore, AmxCore>();
constexpr int64_t kNumColBlocks = 112;  // hidden_size 7168
constexpr int64_t kRunRowBlocks = 4;
constexpr int64_t kRunRows = kRunRowBlocks * kBlockRows;
constexpr int64_t kRunBytes = kRunRowBlocks * kNumColBlocks * kBlockSizeBytes;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) { return bench::summarise(std::move(values)).median_s; }

// By additions that wait for each other, one a cycle.
double clock_ghz() {
  std::vector<double> runs;
  for (int run = 0; run < 9; ++run) {
    const double begin_s = now_s();
    uint64_t value = 0;
    for (int idx = 0; idx < 1'000'000; ++idx) asm volatile("add $1, %0" : "+r"(value));
    runs.push_back(1e-3 / (now_s() - begin_s));
  }
  return median(runs);
}

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

int measure() {
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
    std::puts("SKIPPED: what stands beside the products needs a CPU with AVX-512 BF16 and VNNI");
    return 0;
  }
  // Sums that are not there are zeros; should others come about, they are not to cost anything.
  _mm_setcsr(_mm_getcsr() | 0x8040u);
  constexpr int64_t kMemoryRuns = 4096;  // 1 GiB, more than caches hold
  constexpr int64_t kCacheRuns = 2;
  const NumaBuffer weights(kMemoryRuns * kRunBytes, -1);
  std::mt19937 random(4);
  for (int64_t idx = 0; idx < weights.size_bytes(); idx += 4) {
    // Codes are any; as scales these are about 0.01.
    const uint32_t word =
        idx % kBlockSizeBytes < kScalesSizeBytes ? 0x3c203c20u : static_cast<uint32_t>(random());
    std::memcpy(weights.data() + idx, &word, sizeof(word));
  }
  const double ghz = clock_ghz();
  std::printf("clock %.2f GHz; a TDPBF16PS takes 16 cycles\n", ghz);
  std::puts("        beside a product      multiply-adds, 1e9 a second, from memory");
  std::puts("tokens  L2, cycles    memory  tiles without products    words    bytes");
  for (const int32_t num_tokens : {4, 6, 8, 10, 12, 16, 32, 48, 64}) {
    const IntegerKernels& integers = *avx512_vnni_kernels();
    const Tokens tiles(kTiles, num_tokens);
    const Tokens words(integers.words, num_tokens);
    const Tokens bytes(integers.bytes, num_tokens);
    std::vector<double> cached, read, of_words, of_bytes;
    for (int turn = 0; turn < 9; ++turn) {
      cached.push_back(seconds_of_run(tiles, weights, kCacheRuns));
      read.push_back(seconds_of_run(tiles, weights, kMemoryRuns));
      of_words.push_back(seconds_of_run(words, weights, kMemoryRuns));
      of_bytes.push_back(seconds_of_run(bytes, weights, kMemoryRuns));
    }
    const int64_t num_products =
        2 * kNumColBlocks * kRunRowBlocks * ((num_tokens + kTileRows - 1) / kTileRows);
    const auto cycles = [&](double seconds) {
      return 1e9 * ghz * seconds / static_cast<double>(num_products);
    };
    const auto giga_macs = [&](double seconds) {
      return 1e-9 * kNumColBlocks * kBlockCols * kRunRows * num_tokens / seconds;
    };
    std::printf("%6d  %10.1f  %8.1f  %22.0f  %7.0f  %7.0f\n", num_tokens, cycles(median(cached)),
                cycles(median(read)), giga_macs(median(read)), giga_macs(median(of_words)),
                giga_macs(median(of_bytes)));
  }
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_experts

int main(int num_args, char** args) {
  if (num_args == 1) return tandem::cpu_experts::measure();
  std::puts(
      "usage: bench_amx_beside\n"
      "What the AMX kernel does beside its products, on one core of a CPU with AVX-512 BF16.");
  const std::string_view first = args[1];
  return first == "-h" || first == "--help" ? 0 : 2;
}
