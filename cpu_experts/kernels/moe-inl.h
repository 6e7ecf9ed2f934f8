// The two products of a routed expert around a core of dot products, included once per instruction
// set before the core's own header.
//
// A core has kRecordSizeBytes, store_group(values, row, group_idx), kRowBlocks, a multiple of four,
// kTile, and dot(weights, num_row_blocks, num_col_blocks, x, num_tokens, totals):
//   totals[row_block][token][row] = W x, for up to kRowBlocks row blocks that follow each other and
//   up to kMaxTokens tokens.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"

namespace tandem::cpu_experts {
namespace {

// Tokens of one pass: with the row blocks of a core their totals and activations stay in the first
// two caches.
constexpr int32_t kMaxTokens = 64;
using RowBlockTotals = float[kMaxTokens][kBlockRows];

// Asks for a line of weights: into L2, since in L1 it would take the place of the activations (two
// tokens read memory half as fast). Line by line, as codes are read: a block's lines all at once
// hold up the loads between them (5 to 10 % from memory).
inline void prefetch(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

// Where weights are read in the order in which they lie.
constexpr int64_t kPrefetchBlocks = 10;
inline void prefetch_ahead(const uint8_t* line) {
  prefetch(line + kPrefetchBlocks * kBlockSizeBytes);
}

// e^x for 16 values within 2 units in the last place: x = n ln 2 + r, the Taylor series of e^r to
// r^7. Saturates at +-87.
using F32x16 = float __attribute__((vector_size(64)));
using I32x16 = int32_t __attribute__((vector_size(64)));

inline F32x16 exp_of(F32x16 x) {
  x = x > 87.0f ? F32x16{} + 87.0f : x;
  x = x < -87.0f ? F32x16{} - 87.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const F32x16 shifted = x * 1.44269504f + magic;
  const F32x16 n = shifted - magic;
  const F32x16 r =
      (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts, the first exact times n
  F32x16 series = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const I32x16 exponent =
      (reinterpret_cast<I32x16>(shifted) - reinterpret_cast<I32x16>(F32x16{} + magic)) << 23;
  return reinterpret_cast<F32x16>(reinterpret_cast<I32x16>(series) + exponent);
}

// silu(gate) * up for 16 rows.
inline void activate(const float* gate_rows, const float* up_rows, float* out) {
  F32x16 gate;
  F32x16 up;
  std::memcpy(&gate, gate_rows, sizeof(gate));
  std::memcpy(&up, up_rows, sizeof(up));
  const F32x16 activated = gate / (1.0f + exp_of(-gate)) * up;
  std::memcpy(out, &activated, sizeof(activated));
}

// As in ExpertKernels.
struct TileLimits {
  int64_t row_blocks = 1;
  int32_t few_tokens = 0;
};

template <typename Int>
constexpr Int at_most(Int limit, Int value) {
  return value < limit ? value : limit;
}

// Input rows in the form of Core, activated rows in that of ActivatedCore.
template <typename Core, typename ActivatedCore>
void gate_up(const GateUpCall& call) {
  constexpr int64_t kUnitRowBlocks = 4;  // gate, up, gate, up: 32 rows, a group of `activated`
  constexpr int64_t kUnits = Core::kRowBlocks / kUnitRowBlocks;
  const int64_t unit_size_bytes = kUnitRowBlocks * call.num_col_blocks * kBlockSizeBytes;
  alignas(64) RowBlockTotals totals[Core::kRowBlocks];
  alignas(64) float activated[kMaxTokens][kGroupCols];
  for (int64_t unit = 0; unit < call.num_row_blocks / 2; unit += kUnits) {
    const int64_t num_units = at_most(kUnits, call.num_row_blocks / 2 - unit);
    for (int32_t first = 0; first < call.num_tokens; first += kMaxTokens) {
      const int32_t num_pass = at_most(kMaxTokens, call.num_tokens - first);
      Core::dot(call.weights + unit * unit_size_bytes, num_units * kUnitRowBlocks,
                call.num_col_blocks, call.x + first, num_pass, totals);
      for (int64_t idx = 0; idx < num_units; ++idx) {
        const RowBlockTotals* rows = totals + idx * kUnitRowBlocks;
        for (int32_t token = 0; token < num_pass; ++token) {
          activate(rows[0][token], rows[1][token], activated[token]);
          activate(rows[2][token], rows[3][token], activated[token] + kBlockRows);
        }
        for (int32_t token = 0; token < num_pass; ++token) {
          ActivatedCore::store_group(activated[token], call.activated[first + token],
                                     call.first_row / kGroupCols + unit + idx);
        }
      }
    }
  }
  if (!call.ends_half_record) return;
  const float zeros[kGroupCols] = {};
  for (int32_t token = 0; token < call.num_tokens; ++token) {
    ActivatedCore::store_group(zeros, call.activated[token],
                               call.first_row / kGroupCols + call.num_row_blocks / 2);
  }
}

template <typename Core>
void down(const DownCall& call) {
  const int64_t row_block_size_bytes = call.num_col_blocks * kBlockSizeBytes;
  alignas(64) RowBlockTotals totals[Core::kRowBlocks];
  for (int64_t row_block = 0; row_block < call.num_row_blocks; row_block += Core::kRowBlocks) {
    const int64_t num_row_blocks = at_most(Core::kRowBlocks, call.num_row_blocks - row_block);
    const uint8_t* weights = call.weights + row_block * row_block_size_bytes;
    for (int32_t first = 0; first < call.num_tokens; first += kMaxTokens) {
      const int32_t num_pass = at_most(kMaxTokens, call.num_tokens - first);
      // Rows of `out` lie far apart.
      for (int32_t token = 0; token < num_pass; ++token) {
        const float* out = call.out[first + token] + row_block * kBlockRows;
        for (int64_t block = 0; block < num_row_blocks; ++block) {
          __builtin_prefetch(out + block * kBlockRows, 1);
        }
      }
      Core::dot(weights, num_row_blocks, call.num_col_blocks, call.x + first, num_pass, totals);
      for (int32_t token = 0; token < num_pass; ++token) {
        const float weight = call.routing_weights[first + token];
        float* out = call.out[first + token] + row_block * kBlockRows;
        for (int64_t block = 0; block < num_row_blocks; ++block, out += kBlockRows) {
          F32x16 sum;
          F32x16 total;
          std::memcpy(&sum, out, sizeof(sum));
          std::memcpy(&total, totals[block][token], sizeof(total));
          sum += weight * total;
          std::memcpy(out, &sum, sizeof(sum));
        }
      }
    }
  }
}

template <typename Core>
void prepare(const uint16_t* values, int64_t num_values, void* row) {
  for (int64_t group_idx = 0; group_idx < num_values / kGroupCols; ++group_idx) {
    float group[kGroupCols];
    for (int64_t col = 0; col < kGroupCols; ++col) {
      const uint32_t word = static_cast<uint32_t>(values[group_idx * kGroupCols + col]) << 16;
      std::memcpy(&group[col], &word, sizeof(word));
    }
    Core::store_group(group, row, group_idx);
  }
  if (num_values % kBlockCols != 0) {
    const float zeros[kGroupCols] = {};
    Core::store_group(zeros, row, num_values / kGroupCols);
  }
}

template <typename Core, typename ActivatedCore>
constexpr ExpertKernels kernels_of_cores() {
  return {.input_record_size_bytes = Core::kRecordSizeBytes,
          .activated_record_size_bytes = ActivatedCore::kRecordSizeBytes,
          .tile_row_blocks = ActivatedCore::kTile.row_blocks,
          .few_tokens = ActivatedCore::kTile.few_tokens,
          .gate_up = gate_up<Core, ActivatedCore>,
          .down = down<ActivatedCore>,
          .prepare = prepare<Core>,
          .input_product = down<Core>};
}

}  // namespace
}  // namespace tandem::cpu_experts
