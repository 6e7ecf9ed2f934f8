#include "gpu/host/host_ops.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "gpu/host/dispatch.h"
#include "gpu/host/host_memory.h"
#include "gpu/host/rope.h"
#include "gpu/host/router.h"
#include "gpu/shape_checks.h"
#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

// Work of fewer elements is done by the calling thread: waking the workers takes longer.
constexpr int64_t kInlineElements = 1 << 14;
// Columns are cut at multiples of a cache line of BF16.
constexpr int64_t kColumnGrain = 32;
// Room for logits and scores of a chunk of tokens in the router.
constexpr int64_t kRouterElements = 1 << 20;
constexpr size_t kRouterScoresSizeBytes = size_t{kRouterElements} * sizeof(float);

class HostLinear : public LinearWeight {
 public:
  explicit HostLinear(PanelMatrix matrix_in) : matrix(std::move(matrix_in)) {
    out_features = matrix.num_rows();
    in_features = matrix.num_cols();
  }
  PanelMatrix matrix;
};

const PanelMatrix& panels_of(const LinearWeight& weight) {
  return static_cast<const HostLinear&>(weight).matrix;
}

std::string_view long_name(std::string_view isa_name) {
  if (isa_name == "avx2") return "AVX2";
  if (isa_name == "avx512") return "AVX-512";
  if (isa_name == "avx512_bf16") return "AVX-512 BF16";
  if (isa_name == "amx_bf16") return "AMX BF16";
  return "SSE2";
}

}  // namespace

HostOps::HostOps(WorkerPool& pool, const Kernels& kernels)
    : kernels_(kernels),
      pool_(pool),
      linear_(kernels, pool),
      attention_(kernels, pool),
      experts_(pool),
      router_scores_(kRouterScoresSizeBytes) {}

std::string HostOps::arithmetic() const { return std::string("host, ") + kernels_.isa_name; }

std::string HostOps::description() const {
  return "host, " + std::string(long_name(kernels_.isa_name)) + ", " +
         std::to_string(pool_.num_workers()) + (pool_.num_workers() == 1 ? " thread" : " threads");
}

template <typename Task>
void HostOps::for_each_row(int64_t num_rows, int64_t num_cols, const Task& task) {
  if (num_rows * num_cols <= kInlineElements) {
    for (int64_t row_idx = 0; row_idx < num_rows; ++row_idx) task(row_idx, 0, num_cols);
    return;
  }
  const bool by_rows = num_rows >= pool_.num_workers();
  const auto body = [&](const WorkerPool::Worker& worker) {
    const int64_t num_units = by_rows ? num_rows : ceil_div(num_cols, kColumnGrain);
    const Range part = part_of(num_units, worker.worker_idx, pool_.num_workers());
    const Range rows = by_rows ? part : Range{0, num_rows};
    const int64_t col_begin = by_rows ? 0 : part.begin * kColumnGrain;
    const int64_t col_end = by_rows ? num_cols : std::min(num_cols, part.end * kColumnGrain);
    if (col_begin >= col_end) return;
    for (int64_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
      task(row_idx, col_begin, col_end);
    }
  };
  pool_.run(body);
}

template <typename Task>
void HostOps::for_each_whole_row(int64_t num_rows, int64_t cost, const Task& task) {
  if (num_rows == 1 || num_rows * cost <= kInlineElements) {
    for (int64_t row_idx = 0; row_idx < num_rows; ++row_idx) task(row_idx);
    return;
  }
  const auto body = [&](const WorkerPool::Worker& worker) {
    const Range rows = part_of(num_rows, worker.worker_idx, pool_.num_workers());
    for (int64_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) task(row_idx);
  };
  pool_.run(body);
}

// --- memory

std::unique_ptr<DeviceBuffer> HostOps::allocate(size_t size_bytes) {
  return std::make_unique<HostBuffer>(size_bytes);
}

std::unique_ptr<DeviceBuffer> HostOps::upload(std::span<const std::byte> host_bytes) {
  auto buffer = std::make_unique<HostBuffer>(host_bytes.size());
  if (!host_bytes.empty()) std::memcpy(buffer->data(), host_bytes.data(), host_bytes.size());
  return buffer;
}

std::unique_ptr<LinearWeight> HostOps::load_linear(MatrixView<const bf16> weight) {
  return load_linear(std::span(&weight, 1));
}

std::unique_ptr<LinearWeight> HostOps::load_linear(
    std::span<const MatrixView<const bf16>> weights) {
  return std::make_unique<HostLinear>(PanelMatrix(weights, kernels_, pool_));
}

std::unique_ptr<KvBWeight> HostOps::load_kv_b(MatrixView<const bf16> kv_b_proj,
                                              const MlaShape& shape) {
  return std::make_unique<HostKvB>(kv_b_proj, shape, kernels_, pool_);
}

void HostOps::reserve(const OpsLimits& limits, const MlaShape& shape) {
  attention_.reserve(shape);
  experts_.reserve(limits);
  if (router_scores_.size_bytes() == 0) router_scores_ = HostMemory(kRouterScoresSizeBytes);
}

void HostOps::release() {
  attention_.release();
  experts_.release();
  router_scores_ = HostMemory();
}

std::unique_ptr<DeviceBuffer> HostOps::allocate_host(size_t size_bytes) {
  return allocate(size_bytes);
}

void HostOps::copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) {
  TANDEM_CHECK(device.size() == host.size(), "copy_to_host: sizes differ");
  if (device.empty() || device.data() == host.data()) return;
  std::memcpy(host.data(), device.data(), device.size());
}

void HostOps::copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) {
  copy_to_host(host, device);  // it is one memory
}

void HostOps::receive(Ops& source, MatrixView<const float> from, MatrixView<float> to) {
  TANDEM_CHECK(source.memory_is_host() && from.rows == to.rows && from.cols == to.cols,
               "receive: shapes");
  for_each_row(to.rows, to.cols, [&](int64_t row, int64_t begin, int64_t end) {
    std::memcpy(&to(row, begin), &from(row, begin),
                static_cast<size_t>(end - begin) * sizeof(float));
  });
}

// --- rows

void HostOps::embed(MatrixView<const bf16> table, MatrixView<float> residual) {
  const std::span<const int32_t> token_ids = batch_.token_ids;
  TANDEM_CHECK(
      residual.cols == table.cols && residual.rows == static_cast<int64_t>(token_ids.size()),
      "embed: shapes");
  for_each_row(static_cast<int64_t>(token_ids.size()), table.cols,
               [&](int64_t row, int64_t begin, int64_t end) {
                 const int32_t token_id = token_ids[static_cast<size_t>(row)];
                 TANDEM_CHECK(token_id >= 0 && token_id < table.rows, "embed: token id");
                 kernels_.widen(bits_of(&table(token_id, begin)), end - begin,
                                &residual(row, begin));
               });
}

void HostOps::rms_norm(MatrixView<const float> x,
                       std::span<const bf16> weight,
                       float eps,
                       MatrixView<bf16> out) {
  TANDEM_CHECK(
      static_cast<int64_t>(weight.size()) == x.cols && out.cols == x.cols && out.rows == x.rows,
      "rms_norm: shapes");
  for_each_whole_row(x.rows, x.cols, [&](int64_t row) {
    kernels_.rms_norm(&x(row, 0), bits_of(weight.data()), eps, x.cols, bits_of(&out(row, 0)));
  });
}

void HostOps::add_rms_norm(std::span<const MatrixView<const float>> addends,
                           MatrixView<float> x,
                           std::span<const bf16> weight,
                           float eps,
                           MatrixView<bf16> out) {
  add(addends, x);
  rms_norm(x, weight, eps, out);
}

void HostOps::swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) {
  TANDEM_CHECK(gate_up.cols == 2 * out.cols && out.rows == gate_up.rows, "swiglu: shapes");
  for_each_row(out.rows, out.cols, [&](int64_t row, int64_t begin, int64_t end) {
    kernels_.swiglu(&gate_up(row, begin), &gate_up(row, out.cols + begin), end - begin,
                    bits_of(&out(row, begin)));
  });
}

void HostOps::add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) {
  check_add(addends, x);
  if (addends.empty()) return;
  for_each_row(x.rows, x.cols, [&](int64_t row, int64_t begin, int64_t end) {
    for (const MatrixView<const float>& addend : addends) {
      kernels_.add(&addend(row, begin), end - begin, &x(row, begin));
    }
  });
}

void HostOps::gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) {
  const std::span<const int32_t> row_idx = batch_.logit_token_idx;
  TANDEM_CHECK(out.cols == x.cols && out.rows == static_cast<int64_t>(row_idx.size()),
               "gather_logit_rows: shapes");
  for_each_row(out.rows, out.cols, [&](int64_t row, int64_t begin, int64_t end) {
    const int32_t source = row_idx[static_cast<size_t>(row)];
    TANDEM_CHECK(source >= 0 && source < x.rows, "gather_logit_rows: row index");
    std::memcpy(&out(row, begin), &x(source, begin),
                static_cast<size_t>(end - begin) * sizeof(float));
  });
}

void HostOps::sample(MatrixView<const float> logits,
                     std::span<const TokenChoice> choices,
                     std::span<int32_t> token_ids) {
  TANDEM_CHECK(
      choices.size() == static_cast<size_t>(logits.rows) && token_ids.size() == choices.size(),
      "sample: shapes");
  for (size_t row = 0; row < choices.size(); ++row) {
    const TokenChoice& choice = choices[row];
    SamplingParams params;
    params.temperature = choice.temperature;
    params.top_k = choice.top_k;
    params.top_p = choice.top_p;
    params.min_p = choice.min_p;
    Sampler sampler(params, choice.seed, {}, choice.draw_idx);
    const auto token =
        sampler.choose({.logits = logits.row(static_cast<int64_t>(row))}, sampler_scratch_);
    token_ids[row] = token.ok() ? token.value().token_id : -1;
  }
}

// --- products

void HostOps::linear(MatrixView<const bf16> x, const LinearWeight& weight, MatrixView<float> out) {
  linear_.run(x, panels_of(weight), out, /*add=*/false);
}

void HostOps::linear(MatrixView<const bf16> x, const LinearWeight& weight, MatrixView<bf16> out) {
  linear_.run(x, panels_of(weight), out);
}

void HostOps::linear_add(MatrixView<const bf16> x,
                         const LinearWeight& weight,
                         MatrixView<float> out) {
  linear_.run(x, panels_of(weight), out, /*add=*/true);
}

void HostOps::linear_swiglu(MatrixView<const bf16> x,
                            const LinearWeight& weight,
                            MatrixView<float> gate_up,
                            MatrixView<bf16> out) {
  linear(x, weight, gate_up);
  swiglu(gate_up, out);
}

void HostOps::router_topk(MatrixView<const bf16> hidden,
                          const LinearWeight& gate,
                          std::span<const float> e_score_correction_bias,
                          const RouterParams& params,
                          MatrixView<bf16> hidden_copy,
                          MatrixView<int32_t> expert_ids,
                          MatrixView<float> expert_weights) {
  const int64_t num_experts = gate.out_features;
  TANDEM_CHECK(expert_ids.rows == hidden.rows && expert_weights.rows == hidden.rows,
               "router_topk: rows");
  TANDEM_CHECK(expert_ids.cols == params.num_experts_per_tok &&
                   expert_weights.cols == params.num_experts_per_tok &&
                   params.num_experts_per_tok <= num_experts,
               "router_topk: num_experts_per_tok");
  const int64_t chunk_rows = kRouterElements / (2 * num_experts);
  TANDEM_CHECK(chunk_rows > 0, "router_topk: too many experts");
  float* scores = router_scores_.as<float>();
  float* choices = scores + chunk_rows * num_experts;
  for (int64_t begin = 0; begin < hidden.rows; begin += chunk_rows) {
    const int64_t num_rows = std::min(chunk_rows, hidden.rows - begin);
    linear_.run(hidden.rows_from(begin, num_rows), panels_of(gate),
                MatrixView<float>(scores, num_rows, num_experts),
                /*add=*/false);
    for_each_whole_row(num_rows, 8 * num_experts, [&](int64_t row) {
      const auto width = static_cast<size_t>(num_experts);
      choose_experts({scores + row * num_experts, width}, e_score_correction_bias, params,
                     {choices + row * num_experts, width}, expert_ids.row(begin + row),
                     expert_weights.row(begin + row));
    });
  }
  if (hidden_copy.rows == 0 || hidden_copy.data == hidden.data) return;
  TANDEM_CHECK(hidden_copy.rows == hidden.rows && hidden_copy.cols == hidden.cols,
               "router_topk: hidden_copy");
  for_each_row(hidden.rows, hidden.cols, [&](int64_t row, int64_t begin, int64_t end) {
    std::memcpy(&hidden_copy(row, begin), &hidden(row, begin),
                static_cast<size_t>(end - begin) * sizeof(bf16));
  });
}

void HostOps::add_routed_experts(MatrixView<const bf16> hidden,
                                 const ExpertsWeight& experts,
                                 MatrixView<const int32_t> expert_ids,
                                 MatrixView<const float> expert_weights,
                                 MatrixView<float> residual) {
  const auto& weights = static_cast<const HostExperts&>(experts);
  check_add_routed_experts(weights.shape(), hidden, expert_ids, expert_weights, residual);
  experts_.run({.hidden = hidden,
                .experts = weights,
                .expert_ids = expert_ids,
                .expert_weights = expert_weights,
                .residual = residual});
}

// --- attention

void HostOps::rope_and_append_kv(const MlaShape& shape,
                                 const RopeKvParams& params,
                                 MatrixView<bf16> q,
                                 MatrixView<const float> kv_a,
                                 const KvCacheLayer& cache) {
  check_rope_and_append_kv(shape, params, q, kv_a);
  const int32_t num_pairs = shape.qk_rope_head_dim / 2;
  for (const BatchItem& item : batch_.items) {
    for_each_whole_row(item.num_tokens, q.cols, [&](int64_t token) {
      const int64_t row = item.token_begin + token;
      const int32_t position = item.context_size_tokens + static_cast<int32_t>(token);
      const int32_t page_id = item.page_ids[static_cast<size_t>(position / kPageSizeTokens)];
      TANDEM_CHECK(page_id >= 0 && page_id < cache.num_pages, "rope_and_append_kv: page id");
      bf16* slot = cache.data + (int64_t{page_id} * kPageSizeTokens + position % kPageSizeTokens) *
                                    shape.kv_dim();
      const float* latent = &kv_a(row, 0);
      kernels_.rms_norm(latent, bits_of(params.kv_a_layernorm.data()), params.eps,
                        shape.kv_lora_rank, bits_of(slot));
      for (int32_t pair = 0; pair < num_pairs; ++pair) {
        const Rotation rotation =
            rotation_at(position, params.frequencies[static_cast<size_t>(pair)], params.magnitude);
        const int64_t key_idx = shape.kv_lora_rank + 2 * pair;
        const RotatedPair key = rotate(latent[key_idx], latent[key_idx + 1], rotation);
        slot[key_idx] = bf16(key.even);
        slot[key_idx + 1] = bf16(key.odd);
        bf16* head = &q(row, shape.qk_nope_head_dim + 2 * pair);
        for (int32_t head_idx = 0; head_idx < shape.num_attention_heads; ++head_idx) {
          const RotatedPair query = rotate(head[0].to_float(), head[1].to_float(), rotation);
          head[0] = bf16(query.even);
          head[1] = bf16(query.odd);
          head += shape.qk_head_dim();
        }
      }
    });
  }
}

void HostOps::mla_attention(const MlaShape& shape,
                            MatrixView<const bf16> q,
                            const KvBWeight& kv_b,
                            const KvCacheLayer& cache,
                            MatrixView<bf16> out) {
  check_mla_attention(shape, q, out);
  attention_.run({.batch = batch_,
                  .form = form_,
                  .q = q,
                  .kv_b = static_cast<const HostKvB&>(kv_b),
                  .cache = cache,
                  .out = out});
}

std::unique_ptr<Ops> make_host_ops(WorkerPool& pool, const Kernels& kernels) {
  return std::make_unique<HostOps>(pool, kernels);
}

}  // namespace tandem::gpu::host

namespace tandem::gpu {

std::unique_ptr<Ops> make_host_ops(WorkerPool& pool) {
  return host::make_host_ops(pool, host::active_kernels());
}

}  // namespace tandem::gpu
