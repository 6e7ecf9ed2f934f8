// The instructions of AMX tiles for kernels: what g++ 12's own functions lack are numbers of tiles
// that come from a template, and the word that memory is read. For files compiled with the
// instruction set's flags: every function is its file's own.
#pragma once

#include <cstdint>

namespace tandem {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileRowSizeBytes = 64;
constexpr int kTilePairs = 16;  // of BF16 values in a row
constexpr int kTileCols = 2 * kTilePairs;

// 16 rows of BF16 values, one after the other.
struct alignas(64) Bf16Tile {
  uint16_t row[kTileRows][kTileCols];
};

// Of every tile as many rows as `rows` says, all of them 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t reserved[15] = {};
  uint16_t row_size_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows,
                      kTileRows, kTileRows, kTileRows, kTileRows};
};
static_assert(sizeof(TileConfig) == 64);

// All tiles are zero behind it.
[[gnu::always_inline]] inline void configure_tiles(const TileConfig& config) {
  asm volatile("ldtilecfg %0" : : "m"(config));
}
[[gnu::always_inline]] inline void release_tiles() { asm volatile("tilerelease"); }

template <int kTile>
[[gnu::always_inline]] inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
[[gnu::always_inline]] inline void load_tile(const Bf16Tile& from) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(&from), "r"(int64_t{kTileRowSizeBytes}), "i"(kTile), "m"(from));
}
// Rows `stride_bytes` apart.
template <int kTile>
[[gnu::always_inline]] inline void load_tile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride_bytes), "i"(kTile)
               : "memory");
}
template <int kTile>
[[gnu::always_inline]] inline void store_tile(void* to, int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
               :
               : "r"(to), "r"(stride_bytes), "i"(kTile)
               : "memory");
}
// sums[row][col] += a[row][pair] b[pair][col], over 16 pairs of BF16 values, in FP32.
template <int kSums, int kA, int kB>
[[gnu::always_inline]] inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
}

}  // namespace
}  // namespace tandem
