// The inner loops of the expert kernels between marks for llvm-mca: one group of 32 columns for the
// rows and tokens of a tile, decoding included. `run` compiles this once for each instruction set
// and prints cycles a group beside the ports' limit.
#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#if defined(TANDEM_MCA_BF16)
#include "cpu_experts/kernels/bf16-inl.h"
#else
#include "cpu_experts/kernels/integers-inl.h"
#endif

namespace tandem::cpu_experts {

static_assert(kTileTokens == TANDEM_MCA_TOKENS);

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

static_assert(kTileRowBlocks == TANDEM_MCA_ROW_BLOCKS);

template <typename Value>
void group(const uint8_t* block,
           int64_t row_block_size_bytes,
           const void* const* rows,
           RowBlockTotals* totals) {
  const Group<Value>* x[kTileTokens];
  Rows total[kTileRowBlocks][kTileTokens];
  for (int token = 0; token < kTileTokens; ++token) {
    x[token] = static_cast<const Group<Value>*>(rows[token]);
    for (int row_block = 0; row_block < kTileRowBlocks; ++row_block) {
      total[row_block][token] = load_rows(totals[row_block][token]);
    }
  }
  if constexpr (sizeof(Value) == 2) {
    asm volatile("# LLVM-MCA-BEGIN words" ::: "memory");
  } else {
    asm volatile("# LLVM-MCA-BEGIN bytes" ::: "memory");
  }
  add_group<Value, kTileRowBlocks, kTileTokens>(block, block + kScalesSizeBytes,
                                                row_block_size_bytes, x, 0, total);
  asm volatile("# LLVM-MCA-END" ::: "memory");
  for (int token = 0; token < kTileTokens; ++token) {
    for (int row_block = 0; row_block < kTileRowBlocks; ++row_block) {
      store_rows(totals[row_block][token], total[row_block][token]);
    }
  }
}

template void group<int16_t>(const uint8_t*, int64_t, const void* const*, RowBlockTotals*);
template void group<int8_t>(const uint8_t*, int64_t, const void* const*, RowBlockTotals*);

#endif

}  // namespace tandem::cpu_experts
