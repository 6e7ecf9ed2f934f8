#include "gpu/cuda/cublas_matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <stdexcept>

#include "gpu/cuda/cublaslt_library.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/event.h"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

constexpr int kMaxGuesses = 8;
constexpr int kTimedRuns = 3;
constexpr int64_t kSmallestBucketRows = 32;
constexpr int64_t kAlignmentBytes = 16;

void check_lt(const CublasLt& lt, cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(
        fmt::format("cuBLASLt: {}: {} ({})", what, lt.get_status_string(status), lt.path));
  }
}

int64_t out_value_size_bytes(MatmulOut kind) { return kind == MatmulOut::kBf16 ? 2 : 4; }

bool is_aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % kAlignmentBytes == 0 &&
         stride_bytes % kAlignmentBytes == 0;
}

bool rows_are_aligned(const MatmulParams& params) {
  constexpr auto kBf16SizeBytes = int64_t{sizeof(bf16)};
  const int64_t out_size_bytes = out_value_size_bytes(params.kind);
  return is_aligned(params.x.data, params.x.row_stride * kBf16SizeBytes) &&
         is_aligned(params.weight.data, params.weight.row_stride * kBf16SizeBytes) &&
         is_aligned(params.out, params.out_row_stride * out_size_bytes) &&
         is_aligned(nullptr, params.x_batch_stride * kBf16SizeBytes) &&
         is_aligned(nullptr, params.weight_batch_stride * kBf16SizeBytes) &&
         is_aligned(nullptr, params.out_batch_stride * out_size_bytes);
}

}  // namespace

struct CublasMatmul::Library {
  const CublasLt& lt = CublasLt::instance();
  cublasLtHandle_t handle = nullptr;
  Library() { check_lt(lt, lt.create(&handle), "create"); }
  ~Library() { lt.destroy(handle); }
};

// The library's matrices are column-major: out^T [out_features, rows] = W x^T, where W, row-major
// as it lies, is the transpose of an [in_features, out_features] matrix, and x^T is x as it lies.
struct CublasMatmul::Plan {
  const CublasLt& lt;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool has_algorithm = false;

  Plan(const CublasLt& lt_in, const MatmulParams& params) : lt(lt_in) {
    const cudaDataType_t out_type = params.kind == MatmulOut::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
    check_lt(lt, lt.matmul_desc_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_lt(lt,
             lt.matmul_desc_set_attribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof(transposed)),
             "transposition");
    const auto num_rows = static_cast<uint64_t>(params.x.rows);
    const auto in_features = static_cast<uint64_t>(params.weight.cols);
    const auto out_features = static_cast<uint64_t>(params.weight.rows);
    create(weight, CUDA_R_16BF, in_features, out_features, params.weight.row_stride,
           params.num_batches, params.weight_batch_stride);
    create(x, CUDA_R_16BF, in_features, num_rows, params.x.row_stride, params.num_batches,
           params.x_batch_stride);
    create(out, out_type, out_features, num_rows, params.out_row_stride, params.num_batches,
           params.out_batch_stride);
  }
  ~Plan() {
    if (out != nullptr) lt.matrix_layout_destroy(out);
    if (x != nullptr) lt.matrix_layout_destroy(x);
    if (weight != nullptr) lt.matrix_layout_destroy(weight);
    if (operation != nullptr) lt.matmul_desc_destroy(operation);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void set_rows(int64_t num_rows) const {
    const auto cols = static_cast<uint64_t>(num_rows);
    for (cublasLtMatrixLayout_t layout : {x, out}) {
      check_lt(
          lt,
          lt.matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof(cols)),
          "rows");
    }
  }

  // The library's guesses for the current number of rows, best first; how many.
  [[nodiscard]] int guess(cublasLtHandle_t handle,
                          std::array<cublasLtMatmulHeuristicResult_t, kMaxGuesses>& guesses,
                          int num_wanted) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check_lt(lt, lt.matmul_preference_create(&preference), "preference");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      return lt.matmul_preference_set_attribute(preference, attribute, &value, sizeof(value));
    };
    constexpr auto kAlignment = static_cast<uint32_t>(kAlignmentBytes);
    int num_found = 0;
    cublasStatus_t status =
        set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceSizeBytes});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      if (status == CUBLAS_STATUS_SUCCESS) status = set(attribute, kAlignment);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = lt.matmul_algo_get_heuristic(handle, operation, weight, x, out, out, preference,
                                            num_wanted, guesses.data(), &num_found);
    }
    lt.matmul_preference_destroy(preference);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return 0;
    check_lt(lt, status, "heuristic");
    return num_found;
  }

 private:
  void create(cublasLtMatrixLayout_t& layout,
              cudaDataType_t type,
              uint64_t rows,
              uint64_t cols,
              int64_t leading_dimension,
              int32_t num_batches,
              int64_t batch_stride) const {
    check_lt(lt, lt.matrix_layout_create(&layout, type, rows, cols, leading_dimension), "layout");
    if (num_batches == 1) return;
    check_lt(lt,
             lt.matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                            &num_batches, sizeof(num_batches)),
             "batches");
    check_lt(lt,
             lt.matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                            &batch_stride, sizeof(batch_stride)),
             "batch stride");
  }
};

CublasMatmul::CublasMatmul(size_t scratch_size_bytes)
    : library_(std::make_unique<Library>()), scratch_size_bytes_(scratch_size_bytes) {
  reserve();
}

CublasMatmul::~CublasMatmul() = default;

void CublasMatmul::release() {
  workspace_ = DeviceMemory();
  scratch_ = DeviceMemory();
}

void CublasMatmul::reserve() {
  if (workspace_.size_bytes() == 0) workspace_ = DeviceMemory(kWorkspaceSizeBytes);
  if (scratch_.size_bytes() == 0) scratch_ = DeviceMemory(scratch_size_bytes_);
}

std::string CublasMatmul::description() {
  // 10000 * major + 100 * minor + patch.
  const size_t version = CublasLt::instance().get_version();
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

bool CublasMatmul::run(const MatmulParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.x.cols == params.weight.cols, "matmul: shapes");
  if (!rows_are_aligned(params)) return false;
  if (params.x.rows == 0) return true;
  const auto bucket_rows =
      std::max(kSmallestBucketRows,
               static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(params.x.rows))));
  const auto [entry, is_new] =
      plans_.try_emplace(Key{.bucket_rows = bucket_rows,
                             .out_features = params.weight.rows,
                             .in_features = params.weight.cols,
                             .x_row_stride = params.x.row_stride,
                             .weight_row_stride = params.weight.row_stride,
                             .out_row_stride = params.out_row_stride,
                             .x_batch_stride = params.x_batch_stride,
                             .weight_batch_stride = params.weight_batch_stride,
                             .out_batch_stride = params.out_batch_stride,
                             .num_batches = params.num_batches,
                             .kind = params.kind});
  if (is_new) {
    entry->second = std::make_unique<Plan>(library_->lt, params);
    choose_algorithm(params, *entry->second, stream);
  }
  const Plan& plan = *entry->second;
  if (!plan.has_algorithm) return false;
  plan.set_rows(params.x.rows);
  const float alpha = 1.0f;
  const float beta = params.kind == MatmulOut::kAddFloat ? 1.0f : 0.0f;
  const auto matmul = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return library_->lt.matmul(library_->handle, plan.operation, &alpha, params.weight.data,
                               plan.weight, params.x.data, plan.x, &beta, params.out, plan.out,
                               params.out, plan.out, &algorithm, workspace_.as<void>(),
                               workspace_.size_bytes(), stream);
  };
  cublasStatus_t status = matmul(plan.algorithm);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
    // The bucket's algorithm is not for exactly this number of rows.
    std::array<cublasLtMatmulHeuristicResult_t, kMaxGuesses> guesses;
    if (plan.guess(library_->handle, guesses, 1) == 0) return false;
    status = matmul(guesses[0].algo);
  }
  check_lt(library_->lt, status, "matmul");
  return true;
}

void CublasMatmul::choose_algorithm(const MatmulParams& params, Plan& plan, cudaStream_t stream) {
  std::array<cublasLtMatmulHeuristicResult_t, kMaxGuesses> guesses;
  const int num_guesses = plan.guess(library_->handle, guesses, kMaxGuesses);
  plan.has_algorithm = num_guesses > 0;
  if (!plan.has_algorithm) return;
  plan.algorithm = guesses[0].algo;

  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  TANDEM_CUDA_CHECK(cudaStreamIsCapturing(stream, &capture));
  // A sum must not be added again and again: it goes elsewhere, where that is large enough.
  const bool adds = params.kind == MatmulOut::kAddFloat;
  const int64_t out_size_bytes =
      ((params.x.rows - 1) * params.out_row_stride + params.weight.rows) *
      out_value_size_bytes(params.kind);
  if (capture != cudaStreamCaptureStatusNone || num_guesses == 1 ||
      (adds &&
       (params.num_batches > 1 || out_size_bytes > static_cast<int64_t>(scratch_.size_bytes())))) {
    return;
  }
  void* out = adds ? scratch_.as<void>() : params.out;
  const float alpha = 1.0f;
  const float beta = adds ? 1.0f : 0.0f;
  const Event begin(Event::Timing::kOn);
  const Event end(Event::Timing::kOn);
  float best_ms = std::numeric_limits<float>::max();
  for (int idx = 0; idx < num_guesses; ++idx) {
    const auto run = [&] {
      return library_->lt.matmul(library_->handle, plan.operation, &alpha, params.weight.data,
                                 plan.weight, params.x.data, plan.x, &beta, out, plan.out, out,
                                 plan.out, &guesses[static_cast<size_t>(idx)].algo,
                                 workspace_.as<void>(), workspace_.size_bytes(), stream);
    };
    if (run() != CUBLAS_STATUS_SUCCESS) continue;
    begin.record(stream);
    for (int repeat = 0; repeat < kTimedRuns; ++repeat) check_lt(library_->lt, run(), "timing");
    end.record(stream);
    end.synchronize();
    const float ms = end.elapsed_ms_since(begin);
    if (ms < best_ms) {
      best_ms = ms;
      plan.algorithm = guesses[static_cast<size_t>(idx)].algo;
    }
  }
}

}  // namespace tandem::gpu::cuda
