// Counts the instructions of the AMX kernel's two pieces, on an emulated CPU whose time stamp
// counter advances by one an instruction. Run by `run`.
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

int count() {
  if (!amx_works()) {
    std::fputs("count_instructions: no AMX here\n", stderr);
    return 1;
  }
  static WeightTiles weights;
  static TileSums sums;
  static RowBlockTotals totals;
  static uint8_t packed[kSliceGroups / 2 * kBlockSizeBytes];
  static Bf16Group x[kSliceGroups * kTileRows];
  const TileConfig config(kTileRows);
  finish_stores(&config);
  _tile_loadconfig(&config);

  const double decoding =
      instructions_of([&] { decode(packed, kSliceGroups, 0, weights); }) / kSliceGroups;
  const double product =
      instructions_of([&] { multiply(x, kTileRows, weights, kSliceGroups, sums, totals); }) /
      kSliceGroups;
  std::printf("decoding a tile of weights   %5.1f\n", decoding);
  std::printf("a product, scales included   %5.1f\n", product);
  std::puts("tokens  instructions for every TDPBF16PS");
  for (int tiles = 1; tiles <= kMaxPassTokens / kTileRows; ++tiles) {
    std::printf("%6d  %5.1f\n", tiles * kTileRows, product + decoding / tiles);
  }
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_experts

int main() { return tandem::cpu_experts::count(); }
