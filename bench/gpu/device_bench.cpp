#include "bench/gpu/device_bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <span>
#include <utility>

#include "bench/support/timing.h"
#include "offload/moe_layer.h"
#include "runtime/model/forward_model.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

constexpr double kStepSeconds = 5e-3;  // long beside what beginning and ending a step costs
constexpr int64_t kMaxCalls = 400;
constexpr int32_t kMaxContextTokens = 262'144;

ModelConfig config_for(bool small) {
  ModelConfig config = k2_thinking_config();
  if (!small) return config;
  config.num_hidden_layers = 3;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.moe_intermediate_size = 32;
  config.n_routed_experts = 16;
  config.num_experts_per_tok = 4;
  config.num_attention_heads = 4;
  config.q_lora_rank = 48;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 16;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 16;
  config.vocab_size = 256;
  return config;
}

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

DeviceBench::DeviceBench(const gpu::LogicalDevice& device, bool small)
    : device_(device),
      small_(small),
      pool_(Topology::detect(), {}),
      config_(config_for(small)),
      ops_(gpu::make_ops(device, pool_)) {}

std::vector<int32_t> DeviceBench::decode_contexts() const {
  return small_ ? std::vector<int32_t>{70, 200} : std::vector<int32_t>{4096, 65536, 262'000};
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
  const MatrixView<float> from = matrix<float>(small_ ? 16 : 16 * side, side);
  const MatrixView<float> to = matrix<float>(from.rows, from.cols);
  const StepTime copy =
      time_prefill(2, 0, [&](gpu::Ops& ops, int64_t) { ops.receive(ops, from, to); });
  limits_.copy_gb_per_s =
      2.0 * sizeof(float) * static_cast<double>(from.rows * from.cols) / copy.median_s * 1e-9;
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

DecodeLayer::DecodeLayer(DeviceBench& bench, int32_t num_rows, int32_t context_tokens)
    : config_(bench.config()),
      num_rows_(num_rows),
      context_tokens_(context_tokens),
      frequencies_(bench.ops(), std::span<const float>(rope_frequencies(config_))),
      cache_(bench.kv_cache(num_rows, context_tokens + 1)),
      workspace_(bench.ops(), config_, {num_rows, num_rows}) {
  const auto vector_of = [&](int32_t size) {
    const std::vector<bf16> ones(static_cast<size_t>(size), bf16(1.0f));
    return offload::DeviceVector<bf16>(bench.ops(), std::span<const bf16>(ones));
  };
  const auto linear = [&](int64_t out, int64_t in) {
    read_bytes_ += 2.0 * static_cast<double>(out * in);
    return bench.random_linear(out, in);
  };
  const int64_t hidden = config_.hidden_size;
  const int64_t heads = config_.num_attention_heads;
  const int64_t shared = config_.shared_intermediate_size();
  offload::AttentionWeights& attention = weights_.attention;
  attention.input_layernorm = vector_of(config_.hidden_size);
  attention.qkv_a = linear(config_.q_lora_rank + config_.kv_dim(), hidden);
  attention.q_a_layernorm = vector_of(config_.q_lora_rank);
  attention.q_b = linear(heads * config_.qk_head_dim(), config_.q_lora_rank);
  attention.kv_a_layernorm = vector_of(config_.kv_lora_rank);
  attention.kv_b = bench.random_kv_b();
  attention.o_proj = linear(hidden, heads * config_.v_head_dim);
  weights_.post_attention_layernorm = vector_of(config_.hidden_size);
  weights_.gate = linear(config_.n_routed_experts, hidden);
  const std::vector<float> bias(static_cast<size_t>(config_.n_routed_experts), 0.0f);
  weights_.e_score_correction_bias = {bench.ops(), std::span<const float>(bias)};
  weights_.mlp.gate_up = linear(2 * shared, hidden);
  weights_.mlp.down = linear(hidden, shared);
  read_bytes_ += 2.0 * static_cast<double>(heads * (config_.qk_nope_head_dim + config_.v_head_dim) *
                                           config_.kv_lora_rank);
  read_bytes_ += 2.0 * static_cast<double>(num_rows) * context_tokens * config_.kv_dim();
  attention_ = {.shape = bench.mla_shape(),
                .rms_norm_eps = config_.rms_norm_eps,
                .lora_rms_norm_eps = config_.lora_rms_norm_eps,
                .q_lora_rank = config_.q_lora_rank,
                .frequencies = frequencies_.view(),
                .magnitude = rope_magnitude(config_)};
}

void DecodeLayer::run(gpu::Ops& ops) {
  const gpu::RouterParams router{.num_experts_per_tok = config_.num_experts_per_tok,
                                 .n_group = config_.n_group,
                                 .topk_group = config_.topk_group,
                                 .norm_topk_prob = config_.norm_topk_prob,
                                 .routed_scaling_factor = config_.routed_scaling_factor};
  offload::run_attention(ops, attention_, weights_.attention, cache_, num_rows_, workspace_);
  offload::route_tokens(ops, router, weights_, config_.rms_norm_eps, num_rows_, workspace_);
  offload::activate_shared_experts(ops, weights_, num_rows_, workspace_);
  offload::add_experts(ops, weights_, num_rows_, workspace_);
}

}  // namespace tandem::bench
