#include "bench/gpu/device_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <span>
#include <utility>

#include "bench/support/timing.h"
#include "offload/copy_bandwidth.h"
#include "runtime/model/forward_model.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

constexpr double kStepSeconds = 5e-3;  // long beside what beginning and ending a step costs
constexpr int64_t kMaxCalls = 400;
constexpr int32_t kMaxContextTokens = 262'144;

int32_t pages_of(int32_t num_tokens) {
  return (num_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
}

// Normal values, a block of them over and over: a cache or a matrix of gigabytes is made in
// seconds.
std::vector<bf16> random_values(size_t num_values, float sigma) {
  constexpr size_t kBlock = size_t{1} << 20;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<bf16> values(num_values);
  const size_t num_drawn = std::min(num_values, kBlock);
  for (size_t idx = 0; idx < num_drawn; ++idx) values[idx] = bf16(normal(engine));
  for (size_t done = num_drawn; done < num_values; done += num_drawn) {
    std::copy_n(values.begin(), std::min(num_drawn, num_values - done),
                values.begin() + static_cast<int64_t>(done));
  }
  return values;
}

// One step's batch, which lives as long as this.
struct StepBatch {
  StepBatch(int32_t num_sequences, int32_t num_tokens, int32_t context_tokens)
      : token_ids(static_cast<size_t>(num_sequences * num_tokens), 0),
        pages(static_cast<size_t>(num_sequences)) {
    const int32_t num_pages = pages_of(context_tokens + num_tokens);
    for (int32_t idx = 0; idx < num_sequences; ++idx) {
      std::vector<int32_t>& page_ids = pages[static_cast<size_t>(idx)];
      for (int32_t page = 0; page < num_pages; ++page) page_ids.push_back(idx * num_pages + page);
      items.push_back({.token_begin = idx * num_tokens,
                       .num_tokens = num_tokens,
                       .context_size_tokens = context_tokens,
                       .page_ids = page_ids});
      logit_token_idx.push_back((idx + 1) * num_tokens - 1);
    }
  }
  [[nodiscard]] Batch batch() const {
    return {.token_ids = token_ids, .items = items, .logit_token_idx = logit_token_idx};
  }

  std::vector<int32_t> token_ids;
  std::vector<std::vector<int32_t>> pages;
  std::vector<BatchItem> items;
  std::vector<int32_t> logit_token_idx;
};

}  // namespace

Fields memory_fields(const StepTime& time, double bytes, const Limits& limits, double goal) {
  const double gb_per_s = bytes / time.median_s * 1e-9;
  const double share = gb_per_s / limits.copy_gb_per_s;
  return {{"median us", Number{time.median_s * 1e6, 1}},
          {"p10-p90 us", fmt::format("{:.1f}-{:.1f}", time.p10_s * 1e6, time.p90_s * 1e6)},
          {"GB/s", Number{gb_per_s, 0}},
          {"of copy %", Number{100.0 * share, 1}},
          {"goal %", Number{100.0 * goal, 0}}};
}

Fields join(Fields first, Fields second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

DeviceBench::DeviceBench(const gpu::LogicalDevice& device, bool small)
    : device_(device),
      small_(small),
      pool_(Topology::detect(), {}),
      config_(small ? tiny_k2_config() : k2_thinking_config()),
      ops_(gpu::make_ops(device, pool_)) {
  if (small) config_.vocab_size = 256;
}

int64_t DeviceBench::num_copies(double weight_bytes) const {
  const double cache_size_bytes = small_ ? 1e4 : 128e6;  // no device's is larger
  return static_cast<int64_t>(std::clamp(2.0 * cache_size_bytes / weight_bytes + 1.0, 2.0, 64.0));
}

std::vector<int32_t> DeviceBench::decode_contexts() const {
  return small_ ? std::vector<int32_t>{70} : std::vector<int32_t>{4096, 65536, 262'000};
}

std::byte* DeviceBench::allocate(size_t size_bytes) {
  buffers_.push_back(ops_->allocate(size_bytes));
  return buffers_.back()->data();
}

MatrixView<bf16> DeviceBench::random_matrix(int64_t rows, int64_t cols) {
  const std::vector<bf16> values = random_values(static_cast<size_t>(rows * cols), 1.0f);
  buffers_.push_back(ops_->upload(std::as_bytes(std::span(values))));
  return {reinterpret_cast<bf16*>(buffers_.back()->data()), rows, cols};
}

std::unique_ptr<gpu::LinearWeight> DeviceBench::random_linear(int64_t out, int64_t in) {
  const std::vector<bf16> values = random_values(static_cast<size_t>(out * in), 0.02f);
  return ops_->load_linear(MatrixView<const bf16>(values.data(), out, in));
}

std::unique_ptr<gpu::KvBWeight> DeviceBench::random_kv_b() {
  const gpu::MlaShape shape = mla_shape();
  const int64_t rows =
      int64_t{shape.num_attention_heads} * (shape.qk_nope_head_dim + shape.v_head_dim);
  const std::vector<bf16> values =
      random_values(static_cast<size_t>(rows * shape.kv_lora_rank), 0.02f);
  return ops_->load_kv_b(MatrixView<const bf16>(values.data(), rows, shape.kv_lora_rank), shape);
}

gpu::KvCacheLayer DeviceBench::kv_cache(int32_t num_sequences, int32_t num_tokens) {
  const int32_t num_pages = num_sequences * pages_of(num_tokens);
  return {.data = random_matrix(int64_t{num_pages} * kPageSizeTokens, config_.kv_dim()).data,
          .num_pages = num_pages};
}

void DeviceBench::measure_limits() {
  const int64_t side = small_ ? 64 : 8192;
  limits_.copy_gb_per_s =
      offload::measure_copy_gb_per_s(*ops_, small_ ? size_t{1} << 16 : size_t{4} << 30);
  const auto weight = random_linear(side, side);
  const MatrixView<bf16> x = random_matrix(side, side);
  const MatrixView<bf16> out = matrix<bf16>(side, side);
  const auto rows = static_cast<int32_t>(side);
  const StepTime product =
      time_prefill(rows, 0, [&](gpu::Ops& ops, int64_t) { ops.linear(x, *weight, out); });
  const auto flop = 2.0 * static_cast<double>(side * side) * static_cast<double>(side);
  limits_.matmul_tflop_per_s = flop / product.median_s * 1e-12;
  release_matrices();
}

StepTime DeviceBench::time_decode(int32_t num_rows, int32_t context_tokens, const Work& work) {
  return time_step(num_rows, 1, context_tokens, gpu::MlaForm::kAuto, work);
}

StepTime DeviceBench::time_prefill(int32_t num_tokens, int32_t context_tokens, const Work& work) {
  return time_step(1, num_tokens, context_tokens, gpu::MlaForm::kExpanded, work);
}

StepTime DeviceBench::time_step(int32_t num_sequences,
                                int32_t num_tokens,
                                int32_t context_tokens,
                                gpu::MlaForm form,
                                const Work& work) {
  const StepBatch step(num_sequences, num_tokens, context_tokens);
  const auto make_ops = [&] {
    auto ops = gpu::make_ops(device_, pool_);
    ops->reserve({.max_batch_tokens = std::max(num_sequences * num_tokens, 16),
                  .max_logit_rows = std::max(num_sequences, 16),
                  .max_context_tokens = std::max(context_tokens + num_tokens, 1),
                  .n_routed_experts = config_.n_routed_experts},
                 mla_shape());
    return ops;
  };
  const auto run_step = [&](gpu::Ops& ops, int64_t num_calls) {
    ops.begin_step(step.batch(), form);
    for (int64_t call = 0; call < num_calls; ++call) work(ops, call);
    ops.synchronize();
  };
  const auto seconds_of = [](const auto& run) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const WorkerPool::Step awake(pool_);
  int64_t num_calls = 1;
  {
    const auto ops = make_ops();
    run_step(*ops, 1);
    const double call_s = seconds_of([&] { run_step(*ops, 1); });
    num_calls = std::clamp<int64_t>(static_cast<int64_t>(kStepSeconds / call_s), 1, kMaxCalls);
    // One call alone is mostly the step around it: look again with several.
    const auto several = make_ops();
    run_step(*several, num_calls);
    const double calls_s = seconds_of([&] { run_step(*several, num_calls); });
    num_calls = std::clamp<int64_t>(
        static_cast<int64_t>(kStepSeconds * static_cast<double>(num_calls) / calls_s), 1,
        small_ ? 4 : kMaxCalls);
  }
  const auto ops = make_ops();
  for (int warm_up = 0; warm_up < 2; ++warm_up) run_step(*ops, num_calls);
  const TimingLimits limits =
      small_ ? TimingLimits{.min_runs = 3, .min_total_s = 0.0} : TimingLimits{};
  const Timing timing = time_runs(
      limits, [](int64_t) {}, [&] { run_step(*ops, num_calls); });
  const auto calls = static_cast<double>(num_calls);
  return {.median_s = timing.median_s / calls,
          .p10_s = timing.p10_s / calls,
          .p90_s = timing.p90_s / calls,
          .num_kernels = static_cast<double>(ops->replayed_launches().num_kernels) / calls};
}

}  // namespace tandem::bench
