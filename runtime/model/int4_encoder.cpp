#include "runtime/model/int4_encoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "runtime/base/check.h"

namespace tandem {

namespace {

constexpr int32_t kOffset = 8;  // u = q + 8
constexpr float kMaxCode = 7.0f;

// Adding 1.5 * 2^23 leaves the integer, rounded half to even, in the low mantissa bits: vectorises,
// unlike nearbyint. |value| <= 2^22.
int32_t round_half_even(float value) {
  constexpr float kMagic = 12582912.0f;
  return std::bit_cast<int32_t>(value + kMagic) - std::bit_cast<int32_t>(kMagic);
}

// One group; false when a weight is not finite.
bool encode_group(const bf16* weights, uint8_t* packed, bf16& scale) {
  std::array<float, kInt4GroupSize> values;
  uint32_t max_magnitude_bits = 0;  // of finite floats the bits order as the magnitudes do
  for (int col_idx = 0; col_idx < kInt4GroupSize; ++col_idx) {
    values[col_idx] = weights[col_idx].to_float();
    max_magnitude_bits =
        std::max(max_magnitude_bits, std::bit_cast<uint32_t>(values[col_idx]) & 0x7fffffffu);
  }
  if (max_magnitude_bits >= 0x7f800000u) return false;
  scale = bf16(std::bit_cast<float>(max_magnitude_bits) / kMaxCode);
  if (scale.bits == 0) scale = bf16(1.0f);
  const float divisor = scale.to_float();
  std::array<uint8_t, kInt4GroupSize> codes;
  for (int col_idx = 0; col_idx < kInt4GroupSize; ++col_idx) {
    const float quotient = std::clamp(values[col_idx] / divisor, -kMaxCode, kMaxCode);
    codes[col_idx] = static_cast<uint8_t>(round_half_even(quotient) + kOffset);
  }
  for (int byte_idx = 0; byte_idx < kInt4GroupSize / 2; ++byte_idx) {
    packed[byte_idx] = static_cast<uint8_t>(codes[2 * byte_idx] | (codes[2 * byte_idx + 1] << 4));
  }
  return true;
}

}  // namespace

bool encode_int4(MatrixView<const bf16> weights,
                 MatrixView<uint8_t> packed,
                 MatrixView<bf16> scale) {
  TANDEM_CHECK(weights.cols % kInt4GroupSize == 0, "INT4 rows are whole groups");
  TANDEM_CHECK(packed.cols == weights.cols / 2 && packed.rows == weights.rows, "packed shape");
  TANDEM_CHECK(scale.cols == weights.cols / kInt4GroupSize && scale.rows == weights.rows,
               "scale shape");
  for (int64_t row_idx = 0; row_idx < weights.rows; ++row_idx) {
    for (int64_t group_idx = 0; group_idx < scale.cols; ++group_idx) {
      if (!encode_group(&weights(row_idx, group_idx * kInt4GroupSize),
                        &packed(row_idx, group_idx * (kInt4GroupSize / 2)),
                        scale(row_idx, group_idx))) {
        return false;
      }
    }
  }
  return true;
}

void decode_int4_row(const Int4Matrix& matrix, int64_t row_idx, std::span<float> out) {
  TANDEM_CHECK(out.size() == static_cast<size_t>(matrix.in_features()), "row of in_features");
  const std::span<const uint8_t> packed = matrix.packed.row(row_idx);
  for (size_t byte_idx = 0; byte_idx < packed.size(); ++byte_idx) {
    const float scale =
        matrix.scale(row_idx, static_cast<int64_t>(2 * byte_idx / kInt4GroupSize)).to_float();
    out[2 * byte_idx] = static_cast<float>((packed[byte_idx] & 0xf) - kOffset) * scale;
    out[2 * byte_idx + 1] = static_cast<float>((packed[byte_idx] >> 4) - kOffset) * scale;
  }
}

}  // namespace tandem
