#include "cpu_experts/expert_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/base/check.h"

namespace tandem::cpu_experts {
namespace {

// Bits of the code of column `col` (0..7) inside its row's word.
constexpr int shift_of(int64_t col) { return static_cast<int>(8 * (col % 4) + 4 * (col / 4)); }

// Words of a row, side by side, at any address. Handed on by reference: the form of the larger one
// as a value depends on the instruction set.
using Words4 = uint32_t __attribute__((vector_size(16), aligned(1), may_alias));
using Words8 = uint32_t __attribute__((vector_size(32), aligned(1), may_alias));
using Words16 = uint32_t __attribute__((vector_size(64), aligned(1), may_alias));

// Exchanges the bits of `mask` with those `distance` above them.
template <int kDistance, typename Words>
[[gnu::always_inline]] inline void exchange(Words& words, uint32_t mask) {
  const Words differing = (words >> kDistance ^ words) & mask;
  words ^= differing ^ differing << kDistance;
}

// Words of eight codes of the checkpoint, columns 0 .. 7 from the lowest nibble up, to the order of
// the layout, 0 4 1 5 2 6 3 7: first the middle bytes change places, then the middle nibbles of
// either half.
[[gnu::always_inline]] inline void reorder(Words4& words) {
  exchange<8>(words, 0x0000'FF00u);
  exchange<4>(words, 0x00F0'00F0u);
}
[[gnu::always_inline]] inline void reorder(Words8& words) {
  using Bytes = uint8_t __attribute__((vector_size(32), aligned(1), may_alias));
  auto& bytes = reinterpret_cast<Bytes&>(words);
  bytes =
      __builtin_shufflevector(bytes, bytes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15,
                              16, 18, 17, 19, 20, 22, 21, 23, 24, 26, 25, 27, 28, 30, 29, 31);
  exchange<4>(words, 0x00F0'00F0u);
}

[[gnu::always_inline]] inline void reorder(Words16& words) {
  using Bytes = uint8_t __attribute__((vector_size(64), aligned(1), may_alias));
  auto& bytes = reinterpret_cast<Bytes&>(words);
  bytes = __builtin_shufflevector(
      bytes, bytes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 16, 18, 17, 19, 20, 22,
      21, 23, 24, 26, 25, 27, 28, 30, 29, 31, 32, 34, 33, 35, 36, 38, 37, 39, 40, 42, 41, 43, 44,
      46, 45, 47, 48, 50, 49, 51, 52, 54, 53, 55, 56, 58, 57, 59, 60, 62, 61, 63);
  exchange<4>(words, 0x00F0'00F0u);
}

// Runs of kRun words of a and b in turn, in every four words of a vector, or as many as two runs
// are: those of the first halves, and those of the second.
template <int kRun, typename Words>
[[gnu::always_inline]] inline void interleave(const Words& a,
                                              const Words& b,
                                              Words& first,
                                              Words& second) {
  constexpr int kNumWords = static_cast<int>(sizeof(Words) / sizeof(uint32_t));
  constexpr int kSpan = std::max(4, 2 * kRun);
  constexpr auto source_of = [](int idx) {  // of both vectors, b's behind a's
    const int run = idx % kSpan / kRun;
    return idx / kSpan * kSpan + run / 2 * kRun + idx % kRun + run % 2 * kNumWords;
  };
  const auto shuffle = [&]<int... kIdx>(std::integer_sequence<int, kIdx...>)
      __attribute__((always_inline)) {
    first = __builtin_shufflevector(a, b, source_of(kIdx)...);
    second = __builtin_shufflevector(a, b, (source_of(kIdx) + kSpan / 2)...);
  };
  shuffle(std::make_integer_sequence<int, kNumWords>{});
}

// Eight rows of eight words to eight columns, or, side by side, two times eight rows.
template <typename Words>
[[gnu::always_inline]] inline void transpose_eight(Words (&rows)[8]) {
  Words pairs[8], fours[8];
  for (int row = 0; row < 8; row += 2) {
    interleave<1>(rows[row], rows[row + 1], pairs[row], pairs[row + 1]);
  }
  for (int first = 0; first < 8; first += 4) {
    for (int pair = first; pair < first + 2; ++pair) {
      Words* columns = fours + 2 * pair - first;
      interleave<2>(pairs[pair], pairs[pair + 2], columns[0], columns[1]);
    }
  }
  for (int col = 0; col < 4; ++col) {
    interleave<4>(fours[col], fours[col + 4], rows[col], rows[col + 4]);
  }
}

struct alignas(64) Block {
  std::byte bytes[kBlockSizeBytes];
};

// The codes of 16 rows of four words, from the block's vector `first_vector` on.
void pack_codes(const uint8_t* codes, int64_t stride_bytes, int64_t first_vector, Block& block) {
  std::byte* target = block.bytes + kScalesSizeBytes + first_vector * kVectorSizeBytes;
  for (int64_t first_row = 0; first_row < kBlockRows; first_row += 4, target += 16) {
    Words4 rows[4], pairs[4];
    for (int64_t row = 0; row < 4; ++row) {
      rows[row] = *reinterpret_cast<const Words4*>(codes + (first_row + row) * stride_bytes);
      reorder(rows[row]);
    }
    interleave<1>(rows[0], rows[1], pairs[0], pairs[1]);
    interleave<1>(rows[2], rows[3], pairs[2], pairs[3]);
    interleave<2>(pairs[0], pairs[2], rows[0], rows[1]);
    interleave<2>(pairs[1], pairs[3], rows[2], rows[3]);
    for (int64_t vector = 0; vector < 4; ++vector) {
      *reinterpret_cast<Words4*>(target + vector * kVectorSizeBytes) = rows[vector];
    }
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

// The scales of 16 rows for four blocks, eight groups: transposed eight rows at a time.
constexpr int64_t kScaleBlocks = 4;
[[gnu::always_inline]] inline void pack_scales_of_four(const bf16* scales,
                                                       int64_t stride,
                                                       Block* blocks) {
  using Halves = uint16_t __attribute__((vector_size(16), aligned(1), may_alias));
  const auto low = [](const Halves& a, const Halves& b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  };
  const auto high = [](const Halves& a, const Halves& b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  };
  for (int64_t first_row = 0; first_row < kBlockRows; first_row += 8) {
    Halves rows[8];
    for (int64_t row = 0; row < 8; ++row) {
      rows[row] = *reinterpret_cast<const Halves*>(scales + (first_row + row) * stride);
    }
    // Interleaving rows four apart, three times, transposes.
    for (int step = 0; step < 3; ++step) {
      Halves next[8];
      for (int row = 0; row < 4; ++row) {
        next[2 * row] = low(rows[row], rows[row + 4]);
        next[2 * row + 1] = high(rows[row], rows[row + 4]);
      }
      for (int row = 0; row < 8; ++row) rows[row] = next[row];
    }
    for (int64_t group = 0; group < 2 * kScaleBlocks; ++group) {
      *reinterpret_cast<Halves*>(blocks[group / 2].bytes + group % 2 * kScalesSizeBytes / 2 +
                                 first_row * int64_t{sizeof(bf16)}) = rows[group];
    }
  }
}

// 16 rows of 64 columns of a matrix.
struct Source {
  const uint8_t* codes;
  int64_t codes_stride_bytes;
  const bf16* scales;
  int64_t scales_stride;
};

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

// The codes of a whole block whose scales are there, and all of it to memory: with what every
// x86-64 has, with AVX2, and with AVX-512, in half and a third of the instructions.
void pack_whole(const Source& source, Block& block, std::byte* target) {
  pack_codes(source.codes, source.codes_stride_bytes, 0, block);
  pack_codes(source.codes + sizeof(Words4), source.codes_stride_bytes, 4, block);
  stream_out(block, target);
}
#if defined(__x86_64__)
// The first eight rows wait in the block, since a line goes to memory whole.
[[gnu::target("avx2")]] void pack_whole_avx2(const Source& source,
                                             Block& block,
                                             std::byte* target) {
  if (reinterpret_cast<uintptr_t>(target) % 32 != 0) return pack_whole(source, block, target);
  const auto stream = [target](int64_t half_line, const Words8& words) {
    using Quads = long long __attribute__((vector_size(32)));
    __builtin_ia32_movntdq256(reinterpret_cast<Quads*>(target) + half_line,
                              reinterpret_cast<const Quads&>(words));
  };
  const auto words_at = [&block](int64_t half_line) -> Words8& {
    return reinterpret_cast<Words8*>(block.bytes)[half_line];
  };
  Words8 rows[8];
  const auto load_columns = [&](int64_t first_row) {
    for (int64_t row = 0; row < 8; ++row) {
      rows[row] = *reinterpret_cast<const Words8*>(source.codes +
                                                   (first_row + row) * source.codes_stride_bytes);
      reorder(rows[row]);
    }
    transpose_eight(rows);
  };
  load_columns(0);
  for (int vector = 0; vector < 8; ++vector) words_at(2 + 2 * vector) = rows[vector];
  load_columns(8);
  stream(0, words_at(0));
  stream(1, words_at(1));
  for (int vector = 0; vector < 8; ++vector) {
    stream(2 + 2 * vector, words_at(2 + 2 * vector));
    stream(3 + 2 * vector, rows[vector]);
  }
}

// Rows lie in halves of a vector, i beside i + 8, and what is shuffled stays in its half.
[[gnu::target("avx512f,avx512bw")]] void pack_whole_avx512(const Source& source,
                                                           Block& block,
                                                           std::byte* target) {
  if (reinterpret_cast<uintptr_t>(target) % 64 != 0) return pack_whole_avx2(source, block, target);
  Words16 rows[8];
  for (int64_t row = 0; row < 8; ++row) {
    const uint8_t* codes = source.codes + row * source.codes_stride_bytes;
    rows[row] = __builtin_shufflevector(
        *reinterpret_cast<const Words8*>(codes),
        *reinterpret_cast<const Words8*>(codes + 8 * source.codes_stride_bytes), 0, 1, 2, 3, 4, 5,
        6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    reorder(rows[row]);
  }
  transpose_eight(rows);
  const auto stream = [target](int64_t vector, const Words16& words) {
    using Quads = long long __attribute__((vector_size(64)));
    __builtin_ia32_movntdq512(reinterpret_cast<Quads*>(target) + vector,
                              reinterpret_cast<const Quads&>(words));
  };
  stream(0, *reinterpret_cast<const Words16*>(block.bytes));
  for (int vector = 0; vector < 8; ++vector) stream(1 + vector, rows[vector]);
}

auto best_pack_whole() {
  if (__builtin_cpu_supports("avx512bw") != 0) return pack_whole_avx512;
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
  pack_codes(source.codes, source.codes_stride_bytes, 0, block);
}

// Sixteen short streams are too many and too short for a processor to foresee: every block asks for
// a piece of the row of blocks below, which memory hands out fastest in the order of its addresses.
class RowBlockBelow {
 public:
  RowBlockBelow(const Int4Matrix& matrix, const MatrixPart& part, int64_t row_begin)
      : codes_(&matrix.packed(row_begin, part.col_begin / 2)),
        codes_stride_bytes_(matrix.packed.row_stride),
        codes_size_bytes_(part.num_cols / 2),
        scales_(reinterpret_cast<const uint8_t*>(
            &matrix.scale(row_begin, part.col_begin / kInt4GroupSize))),
        scales_stride_bytes_(matrix.scale.row_stride * int64_t{sizeof(bf16)}),
        scales_size_bytes_(part.num_cols / kInt4GroupSize * int64_t{sizeof(bf16)}) {}

  // What one block of the row will read: 512 bytes of codes, 64 of scales.
  void prefetch_piece() {
    for (int64_t offset = 0; offset < kCodesSizeBytes; offset += 64) {
      __builtin_prefetch(codes_ + codes_done_bytes_ + offset, 0, 2);
    }
    __builtin_prefetch(scales_ + scales_done_bytes_, 0, 2);
    advance(codes_, codes_stride_bytes_, codes_size_bytes_, codes_done_bytes_, kCodesSizeBytes);
    advance(scales_, scales_stride_bytes_, scales_size_bytes_, scales_done_bytes_, 64);
  }

 private:
  static constexpr int64_t kCodesSizeBytes = kBlockRows * kBlockCols / 2;
  static void advance(const uint8_t*& row,
                      int64_t stride_bytes,
                      int64_t size_bytes,
                      int64_t& done_bytes,
                      int64_t piece_size_bytes) {
    done_bytes += piece_size_bytes;
    if (done_bytes < size_bytes) return;
    done_bytes = 0;
    row += stride_bytes;
  }

  const uint8_t* codes_;
  int64_t codes_stride_bytes_, codes_size_bytes_, codes_done_bytes_ = 0;
  const uint8_t* scales_;
  int64_t scales_stride_bytes_, scales_size_bytes_, scales_done_bytes_ = 0;
};

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
  constexpr int64_t kFourBlockCols = kScaleBlocks * kBlockCols;
  const int64_t cols_in_fours = part.num_cols / kFourBlockCols * kFourBlockCols;
  Block blocks[kScaleBlocks];
  for (int64_t row = 0; row < part.num_rows; row += kBlockRows) {
    std::byte* target = packed + row / kBlockRows * row_block_stride_bytes;
    RowBlockBelow below(matrix, part,
                        part.row_begin + std::min(row + kBlockRows, part.num_rows - kBlockRows));
    for (int64_t col = 0; col < part.num_cols; col += kBlockCols, target += kBlockSizeBytes) {
      const int64_t from_row = part.row_begin + row, from_col = part.col_begin + col;
      const Source source{.codes = &matrix.packed(from_row, from_col / 2),
                          .codes_stride_bytes = matrix.packed.row_stride,
                          .scales = &matrix.scale(from_row, from_col / kInt4GroupSize),
                          .scales_stride = matrix.scale.row_stride};
      below.prefetch_piece();
      const int64_t num_cols_left = part.num_cols - col;
      Block& block = blocks[col / kBlockCols % kScaleBlocks];
      if (num_cols_left < kBlockCols) {
        pack_half(source, block);
        stream_out(block, target);
      } else {
        if (col >= cols_in_fours) {
          pack_scales(source.scales, source.scales_stride, block);
        } else if (col % kFourBlockCols == 0) {
          pack_scales_of_four(source.scales, source.scales_stride, blocks);
        }
        pack_whole_block(source, block, target);
      }
    }
  }
#if defined(__x86_64__)
  __builtin_ia32_sfence();  // streamed stores are not ordered by locks and atomics
#endif
}

void pack_expert(const ExpertTensors& tensors, const IntermediatePart& part, std::byte* packed) {
  const int64_t hidden_size = tensors.gate_proj.in_features();
  const int64_t row_block_size_bytes = packed_size_bytes(kBlockRows, hidden_size);
  const MatrixPart rows{
      .row_begin = part.begin, .num_rows = part.size, .col_begin = 0, .num_cols = hidden_size};
  pack_matrix(tensors.gate_proj, rows, packed, 2 * row_block_size_bytes);
  pack_matrix(tensors.up_proj, rows, packed + row_block_size_bytes, 2 * row_block_size_bytes);
  const MatrixPart cols{
      .row_begin = 0, .num_rows = hidden_size, .col_begin = part.begin, .num_cols = part.size};
  pack_matrix(tensors.down_proj, cols, packed + gate_up_size_bytes(hidden_size, part.size),
              packed_size_bytes(kBlockRows, part.size));
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
