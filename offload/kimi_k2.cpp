#include "offload/kimi_k2.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cpu_experts/moe_experts.h"
#include "offload/attention_layer.h"
#include "offload/copy_bandwidth.h"
#include "offload/device_part.h"
#include "offload/expert_upload.h"
#include "offload/host_copy.h"
#include "offload/kv_identity.h"
#include "offload/moe_layer.h"
#include "offload/placement.h"
#include "offload/residual.h"
#include "offload/warm_up.h"
#include "offload/weights.h"
#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/base/function_ref.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/model/expert_reader.h"

namespace tandem::offload {
struct KimiK2::Impl {
  const Checkpoint& checkpoint;
  ModelConfig config;
  KimiK2Options options;
  Placement placement;
  WorkerPool& pool;
  std::vector<DevicePart> parts;  // in the order of the layers
  // The routed experts in host memory; null where no MoE layer has them there.
  std::unique_ptr<cpu_experts::MoeExperts> experts;
  cpu_experts::MoeShape moe_shape;
  gpu::RouterParams router;
  std::unique_ptr<gpu::DeviceBuffer>
      embed_tokens;  // [vocab_size, hidden_size], on the first device
  HeadWeights head;  // on the last
  // Not taken yet, or given back. What steps work in is there when nothing is missing.
  ModelMemory missing = kAllModelMemory;
  std::string description;

  Impl(const Checkpoint& checkpoint_in, WorkerPool& pool_in)
      : checkpoint(checkpoint_in), config(checkpoint_in.config()), pool(pool_in) {}
  void prepare();
  void take_memory(const ModelMemory& what, const ProgressFn& progress);
  void give_back_memory(const ModelMemory& what);  // whatever is there of it
  void load_weights(bool with_host_experts, const ProgressFn& progress);
  [[nodiscard]] std::string make_description() const;
  // One layer of each kind on every device, with steps of all sizes.
  void warm_up(const ProgressFn& progress);
  void warm_up_part(DevicePart& part, const Batch& batch);
  // Into host memory. `report` is told the expert's share of all bytes as worker 0, the caller,
  // goes on.
  void load_host_experts(ExpertReader& reader,
                         int32_t layer_idx,
                         const std::function<void(int64_t)>& report);
  // Whether a MoE layer's routed experts lie on its device.
  [[nodiscard]] bool has_device_experts(int32_t layer_idx) const {
    return moe_layer_idx(config, layer_idx) < placement.num_device_expert_layers;
  }
  // Among those whose routed experts lie in host memory.
  [[nodiscard]] int32_t host_moe_layer_idx(int32_t layer_idx) const {
    return moe_layer_idx(config, layer_idx) - placement.num_device_expert_layers;
  }
  // Whether the workers of the pool have a part in a step.
  [[nodiscard]] bool uses_workers() const {
    return experts != nullptr || parts.front().ops().memory_is_host();
  }
  // One step. take_logits(last device's operations, its workspace, rows of logits) says what
  // becomes of the logits; it is not called where none are asked for.
  using TakeLogits = FunctionRef<void(gpu::Ops&, Workspace&, int64_t)>;
  void run_step(const Batch& batch, const TakeLogits& take_logits);
  // The residual of the first device, from the step's tokens.
  void embed(int64_t num_rows);
  // residual += what the layers of `part` add to it.
  void run_layers(DevicePart& part, const StepRows& rows);
  // Logits of the rows that the batch names, on the last device.
  void run_head(int64_t num_rows, int64_t num_logit_rows);
  void check_batch(const Batch& batch) const;
  using CopyPages = void (KvCache::*)(std::span<const KvPageBytes> pages, int64_t offset_bytes);
  void copy_kv_pages(std::span<const KvPageBytes> pages, CopyPages copy);
};

namespace {

cpu_experts::MoeShape moe_shape_of(const ModelConfig& config,
                                   int32_t num_host_layers,
                                   int32_t max_batch_tokens,
                                   const KimiK2Options& options) {
  return {.hidden_size = config.hidden_size,
          .moe_intermediate_size = config.moe_intermediate_size,
          .n_routed_experts = config.n_routed_experts,
          .num_experts_per_tok = config.num_experts_per_tok,
          .num_moe_layers = num_host_layers,
          .max_tokens = max_batch_tokens,
          .activations = options.expert_activations};
}

}  // namespace

KimiK2::KimiK2(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KimiK2::~KimiK2() = default;

std::unique_ptr<KimiK2> KimiK2::load(const Checkpoint& checkpoint,
                                     WorkerPool& pool,
                                     const KimiK2Options& options,
                                     const ProgressFn& progress) {
  auto impl = std::make_unique<Impl>(checkpoint, pool);
  impl->options = options;
  const auto planned_experts_size = [&](int32_t num_layers, int32_t max_batch_tokens) {
    return cpu_experts::MoeExperts::planned_size(
        moe_shape_of(checkpoint.config(), num_layers, max_batch_tokens, options), pool);
  };
  impl->placement = plan_placement(checkpoint,
                                   {.kv_cache_tokens = options.kv_cache_tokens,
                                    .max_context_tokens = options.max_context_tokens,
                                    .max_batch_tokens = options.max_batch_tokens,
                                    .preferred_batch_tokens = options.preferred_batch_tokens,
                                    .max_logit_rows = options.max_logit_rows,
                                    .devices = options.devices,
                                    .device_expert_layers = options.gpu_expert_layers,
                                    .kv_host_size_bytes = options.kv_host_size_bytes,
                                    .min_kv_host_pages = options.min_kv_host_pages,
                                    .host_experts_size = planned_experts_size},
                                   available_memory(options.devices));
  if (options.on_plan) options.on_plan(format_memory_map(impl->placement));
  impl->prepare();
  impl->take_memory(kAllModelMemory, progress);
  if (options.warm_up && !impl->parts.front().ops().memory_is_host()) impl->warm_up(progress);
  impl->description = impl->make_description();
  return std::unique_ptr<KimiK2>(new KimiK2(std::move(impl)));
}

void KimiK2::forward(const Batch& batch, MatrixView<float> logits) {
  Impl& model = *impl_;
  const auto num_logits = static_cast<int64_t>(batch.logit_token_idx.size());
  TANDEM_CHECK(
      logits.rows >= num_logits && (num_logits == 0 || logits.cols == model.config.vocab_size),
      "logits must be [num_logit_rows, vocab_size]");
  model.run_step(batch, [&](gpu::Ops& ops, Workspace& workspace, int64_t num_rows) {
    copy_to_host<float>(ops, workspace.logits.first_rows(num_rows),
                        workspace.host_logits.first_rows(num_rows));
  });
  const MatrixView<float> host_logits = model.parts.back().workspace().host_logits;
  for (int64_t row_idx = 0; row_idx < num_logits; ++row_idx) {
    const std::span<const float> row = host_logits.row(row_idx);
    std::copy(row.begin(), row.end(), logits.row(row_idx).begin());
  }
}

bool KimiK2::chooses_tokens() const {
  return !impl_->parts.back().ops().memory_is_host() &&
         impl_->config.vocab_size <= gpu::kMaxSampledVocab;
}

void KimiK2::forward_and_choose(const Batch& batch,
                                std::span<const TokenChoice> choices,
                                std::span<int32_t> token_ids) {
  const size_t num_choices = batch.logit_token_idx.size();
  TANDEM_CHECK(choices.size() == num_choices && token_ids.size() == num_choices,
               "choices and token_ids must be [num_logit_rows]");
  std::span<int32_t> chosen;
  impl_->run_step(batch, [&](gpu::Ops& ops, Workspace& workspace, int64_t) {
    chosen = workspace.host_token_ids.row(0).first(num_choices);
    ops.sample(workspace.logits.first_rows(static_cast<int64_t>(num_choices)), choices, chosen);
  });
  std::copy(chosen.begin(), chosen.end(), token_ids.begin());
}

// The loop over the devices, and over their layers in the order of the equations; arithmetic is in
// the leaves.
void KimiK2::Impl::run_step(const Batch& batch, const TakeLogits& take_logits) {
  check_batch(batch);
  std::optional<WorkerPool::Step> step;
  if (uses_workers()) step.emplace(pool);
  StepRows rows{.num_tokens = static_cast<int64_t>(batch.token_ids.size())};
  for (DevicePart& part : parts) rows.num_rows = part.ops().begin_step(batch, options.mla_form);

  embed(rows.num_rows);
  for (size_t part_idx = 0; part_idx < parts.size(); ++part_idx) {
    DevicePart& part = parts[part_idx];
    if (part_idx > 0) {
      DevicePart& previous = parts[part_idx - 1];
      part.ops().receive(previous.ops(), previous.workspace().residual.first_rows(rows.num_rows),
                         part.workspace().residual.first_rows(rows.num_rows));
    }
    run_layers(part, rows);
  }

  DevicePart& last = parts.back();
  const auto num_logits = static_cast<int64_t>(batch.logit_token_idx.size());
  if (num_logits > 0) {
    // A step with rows behind its tokens has logits for all of them.
    const int64_t num_rows = num_logits == rows.num_tokens ? rows.num_rows : num_logits;
    run_head(rows.num_rows, num_rows);
    // What is recorded ends here, whatever becomes of the logits.
    last.ops().submit();
    take_logits(last.ops(), last.workspace(), num_rows);
  }
  last.ops().synchronize();
}

void KimiK2::Impl::embed(int64_t num_rows) {
  DevicePart& first = parts.front();
  const MatrixView<const bf16> table(reinterpret_cast<const bf16*>(embed_tokens->data()),
                                     config.vocab_size, config.hidden_size);
  first.ops().embed(table, first.workspace().residual.first_rows(num_rows));
}

void KimiK2::Impl::run_layers(DevicePart& part, const StepRows& rows) {
  const int32_t end = part.first_layer_idx() + part.num_layers();
  for (int32_t layer_idx = part.first_layer_idx(); layer_idx < end; ++layer_idx) {
    const LayerWeights& layer = part.layer(layer_idx);
    run_attention(part.ops(), part.attention(), layer.attention, part.cache_of(layer_idx),
                  rows.num_rows, part.workspace());
    if (config.is_dense(layer_idx)) {
      run_dense_mlp(part.ops(), layer, config.rms_norm_eps, rows.num_rows, part.workspace());
    } else if (has_device_experts(layer_idx)) {
      run_moe_on_device(part.ops(), router, layer, config.rms_norm_eps, rows.num_rows,
                        part.workspace());
    } else {
      run_moe(part.ops(), *experts, router, layer, host_moe_layer_idx(layer_idx),
              config.rms_norm_eps, rows, part.workspace());
    }
  }
  settle_residual(part.ops(), rows.num_rows, part.workspace());
}

void KimiK2::Impl::run_head(int64_t num_rows, int64_t num_logit_rows) {
  gpu::Ops& ops = parts.back().ops();
  Workspace& workspace = parts.back().workspace();
  const MatrixView residual = workspace.logit_residual.first_rows(num_logit_rows);
  const MatrixView normed = workspace.logit_normed.first_rows(num_logit_rows);
  const MatrixView logits = workspace.logits.first_rows(num_logit_rows);
  ops.gather_logit_rows(workspace.residual.first_rows(num_rows), residual);
  ops.rms_norm(residual, head.norm.view(), config.rms_norm_eps, normed);
  ops.linear(normed, *head.lm_head, logits);
}

void KimiK2::Impl::check_batch(const Batch& batch) const {
  TANDEM_CHECK(!batch.token_ids.empty(), "a step needs tokens");
  TANDEM_CHECK(batch.token_ids.size() <= static_cast<size_t>(placement.max_batch_tokens),
               "more tokens than max_batch_tokens");
  TANDEM_CHECK(batch.logit_token_idx.size() <= static_cast<size_t>(options.max_logit_rows),
               "more logit rows than max_logit_rows");
  for (const int32_t token_id : batch.token_ids) {
    TANDEM_CHECK(token_id >= 0 && token_id < config.vocab_size, "token id outside the vocabulary");
  }
  for (const BatchItem& item : batch.items) {
    const int32_t end = item.context_size_tokens + item.num_tokens;
    TANDEM_CHECK(end <= placement.max_context_tokens, "sequence longer than max_context_tokens");
    TANDEM_CHECK(item.page_ids.size() * kPageSizeTokens >= static_cast<size_t>(end),
                 "too few KV pages for the sequence");
  }
}

int64_t KimiK2::kv_page_size_bytes() const { return impl_->placement.kv_page_size_bytes(); }
int64_t KimiK2::kv_host_size_bytes() const { return impl_->placement.kv_host_size_bytes; }

void KimiK2::read_kv_pages(std::span<const KvPageBytes> pages) {
  impl_->copy_kv_pages(pages, &KvCache::read_pages);
}

void KimiK2::write_kv_pages(std::span<const KvPageBytes> pages) {
  impl_->copy_kv_pages(pages, &KvCache::write_pages);
}

void KimiK2::Impl::copy_kv_pages(std::span<const KvPageBytes> pages, CopyPages copy) {
  TANDEM_CHECK(!missing.kv_cache, "KV pages are copied without the KV cache");
  for (const KvPageBytes& page : pages) {
    TANDEM_CHECK(page.page_id >= 0 && page.page_id < placement.num_kv_pages,
                 "KV page id out of range");
    TANDEM_CHECK(static_cast<int64_t>(page.bytes.size()) == placement.kv_page_size_bytes(),
                 "a KV page's bytes must be [kv_page_size_bytes]");
  }
  int64_t offset_bytes = 0;
  for (DevicePart& part : parts) {
    (part.kv_cache().*copy)(pages, offset_bytes);
    offset_bytes += part.kv_cache().shape().page_size_bytes();
  }
}

std::string KimiK2::kv_identity() const {
  const Impl& model = *impl_;
  const cpu_experts::ActivationMode mode = model.options.expert_activations;
  KvArithmetic arithmetic{.num_nodes = model.pool.num_nodes(),
                          .expert_activations = mode,
                          .mla_form = model.options.mla_form};
  for (const DevicePart& part : model.parts) arithmetic.devices.push_back(part.ops().arithmetic());
  if (model.config.num_moe_layers() > 0)
    arithmetic.host_experts = cpu_experts::choose_kernels(mode).name();
  // How many have room on cards goes by all else that lies there. It is rounding, as all is that
  // cards promise, unless the host's experts are lossy.
  const bool on_host = model.placement.devices.front().device.is_host();
  if (on_host || mode == cpu_experts::ActivationMode::kInt8)
    arithmetic.num_device_expert_layers = model.placement.num_device_expert_layers;
  return offload::kv_identity(model.checkpoint, arithmetic);
}

void KimiK2::Impl::prepare() {
  router = router_params(config);
  for (const DevicePlacement& part : placement.devices) {
    parts.emplace_back(options.make_ops(part.device, pool), config, placement, part,
                       placement.max_batch_tokens);
  }
  moe_shape =
      moe_shape_of(config, placement.num_host_expert_layers, placement.max_batch_tokens, options);
}

void KimiK2::release_memory(const ModelMemory& what) {
  const ModelMemory held = what - impl_->missing;
  if (!held.any()) return;
  impl_->give_back_memory(held);
  impl_->missing = impl_->missing | held;
}

void KimiK2::restore_memory(const ModelMemory& what, const ProgressFn& progress) {
  Impl& model = *impl_;
  ModelMemory wanted = what & model.missing;
  wanted.host_weights = wanted.weights && model.missing.host_weights;
  if (!wanted.any()) return;
  const auto available = [&] { return available_memory(model.options.devices); };
  check_room(model.placement, wanted, wanted == model.missing, available());
  try {
    model.take_memory(wanted, progress);
  } catch (const LoadError& error) {
    model.give_back_memory(wanted);
    throw LoadError(fmt::format("{}\n{}", error.what(),
                                format_memory_map(with_available(model.placement, available()))));
  } catch (...) {
    model.give_back_memory(wanted);
    throw;
  }
}

void KimiK2::Impl::take_memory(const ModelMemory& what, const ProgressFn& progress) {
  if (what == missing) {
    for (DevicePart& part : parts) part.take_workspace();
  }
  if (what.kv_cache) {
    for (DevicePart& part : parts) part.take_kv_cache();
  }
  if (what.weights) load_weights(what.host_weights, progress);
  missing = missing - what;
}

void KimiK2::Impl::give_back_memory(const ModelMemory& what) {
  for (DevicePart& part : parts) part.give_back_workspace();
  if (what.kv_cache) {
    for (DevicePart& part : parts) part.give_back_kv_cache();
  }
  if (what.weights) {
    for (DevicePart& part : parts) part.give_back_weights();
    embed_tokens.reset();
    head = {};
  }
  if (what.host_weights) experts.reset();
}

void KimiK2::Impl::load_weights(bool with_host_experts, const ProgressFn& progress) {
  if (with_host_experts && moe_shape.num_moe_layers > 0) {
    experts = std::make_unique<cpu_experts::MoeExperts>(moe_shape, pool);
  }
  const int32_t num_expert_layers = placement.num_device_expert_layers +
                                    (with_host_experts ? placement.num_host_expert_layers : 0);
  const int64_t expert_bytes =
      placement.experts_size_bytes() - (with_host_experts ? 0 : placement.host_experts_size_bytes);
  const int64_t total_bytes = placement.dense_size_bytes() + expert_bytes;
  const int64_t head_bytes =
      2 * int64_t{config.vocab_size} * config.hidden_size * int64_t{sizeof(bf16)};
  const int64_t layer_dense_bytes =
      std::max<int64_t>(placement.dense_size_bytes() - head_bytes, 0) /
      std::max(config.num_hidden_layers, 1);
  int64_t done_bytes = 0;
  const auto report = [&](std::string_view stage, int64_t bytes) {
    done_bytes = std::min(done_bytes + bytes, total_bytes);
    if (progress) progress({.stage = stage, .done_bytes = done_bytes, .total_bytes = total_bytes});
  };
  report("embedding and head", 0);
  // Begins with the first expert while the dense weights are uploaded.
  std::optional<ExpertReader> reader;
  if (num_expert_layers > 0) {
    reader.emplace(checkpoint, ExpertReaderOptions{
                                   .num_workers = pool.num_workers(),
                                   .num_users = pool.num_nodes(),
                                   .num_single_use_layers = placement.num_device_expert_layers});
  }
  std::optional<ExpertUpload> expert_upload;
  if (placement.num_device_expert_layers > 0) expert_upload.emplace(config, pool);
  embed_tokens = upload_embedding(parts.front().ops(), checkpoint);
  head = upload_head(parts.back().ops(), checkpoint);
  report("layers", head_bytes);
  for (DevicePart& part : parts) {
    const int32_t end = part.first_layer_idx() + part.num_layers();
    for (int32_t layer_idx = part.first_layer_idx(); layer_idx < end; ++layer_idx) {
      part.load_layer(checkpoint, layer_idx);
      report("layers", layer_dense_bytes);
      if (config.is_dense(layer_idx) || (!with_host_experts && !has_device_experts(layer_idx)))
        continue;
      const int64_t layer_end_bytes = done_bytes + expert_bytes / num_expert_layers;
      const auto report_experts = [&](int64_t bytes) {
        report("layers", std::min(bytes, layer_end_bytes - done_bytes));
      };
      if (has_device_experts(layer_idx)) {
        part.set_experts(
            layer_idx, expert_upload->upload_layer(part.ops(), *reader, layer_idx, report_experts));
      } else {
        load_host_experts(*reader, layer_idx, report_experts);
      }
      report("layers", layer_end_bytes - done_bytes);
    }
  }
  for (DevicePart& part : parts) part.ops().synchronize();
  if (progress) progress({.stage = "done", .done_bytes = total_bytes, .total_bytes = total_bytes});
}

void KimiK2::Impl::warm_up(const ProgressFn& progress) {
  const std::vector<WarmUpStep> steps =
      warm_up_steps(placement.max_batch_tokens, placement.max_context_tokens);
  const auto begin = std::chrono::steady_clock::now();
  for (size_t step_idx = 0; step_idx < steps.size(); ++step_idx) {
    // A row of logits beside many sequences: as many as there are would be a decode to record.
    const WarmUpBatch batch(steps[step_idx], placement.num_kv_pages,
                            steps[step_idx].num_sequences > 1 ? 1 : options.max_logit_rows);
    for (DevicePart& part : parts) warm_up_part(part, batch.batch());
    const bool takes_long = std::chrono::steady_clock::now() - begin > std::chrono::seconds(2);
    if (!progress || !takes_long) continue;
    const std::string stage = fmt::format("choosing kernels, {} of {}", step_idx + 1, steps.size());
    const int64_t size_bytes = placement.dense_size_bytes() + placement.experts_size_bytes();
    progress({.stage = stage, .done_bytes = size_bytes, .total_bytes = size_bytes});
  }
}

void KimiK2::Impl::warm_up_part(DevicePart& part, const Batch& batch) {
  gpu::Ops& ops = part.ops();
  const int64_t num_rows = ops.begin_step(batch, options.mla_form);
  if (&part == &parts.front()) embed(num_rows);
  bool has_run_dense = false;
  bool has_run_moe[2] = {false, false};  // experts on the host, on the device
  for (int32_t idx = 0; idx < part.num_layers(); ++idx) {
    const int32_t layer_idx = part.first_layer_idx() + idx;
    const bool is_dense = config.is_dense(layer_idx);
    bool& has_run = is_dense ? has_run_dense : has_run_moe[has_device_experts(layer_idx) ? 1 : 0];
    if (std::exchange(has_run, true)) continue;
    const LayerWeights& layer = part.layer(layer_idx);
    run_attention(ops, part.attention(), layer.attention, part.cache_of(layer_idx), num_rows,
                  part.workspace());
    if (is_dense) {
      run_dense_mlp(ops, layer, config.rms_norm_eps, num_rows, part.workspace());
    } else if (has_device_experts(layer_idx)) {
      run_moe_on_device(ops, router, layer, config.rms_norm_eps, num_rows, part.workspace());
    } else {
      route_tokens(ops, router, layer, config.rms_norm_eps, num_rows, part.workspace());
      run_shared_experts(ops, layer, num_rows, part.workspace());
    }
  }
  settle_residual(ops, num_rows, part.workspace());
  if (&part == &parts.back()) {
    run_head(num_rows, static_cast<int64_t>(batch.logit_token_idx.size()));
  }
  ops.synchronize();
}

void KimiK2::Impl::load_host_experts(ExpertReader& reader,
                                     int32_t layer_idx,
                                     const std::function<void(int64_t)>& report) {
  const int64_t layer_bytes = placement.host_experts_size_bytes / placement.num_host_expert_layers;
  // The others of worker 0's node are about as far as it is.
  const int64_t step_bytes = layer_bytes / config.n_routed_experts * pool.workers_in_node(0);
  experts->load_layer(host_moe_layer_idx(layer_idx), [&](int32_t expert_idx, int32_t worker_idx) {
    if (worker_idx == 0) report(step_bytes);
    return reader.expert(layer_idx, expert_idx, worker_idx);
  });
}

int32_t KimiK2::vocab_size() const { return impl_->config.vocab_size; }
int32_t KimiK2::num_kv_pages() const { return impl_->placement.num_kv_pages; }
int32_t KimiK2::max_batch_tokens() const { return impl_->placement.max_batch_tokens; }
int32_t KimiK2::max_logit_rows() const { return impl_->options.max_logit_rows; }
int32_t KimiK2::max_context_tokens() const { return impl_->placement.max_context_tokens; }

DecodeReads KimiK2::decode_reads(int32_t num_sequences, int32_t context_size_tokens) const {
  const ModelConfig& config = impl_->config;
  const int64_t kv_token_bytes =
      int64_t{config.num_hidden_layers} * config.kv_dim() * int64_t{sizeof(bf16)};
  int64_t device_bytes =
      dense_read_bytes(config) + int64_t{num_sequences} * context_size_tokens * kv_token_bytes;
  int64_t host_bytes = 0;
  if (config.num_moe_layers() > 0) {
    // Expected number of distinct experts that n tokens with independent top-k choices meet: E (1 -
    // (1 - k/E)^n).
    const double chosen_share =
        static_cast<double>(config.num_experts_per_tok) / config.n_routed_experts;
    const double distinct =
        config.n_routed_experts * (1.0 - std::pow(1.0 - chosen_share, num_sequences));
    const int64_t layer_bytes =
        cpu_experts::MoeExperts::layer_read_bytes(impl_->moe_shape, std::llround(distinct));
    device_bytes += impl_->placement.num_device_expert_layers * layer_bytes;
    host_bytes += impl_->placement.num_host_expert_layers * layer_bytes;
  }
  if (impl_->parts.front().ops().memory_is_host()) return {.host_bytes = host_bytes + device_bytes};
  return {.host_bytes = host_bytes, .card_bytes = device_bytes};
}

double KimiK2::measure_card_gb_per_s() {
  constexpr size_t kSizeBytes = size_t{128} << 20;  // twice that is left as a reserve of a card
  if (impl_->parts.front().ops().memory_is_host()) return 0.0;
  double seconds_a_gb = 0.0;
  for (DevicePart& part : impl_->parts) {
    seconds_a_gb += 1.0 / measure_copy_gb_per_s(part.ops(), kSizeBytes);
  }
  return static_cast<double>(impl_->parts.size()) / seconds_a_gb;
}

DeviceLaunches KimiK2::replayed_launches() const {
  DeviceLaunches launches;
  for (const DevicePart& part : impl_->parts) launches += part.ops().replayed_launches();
  return launches;
}

std::string KimiK2::description() const { return impl_->description; }

std::string KimiK2::Impl::make_description() const {
  std::string text;
  for (const DevicePart& part : parts) {
    text += fmt::format("layers {} to {}: dense part on {}\n", part.first_layer_idx(),
                        part.first_layer_idx() + part.num_layers() - 1, part.ops().description());
  }
  if (placement.num_device_expert_layers > 0) {
    text += fmt::format("{} routed experts of {} MoE layers with them\n", config.n_routed_experts,
                        placement.num_device_expert_layers);
  }
  if (experts != nullptr) {
    PageUse use;
    for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
      const std::span weights = experts->node_weights(node_idx);
      use += read_page_use(weights.data(), static_cast<int64_t>(weights.size()),
                           pool.node_os_idx(node_idx));
    }
    text += fmt::format("routed experts' memory: {}\n", describe(use));
    text += fmt::format(
        "{} routed experts in {} layers, kernels {}{}{}\n", config.n_routed_experts,
        moe_shape.num_moe_layers, experts->isa_name(),
        options.expert_activations == cpu_experts::ActivationMode::kInt8 ? ", lossy (int8)" : "",
        config.experts_int4 ? "" : "; BF16 experts were quantised to INT4 at load");
  }
  return text;
}

}  // namespace tandem::offload
