// The next token of every row of logits: runtime/sampling's choice behind penalties and masks,
// which stay with the host.
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// How one row's token is chosen.
struct SampleRow {
  float scale = 1.0f;  // 1 / temperature
  int32_t top_k = 0;   // 0: off; 1: greedy, the lowest id of the largest logit
  float top_p = 1.0f;
  float min_p = 0.0f;
  double uniform = 0.0;  // runtime/sampling's uniform_at(seed, draw_idx)
};

// token_ids[row] = the token that Sampler::choose draws with these parameters, or -1 where no token
// is possible (a row of NaN and -inf). Without filters the draw goes through the ids, with filters
// through the tokens from the best on, as there. Weights are that definition's to the bit, but
// summed as multiples of 2^-45 of the largest, in any order and exactly: the choice is the same on
// every run and card, and differs from the host's only where its draw, or top_p, comes within
// vocab_size * 2^-45 of a boundary between two tokens.
struct SampleParams {
  MatrixView<const float> logits;  // [num_rows, vocab_size], at most 262,144 of them
  const SampleRow* rows;           // [num_rows]
  int32_t* token_ids;              // [num_rows]
};
void launch_sample(const SampleParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
