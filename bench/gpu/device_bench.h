// What the parts of bench_gpu share: a device, memory on it, steps of it timed, the limits of the
// same run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/support/report.h"
#include "gpu/devices.h"
#include "gpu/ops.h"
#include "offload/weights.h"
#include "runtime/model/model_config.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::bench {

struct Limits {
  double copy_gb_per_s = 0.0;       // read and written, within the device
  double matmul_tflop_per_s = 0.0;  // a large BF16 product
};

// Of one run of what is measured; a step holds many.
struct StepTime {
  double median_s = 0.0;
  double p10_s = 0.0;
  double p90_s = 0.0;
  double num_kernels = 0.0;  // and copies, on a card
};

// What a row says of work that `bytes` of memory limit, beside the goal (a share).
Fields memory_fields(const StepTime& time, double bytes, const Limits& limits, double goal);
Fields join(Fields first, Fields second);

inline constexpr const char* kFewRows = "product, few rows";
inline constexpr double kFewRowsGoal = 0.80;

class DeviceBench {
 public:
  // small: tiny dimensions, so that a test can run everything.
  DeviceBench(const gpu::LogicalDevice& device, bool small);

  void measure_limits();
  [[nodiscard]] const Limits& limits() const { return limits_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] gpu::MlaShape mla_shape() const { return offload::mla_shape(config_); }
  [[nodiscard]] std::string description() const { return ops_->description(); }
  [[nodiscard]] int num_threads() const { return pool_.num_workers(); }
  [[nodiscard]] std::vector<int32_t> decode_contexts() const;
  [[nodiscard]] int32_t prefill_tokens() const { return small_ ? 40 : 8192; }
  // Of weights of so many bytes: enough that no cache holds what the next run reads.
  [[nodiscard]] int64_t num_copies(double weight_bytes) const;

  // On the device: random weights, zeroed and random matrices. Matrices and caches go with
  // release_matrices().
  std::unique_ptr<gpu::LinearWeight> random_linear(int64_t out, int64_t in);
  std::unique_ptr<gpu::KvBWeight> random_kv_b();
  template <typename T>
  MatrixView<T> matrix(int64_t rows, int64_t cols) {
    return {reinterpret_cast<T*>(allocate(static_cast<size_t>(rows * cols) * sizeof(T))), rows,
            cols};
  }
  MatrixView<bf16> random_matrix(int64_t rows, int64_t cols);
  // Random values, pages for `num_sequences` of that length: those of step_batch.
  gpu::KvCacheLayer kv_cache(int32_t num_sequences, int32_t num_tokens);
  void release_matrices() { buffers_.clear(); }
  [[nodiscard]] gpu::Ops& ops() { return *ops_; }

  // Seconds of one call of `work(ops, run_idx)` in a decode step of `num_rows` sequences, or a
  // prefill of one, which holds as many calls as make it long. A new Ops for each, because a device
  // may replay a step that looks like one before.
  using Work = std::function<void(gpu::Ops&, int64_t run_idx)>;
  StepTime time_decode(int32_t num_rows, int32_t context_tokens, const Work& work);
  StepTime time_prefill(int32_t num_tokens, int32_t context_tokens, const Work& work);

 private:
  std::byte* allocate(size_t size_bytes);
  StepTime time_step(int32_t num_sequences,
                     int32_t num_tokens,
                     int32_t context_tokens,
                     gpu::MlaForm form,
                     const Work& work);

  gpu::LogicalDevice device_;
  bool small_;
  WorkerPool pool_;
  ModelConfig config_;
  std::unique_ptr<gpu::Ops> ops_;  // for memory
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> buffers_;
  Limits limits_;
};

}  // namespace tandem::bench
