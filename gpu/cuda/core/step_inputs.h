// What the kernels need of a step's batch besides its activations, laid out in one buffer of int32
// at fixed places, so that it goes to the card in one copy and recorded work finds it there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/cuda/core/mla_plan.h"
#include "runtime/model/forward_model.h"

namespace tandem::gpu::cuda {

// Places in the buffer; T is int32_t on the host, const int32_t for the kernels.
template <typename T>
struct StepArrays {
  T* token_ids = nullptr;        // [max_batch_tokens]
  T* positions = nullptr;        // [max_batch_tokens]
  T* kv_slots = nullptr;         // [max_batch_tokens] page id * 64 + position % 64; -1: no token
  T* logit_token_idx = nullptr;  // [max_batch_tokens]
  T* page_ids = nullptr;         // [max_page_ids] of all sequences, one after the other; last
};

class StepInputs {
 public:
  struct Limits {
    int32_t max_batch_tokens = 0;
    int32_t max_context_tokens = 0;
    int32_t max_sequences = 0;  // page_ids has room for as many of the longest contexts
  };

  explicit StepInputs(const Limits& limits);

  [[nodiscard]] int64_t num_values() const;  // int32 values of all arrays
  template <typename T>
  [[nodiscard]] StepArrays<T> arrays(T* values) const {
    const int64_t tokens = limits_.max_batch_tokens;
    return {.token_ids = values,
            .positions = values + tokens,
            .kv_slots = values + 2 * tokens,
            .logit_token_idx = values + 3 * tokens,
            .page_ids = values + 4 * tokens};
  }

  // Fills the arrays in `values` [num_values()] and returns how many values from the first on have
  // to go to the card. Rows behind the batch's tokens, up to num_rows, are made harmless: token 0,
  // no slot. Allocates nothing.
  int64_t fill(const Batch& batch, int64_t num_rows, std::span<int32_t> values);

  // The batch's sequences, for the plans of attention; items without tokens left out.
  [[nodiscard]] std::span<const MlaPlanItem> items() const { return items_; }
  // Their pages, in the buffer that was filled.
  [[nodiscard]] std::span<const int32_t> page_ids() const { return page_ids_; }

 private:
  Limits limits_;
  int32_t max_sequence_pages_;
  std::vector<MlaPlanItem> items_;
  std::span<const int32_t> page_ids_;
};

}  // namespace tandem::gpu::cuda
