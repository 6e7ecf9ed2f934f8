// The tokens of a row in order (larger logits first, of equal ones the lower id), as far as heads
// of them are asked for: nothing is sorted. Where a head ends is found in bins, first of all tokens
// by the distance of their logits from the largest, then of one bin's tokens by their logits' bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

class RankedRow {
 public:
  // The best tokens, down to a last one.
  struct Head {
    int64_t num_tokens = 0;
    double weight = 0.0;      // summed in an order that depends on the row alone
    float last_logit = 0.0f;  // of its last token
    int64_t num_of_last = 0;  // tokens of that logit in it
  };

  // Both [vocab_size], not copied: logits without NaN, `max` the largest of them and more than
  // -inf; weights as exp_weights() makes them with this `scale`, and their sum. What has a logit of
  // -inf is no token.
  void assign(std::span<const float> logits,
              std::span<const float> weights,
              double sum,
              float max,
              float scale);

  // The shortest head that has so many tokens; that has this weight; that has more than this
  // weight. Every token where none has.
  Head head_of(int64_t num_tokens);
  Head head_reaching(double weight);
  Head head_exceeding(double weight);
  // The tokens before the first that weighs less, the best one in any case.
  Head head_of_weights(float least);

  [[nodiscard]] int32_t last_token_of(const Head& head) const;

 private:
  struct Bin {
    double weight = 0.0;
    int64_t num_tokens = 0;
  };
  struct Candidate {
    float logit = 0.0f;
    float weight = 0.0f;
  };

  template <typename Suffices>
  Head shortest_head(const Suffices& suffices);
  template <typename Suffices>
  static size_t take_bins(std::span<const Bin> bins, const Suffices& suffices, Head& head);
  template <typename Suffices>
  void take_equal(const Suffices& suffices, Head& head) const;
  void gather_candidates(size_t bin_idx);

  std::span<const float> logits_;
  std::span<const float> weights_;
  std::vector<uint16_t> bin_idx_;      // [vocab_size]
  std::vector<Bin> bins_;              // of all tokens, the best in the first; the last: no tokens
  std::vector<Bin> inner_bins_;        // of the candidates
  std::vector<Candidate> candidates_;  // by id, those of a bin in which a head ends
};

}  // namespace tandem
