// The two products of a routed expert over packed blocks (expert_layout.h), included once per
// instruction set.
//
// Order of every sum, whatever num_tokens: inside a group of 32 columns pair by pair from zero; the
// group's sum times the row's scale is added to the total by one fused multiply-add; groups in
// ascending order.
#pragma once

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

// One vector of eight columns, for all tokens of a tile: decoded once.
template <int kTokens>
inline void add_vector(const uint8_t* vector, int64_t col, const Element* const* x, Rows* sum) {
  const auto table = code_table();
  const Codes codes = load_codes(vector);
  const auto add = [&](const auto& pair, int64_t pair_col) {
    for (int token = 0; token < kTokens; ++token) {
      sum[token] = add_pair(sum[token], pair, x[token] + col + pair_col);
    }
  };
  add(decode<0>(codes, table), 0);
  add(decode<1>(codes, table), 2);
  add(decode<2>(codes, table), 4);
  add(decode<3>(codes, table), 6);
}

// How far ahead of its use memory is asked for; only single tokens wait for it.
constexpr int64_t kPrefetchSizeBytes = 4 * kBlockSizeBytes;

// total[token] = W[16 rows, :] x[token]
template <int kTokens>
void dot_rows(const uint8_t* weights,
              int64_t num_blocks,
              const void* const* activations,
              Rows* total) {
  const Element* x[kTokens];
  for (int token = 0; token < kTokens; ++token) {
    x[token] = static_cast<const Element*>(activations[token]);
    total[token] = zero_rows();
  }
  for (int64_t block_idx = 0; block_idx < num_blocks; ++block_idx, weights += kBlockSizeBytes) {
    if constexpr (kTokens == 1) {
      for (int64_t line = 0; line < kBlockSizeBytes; line += 64) {
        __builtin_prefetch(weights + kPrefetchSizeBytes + line);
      }
    }
    for (int group = 0; group < 2; ++group) {
      Rows sum[kTokens];
      for (int token = 0; token < kTokens; ++token) sum[token] = zero_rows();
      const uint8_t* vector = weights + kScalesSizeBytes + group * 4 * kVectorSizeBytes;
      const int64_t col = block_idx * kBlockCols + group * 32;
      for (int v = 0; v < 4; ++v) {
        add_vector<kTokens>(vector + v * kVectorSizeBytes, col + v * kVectorCols, x, sum);
      }
      const Rows scales = load_scales(weights + group * 32);
      for (int token = 0; token < kTokens; ++token)
        total[token] = fma(sum[token], scales, total[token]);
    }
  }
}

using Dot = void (*)(const uint8_t*, int64_t, const void* const*, Rows*);

// dot_rows for 1 .. kMaxTokens tokens.
inline Dot dot_for(int num_tokens) {
  switch (num_tokens) {
#if defined(__AVX512F__)
    case 8:
      return dot_rows<8>;
    case 7:
      return dot_rows<7>;
    case 6:
      return dot_rows<6>;
    case 5:
      return dot_rows<5>;
    case 4:
      return dot_rows<4>;
    case 3:
      return dot_rows<3>;
#endif
#if defined(__AVX2__)
    case 2:
      return dot_rows<2>;
#endif
    default:
      return dot_rows<1>;
  }
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

inline uint16_t to_bf16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  if ((word & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((word >> 16) | 0x40u);
  return static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

inline Element to_element(float value) {
  if constexpr (kTakesBf16) {
    return static_cast<Element>(to_bf16(value));
  } else {
    return static_cast<Element>(value);
  }
}

// silu(gate) * up for 16 rows.
inline void store_activated(const Rows& gate_rows, const Rows& up_rows, Element* out) {
  float gate_lanes[16];
  float up_lanes[16];
  store_rows(gate_lanes, gate_rows);
  store_rows(up_lanes, up_rows);
  F32x16 gate;
  F32x16 up;
  std::memcpy(&gate, gate_lanes, sizeof(gate));
  std::memcpy(&up, up_lanes, sizeof(up));
  const F32x16 activated = gate / (1.0f + exp_of(-gate)) * up;
  for (int row = 0; row < 16; ++row) out[row] = to_element(activated[row]);
}

inline int tile_tokens(int32_t num_tokens, int32_t token_idx) {
  return num_tokens - token_idx < kMaxTokens ? num_tokens - token_idx : kMaxTokens;
}

void gate_up(const GateUpCall& call) {
  const int64_t row_block_size_bytes = call.num_col_blocks * kBlockSizeBytes;
  for (int64_t row_block = 0; row_block < call.num_row_blocks; ++row_block) {
    const uint8_t* gate_weights = call.weights + 2 * row_block * row_block_size_bytes;
    for (int32_t token_idx = 0; token_idx < call.num_tokens; token_idx += kMaxTokens) {
      const int num_tile = tile_tokens(call.num_tokens, token_idx);
      const Dot dot = dot_for(num_tile);
      Rows gate[kMaxTokens];
      Rows up[kMaxTokens];
      dot(gate_weights, call.num_col_blocks, call.x + token_idx, gate);
      dot(gate_weights + row_block_size_bytes, call.num_col_blocks, call.x + token_idx, up);
      for (int token = 0; token < num_tile; ++token) {
        store_activated(
            gate[token], up[token],
            static_cast<Element*>(call.activated[token_idx + token]) + row_block * kBlockRows);
      }
    }
  }
}

void down(const DownCall& call) {
  for (int64_t row_block = 0; row_block < call.num_row_blocks; ++row_block) {
    const uint8_t* weights = call.weights + row_block * call.num_col_blocks * kBlockSizeBytes;
    for (int32_t token_idx = 0; token_idx < call.num_tokens; token_idx += kMaxTokens) {
      const int num_tile = tile_tokens(call.num_tokens, token_idx);
      Rows total[kMaxTokens];
      dot_for(num_tile)(weights, call.num_col_blocks, call.x + token_idx, total);
      for (int token = 0; token < num_tile; ++token) {
        float* out = call.out[token_idx + token] + row_block * kBlockRows;
        store_rows(out, fma(total[token], broadcast(call.routing_weights[token_idx + token]),
                            load_rows(out)));
      }
    }
  }
}

void prepare(const uint16_t* values, int64_t num_values, int64_t num_padded, void* out) {
  auto* elements = static_cast<Element*>(out);
  for (int64_t idx = 0; idx < num_values; ++idx) {
    if constexpr (kTakesBf16) {
      elements[idx] = static_cast<Element>(values[idx]);
    } else {
      const uint32_t word = static_cast<uint32_t>(values[idx]) << 16;
      std::memcpy(&elements[idx], &word, sizeof(word));
    }
  }
  for (int64_t idx = num_values; idx < num_padded; ++idx) elements[idx] = Element{};
}

constexpr ExpertKernels kKernels = {
    .takes_bf16 = kTakesBf16, .gate_up = gate_up, .down = down, .prepare = prepare};

}  // namespace
}  // namespace tandem::cpu_experts
