// A card and the host as two devices that are given the same: what the [gpu] tests of operations
// share.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "gpu/cuda/cuda_ops.h"
#include "tests/gpu/cuda/cuda_test_support.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::cuda::testing {

using gpu::testing::HostDevice;
using gpu::testing::kBf16UnitRoundoff;
using gpu::testing::kNan;
using gpu::testing::kUnitRoundoff;
using gpu::testing::same_bits;
using gpu::testing::Values;

// A matrix on the card: rows 16 bytes apart at least, NaN between them and where nothing is put.
template <typename T>
class CardMatrix {
 public:
  CardMatrix(Ops& ops, int64_t rows, int64_t cols)
      : ops_(ops),
        rows_(rows),
        cols_(cols),
        stride_((cols + 7) / 8 * 8 + 8),
        host_(static_cast<size_t>(rows * stride_ + 8)) {
    std::memset(static_cast<void*>(host_.data()), 0xff, host_.size() * sizeof(T));
    buffer_ = ops.upload(std::as_bytes(std::span<const T>(host_)));
    fetched_ = ops.allocate_host(buffer_->size_bytes());
  }
  CardMatrix(Ops& ops, MatrixView<const T> values) : CardMatrix(ops, values.rows, values.cols) {
    for (int64_t row = 0; row < rows_; ++row) {
      std::copy_n(values.row(row).data(), cols_, host_.data() + row * stride_);
    }
    buffer_ = ops.upload(std::as_bytes(std::span<const T>(host_)));
  }

  [[nodiscard]] MatrixView<T> view() const {
    return {reinterpret_cast<T*>(buffer_->data()), rows_, cols_, stride_};
  }
  // As it is on the card now.
  [[nodiscard]] MatrixView<const T> fetch() {
    ops_.copy_to_host({buffer_->data(), buffer_->size_bytes()},
                      {fetched_->data(), fetched_->size_bytes()});
    ops_.synchronize();
    std::memcpy(static_cast<void*>(host_.data()), fetched_->data(), fetched_->size_bytes());
    return {host_.data(), rows_, cols_, stride_};
  }
  // Of what was fetched last.
  [[nodiscard]] bool padding_is_untouched() const {
    for (int64_t idx = 0; idx < static_cast<int64_t>(host_.size()); ++idx) {
      if (idx % stride_ < cols_ && idx / stride_ < rows_) continue;
      uint16_t half = 0;
      std::memcpy(&half, &host_[static_cast<size_t>(idx)], sizeof(half));
      if (half != 0xffff) return false;
    }
    return true;
  }

 private:
  Ops& ops_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  std::vector<T> host_;
  std::unique_ptr<DeviceBuffer> buffer_;
  std::unique_ptr<DeviceBuffer> fetched_;
};

template <typename T>
class CardVector {
 public:
  CardVector(Ops& ops, const std::vector<T>& values)
      : buffer_(ops.upload(std::as_bytes(std::span<const T>(values)))), num_(values.size()) {}
  [[nodiscard]] std::span<const T> view() const {
    return {reinterpret_cast<const T*>(buffer_->data()), num_};
  }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
  size_t num_;
};

// Pinned memory with values in it.
class PinnedMatrix {
 public:
  PinnedMatrix(Ops& ops, MatrixView<const float> values)
      : buffer_(ops.allocate_host(static_cast<size_t>(values.rows * values.cols) * sizeof(float))),
        rows_(values.rows),
        cols_(values.cols) {
    auto* target = reinterpret_cast<float*>(buffer_->data());
    for (int64_t row = 0; row < rows_; ++row) {
      std::copy_n(values.row(row).data(), cols_, target + row * cols_);
    }
  }
  [[nodiscard]] MatrixView<const float> view() const {
    return {reinterpret_cast<const float*>(buffer_->data()), rows_, cols_};
  }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
  int64_t rows_;
  int64_t cols_;
};

// For batches that name tokens and rows alone.
inline constexpr MlaShape kNoAttention{.num_attention_heads = 1,
                                       .qk_nope_head_dim = 8,
                                       .qk_rope_head_dim = 8,
                                       .v_head_dim = 8,
                                       .kv_lora_rank = 8,
                                       .softmax_scale = 1.0f};

}  // namespace tandem::gpu::cuda::testing
