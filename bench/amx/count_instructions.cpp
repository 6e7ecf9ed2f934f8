// Counts the instructions of the AMX kernel, of 16 rows by 32 columns, on an emulated CPU whose
// time stamp counter advances by one an instruction. Run by `run`.
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>

#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/amx-inl.h"
#include "runtime/topology/amx.h"

namespace tandem::cpu_experts {
namespace {

// The least of some runs: a timer's interrupt counts too. The first touches pages.
template <typename Piece>
double instructions_of(const Piece& piece) {
  auto least = static_cast<long long>(1) << 62;
  for (int run = 0; run < 20; ++run) {
    const auto begin = static_cast<long long>(__rdtsc());
    piece();
    least = std::min(least, static_cast<long long>(__rdtsc()) - begin);
  }
  return static_cast<double>(least);
}

// Of a group of a row block with kTiles tiles of tokens.
template <typename Weights, int kTiles>
double instructions_of_group() {
  constexpr int64_t kNumColBlocks = 32;
  constexpr int64_t kNumRowBlocks = 4;
  constexpr int32_t kNumTokens = kTiles * kTileRows;
  static uint8_t packed[kNumRowBlocks * kNumColBlocks * kBlockSizeBytes];
  static Bf16Group x[2 * kNumColBlocks * kNumTokens];
  static RowBlockTotals totals[kNumRowBlocks];
  const double instructions = instructions_of([&] {
    AmxCore<Weights>::dot(packed, kNumRowBlocks, kNumColBlocks, {x, kNumTokens}, kNumTokens,
                          totals);
  });
  return instructions / (2 * kNumColBlocks * kNumRowBlocks);
}

template <typename Weights, int kTiles>
void print_group() {
  const double group = instructions_of_group<Weights, kTiles>();
  std::printf("  %16.1f  %9.1f", group, group / (Weights::kTerms * kTiles));
}

template <int kTiles = 1>
void print_tokens() {
  std::printf("%6d", kTiles * kTileRows);
  print_group<ExactWeights, kTiles>();
  print_group<RoundedWeights, kTiles>();
  std::puts("");
  if constexpr (kTiles < kMaxTiles) print_tokens<kTiles + 1>();
}

int count() {
  if (!amx_works()) {
    std::fputs("count_instructions: no AMX here\n", stderr);
    return 1;
  }
  std::puts("tokens    exact: a group  a product  rounded: a group  a product");
  print_tokens();
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_experts

int main() { return tandem::cpu_experts::count(); }
