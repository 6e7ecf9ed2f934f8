// Products of many rows with cuBLASLt, out = x W^T in BF16 with FP32 accumulation.
//
// The algorithm of a product is chosen once per shape and bucket of rows (32, 64, 128, ...), when
// the first such product comes: the library's best guesses are timed against each other, the
// fastest stays for the life of the object. Of one object a product is therefore the same bits
// again whenever its number of rows is; another object may choose another algorithm. In a stream
// capture nothing can be timed: then the library's first guess is taken.
#pragma once

#include <cuda_runtime_api.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "gpu/cuda/device_memory.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

enum class MatmulOut { kFloat, kAddFloat, kBf16 };

// num_batches products at constant distances, in elements; out is float or bf16 as `kind` says.
struct MatmulParams {
  MatrixView<const bf16> x;       // [num_rows, in_features]
  MatrixView<const bf16> weight;  // [out_features, in_features]
  void* out = nullptr;            // [num_rows, out_features]
  int64_t out_row_stride = 0;
  MatmulOut kind = MatmulOut::kFloat;
  int32_t num_batches = 1;
  int64_t x_batch_stride = 0;
  int64_t weight_batch_stride = 0;
  int64_t out_batch_stride = 0;
};

class CublasMatmul {
 public:
  // `scratch_size_bytes` of device memory beside the library's workspace: the sum that an adding
  // product is timed on. Throws LoadError without cuBLAS 13, CudaError.
  explicit CublasMatmul(size_t scratch_size_bytes);
  ~CublasMatmul();

  // Rows must start at multiples of 16 bytes. False, and nothing done, where they do not or the
  // library has no algorithm.
  [[nodiscard]] bool run(const MatmulParams& params, cudaStream_t stream);

  // "cuBLASLt 13.1.0"
  [[nodiscard]] static std::string description();

  // Gives the device memory back; chosen algorithms stay. Taken again before the next product.
  void release();
  void reserve();

  static constexpr size_t kWorkspaceSizeBytes = size_t{64} << 20;

 private:
  struct Library;
  struct Plan;
  // What an algorithm was chosen for.
  struct Key {
    int64_t bucket_rows, out_features, in_features, x_row_stride, weight_row_stride, out_row_stride,
        x_batch_stride, weight_batch_stride, out_batch_stride;
    int32_t num_batches;
    MatmulOut kind;
    auto operator<=>(const Key&) const = default;
  };
  void choose_algorithm(const MatmulParams& params, Plan& plan, cudaStream_t stream);

  std::unique_ptr<Library> library_;
  size_t scratch_size_bytes_;
  DeviceMemory workspace_;
  DeviceMemory scratch_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace tandem::gpu::cuda
