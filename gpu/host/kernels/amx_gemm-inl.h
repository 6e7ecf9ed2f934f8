// Products of rows with panels on AMX tiles: 32 columns of a panel are a B tile as they lie.
//
// Order of every sum, whatever the tile: 32 columns at a time, from the first one of the product
// on, as TDPBF16PS adds them.
#pragma once

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

// What columns [col, num_k) of rows or lines leave of a tile, zeros behind them.
inline void copy_rows(
    const Gemm<uint16_t>& gemm, int64_t row_idx, int num_rows, int64_t col, Bf16Tile& tile) {
  std::memset(&tile, 0, sizeof(tile));
  for (int row = 0; row < num_rows; ++row) {
    std::memcpy(tile.row[row], gemm.x + (row_idx + row) * gemm.x_stride + col,
                static_cast<size_t>(gemm.num_k - col) * sizeof(uint16_t));
  }
}
inline void copy_lines(const Gemm<uint16_t>& gemm, int64_t panel_idx, int64_t col, Bf16Tile& tile) {
  std::memset(&tile, 0, sizeof(tile));
  std::memcpy(&tile, gemm.panels + panel_idx * gemm.panel_stride + col * kPanelRows,
              static_cast<size_t>((gemm.num_k - col) * kPanelRows) * sizeof(uint16_t));
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
// and the CPU asks for those between. All of them take the places that the tiles' own loads need (5
// %).
constexpr int64_t kPrefetchTiles = 2;
inline void prefetch_lines(const uint16_t* lines) {
  lines += kPrefetchTiles * kTileCols * kPanelRows;
  for (int line = 0; line < kTilePairs; line += 2) __builtin_prefetch(lines + line * kTileCols);
}

// kRows tiles of rows, the last of num_last, by kPanels panels.
template <int kRows, int kPanels>
void tile_block(const Gemm<uint16_t>& gemm, int64_t row_idx, int num_last, int64_t panel_idx) {
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
    for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
      if constexpr (kPanel == 0) {
        load_tile<4 + kRow>(x + kRow * kTileRows * gemm.x_stride + col, x_stride_bytes);
      }
      if constexpr (kRow == 0) {
        const uint16_t* lines = panels + kPanel * gemm.panel_stride + col * kPanelRows;
        if constexpr (kRows == 1) prefetch_lines(lines);
        load_tile<6 + kPanel % 2>(lines, kTileRowSizeBytes);
      }
      if constexpr (kRows == 2) {
        // The panels behind these, two lines of sixteen in every step of rows.
        const int64_t line = (row_idx / kTileRows + kRow) % kTilePairs;
        const uint16_t* next = panels + (kPanel + kPanels) * gemm.panel_stride;
        __builtin_prefetch(next + col * kPanelRows + line * kTileCols, 0, 2);
      }
      add_product<kSums, 4 + kRow, 6 + kPanel % 2>();
    });
  }
  if (col < gemm.num_k) {
    Bf16Tile rows[kRows];
    Bf16Tile lines[kPanels];
    for (int row = 0; row < kRows; ++row) {
      copy_rows(gemm, row_idx + row * kTileRows, row == kRows - 1 ? num_last : kTileRows, col,
                rows[row]);
    }
    for (int panel = 0; panel < kPanels; ++panel) {
      copy_lines(gemm, panel_idx + panel, col, lines[panel]);
    }
    for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
      load_tile<4 + kRow>(rows[kRow]);
      load_tile<6 + kPanel % 2>(lines[kPanel]);
      add_product<kSums, 4 + kRow, 6 + kPanel % 2>();
    });
  }
  for_sums<kPanels, kRows>([&]<int kSums, int kRow, int kPanel>() {
    store_tile<kSums>(out + kRow * kTileRows * gemm.out_stride + kPanel * kPanelRows,
                      out_stride_bytes);
  });
}

// Row tiles, kRows at a time, by kPanels panels; the last of a step has num_last rows.
template <int kRows, int kPanels>
void tile_steps(const Gemm<uint16_t>& gemm, Rows rows, int64_t panel_idx) {
  for (int64_t row = rows.begin; row < rows.end; row += kRows * kTileRows) {
    tile_block<kRows, kPanels>(gemm, row, rows.num_last, panel_idx);
  }
}

// Rows by panels [begin, end): those behind the last whole step of kPanels by fewer.
template <int kRows, int kPanels = panels_of(kRows)>
void tile_panels(const Gemm<uint16_t>& gemm, Rows rows, int64_t begin, int64_t end) {
  for (; begin + kPanels <= end; begin += kPanels) tile_steps<kRows, kPanels>(gemm, rows, begin);
  if constexpr (kPanels > 1) {
    if (begin < end) tile_panels<kRows, kPanels - 1>(gemm, rows, begin, end);
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
inline void gemm_tiles(const Gemm<uint16_t>& gemm) {
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
      tile_panels<2>(gemm, rows, begin, end);
    }
    if (num_left > kTileRows) {
      const Rows rows = {whole_rows, gemm.num_rows, num_left - kTileRows};
      configure_rows<2>(rows);
      tile_panels<2>(gemm, rows, begin, end);
    } else if (num_left > 0) {
      const Rows rows = {whole_rows, gemm.num_rows, num_left};
      configure_rows<1>(rows);
      tile_panels<1>(gemm, rows, begin, end);
    }
  }
  release_tiles();
}

}  // namespace
}  // namespace tandem::gpu::host
