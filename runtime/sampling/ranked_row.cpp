#include "runtime/sampling/ranked_row.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace tandem {
namespace {

constexpr int kBinBits = 10;
constexpr size_t kNumBins = size_t{1} << kBinBits;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// In the order of the values; the two zeros are equal.
int32_t order_key(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value + 0.0f);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

// How far below the largest logit, in units of 1 / scale, tokens have bins of their own; the last
// bin takes the others. Of weights 1 - y, y being `lack` on average, an eighth at most has a y of
// more than 8 lack (Markov), so that bin gets few, however flat the row: a weight e^-x with
// y <= 8 lack has x <= 8 lack / (1 - 8 lack). Without such a bound: weights end at e^-87.
double binned_range(double lack) {
  const double most = 8.0 * lack;
  return most < 0.98 ? most / (1.0 - most) : 88.0;
}

}  // namespace

void RankedRow::assign(std::span<const float> logits,
                       std::span<const float> weights,
                       double sum,
                       float max,
                       float scale) {
  logits_ = logits;
  weights_ = weights;
  bin_idx_.resize(logits.size());
  candidates_.reserve(logits.size() + 1);
  const int64_t num_tokens = std::count_if(logits.begin(), logits.end(),
                                           [](float logit) { return logit > kNegativeInfinity; });
  const double lack = std::max(1.0 - sum / static_cast<double>(num_tokens), 0.0);
  constexpr float kLastBin = static_cast<float>(kNumBins - 1);
  const float bins_of_one =
      scale * static_cast<float>(static_cast<double>(kLastBin) / binned_range(lack));
  for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
    const float position = (max - logits[token_idx]) * bins_of_one;
    const int bin_idx = static_cast<int>(position < kLastBin ? position : kLastBin);  // NaN: last
    bin_idx_[token_idx] =
        static_cast<uint16_t>(logits[token_idx] > kNegativeInfinity ? bin_idx : int{kNumBins});
  }
  bins_.assign(kNumBins + 1, {});
  for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
    Bin& bin = bins_[bin_idx_[token_idx]];
    bin.weight += static_cast<double>(weights[token_idx]);
    ++bin.num_tokens;
  }
}

RankedRow::Head RankedRow::head_of(int64_t num_tokens) {
  return shortest_head([num_tokens](int64_t num, double) { return num >= num_tokens; });
}

RankedRow::Head RankedRow::head_reaching(double weight) {
  return shortest_head([weight](int64_t, double sum) { return sum >= weight; });
}

RankedRow::Head RankedRow::head_exceeding(double weight) {
  return shortest_head([weight](int64_t, double sum) { return sum > weight; });
}

// By the best logit that weighs less: rounding may let a lower one weigh an ulp more.
RankedRow::Head RankedRow::head_of_weights(float least) {
  float too_low = kNegativeInfinity;
  for (size_t token_idx = 0; token_idx < logits_.size(); ++token_idx) {
    if ((weights_[token_idx] < least) & (logits_[token_idx] > too_low))
      too_low = logits_[token_idx];
  }
  return head_of(std::count_if(logits_.begin(), logits_.end(),
                               [too_low](float logit) { return logit > too_low; }));
}

int32_t RankedRow::last_token_of(const Head& head) const {
  constexpr size_t kBlock = 1024;
  const auto is_last = [&](float logit) { return logit == head.last_logit; };
  int64_t num_left = head.num_of_last;
  size_t token_idx = 0;
  for (;; token_idx += kBlock) {
    const std::span<const float> rest = logits_.subspan(token_idx);
    const std::span<const float> block = rest.first(std::min(kBlock, rest.size()));
    const int64_t num_in_block = std::count_if(block.begin(), block.end(), is_last);
    if (num_in_block >= num_left) break;
    num_left -= num_in_block;
  }
  while (!is_last(logits_[token_idx]) || --num_left > 0) ++token_idx;
  return static_cast<int32_t>(token_idx);
}

// Adds the bins before the first one with which the head suffices, and returns that one; the last
// that holds a token where none does.
template <typename Suffices>
size_t RankedRow::take_bins(std::span<const Bin> bins, const Suffices& suffices, Head& head) {
  size_t last_idx = bins.size() - 1;
  while (bins[last_idx].num_tokens == 0) --last_idx;
  for (size_t bin_idx = 0; bin_idx < last_idx; ++bin_idx) {
    const Bin& bin = bins[bin_idx];
    const int64_t num_tokens = head.num_tokens + bin.num_tokens;
    const double weight = head.weight + bin.weight;
    if (bin.num_tokens > 0 && suffices(num_tokens, weight)) return bin_idx;
    head.num_tokens = num_tokens;
    head.weight = weight;
  }
  return last_idx;
}

// Adds as many of the candidates, whose logits are equal, as suffice; all where they do not.
template <typename Suffices>
void RankedRow::take_equal(const Suffices& suffices, Head& head) const {
  const double weight = static_cast<double>(candidates_.front().weight);
  int64_t fewest = 1, most = static_cast<int64_t>(candidates_.size());
  while (fewest < most) {
    const int64_t middle = fewest + (most - fewest) / 2;
    if (suffices(head.num_tokens + middle, head.weight + static_cast<double>(middle) * weight)) {
      most = middle;
    } else {
      fewest = middle + 1;
    }
  }
  head.num_tokens += fewest;
  head.weight += static_cast<double>(fewest) * weight;
  head.last_logit = candidates_.front().logit;
  head.num_of_last = fewest;
}

void RankedRow::gather_candidates(size_t bin_idx) {
  const size_t num_candidates = static_cast<size_t>(bins_[bin_idx].num_tokens);
  candidates_.resize(num_candidates + 1);  // no branch below: what is none is written, too
  size_t candidate_idx = 0;
  for (size_t token_idx = 0; token_idx < logits_.size(); ++token_idx) {
    candidates_[candidate_idx] = {logits_[token_idx], weights_[token_idx]};
    candidate_idx += bin_idx_[token_idx] == bin_idx;
  }
  candidates_.resize(num_candidates);
}

template <typename Suffices>
RankedRow::Head RankedRow::shortest_head(const Suffices& suffices) {
  Head head;
  gather_candidates(take_bins(std::span(bins_).first(kNumBins), suffices, head));
  // Each round takes kBinBits of what their keys differ in.
  for (;;) {
    int32_t best_key = order_key(candidates_.front().logit), worst_key = best_key;
    for (const Candidate& candidate : candidates_) {
      best_key = std::max(best_key, order_key(candidate.logit));
      worst_key = std::min(worst_key, order_key(candidate.logit));
    }
    if (best_key == worst_key) break;
    const auto distance = [best_key](int32_t key) {
      return static_cast<uint32_t>(best_key) - static_cast<uint32_t>(key);
    };
    const int num_bits = static_cast<int>(std::bit_width(distance(worst_key)));
    const int shift = std::max(num_bits - kBinBits, 0);
    const auto bin_of = [&](float logit) { return distance(order_key(logit)) >> shift; };
    inner_bins_.assign(kNumBins, {});
    for (const Candidate& candidate : candidates_) {
      Bin& bin = inner_bins_[bin_of(candidate.logit)];
      bin.weight += static_cast<double>(candidate.weight);
      ++bin.num_tokens;
    }
    const size_t bin_idx = take_bins(inner_bins_, suffices, head);
    std::erase_if(candidates_,
                  [&](const Candidate& candidate) { return bin_of(candidate.logit) != bin_idx; });
  }
  take_equal(suffices, head);
  return head;
}

}  // namespace tandem
