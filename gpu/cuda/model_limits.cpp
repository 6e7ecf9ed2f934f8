#include "gpu/cuda/model_limits.h"

#include <fmt/format.h>

#include "gpu/cuda/kernels/mla_decode.h"
#include "gpu/cuda/kernels/rope_kv.h"
#include "gpu/cuda/kernels/router_topk.h"
#include "gpu/cuda/mla_attention.h"
#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {
namespace {

void check_at_most(const char* field, int32_t value, int32_t most) {
  if (value <= most) return;
  throw LoadError(
      fmt::format("{} is {}, on a GPU expected is at most {}; --gpus none computes on the CPU",
                  field, value, most));
}

}  // namespace

void check_model(const OpsLimits& limits, const MlaShape& shape, int64_t max_shared_size_bytes) {
  check_at_most("kv_lora_rank", shape.kv_lora_rank, kMaxMlaDecodeRank);
  check_at_most("qk_rope_head_dim", shape.qk_rope_head_dim, kMaxRopeHeadDim);
  if (limits.n_routed_experts > 0) {
    check_at_most("num_experts_per_tok", limits.router.num_experts_per_tok, kMaxRouterChoices);
    check_at_most("n_group", limits.router.n_group, kMaxRouterChoices);
  }
  if (MlaAttention::is_flash(shape)) return;
  const int32_t shared_size_bytes =
      mla_decode_shared_size_bytes(shape.num_attention_heads, shape.kv_dim());
  if (shared_size_bytes <= max_shared_size_bytes) return;
  throw LoadError(fmt::format(
      "num_attention_heads is {}, kv_lora_rank {} and qk_rope_head_dim {}: attention takes {} "
      "bytes of a multiprocessor's shared memory, on this GPU expected is at most {}; --gpus none "
      "computes on the CPU",
      shape.num_attention_heads, shape.kv_lora_rank, shape.qk_rope_head_dim, shared_size_bytes,
      max_shared_size_bytes));
}

}  // namespace tandem::gpu::cuda
