#include "runtime/reference/reference_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/base/errors.h"
#include "runtime/reference/reference_math.h"

namespace tandem {

using reference::Activations;
using reference::linear;

namespace {

void add(Activations& left, const Activations& right) {
  for (size_t idx = 0; idx < left.data.size(); ++idx) left.data[idx] += right.data[idx];
}

// What production rounds to BF16; the identity in FP32.
Activations rounded(Activations values, ActivationPrecision precision) {
  if (precision == ActivationPrecision::kBf16) {
    for (float& value : values.data) value = bf16(value).to_float();
  }
  return values;
}

// MlpTensors or ExpertTensors.
template <typename Weights>
Activations mlp(const Activations& x, const Weights& weights, ActivationPrecision precision) {
  Activations gate = linear(weights.gate_proj, x);
  reference::silu_multiply(gate, linear(weights.up_proj, x));
  return linear(weights.down_proj, rounded(std::move(gate), precision));
}

// The attention of one layer over one whole sequence.
class Attention {
 public:
  Attention(const ModelConfig& config,
            const LayerTensors& weights,
            const Activations& x,
            ActivationPrecision precision)
      : precision_(precision),
        config_(config),
        weights_(weights),
        scale_(softmax_scale(config)),
        num_tokens_(x.rows),
        heads_(config.num_attention_heads),
        d_nope_(config.qk_nope_head_dim),
        d_rope_(config.qk_rope_head_dim),
        d_value_(config.v_head_dim),
        rank_(config.kv_lora_rank),
        latent_(x.rows, config.kv_lora_rank),
        key_rope_(x.rows, config.qk_rope_head_dim) {
    project(x);
  }

  Activations run(AttentionForm form) const {
    return linear(weights_.o_proj,
                  rounded(form == AttentionForm::kExpanded ? expanded() : absorbed(), precision_));
  }

 private:
  // Equations 3 to 5.
  void project(const Activations& x) {
    if (config_.q_lora_rank == 0) {
      query_ = linear(weights_.q_proj, x);
    } else {
      query_ = linear(weights_.q_b_proj, rounded(reference::rms_norm(linear(weights_.q_a_proj, x),
                                                                     weights_.q_a_layernorm,
                                                                     config_.lora_rms_norm_eps),
                                                 precision_));
    }
    query_ = rounded(std::move(query_), precision_);
    const Activations a = linear(weights_.kv_a_proj_with_mqa, x);
    const std::vector<float> frequencies = rope_frequencies(config_);
    const float magnitude = rope_magnitude(config_);
    for (int64_t token_idx = 0; token_idx < num_tokens_; ++token_idx) {
      reference::rms_norm(a.row(token_idx).first(rank_), weights_.kv_a_layernorm,
                          config_.lora_rms_norm_eps, latent_.row(token_idx));
      std::ranges::copy(a.row(token_idx).subspan(rank_), key_rope_.row(token_idx).begin());
      reference::rotate(key_rope_.row(token_idx), token_idx, frequencies, magnitude);
      for (int64_t head_idx = 0; head_idx < heads_; ++head_idx) {
        const std::span<float> query =
            query_.row(token_idx).subspan(head_idx * (d_nope_ + d_rope_) + d_nope_, d_rope_);
        reference::rotate(query, token_idx, frequencies, magnitude);
      }
    }
    query_ = rounded(std::move(query_), precision_);
    latent_ = rounded(std::move(latent_), precision_);
    key_rope_ = rounded(std::move(key_rope_), precision_);
  }
  [[nodiscard]] std::span<const float> query_nope(int64_t token_idx, int64_t head_idx) const {
    return query_.row(token_idx).subspan(head_idx * (d_nope_ + d_rope_), d_nope_);
  }
  [[nodiscard]] std::span<const float> query_rope(int64_t token_idx, int64_t head_idx) const {
    return query_.row(token_idx).subspan(head_idx * (d_nope_ + d_rope_) + d_nope_, d_rope_);
  }

  // Equation 8: keys and values of every head are written out.
  [[nodiscard]] Activations expanded() const {
    const int64_t d_pair = d_nope_ + d_value_;
    const Activations key_value = linear(weights_.kv_b_proj, latent_);
    Activations out(num_tokens_, heads_ * d_value_);
    const int64_t num_operations =
        num_tokens_ * num_tokens_ / 2 * heads_ * (d_nope_ + d_rope_ + d_value_);
    reference::parallel_for(num_tokens_ * heads_, num_operations, [&](int64_t idx) {
      const int64_t token_idx = idx / heads_;
      const int64_t head_idx = idx % heads_;
      std::vector<double> scores(token_idx + 1);
      for (int64_t past_idx = 0; past_idx <= token_idx; ++past_idx) {
        const auto key = key_value.row(past_idx).subspan(head_idx * d_pair, d_nope_);
        scores[past_idx] =
            scale_ * (reference::dot(query_nope(token_idx, head_idx), key) +
                      reference::dot(query_rope(token_idx, head_idx), key_rope_.row(past_idx)));
      }
      reference::softmax(scores);
      std::vector<double> sum(d_value_, 0.0);
      for (int64_t past_idx = 0; past_idx <= token_idx; ++past_idx) {
        const auto value = key_value.row(past_idx).subspan(head_idx * d_pair + d_nope_, d_value_);
        for (int64_t dim_idx = 0; dim_idx < d_value_; ++dim_idx) {
          sum[dim_idx] += scores[past_idx] * double{value[dim_idx]};
        }
      }
      std::ranges::transform(sum, out.row(token_idx).subspan(head_idx * d_value_).begin(),
                             [](double value) { return static_cast<float>(value); });
    });
    return out;
  }

  // Equation 9: the query is taken into the latent space and the result out of it.
  [[nodiscard]] Activations absorbed() const {
    Activations out(num_tokens_, heads_ * d_value_);
    for (int64_t head_idx = 0; head_idx < heads_; ++head_idx) {
      Activations w_uk(d_nope_, rank_);
      Activations w_uv(d_value_, rank_);
      const int64_t first_row = head_idx * (d_nope_ + d_value_);
      for (int64_t row_idx = 0; row_idx < d_nope_ + d_value_; ++row_idx) {
        reference::decode_row(weights_.kv_b_proj, first_row + row_idx,
                              row_idx < d_nope_ ? w_uk.row(row_idx) : w_uv.row(row_idx - d_nope_));
      }
      const int64_t num_operations = num_tokens_ * (num_tokens_ + d_nope_ + d_value_) * rank_;
      reference::parallel_for(num_tokens_, num_operations, [&](int64_t token_idx) {
        absorbed_token(head_idx, token_idx, w_uk, w_uv,
                       out.row(token_idx).subspan(head_idx * d_value_));
      });
    }
    return out;
  }
  void absorbed_token(int64_t head_idx,
                      int64_t token_idx,
                      const Activations& w_uk,
                      const Activations& w_uv,
                      std::span<float> out) const {
    std::vector<double> sum(rank_, 0.0);
    for (int64_t dim_idx = 0; dim_idx < d_nope_; ++dim_idx) {
      const double query = query_nope(token_idx, head_idx)[dim_idx];
      for (int64_t rank_idx = 0; rank_idx < rank_; ++rank_idx) {
        sum[rank_idx] += query * double{w_uk.row(dim_idx)[rank_idx]};
      }
    }
    const std::vector<float> latent_query(sum.begin(), sum.end());
    std::vector<double> scores(token_idx + 1);
    for (int64_t past_idx = 0; past_idx <= token_idx; ++past_idx) {
      scores[past_idx] =
          scale_ * (reference::dot(latent_query, latent_.row(past_idx)) +
                    reference::dot(query_rope(token_idx, head_idx), key_rope_.row(past_idx)));
    }
    reference::softmax(scores);
    std::ranges::fill(sum, 0.0);
    for (int64_t past_idx = 0; past_idx <= token_idx; ++past_idx) {
      for (int64_t rank_idx = 0; rank_idx < rank_; ++rank_idx) {
        sum[rank_idx] += scores[past_idx] * double{latent_.row(past_idx)[rank_idx]};
      }
    }
    const std::vector<float> latent_out(sum.begin(), sum.end());
    for (int64_t dim_idx = 0; dim_idx < d_value_; ++dim_idx) {
      out[dim_idx] = static_cast<float>(reference::dot(w_uv.row(dim_idx), latent_out));
    }
  }

  ActivationPrecision precision_;
  const ModelConfig& config_;
  const LayerTensors& weights_;
  double scale_;
  int64_t num_tokens_, heads_, d_nope_, d_rope_, d_value_, rank_;
  Activations query_;     // [num_tokens, heads * (d_nope + d_rope)], rope part rotated
  Activations latent_;    // c [num_tokens, kv_lora_rank]
  Activations key_rope_;  // k^r [num_tokens, qk_rope_head_dim], rotated
};

// Indices of the `num` largest values, the lowest index first among equals; in ascending order.
std::vector<int32_t> top_indices(std::span<const double> values, int32_t num) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](int32_t left, int32_t right) { return values[left] > values[right]; });
  order.resize(num);
  std::ranges::sort(order);
  return order;
}

// Equation 13: groups outside the topk_group best (by the sum of their two best experts) are out.
void mask_groups(const ModelConfig& config, std::span<double> choice) {
  if (config.n_group == 1) return;
  const int64_t group_size = config.n_routed_experts / config.n_group;
  std::vector<double> group_scores;
  for (int32_t group_idx = 0; group_idx < config.n_group; ++group_idx) {
    const auto group = choice.subspan(group_idx * group_size, group_size);
    std::vector<double> sorted(group.begin(), group.end());
    std::ranges::sort(sorted, std::greater<>());
    group_scores.push_back(sorted[0] + sorted[1]);
  }
  const std::vector<int32_t> kept = top_indices(group_scores, config.topk_group);
  for (int32_t group_idx = 0; group_idx < config.n_group; ++group_idx) {
    if (std::ranges::binary_search(kept, group_idx)) continue;
    std::ranges::fill(choice.subspan(group_idx * group_size, group_size),
                      -std::numeric_limits<double>::infinity());
  }
}

struct Routing {
  std::vector<int32_t> expert_ids;  // [num_tokens, num_experts_per_tok]
  std::vector<float> expert_weights;
};

// Equations 12 to 14.
Routing route(const ModelConfig& config, const LayerTensors& weights, const Activations& x) {
  Routing routing;
  const Activations z = linear(weights.gate, x);
  for (int64_t token_idx = 0; token_idx < x.rows; ++token_idx) {
    std::vector<double> score;   // s
    std::vector<double> choice;  // b
    for (int32_t expert_idx = 0; expert_idx < config.n_routed_experts; ++expert_idx) {
      score.push_back(1.0 / (1.0 + std::exp(-double{z.row(token_idx)[expert_idx]})));
      choice.push_back(score.back() + double{weights.e_score_correction_bias[expert_idx]});
    }
    mask_groups(config, choice);
    const std::vector<int32_t> chosen = top_indices(choice, config.num_experts_per_tok);
    double sum = 1e-20;
    for (const int32_t expert_idx : chosen) sum += score[expert_idx];
    for (const int32_t expert_idx : chosen) {
      const double share = config.norm_topk_prob ? score[expert_idx] / sum : score[expert_idx];
      routing.expert_ids.push_back(expert_idx);
      routing.expert_weights.push_back(
          static_cast<float>(share * double{config.routed_scaling_factor}));
    }
  }
  return routing;
}

// Equation 15, the routed part: expert by expert, each with the tokens that chose it.
Activations routed_experts(const Checkpoint& checkpoint,
                           int32_t layer_idx,
                           ExpertPrecision precision,
                           ActivationPrecision activations,
                           const Routing& routing,
                           const Activations& x) {
  const ModelConfig& config = checkpoint.config();
  const int64_t top_k = config.num_experts_per_tok;
  std::vector<double> sum(x.data.size(), 0.0);
  for (int32_t expert_idx = 0; expert_idx < config.n_routed_experts; ++expert_idx) {
    std::vector<int64_t> slots;  // of routing.expert_ids
    for (size_t slot = 0; slot < routing.expert_ids.size(); ++slot) {
      if (routing.expert_ids[slot] == expert_idx) slots.push_back(static_cast<int64_t>(slot));
    }
    if (slots.empty()) continue;
    Activations input(static_cast<int64_t>(slots.size()), x.cols);
    for (int64_t row_idx = 0; row_idx < input.rows; ++row_idx) {
      std::ranges::copy(x.row(slots[row_idx] / top_k), input.row(row_idx).begin());
    }
    Activations output;
    if (!config.experts_int4 && precision == ExpertPrecision::kAsStored) {
      output = mlp(input, checkpoint.bf16_expert(layer_idx, expert_idx), activations);
    } else {
      Checkpoint::ExpertScratch scratch;
      output = mlp(input, checkpoint.expert(layer_idx, expert_idx, scratch), activations);
    }
    for (int64_t row_idx = 0; row_idx < output.rows; ++row_idx) {
      const double weight = routing.expert_weights[slots[row_idx]];
      double* const place = sum.data() + slots[row_idx] / top_k * x.cols;
      for (int64_t col_idx = 0; col_idx < x.cols; ++col_idx) {
        place[col_idx] += weight * double{output.row(row_idx)[col_idx]};
      }
    }
  }
  Activations out(x.rows, x.cols);
  std::ranges::transform(sum, out.data.begin(),
                         [](double value) { return static_cast<float>(value); });
  return out;
}

}  // namespace

ReferenceModel::ReferenceModel(const Checkpoint& checkpoint,
                               ExpertPrecision expert_precision,
                               ActivationPrecision activation_precision)
    : checkpoint_(checkpoint),
      expert_precision_(expert_precision),
      activation_precision_(activation_precision) {}

ReferenceOutput ReferenceModel::run(std::span<const int32_t> token_ids, AttentionForm form) const {
  const ModelConfig& config = checkpoint_.config();
  const ActivationPrecision precision = activation_precision_;
  ReferenceOutput output;
  Activations hidden(static_cast<int64_t>(token_ids.size()), config.hidden_size);
  for (int64_t token_idx = 0; token_idx < hidden.rows; ++token_idx) {  // equation 1
    const int32_t token_id = token_ids[token_idx];
    if (token_id < 0 || token_id >= config.vocab_size) {
      throw ConfigError(fmt::format("token {} is {}, expected an id from 0 to {}", token_idx,
                                    token_id, config.vocab_size - 1));
    }
    reference::decode_row(checkpoint_.embed_tokens(), token_id, hidden.row(token_idx));
  }

  for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    const LayerTensors weights = checkpoint_.layer(layer_idx);
    output.hidden.push_back(hidden.data);
    Routing routing;
    const auto norm = [&](std::span<const bf16> weight) {
      return rounded(reference::rms_norm(hidden, weight, config.rms_norm_eps), precision);
    };
    Activations x = norm(weights.input_layernorm);
    add(hidden, Attention(config, weights, x, precision).run(form));  // equation 10
    x = norm(weights.post_attention_layernorm);
    if (config.is_dense(layer_idx)) {
      add(hidden, mlp(x, weights.mlp, precision));  // equation 11
    } else {
      routing = route(config, weights, x);
      Activations y =
          routed_experts(checkpoint_, layer_idx, expert_precision_, precision, routing, x);
      if (config.n_shared_experts > 0) add(y, mlp(x, weights.shared_experts, precision));
      add(hidden, y);
    }
    output.expert_ids.push_back(std::move(routing.expert_ids));
    output.expert_weights.push_back(std::move(routing.expert_weights));
  }
  output.hidden.push_back(hidden.data);
  output.logits =
      linear(
          checkpoint_.lm_head(),  // equation 16
          rounded(reference::rms_norm(hidden, checkpoint_.norm(), config.rms_norm_eps), precision))
          .data;
  return output;
}

}  // namespace tandem
