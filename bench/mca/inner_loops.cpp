// The inner loops of the expert kernels between marks for llvm-mca: one group of 32 columns for the
// rows and tokens of a tile, decoding included. `run` compiles this once for each instruction set
// and prints cycles a group.
#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#if defined(TANDEM_MCA_BF16)
#include "cpu_experts/kernels/bf16-inl.h"
#else
#include "cpu_experts/kernels/integers-inl.h"
#endif

namespace tandem::cpu_experts {

#if defined(TANDEM_MCA_BF16)

static_assert(kTileTokens == TANDEM_MCA_TOKENS);

// One vector of the layout: four pairs of eight columns.
void bf16(const uint8_t* vector, const Bf16Group* x, __m512* sum) {
  const __m512i table = code_table();
  __m512 token_sum[kTileTokens];
  for (int token = 0; token < kTileTokens; ++token) token_sum[token] = sum[token];
  asm volatile("# LLVM-MCA-BEGIN bf16" ::: "memory");
  __m512i codes = _mm512_loadu_si512(vector);
#pragma GCC unroll 4
  for (int pair = 0; pair < 4; ++pair, codes = _mm512_srli_epi16(codes, 4)) {
    const auto values = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(codes, table));
    for (int token = 0; token < kTileTokens; ++token) {
      token_sum[token] =
          _mm512_dpbf16_ps(token_sum[token], values, broadcast_pair(x[token].columns + 2 * pair));
    }
  }
  asm volatile("# LLVM-MCA-END" ::: "memory");
  for (int token = 0; token < kTileTokens; ++token) sum[token] = token_sum[token];
}

#else

constexpr TileShape kShape = TANDEM_MCA_SHAPE;
constexpr int kTokens = TANDEM_MCA_TOKENS;
constexpr int kRowBlocks = TANDEM_MCA_ROW_BLOCKS;
static_assert(kRowBlocks == 1 ? kTokens == kShape.row_tokens
                              : kRowBlocks == kShape.row_blocks && kTokens == kShape.tokens);

template <Operands kOperands, typename Group>
[[gnu::always_inline]] inline void begin_region() {
  constexpr bool kReread = kOperands == Operands::kReread;
  if constexpr (Group::kWideProducts == 0 && !kReread) {
    asm volatile("# LLVM-MCA-BEGIN words" ::: "memory");
  } else if constexpr (Group::kWideProducts == 0) {
    asm volatile("# LLVM-MCA-BEGIN words, reread" ::: "memory");
  } else if constexpr (Group::kBestScale && !kReread) {
    asm volatile("# LLVM-MCA-BEGIN bytes" ::: "memory");
  } else if constexpr (Group::kBestScale) {
    asm volatile("# LLVM-MCA-BEGIN bytes, reread" ::: "memory");
  } else if constexpr (!kReread) {
    asm volatile("# LLVM-MCA-BEGIN bytes of down" ::: "memory");
  } else {
    asm volatile("# LLVM-MCA-BEGIN bytes of down, reread" ::: "memory");
  }
}

// A group of the first tile that passes some rows, or of one that follows it.
template <Operands kOperands, typename Group>
void group(const uint8_t* block,
           int64_t row_block_size_bytes,
           const Group* x,
           uint8_t* kept,
           RowBlockTotals* totals) {
  Rows total[kRowBlocks][kTokens];
  for (int token = 0; token < kTokens; ++token) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      total[row_block][token] = load_rows(totals[row_block][token]);
    }
  }
  begin_region<kOperands, Group>();
  add_group<kOperands, Group, kRowBlocks, kTokens>({.scales = block,
                                                    .codes = block + kScalesSizeBytes,
                                                    .row_block_size_bytes = row_block_size_bytes,
                                                    .x = x,
                                                    .kept = kept},
                                                   total);
  asm volatile("# LLVM-MCA-END" ::: "memory");
  for (int token = 0; token < kTokens; ++token) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      store_rows(totals[row_block][token], total[row_block][token]);
    }
  }
}

template <typename Group>
using GroupFunction = void (*)(const uint8_t*, int64_t, const Group*, uint8_t*, RowBlockTotals*);
template <typename Group>
struct Loops {
  GroupFunction<Group> first, later;  // null where each tile decodes for itself
};
template <typename Group>
constexpr Loops<Group> loops_of() {
  constexpr Operands kFirst = Group::kWideProducts == 0 ? Operands::kDecoded : Operands::kKept;
  if constexpr (kShape.keeps_operands) {
    return {group<kFirst, Group>, group<Operands::kReread, Group>};
  } else {
    return {group<kFirst, Group>, nullptr};
  }
}
extern const Loops<WordGroup> kWords;
const Loops<WordGroup> kWords = loops_of<WordGroup>();
extern const Loops<InputBytes> kBytes;
const Loops<InputBytes> kBytes = loops_of<InputBytes>();
extern const Loops<BytesOfDown<kShape>> kBytesOfDown;
const Loops<BytesOfDown<kShape>> kBytesOfDown = loops_of<BytesOfDown<kShape>>();

#endif

}  // namespace tandem::cpu_experts
