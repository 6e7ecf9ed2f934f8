// What every device asks of the views that an operation of gpu/ops.h is given. A view that does not
// fit is a bug of the caller: TANDEM_CHECK.
#pragma once

#include <span>

#include "gpu/ops.h"
#include "runtime/base/check.h"

namespace tandem::gpu {

inline void check_add(std::span<const MatrixView<const float>> addends,
                      const MatrixView<float>& x) {
  TANDEM_CHECK(addends.size() <= size_t{kMaxAddends}, "add: more addends than kMaxAddends");
  for (const MatrixView<const float>& addend : addends) {
    TANDEM_CHECK(addend.rows == x.rows && addend.cols == x.cols, "add: shapes");
  }
}

inline void check_rope_and_append_kv(const MlaShape& shape,
                                     const Ops::RopeKvParams& params,
                                     const MatrixView<bf16>& q,
                                     const MatrixView<const float>& kv_a) {
  TANDEM_CHECK(kv_a.cols == shape.kv_dim(), "rope_and_append_kv: columns of kv_a");
  TANDEM_CHECK(q.cols == int64_t{shape.num_attention_heads} * shape.qk_head_dim(),
               "rope_and_append_kv: columns of q");
  TANDEM_CHECK(q.rows == kv_a.rows, "rope_and_append_kv: rows");
  TANDEM_CHECK(static_cast<int32_t>(params.kv_a_layernorm.size()) == shape.kv_lora_rank,
               "rope_and_append_kv: kv_a_layernorm");
  TANDEM_CHECK(static_cast<int32_t>(params.frequencies.size()) == shape.qk_rope_head_dim / 2,
               "rope_and_append_kv: frequencies");
}

inline void check_mla_attention(const MlaShape& shape,
                                const MatrixView<const bf16>& q,
                                const MatrixView<bf16>& out) {
  TANDEM_CHECK(q.cols == int64_t{shape.num_attention_heads} * shape.qk_head_dim(),
               "mla_attention: columns of q");
  TANDEM_CHECK(out.cols == int64_t{shape.num_attention_heads} * shape.v_head_dim,
               "mla_attention: columns of out");
  TANDEM_CHECK(q.rows == out.rows, "mla_attention: rows");
}

inline void check_add_routed_experts(const ExpertsShape& shape,
                                     const MatrixView<const bf16>& hidden,
                                     const MatrixView<const int32_t>& expert_ids,
                                     const MatrixView<const float>& expert_weights,
                                     const MatrixView<float>& residual) {
  TANDEM_CHECK(hidden.cols == shape.hidden_size && residual.cols == shape.hidden_size,
               "add_routed_experts: columns");
  TANDEM_CHECK(expert_ids.cols == shape.num_experts_per_tok &&
                   expert_weights.cols == shape.num_experts_per_tok,
               "add_routed_experts: num_experts_per_tok");
  TANDEM_CHECK(expert_ids.rows == hidden.rows && expert_weights.rows == hidden.rows &&
                   residual.rows == hidden.rows,
               "add_routed_experts: rows");
}

}  // namespace tandem::gpu
