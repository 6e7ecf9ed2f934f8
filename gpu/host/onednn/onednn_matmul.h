// oneDNN's matrix product: second opinion in tests and baseline in benches. Production does not use
// it: its sums are not ours to the bit, so it could not take over for many rows alone, and it has
// no BF16 product without AVX-512 (2.x). README.md of gpu/host has the figures.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::host {

enum class OnednnType { kFloat, kBf16 };  // of x and of the weights; sums are FP32

// out = x W^T for one number of rows, on oneDNN's own threads.
class OnednnMatmul {
 public:
  // Weights are put in the layout that oneDNN likes best; kFloat widens them.
  OnednnMatmul(OnednnType type, int64_t num_rows, MatrixView<const bf16> weight);
  ~OnednnMatmul();
  OnednnMatmul(const OnednnMatmul&) = delete;
  OnednnMatmul& operator=(const OnednnMatmul&) = delete;

  // False where oneDNN has no such product for this CPU (2.x: BF16 without AVX-512).
  [[nodiscard]] bool is_supported() const;

  // x [num_rows, in_features], out [num_rows, out_features]. x is copied (and widened) first.
  void set_input(MatrixView<const bf16> x);
  void run();
  [[nodiscard]] MatrixView<const float> out() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::gpu::host
