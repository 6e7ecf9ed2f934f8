// The two products of a routed expert around a core of dot products, included once per instruction
// set before the core's own header.
//
// A core has Record, the form of 32 values, which store_groups(groups, num_groups, records) makes
// of floats that it may write over, kRowBlocks, a multiple of four, kTile, and dot(weights,
// num_row_blocks, num_col_blocks, x, num_tokens, totals):
//   totals[row_block][token][row] = W x, for up to kRowBlocks row blocks that follow each other and
//   up to kMaxPassTokens tokens, the first of x.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"

namespace tandem::cpu_experts {
namespace {

// Of one pass: its activations stay in the second cache.
using RowBlockTotals = float[kMaxPassTokens][kBlockRows];

using FloatGroup = float[kGroupCols];

// Records [group][token], from some token on.
template <typename Record>
struct Records {
  const Record* first;
  int64_t num_tokens;  // from group to group

  [[nodiscard]] Records from(int64_t token) const { return {first + token, num_tokens}; }
};

// Asks for a line of weights: into L2, since in L1 it would take the place of the activations (two
// tokens read memory half as fast). Line by line, as codes are read: a block's lines all at once
// hold up the loads between them (5 to 10 % from memory).
inline void prefetch(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

// Where weights are read in the order in which they lie. A Zen 3 reads 3 to 4 % less ten blocks
// ahead, and no more four; CPUs with AVX-512 are indifferent to either side of ten.
#if defined(__AVX512F__) || defined(__AVXVNNI__)
constexpr int64_t kPrefetchBlocks = 10;
#else
constexpr int64_t kPrefetchBlocks = 5;
#endif
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

// Rows of records as [group][token], in `out`; one row is that already. In place, tokens of a tile
// lie behind a pointer each, more than there are registers: bytes 8 to 11 % slower.
template <typename Record>
Records<Record> gather(const void* const* rows, int64_t num_groups, int32_t num_tokens, void* out) {
  if (num_tokens == 1) return {static_cast<const Record*>(rows[0]), 1};
  constexpr int64_t kRunGroups = 8;  // whole lines of a row at a time
  auto* records = static_cast<Record*>(out);
  for (int64_t begin = 0; begin < num_groups; begin += kRunGroups) {
    const int64_t end = at_most(begin + kRunGroups, num_groups);
    for (int32_t token = 0; token < num_tokens; ++token) {
      const auto* row = static_cast<const Record*>(rows[token]);
      for (int64_t group = begin; group < end; ++group) {
        records[group * num_tokens + token] = row[group];
      }
    }
  }
  return {records, num_tokens};
}

// Input in the records of Core, activated rows in those of ActivatedCore. The weights are read anew
// for every pass, in a tenth of its time.
template <typename Core, typename ActivatedCore>
void gate_up(const GateUpCall& call) {
  constexpr int64_t kUnitRowBlocks = 4;  // gate, up, gate, up: 32 rows, a group of `activated`
  constexpr int64_t kUnits = Core::kRowBlocks / kUnitRowBlocks;
  const int64_t unit_size_bytes = kUnitRowBlocks * call.num_col_blocks * kBlockSizeBytes;
  const int64_t call_units = call.num_row_blocks / 2;
  auto* activated_records = static_cast<typename ActivatedCore::Record*>(call.activated) +
                            call.first_row / kGroupCols * call.num_tokens;
  alignas(64) RowBlockTotals totals[Core::kRowBlocks];
  alignas(64) FloatGroup activated[kMaxPassTokens];
  for (int32_t first = 0; first < call.num_tokens; first += kMaxPassTokens) {
    const int32_t num_pass = at_most(kMaxPassTokens, call.num_tokens - first);
    const auto x = gather<typename Core::Record>(call.x + first, 2 * call.num_col_blocks, num_pass,
                                                 call.gathered);
    for (int64_t unit = 0; unit < call_units; unit += kUnits) {
      const int64_t num_units = at_most(kUnits, call_units - unit);
      Core::dot(call.weights + unit * unit_size_bytes, num_units * kUnitRowBlocks,
                call.num_col_blocks, x, num_pass, totals);
      for (int64_t idx = 0; idx < num_units; ++idx) {
        const RowBlockTotals* rows = totals + idx * kUnitRowBlocks;
        for (int32_t token = 0; token < num_pass; ++token) {
          activate(rows[0][token], rows[1][token], activated[token]);
          activate(rows[2][token], rows[3][token], activated[token] + kBlockRows);
        }
        ActivatedCore::store_groups(activated, num_pass,
                                    activated_records + (unit + idx) * call.num_tokens + first);
      }
    }
  }
  if (!call.ends_half_block) return;
  for (int32_t token = 0; token < call.num_tokens; ++token) {
    FloatGroup zeros = {};
    ActivatedCore::store_groups(&zeros, 1,
                                activated_records + call_units * call.num_tokens + token);
  }
}

template <typename Core>
void down(const DownCall& call) {
  const int64_t row_block_size_bytes = call.num_col_blocks * kBlockSizeBytes;
  const Records<typename Core::Record> x = {static_cast<const typename Core::Record*>(call.x),
                                            call.num_tokens};
  alignas(64) RowBlockTotals totals[Core::kRowBlocks];
  for (int64_t row_block = 0; row_block < call.num_row_blocks; row_block += Core::kRowBlocks) {
    const int64_t num_row_blocks = at_most(Core::kRowBlocks, call.num_row_blocks - row_block);
    const uint8_t* weights = call.weights + row_block * row_block_size_bytes;
    for (int32_t first = 0; first < call.num_tokens; first += kMaxPassTokens) {
      const int32_t num_pass = at_most(kMaxPassTokens, call.num_tokens - first);
      // Rows of `out` lie far apart.
      for (int32_t token = 0; token < num_pass; ++token) {
        const float* out = call.out[first + token] + row_block * kBlockRows;
        for (int64_t block = 0; block < num_row_blocks; ++block) {
          __builtin_prefetch(out + block * kBlockRows, 1);
        }
      }
      Core::dot(weights, num_row_blocks, call.num_col_blocks, x.from(first), num_pass, totals);
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
  constexpr int32_t kRunGroups = 8;
  auto* records = static_cast<typename Core::Record*>(row);
  const int64_t num_groups = num_values / kGroupCols;
  for (int64_t begin = 0; begin < num_groups; begin += kRunGroups) {
    const auto num_run = static_cast<int32_t>(at_most<int64_t>(kRunGroups, num_groups - begin));
    alignas(64) FloatGroup groups[kRunGroups];
    for (int32_t idx = 0; idx < num_run; ++idx) {
      const uint16_t* bits = values + (begin + idx) * kGroupCols;
      for (int64_t col = 0; col < kGroupCols; ++col) {
        const uint32_t word = static_cast<uint32_t>(bits[col]) << 16;
        std::memcpy(&groups[idx][col], &word, sizeof(word));
      }
    }
    Core::store_groups(groups, num_run, records + begin);
  }
  if (num_values % kBlockCols != 0) {
    FloatGroup zeros = {};
    Core::store_groups(&zeros, 1, records + num_groups);
  }
}

template <typename Core, typename ActivatedCore>
constexpr ExpertKernels kernels_of_cores() {
  return {.input_record_size_bytes = sizeof(typename Core::Record),
          .activated_record_size_bytes = sizeof(typename ActivatedCore::Record),
          .tile_row_blocks = ActivatedCore::kTile.row_blocks,
          .few_tokens = ActivatedCore::kTile.few_tokens,
          .gate_up = gate_up<Core, ActivatedCore>,
          .down = down<ActivatedCore>,
          .prepare = prepare<Core>,
          .input_product = down<Core>};
}

}  // namespace
}  // namespace tandem::cpu_experts
