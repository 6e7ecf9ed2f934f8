// The dense operations of a layer: one interface, implemented by gpu/host (CPU) and gpu/cuda
// (NVIDIA). An Ops object is one logical device with one in-order stream: calls enqueue,
// synchronize() waits. Views point into memory of that device (Ops::allocate, Ops::upload) unless
// a comment says host. A step is begin_step() and the operations on its batch behind it. Steps that
// decode as many rows call the same operations in the same order, with the same views, between the
// same submits and synchronizes: a device may record what it is asked for, and replay it.
// Equation numbers: model/spec.md §3.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/bf16.h"
#include "runtime/base/device_launches.h"
#include "runtime/base/function_ref.h"
#include "runtime/base/matrix_view.h"
#include "runtime/base/token_choice.h"
#include "runtime/model/forward_model.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::gpu {

// Memory of a device; freed by scope.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  [[nodiscard]] virtual std::byte* data() const = 0;
  [[nodiscard]] virtual size_t size_bytes() const = 0;
};

// A BF16 weight matrix in the device's own layout (the host packs it for its kernels); 2 bytes a
// weight.
class LinearWeight {
 public:
  virtual ~LinearWeight() = default;
  int64_t out_features = 0;
  int64_t in_features = 0;
};

// kv_b_proj in the form that attention needs: W_UK and W_UV of every head (equation 9).
class KvBWeight {
 public:
  virtual ~KvBWeight() = default;
};

// The routed experts of one layer, all of them, 4.5 bits a weight.
class ExpertsWeight {
 public:
  virtual ~ExpertsWeight() = default;
};

// Of a layer whose routed experts lie on the device.
struct ExpertsShape {
  int32_t hidden_size = 0;            // multiple of 32
  int32_t moe_intermediate_size = 0;  // multiple of 32
  int32_t n_routed_experts = 0;       // at most kMaxDeviceExperts
  int32_t num_experts_per_tok = 0;
};
inline constexpr int32_t kMaxDeviceExperts = 1024;
inline constexpr int32_t kMaxSampledVocab = 1 << 18;  // of Ops::sample
inline constexpr int32_t kMaxAddends = 3;             // of Ops::add

struct MlaShape {
  int32_t num_attention_heads = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
  int32_t kv_lora_rank = 0;
  float softmax_scale = 0.0f;
  [[nodiscard]] int32_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  [[nodiscard]] int32_t kv_dim() const { return kv_lora_rank + qk_rope_head_dim; }
};

// Latent KV of one layer: page p, slot s at ((p * 64) + s) * kv_dim; c (kv_lora_rank) then k_rope
// (qk_rope_head_dim).
struct KvCacheLayer {
  bf16* data = nullptr;  // [num_pages, 64, kv_dim]
  int32_t num_pages = 0;
};

// kAuto lets the device choose. The forms agree within rounding, not to the bit; each alone is
// independent of the batch and of chunking to the bit, and kAuto on the host keeps to one of them
// for that reason.
enum class MlaForm { kAuto, kAbsorbed, kExpanded };

struct RouterParams {
  int32_t num_experts_per_tok = 0;
  int32_t n_group = 1;
  int32_t topk_group = 1;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;
};

struct OpsLimits {
  int32_t max_batch_tokens = 0;
  int32_t max_logit_rows = 0;
  int32_t max_context_tokens = 0;
  int32_t n_routed_experts = 0;  // of the widest router; 0: no router
  RouterParams router = {};
  ExpertsShape experts = {};  // that lie on the device; n_routed_experts 0: none do
  // Of one step, with tokens in it. The scheduler runs no more of them than there are rows of
  // logits; who asks for fewer rows, as a warm-up does, has kMinSequences all the same.
  static constexpr int32_t kMinSequences = 256;
  [[nodiscard]] int32_t max_sequences() const {
    return std::min(max_batch_tokens, std::max(max_logit_rows, kMinSequences));
  }
};

class Ops {
 public:
  virtual ~Ops() = default;

  [[nodiscard]] virtual std::string description() const = 0;  // "host, AVX-512 BF16, 2 threads"
  // What the last bits of its results depend on besides their operands: "host, avx512_bf16".
  [[nodiscard]] virtual std::string arithmetic() const = 0;
  // The host reads and writes the device's memory directly: nothing needs a copy there.
  [[nodiscard]] virtual bool memory_is_host() const = 0;

  // Memory, between steps: at start-up, and where it is given back and taken again.

  virtual std::unique_ptr<DeviceBuffer> allocate(size_t size_bytes) = 0;  // zeroed, 64-byte aligned
  virtual std::unique_ptr<DeviceBuffer> upload(std::span<const std::byte> host_bytes) = 0;
  virtual std::unique_ptr<LinearWeight> load_linear(
      MatrixView<const bf16> weight) = 0;  // [out, in]
  // Several matrices of the same input one after the other in the output: gate|up, q_a|kv_a.
  virtual std::unique_ptr<LinearWeight> load_linear(
      std::span<const MatrixView<const bf16>> weights) = 0;
  // kv_b_proj [heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank].
  virtual std::unique_ptr<KvBWeight> load_kv_b(MatrixView<const bf16> kv_b_proj,
                                               const MlaShape& shape) = 0;
  // Routed experts, one after the other: packed_expert(idx) is called for 0, 1, ... and returns the
  // expert as runtime/model/expert_layout.h has it [expert_size_bytes], valid until the next call.
  // What it throws passes through.
  using PackedExpert = FunctionRef<std::span<const std::byte>(int32_t expert_idx)>;
  virtual std::unique_ptr<ExpertsWeight> load_experts(const ExpertsShape& shape,
                                                      PackedExpert packed_expert) = 0;
  // Workspaces for everything below, before the first step and best before the weights. Throws
  // LoadError for a model that the device cannot compute, and where memory is missing.
  virtual void reserve(const OpsLimits& limits, const MlaShape& shape) = 0;
  // Gives them back, and forgets what was recorded, so that whatever steps worked on may go; what
  // was enqueued is done first. reserve() comes before the next step.
  virtual void release() = 0;

  // Memory of the host that the device copies from and to at full speed, zeroed.
  virtual std::unique_ptr<DeviceBuffer> allocate_host(size_t size_bytes) = 0;

  // One step.

  // Takes what the operations below need of the batch (ids, positions, pages, rows of logits) to
  // the device, once, and decides how its attention is spread there, in the form that is asked for.
  // What `batch` points to stays as it is until the step is over. Returns how many rows the step's
  // views have: a row a token, and in a decode step, where every token has its logits, perhaps some
  // more behind them (within the limits), whose values mean nothing and which go to no page.
  virtual int64_t begin_step(const Batch& batch, MlaForm form) = 0;

  // residual[t, :] = table[token_ids[t], :] (1), for every row of the step
  virtual void embed(MatrixView<const bf16> table, MatrixView<float> residual) = 0;

  // out[t, :] = weight * x[t, :] / sqrt(mean(x^2) + eps), rounded to BF16 once (2)
  virtual void rms_norm(MatrixView<const float> x,
                        std::span<const bf16> weight,
                        float eps,
                        MatrixView<bf16> out) = 0;
  // x += addends[0], x += addends[1], ... (15), then rms_norm of x. At most kMaxAddends of them, as
  // x in shape; in the device's memory or in the host's, of allocate_host: what the CPU's experts
  // have summed.
  virtual void add_rms_norm(std::span<const MatrixView<const float>> addends,
                            MatrixView<float> x,
                            std::span<const bf16> weight,
                            float eps,
                            MatrixView<bf16> out) = 0;
  // The sums alone.
  virtual void add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) = 0;

  // out = x W^T; x [num_tokens, in] BF16, accumulation in FP32. The BF16 form rounds once; add: out
  // += x W^T.
  virtual void linear(MatrixView<const bf16> x,
                      const LinearWeight& weight,
                      MatrixView<float> out) = 0;
  virtual void linear(MatrixView<const bf16> x,
                      const LinearWeight& weight,
                      MatrixView<bf16> out) = 0;
  virtual void linear_add(MatrixView<const bf16> x,
                          const LinearWeight& weight,
                          MatrixView<float> out) = 0;

  // For every token of the batch at its position: c = rms_norm(kv_a[:, 0:kv_lora_rank];
  // kv_a_layernorm, eps), k_rope = rope(kv_a[:, kv_lora_rank:]), both appended to the token's page
  // slot; the rope part of every head of q is rotated in place, interleaved pairs (4, 5).
  //   q [num_tokens, heads * qk_head_dim] bf16    kv_a [num_tokens, kv_dim] fp32    frequencies
  //   [qk_rope_head_dim / 2]
  struct RopeKvParams {
    std::span<const bf16> kv_a_layernorm;
    float eps = 1e-6f;
    std::span<const float> frequencies;
    float magnitude = 1.0f;  // multiplies cos and sin
  };
  virtual void rope_and_append_kv(const MlaShape& shape,
                                  const RopeKvParams& params,
                                  MatrixView<bf16> q,
                                  MatrixView<const float> kv_a,
                                  const KvCacheLayer& cache) = 0;

  // Causal attention of every item of the batch over its pages, itself included (8 or 9); softmax
  // in FP32.
  //   q [num_tokens, heads * qk_head_dim]    out [num_tokens, heads * v_head_dim]
  virtual void mla_attention(const MlaShape& shape,
                             MatrixView<const bf16> q,
                             const KvBWeight& kv_b,
                             const KvCacheLayer& cache,
                             MatrixView<bf16> out) = 0;

  // out = silu(gate_up[:, :I]) * gate_up[:, I:] (11)
  //   gate_up [num_tokens, 2 * I] fp32    out [num_tokens, I] bf16
  virtual void swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) = 0;
  // The same behind its product, gate_up = x W^T with the gate's rows of W first; what is left in
  // gate_up is for the device to say.
  virtual void linear_swiglu(MatrixView<const bf16> x,
                             const LinearWeight& weight,
                             MatrixView<float> gate_up,
                             MatrixView<bf16> out) = 0;

  // Scores, choice and weights of the router (12-14), all in FP32; ties go to the lower index;
  // expert_ids ascend. Where hidden_copy has rows, hidden_copy = hidden; it may be hidden itself
  // where the device's memory is the host's. The results may lie in memory of allocate_host: what
  // experts on the host need.
  //   gate [n_routed_experts, hidden_size]    bias [n_routed_experts], for the choice only
  virtual void router_topk(MatrixView<const bf16> hidden,
                           const LinearWeight& gate,
                           std::span<const float> e_score_correction_bias,
                           const RouterParams& params,
                           MatrixView<bf16> hidden_copy,
                           MatrixView<int32_t> expert_ids,
                           MatrixView<float> expert_weights) = 0;

  // residual[t, :] += sum_j expert_weights[t, j] * MLP_{expert_ids[t, j]}(hidden[t, :]) (11, 15),
  // for experts on the device; all ids are of the layer's experts. Between an expert's products,
  // and behind them, values are rounded to BF16; sums are FP32, over experts in the order of j, and
  // added to the residual last.
  //   hidden [num_tokens, hidden_size]    expert_ids, expert_weights [num_tokens,
  //   num_experts_per_tok]    residual as hidden
  virtual void add_routed_experts(MatrixView<const bf16> hidden,
                                  const ExpertsWeight& experts,
                                  MatrixView<const int32_t> expert_ids,
                                  MatrixView<const float> expert_weights,
                                  MatrixView<float> residual) = 0;

  // out[i, :] = x[batch.logit_token_idx[i], :]
  virtual void gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) = 0;

  // token_ids[i] = the token that choices[i] draws from logits[i, :], -1 where none is possible.
  // token_ids is memory of allocate_host; at most max_logit_rows rows a step, of kMaxSampledVocab
  // columns. Submits what is
  // before it, and is itself no part of a recording: a step may have it or not.
  virtual void sample(MatrixView<const float> logits,
                      std::span<const TokenChoice> choices,
                      std::span<int32_t> token_ids) = 0;

  // To memory of allocate_host, and from there; in a step or between steps. Onto itself, where both
  // are the same memory, it does nothing. Submits what is before it, and is itself no part of a
  // recording: what is copied may be something else every time.
  virtual void copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) = 0;
  virtual void copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) = 0;

  // to = from, which lies in the memory of `source`, a device of the same kind: after everything
  // that `source` has been asked for so far. Layers on another device go on from here.
  virtual void receive(Ops& source, MatrixView<const float> from, MatrixView<float> to) = 0;

  // Of the step at hand so far, or the last one: what was replayed of recordings, the rest of a
  // step is not counted. Zeros on a device without recordings.
  [[nodiscard]] virtual DeviceLaunches replayed_launches() const { return {}; }

  // The device begins with what it was asked for so far, if it has not yet.
  virtual void submit() = 0;

  // Submits, and waits until all of the above is done. Before it, nothing has been delivered to the
  // host's memory, and what lies there to be read, for begin_step too, may not change.
  virtual void synchronize() = 0;
};

// The CPU as a device. `pool` outlives the Ops and is shared with cpu_experts.
std::unique_ptr<Ops> make_host_ops(WorkerPool& pool);

}  // namespace tandem::gpu
