#include "gpu/cuda/cuda_ops.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "gpu/cuda/card_properties.h"
#include "gpu/cuda/core/recorder.h"
#include "gpu/cuda/cublas_matmul.h"
#include "gpu/cuda/current_device.h"
#include "gpu/cuda/device_memory.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/event.h"
#include "gpu/cuda/experts.h"
#include "gpu/cuda/graph.h"
#include "gpu/cuda/kernels/rms_norm.h"
#include "gpu/cuda/kernels/rope_kv.h"
#include "gpu/cuda/kernels/router_topk.h"
#include "gpu/cuda/kernels/rows.h"
#include "gpu/cuda/kernels/sample.h"
#include "gpu/cuda/kernels/skinny_linear.h"
#include "gpu/cuda/linear.h"
#include "gpu/cuda/mla_attention.h"
#include "gpu/cuda/model_limits.h"
#include "gpu/cuda/pinned_memory.h"
#include "gpu/cuda/staged_upload.h"
#include "gpu/cuda/step_memory.h"
#include "gpu/cuda/stream.h"
#include "gpu/shape_checks.h"
#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/sampling/philox.h"
#include "runtime/sampling/sampler.h"

namespace tandem::gpu::cuda {
namespace {

template <typename Memory>
class BufferOf : public DeviceBuffer {
 public:
  explicit BufferOf(size_t size_bytes) : memory_(size_bytes) {}
  [[nodiscard]] std::byte* data() const override { return memory_.template as<std::byte>(); }
  [[nodiscard]] size_t size_bytes() const override { return memory_.size_bytes(); }

 private:
  Memory memory_;
};

static_assert(kMaxAddends == gpu::kMaxAddends);
Addends addends_of(std::span<const MatrixView<const float>> matrices) {
  Addends addends{.matrices = {}, .num = static_cast<int32_t>(matrices.size())};
  std::copy(matrices.begin(), matrices.end(), addends.matrices);
  return addends;
}

}  // namespace

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int32_t card_idx)
      : card_idx_(card_idx), properties_(set_up(card_idx)), matmul_(kMatmulScratchSizeBytes) {}
  ~CudaOps() override {
    // What is still enqueued uses memory that goes with the object.
    make_current(card_idx_);
    log_failure(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  }

  [[nodiscard]] std::string description() const override {
    return fmt::format("GPU {}, {} (sm_{}{}, {:.1f} GiB), attention: {}, products: own kernels, {}",
                       card_idx_, properties_.name, properties_.major, properties_.minor,
                       static_cast<double>(properties_.totalGlobalMem) / (1 << 30),
                       attention_ ? attention_->kernels() : "not reserved",
                       CublasMatmul::description());
  }
  // Which of cuBLASLt's algorithms were the fastest is not in it: they differ by rounding.
  [[nodiscard]] std::string arithmetic() const override {
    return fmt::format("{}, sm_{}{}, {}", properties_.name, properties_.major, properties_.minor,
                       CublasMatmul::description());
  }
  [[nodiscard]] bool memory_is_host() const override { return false; }

  // --- memory

  std::unique_ptr<DeviceBuffer> allocate(size_t size_bytes) override {
    make_current(card_idx_);
    return std::make_unique<BufferOf<DeviceMemory>>(size_bytes);
  }
  std::unique_ptr<DeviceBuffer> allocate_host(size_t size_bytes) override {
    make_current(card_idx_);
    return std::make_unique<BufferOf<PinnedMemory>>(size_bytes);
  }
  std::unique_ptr<DeviceBuffer> upload(std::span<const std::byte> host_bytes) override {
    make_current(card_idx_);
    auto buffer = std::make_unique<BufferOf<DeviceMemory>>(host_bytes.size());
    uploader().upload(host_bytes, buffer->data());
    uploader().finish();
    return buffer;
  }
  std::unique_ptr<LinearWeight> load_linear(MatrixView<const bf16> weight) override {
    return load_linear(std::span(&weight, 1));
  }
  std::unique_ptr<LinearWeight> load_linear(
      std::span<const MatrixView<const bf16>> weights) override;
  std::unique_ptr<ExpertsWeight> load_experts(const ExpertsShape& shape,
                                              PackedExpert packed_expert) override {
    make_current(card_idx_);
    return std::make_unique<CudaExperts>(shape, packed_expert, uploader());
  }
  std::unique_ptr<KvBWeight> load_kv_b(MatrixView<const bf16> kv_b_proj,
                                       const MlaShape& shape) override {
    make_current(card_idx_);
    check_widths(
        {shape.qk_nope_head_dim, shape.qk_rope_head_dim, shape.v_head_dim, shape.kv_lora_rank});
    return std::make_unique<CudaKvB>(kv_b_proj, shape, uploader());
  }
  void reserve(const OpsLimits& limits, const MlaShape& shape) override {
    make_current(card_idx_);
    check_model(limits, shape, static_cast<int64_t>(properties_.sharedMemPerBlockOptin));
    limits_ = limits;
    matmul_.reserve();
    step_.emplace(limits);
    attention_.emplace(limits, shape, mla_card(properties_));
  }
  void release() override {
    make_current(card_idx_);
    stream_.synchronize();
    recorder_ = {};
    attention_.reset();
    step_.reset();
    uploader_.reset();
    matmul_.release();
  }

  // --- a step

  int64_t begin_step(const Batch& batch, MlaForm form) override;
  void submit() override;
  void synchronize() override {
    submit();
    make_current(card_idx_);
    stream_.synchronize();
  }

  [[nodiscard]] DeviceLaunches replayed_launches() const override { return replayed_; }

  void embed(MatrixView<const bf16> table, MatrixView<float> residual) override {
    enqueue([=, this] {
      launch_embed({.token_ids = step_->arrays().token_ids, .table = table, .residual = residual},
                   stream_.get());
    });
  }
  void rms_norm(MatrixView<const float> x,
                std::span<const bf16> weight,
                float eps,
                MatrixView<bf16> out) override;
  void add_rms_norm(std::span<const MatrixView<const float>> addends,
                    MatrixView<float> x,
                    std::span<const bf16> weight,
                    float eps,
                    MatrixView<bf16> out) override;
  void add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) override;
  void linear(MatrixView<const bf16> x,
              const LinearWeight& weight,
              MatrixView<float> out) override {
    product(x, weight, out.data, out.row_stride, MatmulOut::kFloat);
  }
  void linear(MatrixView<const bf16> x, const LinearWeight& weight, MatrixView<bf16> out) override {
    product(x, weight, out.data, out.row_stride, MatmulOut::kBf16);
  }
  void linear_add(MatrixView<const bf16> x,
                  const LinearWeight& weight,
                  MatrixView<float> out) override {
    product(x, weight, out.data, out.row_stride, MatmulOut::kAddFloat);
  }
  void rope_and_append_kv(const MlaShape& shape,
                          const RopeKvParams& params,
                          MatrixView<bf16> q,
                          MatrixView<const float> kv_a,
                          const KvCacheLayer& cache) override;
  void mla_attention(const MlaShape& shape,
                     MatrixView<const bf16> q,
                     const KvBWeight& kv_b,
                     const KvCacheLayer& cache,
                     MatrixView<bf16> out) override;
  void swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) override {
    enqueue([=, this] { launch_swiglu({.gate_up = gate_up, .out = out}, stream_.get()); });
  }
  void linear_swiglu(MatrixView<const bf16> x,
                     const LinearWeight& weight,
                     MatrixView<float> gate_up,
                     MatrixView<bf16> out) override;
  void router_topk(MatrixView<const bf16> hidden,
                   const LinearWeight& gate,
                   std::span<const float> e_score_correction_bias,
                   const RouterParams& params,
                   MatrixView<bf16> hidden_copy,
                   MatrixView<int32_t> expert_ids,
                   MatrixView<float> expert_weights) override;
  void add_routed_experts(MatrixView<const bf16> hidden,
                          const ExpertsWeight& experts,
                          MatrixView<const int32_t> expert_ids,
                          MatrixView<const float> expert_weights,
                          MatrixView<float> residual) override;
  void gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) override {
    enqueue([=, this] {
      launch_gather_rows({.row_idx = step_->arrays().logit_token_idx, .x = x, .out = out},
                         stream_.get());
    });
  }
  void sample(MatrixView<const float> logits,
              std::span<const TokenChoice> choices,
              std::span<int32_t> token_ids) override;
  void copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) override {
    copy(device, host, cudaMemcpyDeviceToHost);
  }
  void copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) override {
    copy(host, device, cudaMemcpyHostToDevice);
  }
  void receive(Ops& source, MatrixView<const float> from, MatrixView<float> to) override;

 private:
  static cudaDeviceProp set_up(int32_t card_idx) {
    const cudaDeviceProp properties = properties_of(card_idx);
    make_current(card_idx);
    return properties;
  }
  template <typename Operation>
  void enqueue(const Operation& operation) {
    make_current(card_idx_);
    recorder_.enqueue(operation);
  }
  StagedUpload& uploader() {
    if (!uploader_) uploader_.emplace();
    return *uploader_;
  }
  void copy(std::span<const std::byte> from, std::span<std::byte> to, cudaMemcpyKind kind);
  static void check_widths(std::initializer_list<int64_t> widths);
  void product(MatrixView<const bf16> x,
               const LinearWeight& weight,
               void* out,
               int64_t out_row_stride,
               MatmulOut kind);

  int32_t card_idx_;
  cudaDeviceProp properties_;  // the members behind it are made on the card
  Stream stream_;
  Event received_;  // what others receive from here is done
  CublasMatmul matmul_;
  std::optional<StagedUpload> uploader_;
  OpsLimits limits_;
  std::optional<StepMemory> step_;
  std::optional<MlaAttention> attention_;
  Recorder<CapturedGraph> recorder_;
  DeviceLaunches replayed_;  // of the step
};

// --- memory

// Every row is read 16 bytes at a time.
void CudaOps::check_widths(std::initializer_list<int64_t> widths) {
  for (const int64_t width : widths) {
    if (width % 8 != 0) {
      throw LoadError(fmt::format(
          "a matrix of the model is {} wide, on a GPU expected is a multiple of 8", width));
    }
  }
}

std::unique_ptr<LinearWeight> CudaOps::load_linear(
    std::span<const MatrixView<const bf16>> weights) {
  make_current(card_idx_);
  const int64_t in_features = weights.front().cols;
  check_widths({in_features});
  int64_t out_features = 0;
  for (const MatrixView<const bf16>& weight : weights) {
    TANDEM_CHECK(weight.cols == in_features, "load_linear: matrices of different inputs");
    out_features += weight.rows;
  }
  DeviceMemory memory(static_cast<size_t>(out_features * in_features) * sizeof(bf16));
  std::byte* target = memory.as<std::byte>();
  for (const MatrixView<const bf16>& weight : weights) {
    // A matrix without gaps goes at once.
    const bool whole = weight.row_stride == weight.cols;
    const int64_t num_pieces = whole ? 1 : weight.rows;
    const auto piece_values = static_cast<size_t>(whole ? weight.rows * weight.cols : weight.cols);
    for (int64_t piece = 0; piece < num_pieces; ++piece) {
      const std::span<const bf16> values(weight.row(piece).data(), piece_values);
      uploader().upload(std::as_bytes(values), target);
      target += values.size_bytes();
    }
  }
  uploader().finish();
  return std::make_unique<CudaLinear>(std::move(memory), out_features, in_features);
}

// --- a step

int64_t CudaOps::begin_step(const Batch& batch, MlaForm form) {
  TANDEM_CHECK(step_ && attention_, "begin_step before reserve()");
  make_current(card_idx_);
  uploader_.reset();  // weights are loaded before steps begin
  // The last step reads what is filled now.
  stream_.synchronize();
  const int32_t max_rows = std::min(limits_.max_batch_tokens, limits_.max_logit_rows);
  // The expanded form goes by each item's lengths, which a recording would keep.
  const int32_t bucket = form == MlaForm::kExpanded ? 0 : decode_bucket(batch, max_rows);
  const int64_t num_rows = bucket > 0 ? bucket : static_cast<int64_t>(batch.token_ids.size());
  recorder_.begin_step(bucket);
  replayed_ = {};
  step_->num_sample_rows = 0;
  const std::span<int32_t> values(step_->staging.as<int32_t>(),
                                  static_cast<size_t>(step_->inputs.num_values()));
  const int64_t num_used = step_->inputs.fill(batch, num_rows, values);
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(step_->values.as<int32_t>(), values.data(),
                                    static_cast<size_t>(num_used) * sizeof(int32_t),
                                    cudaMemcpyHostToDevice, stream_.get()));
  attention_->begin_step(step_->inputs, form, num_rows, stream_.get());
  return num_rows;
}

void CudaOps::submit() {
  make_current(card_idx_);
  recorder_.end_segment(
      [this](const std::function<void()>& work) { return CapturedGraph::capture(stream_, work); },
      [this](const CapturedGraph& graph) {
        graph.launch(stream_);
        replayed_ += {.num_kernels = static_cast<int64_t>(graph.num_nodes()), .num_recordings = 1};
      });
}

void CudaOps::rms_norm(MatrixView<const float> x,
                       std::span<const bf16> weight,
                       float eps,
                       MatrixView<bf16> out) {
  TANDEM_CHECK(
      static_cast<int64_t>(weight.size()) == x.cols && out.cols == x.cols && out.rows == x.rows,
      "rms_norm: shapes");
  // Without addends x is only read.
  add_rms_norm({}, {const_cast<float*>(x.data), x.rows, x.cols, x.row_stride}, weight, eps, out);
}

void CudaOps::add_rms_norm(std::span<const MatrixView<const float>> addends,
                           MatrixView<float> x,
                           std::span<const bf16> weight,
                           float eps,
                           MatrixView<bf16> out) {
  check_add(addends, x);
  const RmsNormParams params{
      .x = x, .addends = addends_of(addends), .weight = weight.data(), .out = out, .eps = eps};
  enqueue([=, this] { launch_rms_norm(params, stream_.get()); });
}

// The kernel reads the host's memory itself: a row is read once.
void CudaOps::add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) {
  check_add(addends, x);
  if (addends.empty()) return;
  const AddParams params{.addends = addends_of(addends), .x = x};
  enqueue([=, this] { launch_add(params, stream_.get()); });
}

void CudaOps::product(MatrixView<const bf16> x,
                      const LinearWeight& weight,
                      void* out,
                      int64_t out_row_stride,
                      MatmulOut kind) {
  TANDEM_CHECK(x.cols == weight.in_features, "linear: columns of x");
  const MatrixView<const bf16> matrix = static_cast<const CudaLinear&>(weight).matrix();
  enqueue([=, this] {
    multiply(matmul_,
             {.x = x, .weight = matrix, .out = out, .out_row_stride = out_row_stride, .kind = kind},
             stream_.get());
  });
}

// One kernel for few tokens, which leaves gate_up alone.
void CudaOps::linear_swiglu(MatrixView<const bf16> x,
                            const LinearWeight& weight,
                            MatrixView<float> gate_up,
                            MatrixView<bf16> out) {
  TANDEM_CHECK(x.cols == weight.in_features && weight.out_features == 2 * out.cols,
               "linear_swiglu: columns");
  if (x.rows > kMaxSkinnyTokens) {
    linear(x, weight, gate_up);
    swiglu(gate_up, out);
    return;
  }
  const MatrixView<const bf16> matrix = static_cast<const CudaLinear&>(weight).matrix();
  enqueue([=, this] {
    launch_skinny_linear(
        {.x = x, .weight = matrix, .output = LinearOutput::kSwiglu, .out_bf16 = out},
        LinearPath::kAuto, stream_.get());
  });
}

// The kernel may write to the host's memory itself: one launch where there were four nodes of a
// graph.
void CudaOps::router_topk(MatrixView<const bf16> hidden,
                          const LinearWeight& gate,
                          std::span<const float> e_score_correction_bias,
                          const RouterParams& params,
                          MatrixView<bf16> hidden_copy,
                          MatrixView<int32_t> expert_ids,
                          MatrixView<float> expert_weights) {
  TANDEM_CHECK(hidden.rows * gate.out_features * int64_t{sizeof(float)} <=
                   static_cast<int64_t>(step_->router_logits.size_bytes()),
               "router_topk: more experts than reserve() was told");
  const MatrixView<float> logits(step_->router_logits.as<float>(), hidden.rows, gate.out_features);
  linear(hidden, gate, logits);
  const RouterTopkParams topk{.logits = logits,
                              .e_score_correction_bias = e_score_correction_bias.data(),
                              .expert_ids = expert_ids,
                              .expert_weights = expert_weights,
                              .n_group = params.n_group,
                              .topk_group = params.topk_group,
                              .norm_topk_prob = params.norm_topk_prob,
                              .routed_scaling_factor = params.routed_scaling_factor,
                              .hidden = hidden,
                              .hidden_copy = hidden_copy};
  enqueue([=, this] { launch_router_topk(topk, stream_.get()); });
}

void CudaOps::add_routed_experts(MatrixView<const bf16> hidden,
                                 const ExpertsWeight& experts,
                                 MatrixView<const int32_t> expert_ids,
                                 MatrixView<const float> expert_weights,
                                 MatrixView<float> residual) {
  const auto& weights = static_cast<const CudaExperts&>(experts);
  check_add_routed_experts(weights.shape(), hidden, expert_ids, expert_weights, residual);
  enqueue([=, this, &weights] {
    step_->experts.run({.hidden = hidden,
                        .experts = weights,
                        .expert_ids = expert_ids,
                        .expert_weights = expert_weights,
                        .kv_slots = step_->arrays().kv_slots,
                        .residual = residual},
                       stream_.get());
  });
}

void CudaOps::rope_and_append_kv(const MlaShape& shape,
                                 const RopeKvParams& params,
                                 MatrixView<bf16> q,
                                 MatrixView<const float> kv_a,
                                 const KvCacheLayer& cache) {
  check_rope_and_append_kv(shape, params, q, kv_a);
  enqueue([=, this] {
    const StepArrays<const int32_t> arrays = step_->arrays();
    launch_rope_and_append_kv({.q = q,
                               .kv_a = kv_a,
                               .positions = arrays.positions,
                               .kv_slots = arrays.kv_slots,
                               .kv_a_layernorm = params.kv_a_layernorm.data(),
                               .frequencies = params.frequencies.data(),
                               .cache = cache.data,
                               .num_attention_heads = shape.num_attention_heads,
                               .qk_nope_head_dim = shape.qk_nope_head_dim,
                               .qk_rope_head_dim = shape.qk_rope_head_dim,
                               .kv_lora_rank = shape.kv_lora_rank,
                               .eps = params.eps,
                               .magnitude = params.magnitude},
                              stream_.get());
  });
}

void CudaOps::mla_attention(const MlaShape& shape,
                            MatrixView<const bf16> q,
                            const KvBWeight& kv_b,
                            const KvCacheLayer& cache,
                            MatrixView<bf16> out) {
  check_mla_attention(shape, q, out);
  const auto& weight = static_cast<const CudaKvB&>(kv_b);
  enqueue([=, this, &weight] {
    const StepArrays<const int32_t> arrays = step_->arrays();
    attention_->run({.q = q,
                     .kv_b = weight,
                     .cache = cache.data,
                     .positions = arrays.positions,
                     .page_ids = arrays.page_ids,
                     .out = out},
                    matmul_, stream_.get());
  });
}

// Behind the recorded segments, so that those of a step that chooses and of one whose logits go to
// the host are the same. The kernel reads the choices where they lie.
void CudaOps::sample(MatrixView<const float> logits,
                     std::span<const TokenChoice> choices,
                     std::span<int32_t> token_ids) {
  const int64_t begin = std::exchange(step_->num_sample_rows, step_->num_sample_rows + logits.rows);
  TANDEM_CHECK(choices.size() == static_cast<size_t>(logits.rows) &&
                   token_ids.size() == choices.size() &&
                   step_->num_sample_rows <= limits_.max_logit_rows,
               "sample: shapes");
  SampleRow* rows = step_->sample_rows.as<SampleRow>() + begin;
  for (size_t row = 0; row < choices.size(); ++row) {
    const TokenChoice& choice = choices[row];
    const bool is_greedy = choice.temperature < kGreedyTemperature;
    rows[row] = {.scale = is_greedy ? 1.0f : 1.0f / choice.temperature,
                 .top_k = is_greedy ? 1 : std::max(choice.top_k, 0),
                 .top_p = choice.top_p,
                 .min_p = choice.min_p,
                 .uniform = uniform_at(choice.seed, choice.draw_idx)};
  }
  submit();
  make_current(card_idx_);
  launch_sample({.logits = logits, .rows = rows, .token_ids = token_ids.data()}, stream_.get());
}

// Behind the recorded segments, and of none: a recording would keep the addresses, and between
// steps it would be the last step's.
void CudaOps::copy(std::span<const std::byte> from, std::span<std::byte> to, cudaMemcpyKind kind) {
  TANDEM_CHECK(from.size() == to.size(), "copy_to_host, copy_to_device: sizes differ");
  if (from.empty()) return;
  submit();
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(to.data(), from.data(), from.size(), kind, stream_.get()));
}

void CudaOps::receive(Ops& source, MatrixView<const float> from, MatrixView<float> to) {
  TANDEM_CHECK(from.rows == to.rows && from.cols == to.cols, "receive: shapes");
  auto& other = dynamic_cast<CudaOps&>(source);
  other.submit();
  submit();
  make_current(other.card_idx_);
  other.received_.record(other.stream_.get());
  make_current(card_idx_);
  stream_.wait_for(other.received_);
  const bool whole = from.row_stride == from.cols && to.row_stride == to.cols;
  const int64_t num_pieces = whole ? 1 : to.rows;
  const auto piece_size_bytes =
      static_cast<size_t>(whole ? to.rows * to.cols : to.cols) * sizeof(float);
  for (int64_t piece = 0; piece < num_pieces; ++piece) {
    TANDEM_CUDA_CHECK(cudaMemcpyPeerAsync(to.row(piece).data(), card_idx_, from.row(piece).data(),
                                          other.card_idx_, piece_size_bytes, stream_.get()));
  }
}

std::unique_ptr<Ops> make_cuda_ops(int32_t card_idx) { return std::make_unique<CudaOps>(card_idx); }

}  // namespace tandem::gpu::cuda
