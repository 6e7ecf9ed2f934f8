#include "gpu/cuda/core/segment_cache.h"

#include <algorithm>

namespace tandem::gpu::cuda {

int32_t decode_bucket(const Batch& batch, int32_t max_rows) {
  const size_t num_tokens = batch.token_ids.size();
  const bool is_decode = std::all_of(batch.items.begin(), batch.items.end(),
                                     [](const BatchItem& item) { return item.num_tokens == 1; });
  if (!is_decode || batch.items.size() != num_tokens || batch.logit_token_idx.size() != num_tokens)
    return 0;
  for (const int32_t num_rows : kBatchBuckets) {
    if (static_cast<size_t>(num_rows) >= num_tokens) return num_rows <= max_rows ? num_rows : 0;
  }
  return 0;
}

}  // namespace tandem::gpu::cuda
