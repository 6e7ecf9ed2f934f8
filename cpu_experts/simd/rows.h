// The vector vocabulary of the integer kernels: sixteen rows side by side, in the registers that
// the compile unit's flags allow. All of it in an anonymous namespace: no symbol of one instruction
// set is ever linked into another.
//   Codes   codes (0..15) of each row: four neighbouring ones as bytes, or two as 16-bit words
//   Sum     exact sums of code times integer over a part of one group of 32 columns, of each row
//   Rows    16 floats, one a row
//
// With VNNI (and without vectors, for the tests) bytes are not decoded, which saves 8 of 145 vector
// instructions for a group of a row block and 12 tokens: each holds its own code in the high nibble
// and another's, or none, in the low one. Of eight columns, 32 bits of a vector, the bytes are
//   16 code[4 + k] + code[k]                       where they lie, for columns 4 + k, k = 0..3,
//   16 code[k] + (k odd ? code[k + 3] : 0)         shifted by a nibble in 16 bits, for columns k.
// So a Sum is in sixteenths, and what stands for one column counts for another, too, a sixteenth:
// whoever makes the integers starts from there (unmix() in kernels/activations-inl.h).
//
// Without VNNI a byte is one code, and a Sum of bytes has two 16-bit lanes a row. A lane begins at
// -8 times its 16 values' sum and ends within 8 * 127 * (16 + 4) = 20,320: those of two wide quads
// are twice as large. (The sum wraps on the way; only where it ends counts.)
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tandem::cpu_experts {
namespace {

inline int32_t word_at(const void* from) {
  int32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}
inline float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// A word as an operand in memory.
using AliasedWord = int32_t __attribute__((may_alias, aligned(1)));
inline const AliasedWord& word_of(const void* from) {
  return *static_cast<const AliasedWord*>(from);
}

#if !defined(__AVX2__) || defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool kNibblesMix = true;
#else
constexpr bool kNibblesMix = false;
#endif

constexpr float kOrigin = 12582912.0f;  // 1.5 * 2^23: its last bit is one
constexpr int32_t kOriginBits = __builtin_bit_cast(int32_t, kOrigin);

// What a Sum of words over `v`, 32 values in the order of the columns, begins with in every row:
// codes are stored as code + 8. It counts from `origin`, the bits of a float.
inline int32_t start_of_words(const int32_t* v, int32_t origin) {
  int32_t sum = 0;
  for (int col = 0; col < 32; ++col) sum += v[col];
  return origin - 8 * sum;
}
// What takes the 8 off a Sum of bytes that is scaled by s: the bits of a float that s times the sum
// is to be reduced by, where all sums begin with kOriginBits, else two lanes to begin with.
inline int32_t offset_of_bytes(const int32_t* v, float s) {
  if constexpr (kNibblesMix) {
    int32_t sum = 0, mixed = 0;
    for (int col = 0; col < 32; ++col) {
      sum += v[col];
      mixed += v[col] & (col % 8 >= 4 || col % 2 != 0 ? -1 : 0);
    }
    const float offset = s * (kOrigin + static_cast<float>(8 * (16 * sum + mixed)));
    return word_at(&offset);
  }
  int32_t lane[2] = {};  // columns 0, 1 and 2, 3 of every four
  for (int col = 0; col < 32; ++col) lane[col / 2 % 2] += v[col];
  return static_cast<int32_t>((static_cast<uint32_t>(-8 * lane[0]) & 0xffffu) |
                              static_cast<uint32_t>(-8 * lane[1]) << 16);
}

// How rows and tokens make tiles.
struct TileShape {
  int row_blocks;         // of a tile of several
  int tokens;             // at most, of such a tile alone
  int tokens_of_several;  // and where there are several of them
  int few_tokens;         // up to here one row block after the other
  int most_tokens;        // and beyond here
  int row_tokens;         // of a tile of one row block, at most
  bool keeps_operands;    // codes are decoded by the first tile for those that follow, else by each
  bool merges_operands;   // a second product's operand is made of four (activations-inl.h)
};
constexpr TileShape row_by_row(int tokens) {
  return {.row_blocks = 1,
          .tokens = tokens,
          .tokens_of_several = tokens,
          .few_tokens = 0,
          .most_tokens = 1 << 30,
          .row_tokens = tokens,
          .keeps_operands = true,
          .merges_operands = false};
}

#if defined(__AVX512BW__)

// A tile is of two row blocks, since a load of activations for every product would take as long as
// the product (13 % slower on Emerald Rapids). 28 sums, two parts of codes, a mask and an operand
// are all of the 32 registers, and GCC spills a few: 4 to 7 % faster than two tiles of seven, but
// where there are several anyway 1 to 3 % slower than 13 tokens. One token reads one row block
// after the other; two gain from two streams of memory (1 to 35 %).
constexpr TileShape kTileShape = {.row_blocks = 2,
                                  .tokens = 14,
                                  .tokens_of_several = 13,
                                  .few_tokens = 1,
                                  .most_tokens = 1 << 30,
                                  .row_tokens = 4,
                                  .keeps_operands = true,
                                  .merges_operands = false};
// A Zen 4 works on 512 bits in two halves, so that one product starts a cycle. Beside products it
// loads and decodes in its time to spare, but a vector stored costs one or two of them: no total
// leaves the registers inside a tile, and little is kept.
constexpr TileShape kZen4TileShape = {.row_blocks = 2,
                                      .tokens = 6,
                                      .tokens_of_several = 6,
                                      .few_tokens = 1,
                                      .most_tokens = 6,
                                      .row_tokens = 12,
                                      .keeps_operands = false,
                                      .merges_operands = true};
// Sums, and as many totals, that stand in registers beside operands.
constexpr int kMostInRegisters = 12;
using Codes = __m512i;
using Sum = __m512i;
using Rows = __m512;

inline Rows load_rows(const float* from) { return _mm512_loadu_ps(from); }
inline void store_rows(float* to, Rows rows) { _mm512_storeu_ps(to, rows); }
inline Rows load_scales(const uint8_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Rows multiply_add(Rows value, Rows scales, Rows total) {
  return _mm512_fmadd_ps(value, scales, total);
}

// Into a register: GCC would read memory again for each part of it.
inline Codes load_codes(const uint8_t* from) {
  Codes codes = _mm512_loadu_si512(from);
  asm("" : "+v"(codes));
  return codes;
}
inline void store_codes(uint8_t* to, Codes codes) { _mm512_storeu_si512(to, codes); }
// Codes with byte kByte of every row taken from memory.
template <int kByte>
Codes with_bytes(Codes codes, const uint8_t* from) {
  return _mm512_mask_loadu_epi8(codes, uint64_t{0x1111111111111111} << kByte, from);
}
// Four neighbouring columns: the low nibbles of a vector, or the high ones.
template <int kPart>
Codes part_of(Codes vector, int8_t /*bytes*/) {
  if constexpr (kNibblesMix) {
    return kPart == 0 ? _mm512_slli_epi16(vector, 4) : vector;
  } else {
    return _mm512_and_si512(kPart == 0 ? vector : _mm512_srli_epi16(vector, 4),
                            _mm512_set1_epi8(15));
  }
}
// Two columns: nibbles kPart and kPart + 4 of every 32 bits.
template <int kPart>
Codes part_of(Codes vector, int16_t /*words*/) {
  if constexpr (kPart == 3) return _mm512_srli_epi16(vector, 12);
  return _mm512_and_si512(_mm512_srli_epi16(vector, 4 * kPart), _mm512_set1_epi16(15));
}
// The same words times 1, 16, 256 and 1: masked where they stand.
template <int kPart>
Codes part_in_place(Codes vector) {
  if constexpr (kPart == 3) {
    return _mm512_srli_epi16(vector, 12);
  } else {
    return _mm512_and_si512(vector, _mm512_set1_epi16(15 << 4 * kPart));
  }
}
// sum + sum16 / 16 + sum256 / 256
inline Sum join(Sum sum, Sum sum16, Sum sum256) {
  const __m512i joined = _mm512_add_epi32(sum16, _mm512_srai_epi32(sum256, 4));
  return _mm512_add_epi32(sum, _mm512_srai_epi32(joined, 4));
}
inline Sum zero_sum() { return _mm512_setzero_si512(); }
inline Sum start_words(const int32_t* start) { return _mm512_set1_epi32(*start); }
inline Sum start_bytes(const int32_t* offset) {
  return _mm512_set1_epi32(kNibblesMix ? kOriginBits : *offset);
}
inline __m512i broadcast(const void* from) { return _mm512_set1_epi32(word_at(from)); }
// A sum of words that counts from `origin`, and s times one of bytes.
inline Rows from_origin(Sum sum, float origin) {
  return _mm512_sub_ps(_mm512_castsi512_ps(sum), _mm512_set1_ps(origin));
}
#if defined(__AVX512VNNI__)
inline Sum add_products(Sum sum, Codes codes, Codes x, int8_t) {
  return _mm512_dpbusd_epi32(sum, codes, x);
}
inline Sum add_products(Sum sum, Codes codes, Codes x, int16_t) {
  return _mm512_dpwssd_epi32(sum, codes, x);
}
// GCC broadcasts with an instruction of its own what the product could. For few tokens the number
// of instructions counts: a third faster for one.
inline Sum add_products(Sum sum, Codes codes, const void* x, int8_t) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(word_of(x)));
  return sum;
}
inline Sum add_products(Sum sum, Codes codes, const void* x, int16_t) {
  asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(word_of(x)));
  return sum;
}
inline Rows scaled_bytes(Sum sum, float s, int32_t offset) {
  return _mm512_fmsub_ps(_mm512_castsi512_ps(sum), _mm512_set1_ps(s),
                         _mm512_castsi512_ps(_mm512_set1_epi32(offset)));
}
#else
inline Sum add_products(Sum sum, Codes codes, Codes x, int8_t) {
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, x));
}
inline Sum add_products(Sum sum, Codes codes, Codes x, int16_t) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(codes, x));
}
template <typename Value>
Sum add_products(Sum sum, Codes codes, const void* x, Value value) {
  return add_products(sum, codes, broadcast(x), value);
}
inline Rows scaled_bytes(Sum sum, float s, int32_t /*offset*/) {
  const Sum joined = _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(joined), _mm512_set1_ps(s));
}
#endif

#elif defined(__AVX2__)

#if defined(__AVXVNNI__)
constexpr int kRowTokens = 6;
#else
constexpr int kRowTokens = 4;
#endif
constexpr TileShape kTileShape = row_by_row(kRowTokens);
constexpr int kMostInRegisters = 0;
struct Codes {
  __m256i low, high;  // rows 0..7, 8..15
};
using Sum = Codes;
struct Rows {
  __m256 low, high;
};

inline Rows load_rows(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline void store_rows(float* to, const Rows& rows) {
  _mm256_storeu_ps(to, rows.low);
  _mm256_storeu_ps(to + 8, rows.high);
}
inline __m256 widen_scales(const uint8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Rows load_scales(const uint8_t* from) {
  return {widen_scales(from), widen_scales(from + 16)};
}
inline Rows multiply_add(const Rows& value, const Rows& scales, const Rows& total) {
  return {_mm256_fmadd_ps(value.low, scales.low, total.low),
          _mm256_fmadd_ps(value.high, scales.high, total.high)};
}

inline Codes load_codes(const uint8_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
}
inline void store_codes(uint8_t* to, const Codes& codes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), codes.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), codes.high);
}
// Four neighbouring columns: the low nibbles of a vector, or the high ones.
template <int kPart>
__m256i part_of_half(__m256i half, int8_t /*bytes*/) {
  if constexpr (kNibblesMix) {
    return kPart == 0 ? _mm256_slli_epi16(half, 4) : half;
  } else {
    return _mm256_and_si256(kPart == 0 ? half : _mm256_srli_epi16(half, 4), _mm256_set1_epi8(15));
  }
}
// Two columns: nibbles kPart and kPart + 4 of every 32 bits.
template <int kPart>
__m256i part_of_half(__m256i half, int16_t /*words*/) {
  if constexpr (kPart == 3) return _mm256_srli_epi16(half, 12);
  return _mm256_and_si256(kPart == 0 ? half : _mm256_srli_epi16(half, 4 * kPart),
                          _mm256_set1_epi16(15));
}
template <int kPart, typename Value>
Codes part_of(const Codes& vector, Value value) {
  return {part_of_half<kPart>(vector.low, value), part_of_half<kPart>(vector.high, value)};
}
// The same words times 1, 16, 256 and 1: masked where they stand.
template <int kPart>
Codes part_in_place(const Codes& vector) {
  if constexpr (kPart == 3) {
    return part_of<3>(vector, int16_t{});
  } else {
    const __m256i mask = _mm256_set1_epi16(15 << 4 * kPart);
    return {_mm256_and_si256(vector.low, mask), _mm256_and_si256(vector.high, mask)};
  }
}
inline __m256i join_half(__m256i sum, __m256i sum16, __m256i sum256) {
  const __m256i joined = _mm256_add_epi32(sum16, _mm256_srai_epi32(sum256, 4));
  return _mm256_add_epi32(sum, _mm256_srai_epi32(joined, 4));
}
// sum + sum16 / 16 + sum256 / 256
inline Sum join(const Sum& sum, const Sum& sum16, const Sum& sum256) {
  return {join_half(sum.low, sum16.low, sum256.low), join_half(sum.high, sum16.high, sum256.high)};
}
inline Sum zero_sum() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Sum start_words(const int32_t* start) {
  const __m256i all = _mm256_set1_epi32(*start);
  return {all, all};
}
inline Sum start_bytes(const int32_t* offset) {
  const __m256i all = _mm256_set1_epi32(kNibblesMix ? kOriginBits : *offset);
  return {all, all};
}
inline __m256i broadcast(const void* from) { return _mm256_set1_epi32(word_at(from)); }
// A sum of words that counts from `origin`, and s times one of bytes.
inline Rows from_origin(const Sum& sum, float origin) {
  const __m256 all = _mm256_set1_ps(origin);
  return {_mm256_sub_ps(_mm256_castsi256_ps(sum.low), all),
          _mm256_sub_ps(_mm256_castsi256_ps(sum.high), all)};
}
#if defined(__AVXVNNI__)
inline __m256i add_half(__m256i sum, __m256i codes, __m256i x, int8_t) {
  return _mm256_dpbusd_avx_epi32(sum, codes, x);
}
inline __m256i add_half(__m256i sum, __m256i codes, __m256i x, int16_t) {
  return _mm256_dpwssd_avx_epi32(sum, codes, x);
}
inline Rows scaled_bytes(const Sum& sum, float s, int32_t offset) {
  const __m256 all = _mm256_set1_ps(s);
  const __m256 all_offset = _mm256_castsi256_ps(_mm256_set1_epi32(offset));
  return {_mm256_fmsub_ps(_mm256_castsi256_ps(sum.low), all, all_offset),
          _mm256_fmsub_ps(_mm256_castsi256_ps(sum.high), all, all_offset)};
}
#else
inline __m256i add_half(__m256i sum, __m256i codes, __m256i x, int8_t) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x));
}
inline __m256i add_half(__m256i sum, __m256i codes, __m256i x, int16_t) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, x));
}
inline Rows scaled_bytes(const Sum& sum, float s, int32_t /*offset*/) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256 all = _mm256_set1_ps(s);
  return {_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(sum.low, ones)), all),
          _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(sum.high, ones)), all)};
}
#endif
template <typename Value>
Sum add_products(const Sum& sum, const Codes& codes, const void* x, Value value) {
  const __m256i all = broadcast(x);
  return {add_half(sum.low, codes.low, all, value), add_half(sum.high, codes.high, all, value)};
}

#else

constexpr TileShape kTileShape = row_by_row(1);
constexpr int kMostInRegisters = 0;
struct Codes {
  uint32_t row[16];
};
struct Sum {
  int32_t row[16];
};
struct Rows {
  float row[16];
};

inline Rows load_rows(const float* from) {
  Rows rows;
  std::memcpy(rows.row, from, sizeof(rows.row));
  return rows;
}
inline void store_rows(float* to, const Rows& rows) { std::memcpy(to, rows.row, sizeof(rows.row)); }
inline Rows load_scales(const uint8_t* from) {
  uint16_t bits[16];
  std::memcpy(bits, from, sizeof(bits));
  Rows rows;
  for (int row = 0; row < 16; ++row) {
    const uint32_t word = static_cast<uint32_t>(bits[row]) << 16;
    std::memcpy(&rows.row[row], &word, sizeof(word));
  }
  return rows;
}
inline Rows multiply_add(const Rows& value, const Rows& scales, const Rows& total) {
  Rows next;
  for (int row = 0; row < 16; ++row) {
    next.row[row] = __builtin_fmaf(value.row[row], scales.row[row], total.row[row]);
  }
  return next;
}

inline Codes load_codes(const uint8_t* from) {
  Codes codes;
  std::memcpy(codes.row, from, sizeof(codes.row));
  return codes;
}
inline void store_codes(uint8_t* to, const Codes& codes) {
  std::memcpy(to, codes.row, sizeof(codes.row));
}
// Four neighbouring columns: the low nibbles of a vector, or the high ones.
template <int kPart>
Codes part_of(const Codes& vector, int8_t /*bytes*/) {
  if constexpr (kPart == 1) return vector;
  Codes codes;
  for (int row = 0; row < 16; ++row) codes.row[row] = (vector.row[row] & 0x0fff0fffu) << 4;
  return codes;
}
// Two columns: nibbles kPart and kPart + 4 of every 32 bits.
template <int kPart>
Codes part_of(const Codes& vector, int16_t /*words*/) {
  Codes codes;
  for (int row = 0; row < 16; ++row) codes.row[row] = vector.row[row] >> 4 * kPart & 0x000f000fu;
  return codes;
}
// The same words times 1, 16, 256 and 1: masked where they stand.
template <int kPart>
Codes part_in_place(const Codes& vector) {
  if constexpr (kPart == 3) return part_of<3>(vector, int16_t{});
  Codes codes;
  for (int row = 0; row < 16; ++row) codes.row[row] = vector.row[row] & 0x000f000fu << 4 * kPart;
  return codes;
}
// sum + sum16 / 16 + sum256 / 256
inline Sum join(const Sum& sum, const Sum& sum16, const Sum& sum256) {
  Sum joined;
  for (int row = 0; row < 16; ++row) {
    joined.row[row] = sum.row[row] + sum16.row[row] / 16 + sum256.row[row] / 256;
  }
  return joined;
}
inline Sum zero_sum() { return {}; }
inline Sum start_words(const int32_t* start) {
  Sum sum;
  for (int32_t& row : sum.row) row = *start;
  return sum;
}
inline Sum start_bytes(const int32_t* /*offset*/) { return start_words(&kOriginBits); }
template <typename Value>
Sum add_products(const Sum& sum, const Codes& codes, const void* from, Value) {
  constexpr int kColumns = 4 / static_cast<int>(sizeof(Value));
  constexpr int kBits = 8 * static_cast<int>(sizeof(Value));
  constexpr uint32_t kMask = (1u << kBits) - 1;
  Value x[kColumns];
  std::memcpy(x, from, sizeof(x));
  Sum next = sum;
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < kColumns; ++col) {
      next.row[row] += static_cast<int32_t>(codes.row[row] >> kBits * col & kMask) * x[col];
    }
  }
  return next;
}
// A sum of words that counts from `origin`, and s times one of bytes.
inline Rows from_origin(const Sum& sum, float origin) {
  Rows rows;
  std::memcpy(rows.row, sum.row, sizeof(rows.row));
  for (float& row : rows.row) row -= origin;
  return rows;
}
inline Rows scaled_bytes(const Sum& sum, float s, int32_t offset) {
  Rows rows;
  std::memcpy(rows.row, sum.row, sizeof(rows.row));
  for (float& row : rows.row) row = __builtin_fmaf(row, s, -float_of(offset));
  return rows;
}

#endif

}  // namespace
}  // namespace tandem::cpu_experts
