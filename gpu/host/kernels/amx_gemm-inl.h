// Products of rows with panels on AMX tiles: 32 columns of a panel are a B tile as they lie.
//
// Rows of FP32 values are the sum of three planes of BF16, exactly, but for what is less than the
// least normal number, and infinities, which come out as NaN. Three products on tiles are faster
// than fused additions: a prompt of 2,048 tokens takes three quarters of its time.
//
// Order of every sum, whatever the tile: 32 columns at a time, from the first one of the product
// on, in them the planes from the largest down, as TDPBF16PS adds them.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "gpu/host/kernels.h"
#include "runtime/topology/amx_tiles.h"

namespace tandem::gpu::host {
namespace {

static_assert(kPanelRows == kTilePairs);

// Steps of rows; a step's last tile has num_last of them.
struct Rows {
  int64_t begin;
  int64_t end;
  int num_last;
};

// Rows in planes, of which x is the first.
struct PlaneGemm : Gemm<uint16_t> {
  int64_t plane_stride;  // elements from one plane to the next
};

// What columns [col, num_k) of rows or lines leave of a tile, zeros behind them.
inline void copy_rows(
    const uint16_t* x, int64_t x_stride, int num_rows, int64_t num_cols, Bf16Tile& tile) {
  std::memset(&tile, 0, sizeof(tile));
  for (int row = 0; row < num_rows; ++row) {
    std::memcpy(tile.row[row], x + row * x_stride,
                static_cast<size_t>(num_cols) * sizeof(uint16_t));
  }
}
// Of an odd number of columns the last one's neighbour is not to count, whatever it is.
inline void copy_lines(const uint16_t* lines, int64_t num_cols, Bf16Tile& tile) {
  std::memset(&tile, 0, sizeof(tile));
  const int64_t num_pairs = (num_cols + 1) / 2;
  std::memcpy(&tile, lines, static_cast<size_t>(num_pairs * kTileRowSizeBytes));
  if (num_cols % 2 == 0) return;
  for (int idx = 1; idx < kTileCols; idx += 2) tile.row[num_pairs - 1][idx] = 0;
}

// Row tiles side by side share a load of the panels, and panels one of the rows: two and two, or
// for no more than 16 rows one and four, to follow several streams of memory. Tiles: sums 0 to 3,
// two a row tile or all of the one; rows 4 and 5; panels 6 and 7 in turns.
constexpr int panels_of(int num_row_tiles) { return num_row_tiles == 1 ? 4 : 2; }

template <int kPanels, int kRows, int kIdx = 0, typename Function>
[[gnu::always_inline]] inline void for_sums(const Function& function) {
  if constexpr (kIdx < kRows * kPanels) {
    constexpr int kRow = kIdx / kPanels;
    constexpr int kPanel = kIdx % kPanels;
    function.template operator()<2 * kRow + kPanel, kRow, kPanel>();
    for_sums<kPanels, kRows, kIdx + 1>(function);
  }
}

// Few rows wait for memory: every other line of a panel that comes this much later is asked for,
// and the CPU asks for those between. All of them take the places that the tiles' own loads need,
// 5 %.
constexpr int64_t kPrefetchTiles = 2;
inline void prefetch_lines(const uint16_t* lines) {
  lines += kPrefetchTiles * kTileCols * kPanelRows;
  for (int line = 0; line < kTilePairs; line += 2) __builtin_prefetch(lines + line * kTileCols);
}

// kRows tiles of rows, the last of num_last, by kPanels panels.
template <int kPlanes, int kRows, int kPanels>
void tile_block(const PlaneGemm& gemm, int64_t row_idx, int num_last, int64_t panel_idx) {
  float* out = gemm.out + row_idx * gemm.out_stride + panel_idx * kPanelRows;
  const int64_t out_stride_bytes = gemm.out_stride * int64_t{sizeof(float)};
  for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
    if (gemm.accumulate) {
      load_tile<kSums>(out + kRow * kTileRows * gemm.out_stride + kPanel * kPanelRows,
                       out_stride_bytes);
    } else {
      zero_tile<kSums>();
    }
  });
  const uint16_t* x = gemm.x + row_idx * gemm.x_stride;
  const int64_t x_stride_bytes = gemm.x_stride * int64_t{sizeof(uint16_t)};
  const uint16_t* panels = gemm.panels + panel_idx * gemm.panel_stride;
  int64_t col = 0;
  for (; col + kTileCols <= gemm.num_k; col += kTileCols) {
    for (int plane = 0; plane < kPlanes; ++plane) {
      for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
        if constexpr (kPanel == 0) {
          load_tile<4 + kRow>(
              x + plane * gemm.plane_stride + kRow * kTileRows * gemm.x_stride + col,
              x_stride_bytes);
        }
        if constexpr (kRow == 0) {
          const uint16_t* lines = panels + kPanel * gemm.panel_stride + col * kPanelRows;
          if (kRows == 1 && plane == 0) prefetch_lines(lines);
          if (kPanels > 2 || plane == 0) load_tile<6 + kPanel % 2>(lines, kTileRowSizeBytes);
        }
        if constexpr (kRows == 2) {
          if (plane == 0) {
            // The panels behind these, two lines of sixteen in every step of rows.
            const int64_t line = (row_idx / kTileRows + kRow) % kTilePairs;
            const uint16_t* next = panels + (kPanel + kPanels) * gemm.panel_stride;
            __builtin_prefetch(next + col * kPanelRows + line * kTileCols, 0, 2);
          }
        }
        add_product<kSums, 4 + kRow, 6 + kPanel % 2>();
      });
    }
  }
  if (const int64_t left = gemm.num_k - col; left > 0) {
    Bf16Tile lines[kPanels];
    for (int panel = 0; panel < kPanels; ++panel) {
      copy_lines(panels + panel * gemm.panel_stride + col * kPanelRows, left, lines[panel]);
    }
    for (int plane = 0; plane < kPlanes; ++plane) {
      Bf16Tile rows[kRows];
      for (int row = 0; row < kRows; ++row) {
        copy_rows(x + plane * gemm.plane_stride + row * kTileRows * gemm.x_stride + col,
                  gemm.x_stride, row == kRows - 1 ? num_last : kTileRows, left, rows[row]);
      }
      for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
        load_tile<4 + kRow>(rows[kRow]);
        load_tile<6 + kPanel % 2>(lines[kPanel]);
        add_product<kSums, 4 + kRow, 6 + kPanel % 2>();
      });
    }
  }
  for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
    store_tile<kSums>(out + kRow * kTileRows * gemm.out_stride + kPanel * kPanelRows,
                      out_stride_bytes);
  });
}

// Row tiles, kRows at a time, by kPanels panels; the last of a step has num_last rows.
template <int kPlanes, int kRows, int kPanels>
void tile_steps(const PlaneGemm& gemm, Rows rows, int64_t panel_idx) {
  for (int64_t row = rows.begin; row < rows.end; row += kRows * kTileRows) {
    tile_block<kPlanes, kRows, kPanels>(gemm, row, rows.num_last, panel_idx);
  }
}

// Rows by panels [begin, end): those behind the last whole step of kPanels by fewer.
template <int kPlanes, int kRows, int kPanels = panels_of(kRows)>
void tile_panels(const PlaneGemm& gemm, Rows rows, int64_t begin, int64_t end) {
  for (; begin + kPanels <= end; begin += kPanels) {
    tile_steps<kPlanes, kRows, kPanels>(gemm, rows, begin);
  }
  if constexpr (kPanels > 1) {
    if (begin < end) tile_panels<kPlanes, kRows, kPanels - 1>(gemm, rows, begin, end);
  }
}

// Of fewer than 16 last rows the tiles have as many: nothing behind them is read or written.
template <int kRows>
void configure_rows(const Rows& rows) {
  TileConfig config;
  config.rows[4 + kRows - 1] = static_cast<uint8_t>(rows.num_last);
  for (int sums = 2 * (kRows - 1); sums < 4; ++sums) {
    config.rows[sums] = static_cast<uint8_t>(rows.num_last);
  }
  configure_tiles(config);
}

// Some panels at a time, so that rows which are left over find them in a cache.
template <int kPlanes>
void multiply_planes(const PlaneGemm& gemm) {
  constexpr int64_t kStepRows = 2 * kTileRows;
  constexpr int64_t kStepPanels = 16;
  const int64_t whole_rows = gemm.num_rows / kStepRows * kStepRows;
  const auto num_left = static_cast<int>(gemm.num_rows - whole_rows);
  for (int64_t begin = 0; begin < gemm.num_panels; begin += kStepPanels) {
    const int64_t left = gemm.num_panels - begin;
    const int64_t end = begin + (left < kStepPanels ? left : kStepPanels);
    if (whole_rows != 0) {
      const Rows rows = {0, whole_rows, kTileRows};
      configure_rows<2>(rows);
      tile_panels<kPlanes, 2>(gemm, rows, begin, end);
    }
    if (num_left > kTileRows) {
      const Rows rows = {whole_rows, gemm.num_rows, num_left - kTileRows};
      configure_rows<2>(rows);
      tile_panels<kPlanes, 2>(gemm, rows, begin, end);
    } else if (num_left > 0) {
      const Rows rows = {whole_rows, gemm.num_rows, num_left};
      configure_rows<1>(rows);
      tile_panels<kPlanes, 1>(gemm, rows, begin, end);
    }
  }
  release_tiles();
}

inline void gemm_tiles(const Gemm<uint16_t>& gemm) {
  multiply_planes<1>({gemm, /*plane_stride=*/0});
}

constexpr int kPlanesOfFloat = 3;

inline __m512 widened(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

// 32 values, of which there are num, as BF16: each plane what the ones before it leave, rounded.
inline void split(const float* values, int64_t num, uint16_t* planes, int64_t plane_stride) {
  const auto present = static_cast<__mmask32>((uint64_t{1} << num) - 1);
  __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(present), values);
  __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(present >> 16), values + 16);
  for (int plane = 0; plane < kPlanesOfFloat; ++plane) {
    const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    _mm512_storeu_si512(planes + plane * plane_stride, rounded);
    low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(rounded)));
    high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(rounded, 1)));
  }
}

// A step of rows by some columns at a time as planes, which stay in the first cache.
inline void gemm_tiles_f32(const Gemm<float>& gemm) {
  constexpr int64_t kStepRows = 2 * kTileRows;
  constexpr int64_t kStepCols = 192;
  constexpr int64_t kStride = kStepCols + kTileCols;  // rows a line later than a power of two
  alignas(64) uint16_t planes[kPlanesOfFloat][kStepRows][kStride];
  constexpr int64_t kPlaneStride = kStepRows * kStride;
  for (int64_t row = 0; row < gemm.num_rows; row += kStepRows) {
    const int64_t rows_left = gemm.num_rows - row;
    const int64_t num_rows = rows_left < kStepRows ? rows_left : kStepRows;
    for (int64_t col = 0; col < gemm.num_k; col += kStepCols) {
      const int64_t cols_left = gemm.num_k - col;
      const int64_t num_cols = cols_left < kStepCols ? cols_left : kStepCols;
      for (int64_t idx = 0; idx < num_rows; ++idx) {
        const float* values = gemm.x + (row + idx) * gemm.x_stride + col;
        for (int64_t first = 0; first < num_cols; first += kTileCols) {
          const int64_t left = num_cols - first;
          split(values + first, left < kTileCols ? left : int64_t{kTileCols},
                planes[0][idx] + first, kPlaneStride);
        }
      }
      const Gemm<uint16_t> part{.x = planes[0][0],
                                .x_stride = kStride,
                                .num_rows = num_rows,
                                .panels = gemm.panels + col * kPanelRows,
                                .panel_stride = gemm.panel_stride,
                                .num_panels = gemm.num_panels,
                                .num_k = num_cols,
                                .out = gemm.out + row * gemm.out_stride,
                                .out_stride = gemm.out_stride,
                                .accumulate = gemm.accumulate || col > 0};
      multiply_planes<kPlanesOfFloat>({part, kPlaneStride});
    }
  }
}

}  // namespace
}  // namespace tandem::gpu::host
