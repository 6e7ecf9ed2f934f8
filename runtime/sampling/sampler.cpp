#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/base/check.h"
#include "runtime/sampling/philox.h"

namespace tandem {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kNumTried = 256;     // sorted tokens: top_p and min_p rarely leave more
constexpr int32_t kMostSorted = 2048;  // of top_k; a RankedRow is faster with more

// The row without NaN; where +inf occurs, the limit: all weight on those tokens.
float clean_row(std::span<const float> from, std::span<float> to) {
  const float max = copy_without_nan(from, to);
  if (max < kInfinity) return max;
  for (float& logit : to) logit = logit == kInfinity ? 0.0f : -kInfinity;
  return 0.0f;
}

// Rounding may leave a little more than 0; JSON has no -inf.
float to_logprob(double value) {
  return static_cast<float>(std::clamp(value, static_cast<double>(kMinLogprob), 0.0));
}

// log softmax(row)[v] = row[v] - max - log(sum_u exp(row[u] - max))
void find_logprobs(float max, int32_t num_best, SamplerScratch& scratch, double& log_sum) {
  const double sum = exp_weights(scratch.logits, max, 1.0f, scratch.weights, scratch.block_sums);
  log_sum = static_cast<double>(max) + std::log(sum);
  select_best(scratch.logits, num_best, scratch.scratch);
  for (ScoredToken& token : scratch.scratch)
    token.score = to_logprob(static_cast<double>(token.score) - log_sum);
}

float logprob_of(std::span<const float> logits, int32_t token_id, double log_sum) {
  const float logit = logits[token_id];
  const double clean_logit = logit == kInfinity ? 0.0 : static_cast<double>(logit);
  return std::isnan(clean_logit) ? kMinLogprob : to_logprob(clean_logit - log_sum);
}

}  // namespace

SampledToken score_token(std::span<const float> logits,
                         int32_t token_id,
                         int32_t num_logprobs,
                         SamplerScratch& scratch) {
  SampledToken scored{.token_id = token_id, .logprob = kMinLogprob, .rank = 1, .top_logprobs = {}};
  scratch.logits.resize(logits.size());
  scratch.weights.resize(logits.size());
  const float max = clean_row(logits, scratch.logits);
  if (max == -kInfinity) return scored;  // nothing is possible, this token neither
  double log_sum = 0.0;
  find_logprobs(max, num_logprobs, scratch, log_sum);
  scored.logprob = logprob_of(logits, token_id, log_sum);
  const float own = scratch.logits[static_cast<size_t>(token_id)];
  scored.rank += static_cast<int32_t>(std::count_if(scratch.logits.begin(), scratch.logits.end(),
                                                    [&](float other) { return other > own; }));
  scored.top_logprobs = scratch.scratch;
  return scored;
}

Sampler::Sampler(const SamplingParams& params,
                 uint64_t seed,
                 std::span<const int32_t> prompt_ids,
                 uint64_t draw_idx)
    : params_(params),
      seed_(seed),
      draw_idx_(draw_idx),
      has_penalties_(params.repetition_penalty != 1.0f || params.frequency_penalty != 0.0f ||
                     params.presence_penalty != 0.0f) {
  if (has_penalties_) counts_.add_prompt(prompt_ids);
}

Result<SampledToken, std::string> Sampler::choose(const SampleRequest& request,
                                                  SamplerScratch& scratch) {
  const bool is_greedy = params_.temperature < kGreedyTemperature;
  const bool wants_logprobs = request.num_logprobs >= 0;
  const bool is_changed = changes_logits(request);
  SampledToken chosen;
  if (is_greedy && !wants_logprobs && !is_changed) {
    const float max = max_of(request.logits);
    if (max == -kInfinity) return std::string(kNoPossibleToken);
    chosen.token_id = static_cast<int32_t>(
        std::find(request.logits.begin(), request.logits.end(), max) - request.logits.begin());
    ++draw_idx_;
    return chosen;
  }

  scratch.logits.resize(request.logits.size());
  scratch.weights.resize(request.logits.size());
  float max = clean_row(request.logits, scratch.logits);
  if (max == -kInfinity) return std::string(kNoPossibleToken);
  double log_sum = 0.0;
  if (wants_logprobs) find_logprobs(max, request.num_logprobs, scratch, log_sum);
  if (is_changed) {
    change_logits(request, scratch.logits);
    max = max_of(scratch.logits);
    if (max == -kInfinity) return std::string("every possible next token is forbidden");
  }
  chosen.token_id =
      is_greedy
          ? static_cast<int32_t>(std::find(scratch.logits.begin(), scratch.logits.end(), max) -
                                 scratch.logits.begin())
          : draw(max, scratch);
  if (wants_logprobs) {
    chosen.logprob = logprob_of(request.logits, chosen.token_id, log_sum);
    chosen.top_logprobs = scratch.scratch;
  }
  ++draw_idx_;
  if (has_penalties_) counts_.add_output(chosen.token_id);
  return chosen;
}

std::optional<TokenChoice> Sampler::next_choice() const {
  if (has_penalties_ || !params_.logit_bias.empty()) return std::nullopt;
  return TokenChoice{.temperature = params_.temperature,
                     .top_k = params_.top_k,
                     .top_p = params_.top_p,
                     .min_p = params_.min_p,
                     .seed = seed_,
                     .draw_idx = draw_idx_};
}

bool Sampler::changes_logits(const SampleRequest& request) const {
  return has_penalties_ || !params_.logit_bias.empty() || !request.allowed_mask.empty() ||
         !request.banned_token_ids.empty();
}

void Sampler::change_logits(const SampleRequest& request, std::span<float> logits) const {
  for (const TokenCounts::Entry& entry : counts_.entries()) {
    float& logit = logits[entry.token_id];
    logit = logit > 0.0f ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (entry.num_in_output == 0) continue;
    logit -= params_.frequency_penalty * static_cast<float>(entry.num_in_output);
    logit -= params_.presence_penalty;
  }
  for (const auto& [token_id, bias] : params_.logit_bias) logits[token_id] += bias;
  for (const int32_t token_id : request.banned_token_ids) logits[token_id] = -kInfinity;
  if (request.allowed_mask.empty()) return;
  TANDEM_CHECK(request.allowed_mask.size() * 32 >= logits.size(), "the mask is too short");
  for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
    const bool is_allowed = (request.allowed_mask[token_idx / 32] >> (token_idx % 32) & 1u) != 0;
    logits[token_idx] = is_allowed ? logits[token_idx] : -kInfinity;
  }
}

bool Sampler::has_top_k(const SamplerScratch& scratch) const {
  return params_.top_k > 0 && static_cast<size_t>(params_.top_k) < scratch.logits.size();
}

// All three filters keep a head of the row in order, best first:
//   top_k: the first k; top_p: the shortest head with at least top_p of the weight that top_k left;
//   min_p: those of at least min_p times the best token's weight.
// The draw is an inversion in that order.
int32_t Sampler::draw(float max, SamplerScratch& scratch) const {
  const bool is_filtered = params_.top_k > 0 || params_.top_p < 1.0f || params_.min_p > 0.0f;
  if (!is_filtered) return draw_from_all(max, scratch);
  const bool needs_sum = params_.top_p < 1.0f && !has_top_k(scratch);
  const auto weigh_all = [&] {
    return exp_weights(scratch.logits, max, 1.0f / params_.temperature, scratch.weights,
                       scratch.block_sums);
  };
  const double sum = needs_sum ? weigh_all() : 0.0;
  if (keep_few(max, sum, scratch)) return draw_from_few(scratch);
  return draw_from_many(max, needs_sum ? sum : weigh_all(), scratch);
}

// Inversion in the order of ids: first the block, then the token in it.
int32_t Sampler::draw_from_all(float max, SamplerScratch& scratch) const {
  const double sum = exp_weights(scratch.logits, max, 1.0f / params_.temperature, scratch.weights,
                                 scratch.block_sums);
  double left = uniform_at(seed_, draw_idx_) * sum;
  size_t block_idx = 0;
  while (block_idx + 1 < scratch.block_sums.size() && left >= scratch.block_sums[block_idx])
    left -= scratch.block_sums[block_idx++];
  const size_t begin = block_idx * kWeightBlock;
  const size_t end = std::min(begin + kWeightBlock, scratch.weights.size());
  for (size_t token_idx = begin; token_idx < end; ++token_idx) {
    left -= static_cast<double>(scratch.weights[token_idx]);
    if (left < 0.0 && scratch.weights[token_idx] > 0.0f) return static_cast<int32_t>(token_idx);
  }
  // Rounding at a block's end: the block may even hold no weight. The likeliest token stands in.
  return static_cast<int32_t>(std::find(scratch.logits.begin(), scratch.logits.end(), max) -
                              scratch.logits.begin());
}

// Leaves in `kept` what passes the filters, scores turned into weights relative to the best token;
// false where more may pass than is sorted. `sum`: of all weights, where top_p needs it.
bool Sampler::keep_few(float max, double sum, SamplerScratch& scratch) const {
  const bool is_cut = has_top_k(scratch);
  if (is_cut && params_.top_k > kMostSorted) return false;
  const int64_t vocab_size = static_cast<int64_t>(scratch.logits.size());
  const int64_t num_sorted = is_cut ? params_.top_k : std::min(vocab_size, kNumTried);
  select_best(scratch.logits, num_sorted, scratch.kept);
  const float scale = 1.0f / params_.temperature;
  double sorted_sum = 0.0;
  for (ScoredToken& token : scratch.kept) {
    token.score = exp_of_nonpositive((token.score - max) * scale);
    sorted_sum += static_cast<double>(token.score);
  }
  double allowed_sum = std::numeric_limits<double>::infinity();  // the head ends when reached
  if (params_.top_p < 1.0f)
    allowed_sum = static_cast<double>(params_.top_p) * (is_cut ? sorted_sum : sum);
  size_t num_kept = 0;
  double kept_sum = 0.0;
  while (num_kept < scratch.kept.size() && kept_sum < allowed_sum &&
         scratch.kept[num_kept].score >= params_.min_p)
    kept_sum += static_cast<double>(scratch.kept[num_kept++].score);
  const bool is_head_complete = is_cut || num_sorted == vocab_size ||
                                num_kept < static_cast<size_t>(num_sorted) ||
                                kept_sum >= allowed_sum;
  scratch.kept.resize(std::max<size_t>(num_kept, 1));
  scratch.num_kept = static_cast<int64_t>(scratch.kept.size());
  return is_head_complete;
}

int32_t Sampler::draw_from_few(const SamplerScratch& scratch) const {
  double sum = 0.0;
  for (const ScoredToken& token : scratch.kept) sum += static_cast<double>(token.score);
  double left = uniform_at(seed_, draw_idx_) * sum;
  for (const ScoredToken& token : scratch.kept) {
    left -= static_cast<double>(token.score);
    if (left < 0.0) return token.token_id;
  }
  return scratch.kept.front().token_id;  // rounding at the end of the range
}

// As draw_from_few(), with all weights made and none of the tokens sorted.
int32_t Sampler::draw_from_many(float max, double sum, SamplerScratch& scratch) const {
  scratch.kept.clear();
  RankedRow& ranked = scratch.ranked;
  ranked.assign(scratch.logits, scratch.weights, sum, max, 1.0f / params_.temperature);
  RankedRow::Head kept{.num_tokens = static_cast<int64_t>(scratch.logits.size()), .weight = sum};
  const auto keep = [&](const RankedRow::Head& head) {
    if (head.num_tokens < kept.num_tokens) kept = head;
  };
  if (has_top_k(scratch)) keep(ranked.head_of(params_.top_k));
  if (params_.top_p < 1.0f)
    keep(ranked.head_reaching(static_cast<double>(params_.top_p) * kept.weight));
  if (params_.min_p > 0.0f) keep(ranked.head_of_weights(params_.min_p));
  scratch.num_kept = kept.num_tokens;
  const double left = uniform_at(seed_, draw_idx_) * kept.weight;
  const RankedRow::Head drawn = ranked.head_exceeding(left);
  if (drawn.weight > left && drawn.num_tokens <= kept.num_tokens)
    return ranked.last_token_of(drawn);
  return ranked.last_token_of(ranked.head_of(1));  // rounding at the end of the range
}

}  // namespace tandem
