// The inner loops of the expert kernels between marks for llvm-mca: one group of 32 columns of 16
// rows for the tokens of a tile, codes already unpacked. `run` compiles this once for each
// instruction set and prints cycles a group beside the ports' limit.
#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#if defined(TANDEM_MCA_BF16)
#include "cpu_experts/kernels/bf16-inl.h"
#else
#include "cpu_experts/kernels/planes-inl.h"
#endif

namespace tandem::cpu_experts {

#if defined(TANDEM_MCA_BF16)

// One vector of the layout: four pairs of eight columns.
void bf16(const uint8_t* vector, const void* const* x, __m512* sum) {
  const __m512i table = code_table();
  const Bf16Record* records[kTileTokens];
  __m512 token_sum[kTileTokens];
  for (int token = 0; token < kTileTokens; ++token) {
    records[token] = static_cast<const Bf16Record*>(x[token]);
    token_sum[token] = sum[token];
  }
  asm volatile("# LLVM-MCA-BEGIN bf16" ::: "memory");
  __m512i codes = _mm512_loadu_si512(vector);
#pragma GCC unroll 4
  for (int pair = 0; pair < 4; ++pair, codes = _mm512_srli_epi16(codes, 4)) {
    const auto values = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(codes, table));
    for (int token = 0; token < kTileTokens; ++token) {
      token_sum[token] = _mm512_dpbf16_ps(token_sum[token], values,
                                          broadcast_pair(records[token]->columns + 2 * pair));
    }
  }
  asm volatile("# LLVM-MCA-END" ::: "memory");
  for (int token = 0; token < kTileTokens; ++token) sum[token] = token_sum[token];
}

#else

template <int kPlanes>
void group(const Unpacked& weights, const void* const* x, float (*totals)[kBlockRows]) {
  const Record<kPlanes>* records[kTileTokens];
  Rows total[kTileTokens];
  for (int token = 0; token < kTileTokens; ++token) {
    records[token] = static_cast<const Record<kPlanes>*>(x[token]);
    total[token] = load_rows(totals[token]);
  }
  if constexpr (kPlanes == 2) {
    asm volatile("# LLVM-MCA-BEGIN two_planes" ::: "memory");
  } else {
    asm volatile("# LLVM-MCA-BEGIN one_plane" ::: "memory");
  }
  GroupSums<kPlanes, kTileTokens> sums;
#pragma GCC unroll 8
  for (int quad = 0; quad < kGroupQuads; ++quad) {
    sums.add(load_quads(weights.quads[0][quad]), records, quad);
  }
  sums.finish(load_rows(weights.scales[0][0]), records, 0, total);
  asm volatile("# LLVM-MCA-END" ::: "memory");
  for (int token = 0; token < kTileTokens; ++token) store_rows(totals[token], total[token]);
}

// Unpacked is of this compile unit: a reference to it would hide the functions.
void two_planes(const void* unpacked, const void* const* x, float (*totals)[kBlockRows]) {
  group<2>(*static_cast<const Unpacked*>(unpacked), x, totals);
}
void one_plane(const void* unpacked, const void* const* x, float (*totals)[kBlockRows]) {
  group<1>(*static_cast<const Unpacked*>(unpacked), x, totals);
}

#endif

}  // namespace tandem::cpu_experts
