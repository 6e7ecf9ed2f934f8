// FlashInfer's attention on an emulated card: what gpu/cuda/flashinfer says of it, in plain loops.
// Absorbed attention goes by the arrays of the plan, work item by work item, and rounds to BF16
// where the kernels do.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gpu/cuda/flashinfer/mla_decode.h"
#include "gpu/cuda/flashinfer/mla_prefill.h"
#include "runtime/base/check.h"
#include "runtime/model/forward_model.h"
#include "tests/gpu/card/emulated_card.h"

namespace tandem::gpu::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

float dot(const bf16* left, const float* right, int32_t num) {
  float sums[8] = {};
  for (int32_t idx = 0; idx < num; idx += 8) {
    for (int32_t lane = 0; lane < 8; ++lane) {
      sums[lane] += left[idx + lane].to_float() * right[idx + lane];
    }
  }
  float sum = 0.0f;
  for (const float part : sums) sum += part;
  return sum;
}

// Online softmax of one row: values added key by key, the weights rounded to BF16 as they multiply.
struct RowState {
  explicit RowState(int32_t width) : sum(static_cast<size_t>(width)) {}
  void add(float score, const float* value) {
    if (score > maximum) {
      const float factor = std::exp2(maximum - score);
      for (float& element : sum) element *= factor;
      total *= factor;
      maximum = score;
    }
    const float weight = std::exp2(score - maximum);
    total += weight;
    const float rounded = bf16(weight).to_float();
    for (size_t dim = 0; dim < sum.size(); ++dim) sum[dim] += rounded * value[dim];
  }
  // A row that has seen no key is zero, and weighs nothing in a merge.
  void write(bf16* out) const {
    const float divisor = total > 0.0f ? total : 1.0f;
    for (size_t dim = 0; dim < sum.size(); ++dim) out[dim] = bf16(sum[dim] / divisor);
  }
  [[nodiscard]] float lse() const { return maximum + std::log2(total); }

  float maximum = -std::numeric_limits<float>::infinity();
  float total = 0.0f;
  std::vector<float> sum;
};

void run_work_item(const FlashMlaDecodeParams& p, int32_t work) {
  const auto& plan = p.plan;
  const int32_t heads = p.num_attention_heads;
  constexpr int32_t kRow = kFlashMlaLatentDim + kFlashMlaRopeDim;
  const int32_t row_begin = plan.q_row_begin[work];
  const int32_t num_rows = std::min(kMlaTileRows, plan.q_len[work] * heads - row_begin);
  const auto token_of = [&](int32_t row) { return (row_begin + row) / heads; };
  const auto head_of = [&](int32_t row) { return (row_begin + row) % heads; };
  std::vector<RowState> states(static_cast<size_t>(num_rows), RowState(kFlashMlaLatentDim));
  std::vector<float> key(kRow);
  for (int32_t position = plan.kv_begin[work]; position < plan.kv_end[work]; ++position) {
    const int64_t page = p.page_ids[plan.kv_page_begin[work] + position / kPageSizeTokens];
    const bf16* slot =
        p.kv_cache + (page * kPageSizeTokens + position % kPageSizeTokens) * int64_t{kRow};
    for (int32_t dim = 0; dim < kRow; ++dim) key[static_cast<size_t>(dim)] = slot[dim].to_float();
    for (int32_t row = 0; row < num_rows; ++row) {
      if (position + plan.q_len[work] > plan.kv_len[work] + token_of(row)) continue;
      const int64_t token = plan.q_token_begin[work] + token_of(row);
      const bf16* latent =
          p.q_latent + token * p.q_latent_token_stride + head_of(row) * p.q_latent_head_stride;
      const bf16* rope =
          p.q_rope + token * p.q_rope_token_stride + head_of(row) * p.q_rope_head_stride;
      const float score = dot(latent, key.data(), kFlashMlaLatentDim) +
                          dot(rope, key.data() + kFlashMlaLatentDim, kFlashMlaRopeDim);
      states[static_cast<size_t>(row)].add(score * p.softmax_scale * kLog2E, key.data());
    }
  }
  for (int32_t row = 0; row < num_rows; ++row) {
    const RowState& state = states[static_cast<size_t>(row)];
    if (plan.partial_row_begin[work] < 0) {
      const int64_t token = plan.q_token_begin[work] + token_of(row);
      state.write(p.out + token * p.out_token_stride + head_of(row) * p.out_head_stride);
      continue;
    }
    const int64_t partial_row = plan.partial_row_begin[work] + row;
    state.write(p.partial_out + partial_row * kFlashMlaLatentDim);
    p.partial_lse[partial_row] = state.lse();
  }
}

void run_merge(const FlashMlaDecodeParams& p, int32_t block) {
  const auto& plan = p.plan;
  const int32_t heads = p.num_attention_heads;
  for (int32_t row = plan.merge_row_begin[block]; row < plan.merge_row_end[block]; ++row) {
    const int32_t first = plan.merge_partial_begin[block] + row - plan.merge_row_begin[block];
    float maximum = -std::numeric_limits<float>::infinity();
    for (int32_t partial = first; partial < plan.merge_partial_end[block];
         partial += plan.merge_partial_stride[block]) {
      maximum = std::max(maximum, p.partial_lse[partial]);
    }
    std::vector<float> sum(kFlashMlaLatentDim);
    float total = 0.0f;
    for (int32_t partial = first; partial < plan.merge_partial_end[block];
         partial += plan.merge_partial_stride[block]) {
      const float weight = std::exp2(p.partial_lse[partial] - maximum);
      total += weight;
      const bf16* values = p.partial_out + int64_t{partial} * kFlashMlaLatentDim;
      for (size_t dim = 0; dim < sum.size(); ++dim) sum[dim] += weight * values[dim].to_float();
    }
    bf16* out = p.out + int64_t{row / heads} * p.out_token_stride +
                int64_t{row % heads} * p.out_head_stride;
    for (size_t dim = 0; dim < sum.size(); ++dim) out[dim] = bf16(sum[dim] / total);
  }
}

void launch_decode(const FlashMlaDecodeParams& params, cudaStream_t stream) {
  TANDEM_CHECK(kMlaTileRows % params.num_attention_heads == 0, "FlashInfer: heads");
  TANDEM_CHECK(is_aligned(params.q_latent) && is_aligned(params.q_rope) &&
                   is_aligned(params.kv_cache) && is_aligned(params.out) &&
                   params.q_rope_token_stride % 8 == 0 && params.q_rope_head_stride % 8 == 0,
               "FlashInfer: rows must start at multiples of 16 bytes");
  emulated_card::enqueue(stream, [params] {
    for (int32_t work = 0; work < params.plan.work_begin[params.num_blocks]; ++work) {
      run_work_item(params, work);
    }
    for (int32_t block = 0; block < params.num_blocks; ++block) run_merge(params, block);
  });
}

void run_prefill(const FlashMlaPrefillParams& p) {
  const int32_t heads = p.num_attention_heads;
  std::vector<float> k(kFlashPrefillQkDim);
  std::vector<float> v(kFlashPrefillVDim);
  for (int32_t head = 0; head < heads; ++head) {
    std::vector<RowState> states(static_cast<size_t>(p.q_len), RowState(kFlashPrefillVDim));
    for (int32_t key = 0; key < p.kv_len; ++key) {
      const int64_t offset = int64_t{key} * p.kv_token_stride + int64_t{head} * p.kv_head_stride;
      for (size_t dim = 0; dim < k.size(); ++dim) k[dim] = p.k[offset + int64_t(dim)].to_float();
      for (size_t dim = 0; dim < v.size(); ++dim) v[dim] = p.v[offset + int64_t(dim)].to_float();
      const int32_t first_query = p.causal ? std::max(0, key - (p.kv_len - p.q_len)) : 0;
      for (int32_t query = first_query; query < p.q_len; ++query) {
        const bf16* q = p.q + int64_t{query} * p.q_token_stride + int64_t{head} * p.q_head_stride;
        states[static_cast<size_t>(query)].add(
            dot(q, k.data(), kFlashPrefillQkDim) * p.softmax_scale * kLog2E, v.data());
      }
    }
    for (int32_t query = 0; query < p.q_len; ++query) {
      const int64_t row = int64_t{query} * heads + head;
      states[static_cast<size_t>(query)].write(p.out + row * kFlashPrefillVDim);
      if (p.lse != nullptr) p.lse[row] = states[static_cast<size_t>(query)].lse();
    }
  }
}

void launch_prefill(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  TANDEM_CHECK(
      params.q_len > 0 && params.kv_len > 0 && (!params.causal || params.kv_len >= params.q_len),
      "FlashInfer: lengths");
  TANDEM_CHECK(is_aligned(params.q) && is_aligned(params.k) && is_aligned(params.v) &&
                   is_aligned(params.out) && params.q_token_stride % 8 == 0 &&
                   params.kv_token_stride % 8 == 0 && params.kv_head_stride % 8 == 0,
               "FlashInfer: rows must start at multiples of 16 bytes");
  emulated_card::enqueue(stream, [params] { run_prefill(params); });
}

}  // namespace

void launch_flash_mla_decode_hopper(const FlashMlaDecodeParams& params, cudaStream_t stream) {
  launch_decode(params, stream);
}
void launch_flash_mla_decode_ampere(const FlashMlaDecodeParams& params, cudaStream_t stream) {
  launch_decode(params, stream);
}
void launch_flash_mla_prefill_hopper(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  launch_prefill(params, stream);
}
void launch_flash_mla_prefill_ampere(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  launch_prefill(params, stream);
}

}  // namespace tandem::gpu::cuda
