#include <catch2/catch_test_macros.hpp>

#include "tests/gpu/cuda/ops_test_support.h"

namespace tandem::gpu::cuda::testing {

TEST_CASE("on a card sample draws the host's tokens over K2's vocabulary", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  ops->reserve({.max_batch_tokens = 16, .max_logit_rows = 16, .max_context_tokens = 64},
               kNoAttention);
  HostDevice host(1, *host::supported_kernels().back());
  Values values(62);
  const std::vector<TokenChoice> kinds{{},
                                       {.temperature = 0.0f},
                                       {.temperature = 0.6f, .top_k = 20},
                                       {.top_k = -1, .top_p = 0.8f},
                                       {.temperature = 1.3f, .min_p = 0.05f},
                                       {.temperature = 0.7f, .top_k = 300, .top_p = 0.95f}};
  for (const int64_t vocab : {100, 2'500, 163'840}) {
    const auto logits = values.matrix<float>(8, vocab, 3.0f);
    const CardMatrix<float> card_logits(*ops, logits.view());
    const auto ids = ops->allocate_host(8 * sizeof(int32_t));
    const std::span<int32_t> token_ids(reinterpret_cast<int32_t*>(ids->data()), 8);
    for (const TokenChoice& kind : kinds) {
      std::vector<TokenChoice> choices(8, kind);
      for (uint64_t row = 0; row < 8; ++row) {
        choices[row].seed = 7 * row;
        choices[row].draw_idx = row;
      }
      const std::vector<int32_t> token{0};
      ops->begin_step({.token_ids = token, .items = {}, .logit_token_idx = {}}, MlaForm::kAuto);
      ops->sample(card_logits.view(), choices, token_ids);
      ops->synchronize();
      std::vector<int32_t> expected(8);
      host.ops->sample(logits.view(), choices, expected);
      INFO("vocabulary " << vocab << ", temperature " << kind.temperature << ", top_k "
                         << kind.top_k);
      CHECK(std::vector<int32_t>(token_ids.begin(), token_ids.end()) == expected);
    }
  }
}

}  // namespace tandem::gpu::cuda::testing
