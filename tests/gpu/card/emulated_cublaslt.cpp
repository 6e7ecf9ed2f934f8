// cuBLASLt on an emulated card: the functions that gpu/cuda calls, one algorithm, plain loops.
#include <cublasLt.h>

#include <array>
#include <cstring>
#include <vector>

#include "gpu/cuda/cublaslt_library.h"
#include "runtime/base/bf16.h"
#include "runtime/base/check.h"
#include "tests/gpu/card/emulated_card.h"

namespace tandem::gpu::cuda {
namespace {

struct Operation {
  bool is_transposed = false;  // the first matrix
};

struct Layout {
  cudaDataType type;
  int64_t rows, cols, leading_dimension;
  int32_t num_batches = 1;
  int64_t batch_stride = 0;
};

const Layout& layout_of(cublasLtMatrixLayout_t layout) {
  return *reinterpret_cast<const Layout*>(layout);
}

// Column-major, of one batch.
float value_at(const void* data, const Layout& layout, int64_t row, int64_t col, int32_t batch) {
  const int64_t idx = batch * layout.batch_stride + col * layout.leading_dimension + row;
  return layout.type == CUDA_R_16BF ? static_cast<const bf16*>(data)[idx].to_float()
                                    : static_cast<const float*>(data)[idx];
}

cublasStatus_t create(cublasLtHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t destroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
size_t get_version() { return 130000; }
const char* get_status_string(cublasStatus_t) { return "emulated"; }

cublasStatus_t desc_create(cublasLtMatmulDesc_t* desc,
                           cublasComputeType_t compute,
                           cudaDataType_t) {
  TANDEM_CHECK(compute == CUBLAS_COMPUTE_32F, "cuBLASLt: type of sums");
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t desc_destroy(cublasLtMatmulDesc_t desc) {
  delete reinterpret_cast<Operation*>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t desc_set(cublasLtMatmulDesc_t desc,
                        cublasLtMatmulDescAttributes_t attribute,
                        const void* value,
                        size_t size_bytes) {
  TANDEM_CHECK(attribute == CUBLASLT_MATMUL_DESC_TRANSA && size_bytes == sizeof(int32_t),
               "cuBLASLt: attribute of an operation");
  int32_t transposition = 0;
  std::memcpy(&transposition, value, sizeof(transposition));
  reinterpret_cast<Operation*>(desc)->is_transposed = transposition == CUBLAS_OP_T;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t layout_create(cublasLtMatrixLayout_t* layout,
                             cudaDataType type,
                             uint64_t rows,
                             uint64_t cols,
                             int64_t leading_dimension) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), leading_dimension});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t layout_destroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t layout_set(cublasLtMatrixLayout_t layout,
                          cublasLtMatrixLayoutAttribute_t attribute,
                          const void* value,
                          size_t size_bytes) {
  auto& target = *reinterpret_cast<Layout*>(layout);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) {
    TANDEM_CHECK(size_bytes == sizeof(int32_t), "cuBLASLt: number of batches");
    std::memcpy(&target.num_batches, value, size_bytes);
    return CUBLAS_STATUS_SUCCESS;
  }
  TANDEM_CHECK(size_bytes == sizeof(int64_t), "cuBLASLt: attribute of a layout");
  if (attribute == CUBLASLT_MATRIX_LAYOUT_COLS) {
    std::memcpy(&target.cols, value, size_bytes);
  } else {
    TANDEM_CHECK(attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                 "cuBLASLt: attribute of a layout");
    std::memcpy(&target.batch_stride, value, size_bytes);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t preference_create(cublasLtMatmulPreference_t* preference) {
  *preference = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_destroy(cublasLtMatmulPreference_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t preference_set(cublasLtMatmulPreference_t,
                              cublasLtMatmulPreferenceAttributes_t,
                              const void*,
                              size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

int64_t& algorithm_choices() {
  static int64_t num = 0;
  return num;
}

// Two guesses, so that they are timed.
cublasStatus_t heuristic(cublasLtHandle_t,
                         cublasLtMatmulDesc_t,
                         cublasLtMatrixLayout_t,
                         cublasLtMatrixLayout_t,
                         cublasLtMatrixLayout_t,
                         cublasLtMatrixLayout_t,
                         cublasLtMatmulPreference_t,
                         int num_wanted,
                         cublasLtMatmulHeuristicResult_t* results,
                         int* num_found) {
  if (num_wanted > 1) ++algorithm_choices();
  *num_found = num_wanted < 2 ? num_wanted : 2;
  for (int idx = 0; idx < *num_found; ++idx) results[idx] = {};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t matmul(cublasLtHandle_t,
                      cublasLtMatmulDesc_t desc,
                      const void* alpha,
                      const void* a,
                      cublasLtMatrixLayout_t a_layout,
                      const void* b,
                      cublasLtMatrixLayout_t b_layout,
                      const void* beta,
                      const void* c,
                      cublasLtMatrixLayout_t c_layout,
                      void* d,
                      cublasLtMatrixLayout_t d_layout,
                      const cublasLtMatmulAlgo_t*,
                      void*,
                      size_t,
                      cudaStream_t stream) {
  const Layout la = layout_of(a_layout);
  const Layout lb = layout_of(b_layout);
  const Layout ld = layout_of(d_layout);
  TANDEM_CHECK(reinterpret_cast<const Operation*>(desc)->is_transposed && c == d &&
                   c_layout == d_layout && la.rows == lb.rows && ld.rows == la.cols &&
                   ld.cols == lb.cols && la.num_batches == ld.num_batches &&
                   lb.num_batches == ld.num_batches,
               "cuBLASLt: shapes of a product");
  for (const void* data : {a, b, c}) {
    TANDEM_CHECK(reinterpret_cast<uintptr_t>(data) % 16 == 0, "cuBLASLt: alignment");
  }
  const float scale = *static_cast<const float*>(alpha);
  const float old_scale = *static_cast<const float*>(beta);
  emulated_card::enqueue(stream, [=] {
    std::vector<float> x(static_cast<size_t>(lb.rows));
    for (int32_t batch = 0; batch < ld.num_batches; ++batch) {
      for (int64_t col = 0; col < ld.cols; ++col) {
        for (int64_t k = 0; k < lb.rows; ++k) {
          x[static_cast<size_t>(k)] = value_at(b, lb, k, col, batch);
        }
        for (int64_t row = 0; row < ld.rows; ++row) {
          float sum = 0.0f;
          for (int64_t k = 0; k < la.rows; ++k) {
            sum += value_at(a, la, k, row, batch) * x[static_cast<size_t>(k)];
          }
          sum *= scale;
          if (old_scale != 0.0f) sum += old_scale * value_at(d, ld, row, col, batch);
          const int64_t idx = batch * ld.batch_stride + col * ld.leading_dimension + row;
          if (ld.type == CUDA_R_16BF) {
            static_cast<bf16*>(d)[idx] = bf16(sum);
          } else {
            static_cast<float*>(d)[idx] = sum;
          }
        }
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

const CublasLt kEmulated{.create = create,
                         .destroy = destroy,
                         .get_version = get_version,
                         .matmul = matmul,
                         .matmul_algo_get_heuristic = heuristic,
                         .matmul_desc_create = desc_create,
                         .matmul_desc_destroy = desc_destroy,
                         .matmul_desc_set_attribute = desc_set,
                         .matrix_layout_create = layout_create,
                         .matrix_layout_destroy = layout_destroy,
                         .matrix_layout_set_attribute = layout_set,
                         .matmul_preference_create = preference_create,
                         .matmul_preference_destroy = preference_destroy,
                         .matmul_preference_set_attribute = preference_set,
                         .get_status_string = get_status_string,
                         .path = "emulated"};

}  // namespace

const CublasLt& CublasLt::instance() { return kEmulated; }

}  // namespace tandem::gpu::cuda

namespace tandem::gpu::emulated_card {

int64_t num_algorithm_choices() { return cuda::algorithm_choices(); }

}  // namespace tandem::gpu::emulated_card
