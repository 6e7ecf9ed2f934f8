#include "cpu_experts/expert_weights.h"

#include <cstring>

#include "runtime/base/check.h"

namespace tandem::cpu_experts {
namespace {

// Bits of the code of column `col` (0..7) inside its row's word.
constexpr int shift_of(int64_t col) { return static_cast<int>(8 * (col % 4) + 4 * (col / 4)); }

// Words of a row, side by side, at any address. Handed on by reference: the form of the larger one
// as a value depends on the instruction set.
using Words4 = uint32_t __attribute__((vector_size(16), aligned(1), may_alias));
using Words8 = uint32_t __attribute__((vector_size(32), aligned(1), may_alias));

// Words of eight codes of the checkpoint to the order of the layout.
template <typename Words>
[[gnu::always_inline]] inline void reorder(Words& words) {
  // Four nibbles to the low nibbles of four bytes: columns 0-3, then 4-7.
  Words low = words & 0xFFFFu;
  low = (low | low << 8) & 0x00FF'00FFu;
  low = (low | low << 4) & 0x0F0F'0F0Fu;
  Words high = words >> 16;
  high = (high | high << 8) & 0x00FF'00FFu;
  high = (high | high << 4) & 0x0F0F'0F0Fu;
  words = low | high << 4;
}

// Stores the words of four rows by columns: word w of the rows at vector w, `kVectorSizeBytes`
// apart.
[[gnu::always_inline]] inline void store_columns(const Words4& row0,
                                                 const Words4& row1,
                                                 const Words4& row2,
                                                 const Words4& row3,
                                                 std::byte* target) {
  const Words4 low01 = __builtin_shufflevector(row0, row1, 0, 4, 1, 5);
  const Words4 low23 = __builtin_shufflevector(row2, row3, 0, 4, 1, 5);
  const Words4 high01 = __builtin_shufflevector(row0, row1, 2, 6, 3, 7);
  const Words4 high23 = __builtin_shufflevector(row2, row3, 2, 6, 3, 7);
  const auto store = [&](int64_t vector, const Words4& words) {
    *reinterpret_cast<Words4*>(target + vector * kVectorSizeBytes) = words;
  };
  store(0, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
  store(1, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
  store(2, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
  store(3, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
}
[[gnu::always_inline]] inline void store_columns(const Words8& row0,
                                                 const Words8& row1,
                                                 const Words8& row2,
                                                 const Words8& row3,
                                                 std::byte* target) {
  store_columns(__builtin_shufflevector(row0, row0, 0, 1, 2, 3),
                __builtin_shufflevector(row1, row1, 0, 1, 2, 3),
                __builtin_shufflevector(row2, row2, 0, 1, 2, 3),
                __builtin_shufflevector(row3, row3, 0, 1, 2, 3), target);
  store_columns(__builtin_shufflevector(row0, row0, 4, 5, 6, 7),
                __builtin_shufflevector(row1, row1, 4, 5, 6, 7),
                __builtin_shufflevector(row2, row2, 4, 5, 6, 7),
                __builtin_shufflevector(row3, row3, 4, 5, 6, 7), target + 4 * kVectorSizeBytes);
}

struct alignas(64) Block {
  std::byte bytes[kBlockSizeBytes];
};

// The codes of 16 rows of words, from the block's vector `first_vector` on.
template <typename Words>
[[gnu::always_inline]] inline void pack_codes(const uint8_t* codes,
                                              int64_t stride_bytes,
                                              int64_t first_vector,
                                              Block& block) {
  std::byte* target = block.bytes + kScalesSizeBytes + first_vector * kVectorSizeBytes;
  for (int64_t row = 0; row < kBlockRows; row += 4, codes += 4 * stride_bytes, target += 16) {
    Words row0 = *reinterpret_cast<const Words*>(codes);
    Words row1 = *reinterpret_cast<const Words*>(codes + stride_bytes);
    Words row2 = *reinterpret_cast<const Words*>(codes + 2 * stride_bytes);
    Words row3 = *reinterpret_cast<const Words*>(codes + 3 * stride_bytes);
    reorder(row0);
    reorder(row1);
    reorder(row2);
    reorder(row3);
    store_columns(row0, row1, row2, row3, target);
  }
}

// The two groups' scales of 16 rows: a row's pair is a word, and the halves are gathered apart.
[[gnu::always_inline]] inline void pack_scales(const bf16* scales, int64_t stride, Block& block) {
  using Halves = uint16_t __attribute__((vector_size(16), aligned(1), may_alias));
  const auto pair_of = [&](int64_t row) {
    uint32_t pair = 0;
    std::memcpy(&pair, scales + row * stride, sizeof(pair));
    return pair;
  };
  for (int64_t row = 0; row < kBlockRows; row += 8) {
    const Words4 first{pair_of(row), pair_of(row + 1), pair_of(row + 2), pair_of(row + 3)};
    const Words4 second{pair_of(row + 4), pair_of(row + 5), pair_of(row + 6), pair_of(row + 7)};
    const auto low = reinterpret_cast<const Halves&>(first);
    const auto high = reinterpret_cast<const Halves&>(second);
    std::byte* target = block.bytes + row * int64_t{sizeof(bf16)};
    *reinterpret_cast<Halves*>(target) =
        __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
    *reinterpret_cast<Halves*>(target + kScalesSizeBytes / 2) =
        __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
  }
}

// 16 rows of 64 columns of a matrix.
struct Source {
  const uint8_t* codes;
  int64_t codes_stride_bytes;
  const bf16* scales;
  int64_t scales_stride;
};

// A whole block, with what every x86-64 has and with AVX2.
void pack_whole(const Source& source, Block& block) {
  pack_scales(source.scales, source.scales_stride, block);
  pack_codes<Words4>(source.codes, source.codes_stride_bytes, 0, block);
  pack_codes<Words4>(source.codes + sizeof(Words4), source.codes_stride_bytes, 4, block);
}
#if defined(__x86_64__)
[[gnu::target("avx2")]] void pack_whole_avx2(const Source& source, Block& block) {
  pack_scales(source.scales, source.scales_stride, block);
  pack_codes<Words8>(source.codes, source.codes_stride_bytes, 0, block);
}
auto best_pack_whole() {
  return __builtin_cpu_supports("avx2") != 0 ? pack_whole_avx2 : pack_whole;
}
#else
auto best_pack_whole() { return pack_whole; }
#endif

// The first 32 columns alone, an odd group at the end of the rows; the other half is zero.
void pack_half(const Source& source, Block& block) {
  std::memset(block.bytes, 0, kBlockSizeBytes);
  for (int64_t row = 0; row < kBlockRows; ++row) {
    std::memcpy(block.bytes + row * int64_t{sizeof(bf16)},
                source.scales + row * source.scales_stride, sizeof(bf16));
  }
  pack_codes<Words4>(source.codes, source.codes_stride_bytes, 0, block);
}

// Sixteen short streams are too many and too short for a processor to foresee: a block asks for
// what the next row of blocks will read, a line of every row for two blocks.
void prefetch_below(const Int4Matrix& matrix, int64_t row_begin, int64_t col_begin) {
  if (col_begin / kBlockCols % 2 != 0 || row_begin + 2 * kBlockRows > matrix.packed.rows) return;
  const uint8_t* codes = &matrix.packed(row_begin + kBlockRows, col_begin / 2);
  for (int64_t row = 0; row < kBlockRows; ++row) {
    __builtin_prefetch(codes + row * matrix.packed.row_stride, 0, 2);
  }
}

// To memory past the caches: what is packed is not read again before the whole is, and an ordinary
// store would read the line first.
void stream_out(const Block& block, std::byte* target) {
#if defined(__x86_64__)
  using Vector = long long __attribute__((vector_size(16)));
  const auto* from = reinterpret_cast<const Vector*>(block.bytes);
  auto* to = reinterpret_cast<Vector*>(target);
  for (int64_t idx = 0; idx < kBlockSizeBytes / int64_t{sizeof(Vector)}; ++idx) {
    __builtin_ia32_movntdq(to + idx, from[idx]);
  }
#else
  std::memcpy(target, block.bytes, kBlockSizeBytes);
#endif
}

}  // namespace

void pack_matrix(const Int4Matrix& matrix,
                 const MatrixPart& part,
                 std::byte* packed,
                 int64_t row_block_stride_bytes) {
  TANDEM_CHECK(part.num_rows % kBlockRows == 0 && part.num_cols % kInt4GroupSize == 0,
               "a part must be whole row blocks and groups");
  TANDEM_CHECK(reinterpret_cast<uintptr_t>(packed) % 16 == 0,
               "packed weights lie at multiples of 16 bytes");
  const auto pack_whole_block = best_pack_whole();
  Block block;
  for (int64_t row = 0; row < part.num_rows; row += kBlockRows) {
    std::byte* target = packed + row / kBlockRows * row_block_stride_bytes;
    for (int64_t col = 0; col < part.num_cols; col += kBlockCols, target += kBlockSizeBytes) {
      const int64_t from_row = part.row_begin + row, from_col = part.col_begin + col;
      const Source source{.codes = &matrix.packed(from_row, from_col / 2),
                          .codes_stride_bytes = matrix.packed.row_stride,
                          .scales = &matrix.scale(from_row, from_col / kInt4GroupSize),
                          .scales_stride = matrix.scale.row_stride};
      prefetch_below(matrix, from_row, from_col);
      if (part.num_cols - col >= kBlockCols) {
        pack_whole_block(source, block);
      } else {
        pack_half(source, block);
      }
      stream_out(block, target);
    }
  }
#if defined(__x86_64__)
  __builtin_ia32_sfence();  // streamed stores are not ordered by locks and atomics
#endif
}

std::vector<float> unpack_matrix(std::span<const std::byte> packed,
                                 int64_t out_features,
                                 int64_t in_features,
                                 int64_t row_block_stride_bytes) {
  std::vector<float> weights(static_cast<size_t>(out_features * in_features));
  for (int64_t row = 0; row < out_features; ++row) {
    for (int64_t col = 0; col < in_features; ++col) {
      const std::byte* block = packed.data() + row / kBlockRows * row_block_stride_bytes +
                               col / kBlockCols * kBlockSizeBytes;
      bf16 scale;
      const int64_t group = col % kBlockCols / kInt4GroupSize;
      std::memcpy(&scale, block + (group * kBlockRows + row % kBlockRows) * int64_t{sizeof(bf16)},
                  sizeof(scale));
      uint32_t word = 0;
      const int64_t vector = col % kBlockCols / kVectorCols;
      std::memcpy(&word,
                  block + kScalesSizeBytes + vector * kVectorSizeBytes + row % kBlockRows * 4,
                  sizeof(word));
      const auto code = static_cast<int>(word >> shift_of(col % kVectorCols) & 0xFu);
      weights[static_cast<size_t>(row * in_features + col)] =
          static_cast<float>(code - 8) * scale.to_float();
    }
  }
  return weights;
}

}  // namespace tandem::cpu_experts
