// From a row of logits to a token, for one sequence. Order, as in the field:
//   repetition penalty (prompt and output), frequency and presence penalties (output), logit_bias,
//   what is not allowed is removed, temperature, top_k, top_p, min_p, one draw.
// The n-th token of a sequence depends on its logits, its seed and n: not on the batch around it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/base/token_choice.h"
#include "runtime/sampling/ranked_row.h"
#include "runtime/sampling/row_math.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/sampling/token_counts.h"

namespace tandem {

// Below it sampling is greedy: the quotient of two logits' difference would leave float's range.
inline constexpr float kGreedyTemperature = 1e-5f;
// No logprob is less: JSON has no -inf.
inline constexpr float kMinLogprob = -9999.0f;

// Why a request ends whose logits allow no token.
inline constexpr const char* kNoPossibleToken = "the model gave no possible next token";

// Buffers of one thread, shared by all its sequences; they grow to the vocabulary's size once.
struct SamplerScratch {
  std::vector<float> logits;         // [vocab_size] the row as modified
  std::vector<float> weights;        // [vocab_size] not normalised
  std::vector<double> block_sums;    // of weights
  int64_t num_kept = 0;              // how many of the row's best tokens the filters left
  std::vector<ScoredToken> kept;     // these, best first, where they are few; else empty
  RankedRow ranked;                  // the row where they are many
  std::vector<ScoredToken> scratch;  // top logprobs
};

struct SampleRequest {
  std::span<const float> logits = {};  // [vocab_size]; NaN counts as impossible
  // Bit v % 32 of word v / 32: token v is allowed. Empty: all are.
  std::span<const uint32_t> allowed_mask = {};
  std::span<const int32_t> banned_token_ids = {};
  int32_t num_logprobs = -1;  // -1: none; 0: of the chosen token; k: and the k best
};

struct SampledToken {
  int32_t token_id = -1;
  float logprob = 0.0f;  // of the unmodified distribution, 0 when none was asked for
  int32_t rank = 0;      // score_token(): one more than there are tokens with a larger logit
  // Descending, of the unmodified distribution; lives in the scratch until its next use.
  std::span<const ScoredToken> top_logprobs;
};

// The logprob of a given token and the num_logprobs best, of the distribution as it is.
SampledToken score_token(std::span<const float> logits,
                         int32_t token_id,
                         int32_t num_logprobs,
                         SamplerScratch& scratch);

class Sampler {
 public:
  // `params` were found valid. `draw_idx` tokens have been chosen before.
  Sampler(const SamplingParams& params,
          uint64_t seed,
          std::span<const int32_t> prompt_ids,
          uint64_t draw_idx = 0);

  // Chooses the sequence's next token and takes it into account from then on. An error when no
  // token is possible (a row of NaN, everything banned); the state is then unchanged.
  Result<SampledToken, std::string> choose(const SampleRequest& request, SamplerScratch& scratch);

  // What the next choose() does with a row that nothing is asked of besides, for whoever does it
  // in its place; absent where this sampler changes logits itself.
  [[nodiscard]] std::optional<TokenChoice> next_choice() const;
  // A token was chosen so.
  void note_choice() { ++draw_idx_; }

  [[nodiscard]] uint64_t seed() const { return seed_; }

 private:
  [[nodiscard]] bool changes_logits(const SampleRequest& request) const;
  void change_logits(const SampleRequest& request, std::span<float> logits) const;
  [[nodiscard]] int32_t draw(float max, SamplerScratch& scratch) const;
  [[nodiscard]] int32_t draw_from_all(float max, SamplerScratch& scratch) const;
  [[nodiscard]] bool keep_few(float max, double sum, SamplerScratch& scratch) const;
  [[nodiscard]] int32_t draw_from_few(const SamplerScratch& scratch) const;
  [[nodiscard]] int32_t draw_from_many(float max, double sum, SamplerScratch& scratch) const;
  [[nodiscard]] bool has_top_k(const SamplerScratch& scratch) const;

  SamplingParams params_;
  uint64_t seed_ = 0;
  uint64_t draw_idx_ = 0;  // tokens chosen so far
  bool has_penalties_ = false;
  TokenCounts counts_;  // filled only with penalties
};

}  // namespace tandem
