#include "gpu/cuda/mla_attention.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "gpu/cuda/error.h"
#include "gpu/cuda/flashinfer/mla_decode.h"
#include "gpu/cuda/flashinfer/mla_prefill.h"
#include "gpu/cuda/kernels/mla_blocks.h"
#include "gpu/cuda/kernels/mla_decode.h"
#include "gpu/cuda/linear.h"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

constexpr int64_t kAlignmentBytes = 256;
// For partial results of our own kernel: what finds no place is not split.
constexpr int64_t kMaxSlotsSizeBytes = int64_t{256} << 20;
// Of a head of expanded keys and values: [k_nope 128 | k_rope 64 | v 128].
constexpr int32_t kExpandedHeadDim = kFlashPrefillQkDim + kFlashPrefillVDim;

int32_t ceil_div(int32_t value, int32_t divisor) { return (value + divisor - 1) / divisor; }

// Rows of the absorbed form: latent queries, and their sums of latents.
int64_t latent_row_values(const MlaShape& shape) {
  return int64_t{shape.num_attention_heads} * shape.kv_lora_rank;
}

int32_t max_expanded_keys(const OpsLimits& limits) {
  return std::min(limits.max_context_tokens, kExpandedBlockTokens + limits.max_batch_tokens);
}

}  // namespace

CudaKvB::CudaKvB(MatrixView<const bf16> kv_b_proj, const MlaShape& shape, StagedUpload& uploader) {
  const int64_t nope = shape.qk_nope_head_dim;
  const int64_t rank = shape.kv_lora_rank;
  const int64_t head_rows = nope + shape.v_head_dim;
  TANDEM_CHECK(kv_b_proj.rows == shape.num_attention_heads * head_rows && kv_b_proj.cols == rank,
               "kv_b_proj: shape");
  std::vector<bf16> rows(static_cast<size_t>(kv_b_proj.rows * rank));
  std::vector<bf16> transposed(static_cast<size_t>(shape.num_attention_heads * rank * nope));
  for (int64_t row = 0; row < kv_b_proj.rows; ++row) {
    std::copy_n(kv_b_proj.row(row).data(), rank, rows.data() + row * rank);
  }
  for (int64_t head = 0; head < shape.num_attention_heads; ++head) {
    for (int64_t dim = 0; dim < nope; ++dim) {
      const bf16* row = rows.data() + (head * head_rows + dim) * rank;
      bf16* column = transposed.data() + head * rank * nope + dim;
      for (int64_t idx = 0; idx < rank; ++idx) column[idx * nope] = row[idx];
    }
  }
  kv_b_ = DeviceMemory(rows.size() * sizeof(bf16));
  uk_transposed_ = DeviceMemory(transposed.size() * sizeof(bf16));
  uploader.upload(std::as_bytes(std::span<const bf16>(rows)), kv_b_.as<std::byte>());
  uploader.upload(std::as_bytes(std::span<const bf16>(transposed)), uk_transposed_.as<std::byte>());
  uploader.finish();
}

bool MlaAttention::is_flash(const MlaShape& shape) {
  return shape.kv_lora_rank == kFlashMlaLatentDim && shape.qk_rope_head_dim == kFlashMlaRopeDim &&
         shape.num_attention_heads <= kMlaTileRows && kMlaTileRows % shape.num_attention_heads == 0;
}

bool MlaAttention::has_expanded_form(const MlaShape& shape) {
  return is_flash(shape) && shape.qk_head_dim() == kFlashPrefillQkDim &&
         shape.v_head_dim == kFlashPrefillVDim;
}

// What a step has planned, on the host, and the planners.
struct MlaAttention::Planned {
  std::optional<MlaPlanner> planner;  // FlashInfer
  MlaSchedule schedule;               // our own kernel
  std::vector<MlaScheduleItem> schedule_items;
  std::vector<MlaPlanItem> absorbed;
  std::vector<MlaPlanItem> expanded;
};

// All device memory, laid out by one walk that also counts, so that plan and memory cannot differ;
// and the pinned memory from which plans are uploaded.
struct MlaAttention::Buffers {
  Buffers(const OpsLimits& limits, const MlaShape& shape, const Card& card)
      : memory(static_cast<size_t>(lay_out(limits, shape, card, nullptr))),
        staging(static_cast<size_t>(staging_size_bytes)) {
    lay_out(limits, shape, card, memory.as<std::byte>());
  }
  Buffers() = default;  // to count

  int64_t lay_out(const OpsLimits& limits,
                  const MlaShape& shape,
                  const Card& card,
                  std::byte* base_in) {
    base = base_in;
    offset_bytes = 0;
    const int64_t tokens = limits.max_batch_tokens;
    const int64_t rows = tokens * shape.num_attention_heads;
    take(q_latent, tokens * latent_row_values(shape));
    take(out_latent, tokens * latent_row_values(shape));
    if (is_flash(shape)) {
      const MlaPlanner planner({.num_blocks = card.num_multiprocessors,
                                .num_attention_heads = shape.num_attention_heads,
                                .max_batch_tokens = limits.max_batch_tokens});
      take(plan, planner.num_values());
      take(partial_out, int64_t{planner.max_partial_rows()} * shape.kv_lora_rank);
      take(partial_lse, planner.max_partial_rows());
      staging_size_bytes = planner.num_values() * int64_t{sizeof(int32_t)};
    } else {
      rows_a_tile = mla_rows_a_tile(shape.num_attention_heads);
      max_pages = ceil_div(limits.max_context_tokens, kPageSizeTokens);
      const int64_t slot_size_bytes =
          int64_t{rows_a_tile} * shape.kv_lora_rank * int64_t{sizeof(float)};
      max_slots = std::min(max_mla_slots(limits.max_sequences(), shape.num_attention_heads,
                                         rows_a_tile, limits.max_context_tokens),
                           kMaxSlotsSizeBytes / slot_size_bytes);
      max_work = max_mla_work(limits.max_batch_tokens, limits.max_sequences(),
                              shape.num_attention_heads, rows_a_tile, limits.max_context_tokens);
      take(page_table, int64_t{limits.max_sequences()} * max_pages);
      take(num_work, 1);
      take(splits, tokens);
      take(work, max_work);
      take(slot_out, max_slots * rows_a_tile * shape.kv_lora_rank);
      take(slot_lse, max_slots * rows_a_tile);
      staging_size_bytes = int64_t{limits.max_sequences()} * max_pages * int64_t{sizeof(int32_t)} +
                           int64_t{sizeof(int32_t)} + tokens * int64_t{sizeof(MlaTokenSplits)} +
                           max_work * int64_t{sizeof(MlaWork)};
    }
    if (has_expanded_form(shape)) {
      const int64_t keys = max_expanded_keys(limits);
      take(latents, keys * shape.kv_lora_rank);
      take(expanded, keys * shape.num_attention_heads * kExpandedHeadDim);
      take(block_out, rows * shape.v_head_dim);
      take(block_lse, rows);
      take(sum, rows * shape.v_head_dim);
      take(sum_lse, rows);
    }
    return offset_bytes;
  }

  DeviceMemory memory;
  PinnedMemory staging;
  int64_t staging_size_bytes = 0;

  bf16* q_latent = nullptr;    // [max_batch_tokens, heads, kv_lora_rank]
  bf16* out_latent = nullptr;  // as q_latent
  // FlashInfer, absorbed.
  int32_t* plan = nullptr;
  bf16* partial_out = nullptr;
  float* partial_lse = nullptr;
  // Our own kernel.
  int32_t rows_a_tile = 0;
  int32_t max_pages = 0;
  int64_t max_slots = 0;
  int64_t max_work = 0;
  int32_t* page_table = nullptr;  // [max_sequences, max_pages]
  int32_t* num_work = nullptr;
  MlaTokenSplits* splits = nullptr;
  MlaWork* work = nullptr;
  float* slot_out = nullptr;
  float* slot_lse = nullptr;
  // FlashInfer, expanded.
  bf16* latents = nullptr;    // [max_expanded_keys, kv_lora_rank]
  bf16* expanded = nullptr;   // [max_expanded_keys, heads, kExpandedHeadDim]
  bf16* block_out = nullptr;  // [max_batch_tokens, heads, v_head_dim]
  float* block_lse = nullptr;
  float* sum = nullptr;  // as block_out
  float* sum_lse = nullptr;

 private:
  template <typename T>
  void take(T*& pointer, int64_t num_values) {
    pointer = base == nullptr ? nullptr : reinterpret_cast<T*>(base + offset_bytes);
    const int64_t size_bytes = num_values * static_cast<int64_t>(sizeof(T));
    offset_bytes += (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  }
  std::byte* base = nullptr;
  int64_t offset_bytes = 0;
};

int64_t MlaAttention::planned_size_bytes(const OpsLimits& limits,
                                         const MlaShape& shape,
                                         const Card& card) {
  Buffers plan;
  return plan.lay_out(limits, shape, card, nullptr);
}

MlaAttention::MlaAttention(const OpsLimits& limits, const MlaShape& shape, const Card& card)
    : shape_(shape),
      card_(card),
      max_batch_tokens_(limits.max_batch_tokens),
      planned_(std::make_unique<Planned>()),
      buffers_(std::make_unique<Buffers>(limits, shape, card)) {
  if (is_flash(shape)) {
    planned_->planner.emplace(MlaPlanner::Limits{.num_blocks = card.num_multiprocessors,
                                                 .num_attention_heads = shape.num_attention_heads,
                                                 .max_batch_tokens = limits.max_batch_tokens});
  }
  for (auto* items : {&planned_->absorbed, &planned_->expanded}) {
    items->reserve(static_cast<size_t>(limits.max_sequences()));
  }
}

MlaAttention::~MlaAttention() = default;

const char* MlaAttention::kernels() const {
  if (!is_flash(shape_)) return "own kernel";
  return card_.is_hopper ? "FlashInfer for Hopper" : "FlashInfer";
}

void MlaAttention::begin_step(const StepInputs& inputs,
                              MlaForm form,
                              int64_t num_rows,
                              cudaStream_t stream) {
  planned_->absorbed.clear();
  planned_->expanded.clear();
  const bool may_expand = has_expanded_form(shape_) && form != MlaForm::kAbsorbed;
  for (const MlaPlanItem& item : inputs.items()) {
    const bool expand =
        may_expand && (form == MlaForm::kExpanded || item.num_tokens >= kMinExpandedTokens);
    (expand ? planned_->expanded : planned_->absorbed).push_back(item);
  }
  if (is_flash(shape_)) {
    plan_flash(num_rows, stream);
  } else {
    plan_any_width(inputs, num_rows, stream);
  }
}

void MlaAttention::plan_flash(int64_t, cudaStream_t stream) {
  if (planned_->absorbed.empty()) return;
  MlaPlanner& planner = *planned_->planner;
  const std::span<int32_t> values(buffers_->staging.as<int32_t>(),
                                  static_cast<size_t>(planner.num_values()));
  planner.plan(planned_->absorbed, values);
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(buffers_->plan, values.data(), values.size_bytes(),
                                    cudaMemcpyHostToDevice, stream));
}

void MlaAttention::plan_any_width(const StepInputs& inputs, int64_t num_rows, cudaStream_t stream) {
  Buffers& buffers = *buffers_;
  MlaSchedule& schedule = planned_->schedule;
  planned_->schedule_items.clear();
  for (const MlaPlanItem& item : inputs.items()) {
    planned_->schedule_items.push_back(
        {.num_tokens = item.num_tokens, .context_size_tokens = item.kv_len - item.num_tokens});
  }
  build_mla_schedule(planned_->schedule_items, shape_.num_attention_heads, buffers.rows_a_tile,
                     buffers.max_slots, schedule);
  // Rows behind the tokens, of a recorded step, have nothing to sum up.
  schedule.tokens.resize(static_cast<size_t>(num_rows));
  TANDEM_CHECK(static_cast<int64_t>(schedule.work.size()) <= buffers.max_work,
               "mla_attention: more work than was planned for");

  std::byte* staging = buffers.staging.as<std::byte>();
  const auto send = [&](const void* source, size_t size_bytes, void* device) {
    std::memcpy(staging, source, size_bytes);
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(device, staging, size_bytes, cudaMemcpyHostToDevice, stream));
    staging += size_bytes;
  };
  const auto num_work = static_cast<int32_t>(schedule.work.size());
  send(&num_work, sizeof(num_work), buffers.num_work);
  send(schedule.tokens.data(), schedule.tokens.size() * sizeof(MlaTokenSplits), buffers.splits);
  send(schedule.work.data(), schedule.work.size() * sizeof(MlaWork), buffers.work);
  const std::span<const MlaPlanItem> items = inputs.items();
  for (size_t item_idx = 0; item_idx < items.size(); ++item_idx) {
    const auto num_pages = static_cast<size_t>(ceil_div(items[item_idx].kv_len, kPageSizeTokens));
    send(inputs.page_ids().data() + items[item_idx].page_begin, num_pages * sizeof(int32_t),
         buffers.page_table + static_cast<int64_t>(item_idx) * buffers.max_pages);
  }
}

void MlaAttention::run(const Args& args, CublasMatmul& matmul, cudaStream_t stream) const {
  if (!planned_->absorbed.empty()) run_absorbed(args, matmul, stream);
  for (const MlaPlanItem& item : planned_->expanded) run_expanded(args, item, matmul, stream);
}

// q~ = W_UK^T q_nope of every head (9).
void MlaAttention::absorb_queries(const Args& args,
                                  CublasMatmul& matmul,
                                  int64_t row_begin,
                                  int64_t num_rows,
                                  cudaStream_t stream) const {
  const int64_t rank = shape_.kv_lora_rank;
  const int64_t nope = shape_.qk_nope_head_dim;
  multiply(matmul,
           {.x = args.q.rows_from(row_begin, num_rows).columns(0, nope),
            .weight = {args.kv_b.uk_transposed(), rank, nope},
            .out = buffers_->q_latent + row_begin * latent_row_values(shape_),
            .out_row_stride = latent_row_values(shape_),
            .kind = MatmulOut::kBf16,
            .num_batches = shape_.num_attention_heads,
            .x_batch_stride = shape_.qk_head_dim(),
            .weight_batch_stride = rank * nope,
            .out_batch_stride = rank},
           stream);
}

void MlaAttention::run_absorbed(const Args& args, CublasMatmul& matmul, cudaStream_t stream) const {
  const Buffers& buffers = *buffers_;
  const int64_t heads = shape_.num_attention_heads;
  const int64_t rank = shape_.kv_lora_rank;
  const int64_t nope = shape_.qk_nope_head_dim;
  const int64_t num_rows = args.q.rows;
  // Where every item is absorbed, all rows at once, those behind the tokens too: a recorded step
  // may have more tokens when it is replayed.
  const bool all_rows = planned_->expanded.empty();
  const auto for_each_run = [&](const auto& task) {
    if (all_rows) {
      task(0, num_rows);
      return;
    }
    for (const MlaPlanItem& item : planned_->absorbed) task(item.token_begin, item.num_tokens);
  };
  for_each_run([&](int64_t row_begin, int64_t rows) {
    absorb_queries(args, matmul, row_begin, rows, stream);
  });

  if (is_flash(shape_)) {
    const FlashMlaDecodeParams params{
        .q_latent = buffers.q_latent,
        .q_latent_token_stride = static_cast<int32_t>(heads * rank),
        .q_latent_head_stride = static_cast<int32_t>(rank),
        .q_rope = args.q.data + nope,
        .q_rope_token_stride = static_cast<int32_t>(args.q.row_stride),
        .q_rope_head_stride = shape_.qk_head_dim(),
        .kv_cache = args.cache,
        .page_ids = args.page_ids,
        .out = buffers.out_latent,
        .out_token_stride = static_cast<int32_t>(heads * rank),
        .out_head_stride = static_cast<int32_t>(rank),
        .partial_out = buffers.partial_out,
        .partial_lse = buffers.partial_lse,
        .plan = planned_->planner->arrays<const int32_t>(buffers.plan),
        .num_blocks = card_.num_multiprocessors,
        .num_attention_heads = shape_.num_attention_heads,
        .softmax_scale = shape_.softmax_scale};
    if (card_.is_hopper) {
      launch_flash_mla_decode_hopper(params, stream);
    } else {
      launch_flash_mla_decode_ampere(params, stream);
    }
  } else {
    launch_mla_decode({.q_latent = {buffers.q_latent, num_rows, heads * rank},
                       .q_rope = args.q.columns(nope, args.q.cols - nope),
                       .q_rope_head_stride = shape_.qk_head_dim(),
                       .cache = args.cache,
                       .page_table = {buffers.page_table, max_batch_tokens_, buffers.max_pages},
                       .positions = args.positions,
                       .num_attention_heads = shape_.num_attention_heads,
                       .kv_lora_rank = shape_.kv_lora_rank,
                       .qk_rope_head_dim = shape_.qk_rope_head_dim,
                       .softmax_scale = shape_.softmax_scale,
                       .work = buffers.work,
                       .num_work = buffers.num_work,
                       .splits = buffers.splits,
                       .partial_out = buffers.slot_out,
                       .partial_lse = buffers.slot_lse,
                       .num_blocks = 2 * card_.num_multiprocessors,
                       .out = {buffers.out_latent, num_rows, heads * rank}},
                      stream);
  }

  // o = W_UV o~ of every head (9).
  for_each_run([&](int64_t row_begin, int64_t rows) {
    multiply(matmul,
             {.x = {buffers.out_latent + row_begin * heads * rank, rows, rank, heads * rank},
              .weight = {args.kv_b.kv_b() + nope * rank, shape_.v_head_dim, rank},
              .out = args.out.data + row_begin * args.out.row_stride,
              .out_row_stride = args.out.row_stride,
              .kind = MatmulOut::kBf16,
              .num_batches = shape_.num_attention_heads,
              .x_batch_stride = rank,
              .weight_batch_stride = (nope + shape_.v_head_dim) * rank,
              .out_batch_stride = shape_.v_head_dim},
             stream);
  });
}

// Blocks of keys before the item's own tokens, then the last block with them, causal; merged by
// their LSE where there are several.
void MlaAttention::run_expanded(const Args& args,
                                const MlaPlanItem& item,
                                CublasMatmul& matmul,
                                cudaStream_t stream) const {
  const Buffers& buffers = *buffers_;
  const int64_t heads = shape_.num_attention_heads;
  const int64_t num_rows = item.num_tokens * heads;
  const MatrixView<bf16> out = args.out.rows_from(item.token_begin, item.num_tokens);
  const int32_t context = item.kv_len - item.num_tokens;
  const int32_t last_begin = context / kExpandedBlockTokens * kExpandedBlockTokens;
  const bool one_block = last_begin == 0 && out.row_stride == out.cols;
  for (int32_t kv_begin = 0; kv_begin <= last_begin; kv_begin += kExpandedBlockTokens) {
    const bool is_last = kv_begin == last_begin;
    const int32_t num_keys = is_last ? item.kv_len - kv_begin : kExpandedBlockTokens;
    expand_keys(args, item, kv_begin, num_keys, matmul, stream);
    const FlashMlaPrefillParams params{
        .q = args.q.rows_from(item.token_begin, item.num_tokens).data,
        .q_token_stride = static_cast<int32_t>(args.q.row_stride),
        .q_head_stride = shape_.qk_head_dim(),
        .k = buffers.expanded,
        .v = buffers.expanded + kFlashPrefillQkDim,
        .kv_token_stride = static_cast<int32_t>(heads) * kExpandedHeadDim,
        .kv_head_stride = kExpandedHeadDim,
        .out = one_block ? out.data : buffers.block_out,
        .lse = one_block ? nullptr : buffers.block_lse,
        .q_len = item.num_tokens,
        .kv_len = num_keys,
        .num_attention_heads = shape_.num_attention_heads,
        .causal = is_last,
        .softmax_scale = shape_.softmax_scale};
    if (card_.is_hopper) {
      launch_flash_mla_prefill_hopper(params, stream);
    } else {
      launch_flash_mla_prefill_ampere(params, stream);
    }
    if (one_block) continue;
    launch_merge_attention({.block_out = {buffers.block_out, num_rows, shape_.v_head_dim},
                            .block_lse = buffers.block_lse,
                            .sum = {buffers.sum, num_rows, shape_.v_head_dim},
                            .sum_lse = buffers.sum_lse,
                            .is_first = kv_begin == 0,
                            .out = is_last ? out : MatrixView<bf16>(),
                            .num_attention_heads = shape_.num_attention_heads},
                           stream);
  }
}

// k_nope = W_UK c and v = W_UV c of every head, rounded to BF16 (8), k_rope beside them.
void MlaAttention::expand_keys(const Args& args,
                               const MlaPlanItem& item,
                               int32_t kv_begin,
                               int32_t num_keys,
                               CublasMatmul& matmul,
                               cudaStream_t stream) const {
  const Buffers& buffers = *buffers_;
  const int64_t heads = shape_.num_attention_heads;
  const int64_t rank = shape_.kv_lora_rank;
  const int32_t nope = shape_.qk_nope_head_dim;
  const MatrixView<bf16> latents(buffers.latents, num_keys, rank);
  launch_unpack_latents({.cache = args.cache,
                         .page_ids = args.page_ids + item.page_begin,
                         .kv_begin = kv_begin,
                         .latents = latents,
                         .keys = {buffers.expanded, num_keys, heads * kExpandedHeadDim},
                         .num_attention_heads = shape_.num_attention_heads,
                         .key_head_dim = kExpandedHeadDim,
                         .rope_begin = nope,
                         .qk_rope_head_dim = shape_.qk_rope_head_dim},
                        stream);
  const auto expand = [&](int32_t weight_row, int32_t width, int32_t out_col) {
    multiply(matmul,
             {.x = latents,
              .weight = {args.kv_b.kv_b() + weight_row * rank, width, rank},
              .out = buffers.expanded + out_col,
              .out_row_stride = heads * kExpandedHeadDim,
              .kind = MatmulOut::kBf16,
              .num_batches = shape_.num_attention_heads,
              .weight_batch_stride = (nope + shape_.v_head_dim) * rank,
              .out_batch_stride = kExpandedHeadDim},
             stream);
  };
  expand(0, nope, 0);
  expand(nope, shape_.v_head_dim, kFlashPrefillQkDim);
}

}  // namespace tandem::gpu::cuda
