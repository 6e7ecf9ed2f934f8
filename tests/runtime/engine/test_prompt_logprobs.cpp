// Logprobs of a prompt's own tokens.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <memory>
#include <vector>

#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

struct Scored {
  std::vector<TokenEvent> prompt;
  std::vector<TokenEvent> generated;
  TokenEvent last;
};

GenerationRequest scored_request(std::vector<int32_t> prompt,
                                 int32_t max_new_tokens,
                                 std::shared_ptr<TokenSink> sink) {
  GenerationRequest request = greedy_request(std::move(prompt), max_new_tokens, std::move(sink));
  request.num_logprobs = 2;
  request.prompt_logprobs = true;
  return request;
}

Scored split(CollectingSink& sink) {
  Scored scored;
  scored.last = sink.wait();
  for (TokenEvent& event : sink.tokens()) {
    const bool is_prompt = event.kind == TokenEvent::Kind::kPromptToken;
    if (is_prompt) CHECK(scored.generated.empty());
    (is_prompt ? scored.prompt : scored.generated).push_back(std::move(event));
  }
  return scored;
}

void check_equal(const TokenEvent& left, const TokenEvent& right) {
  CHECK(left.token_id == right.token_id);
  CHECK(left.logprob == right.logprob);
  REQUIRE(left.top_logprobs.size() == right.top_logprobs.size());
  for (size_t idx = 0; idx < left.top_logprobs.size(); ++idx) {
    CHECK(left.top_logprobs[idx].token_id == right.top_logprobs[idx].token_id);
    CHECK(left.top_logprobs[idx].logprob == right.top_logprobs[idx].logprob);
  }
}

TEST_CASE("a prompt's tokens have the logprobs that they had when they were generated",
          "[engine][prompt_logprobs]") {
  for (const int32_t chunk_tokens : {1, 7, 512}) {
    for (const int32_t max_sequences : {1, 3, 64}) {
      INFO("chunk " << chunk_tokens << ", sequences " << max_sequences);
      HashModel model;
      Engine engine(model, {.max_sequences = max_sequences, .prefill_chunk_tokens = chunk_tokens});
      const std::vector<int32_t> prompt = make_prompt(3, 70, 512);
      const auto generating = std::make_shared<CollectingSink>();
      REQUIRE(engine.submit(scored_request(prompt, 100, generating)).ok());
      const Scored first = split(*generating);
      REQUIRE(first.generated.size() == 100);
      REQUIRE(first.prompt.size() == 69);  // the first token follows nothing
      for (const TokenEvent& token : first.prompt) {
        const bool is_best = token.token_id == token.top_logprobs[0].token_id;
        CHECK((token.rank == 1) == (token.logprob == token.top_logprobs[0].logprob));
        if (is_best) CHECK(token.rank == 1);
        const bool is_second = token.token_id == token.top_logprobs[1].token_id;
        CHECK((is_best || is_second) == (token.rank <= 2));
      }
      for (size_t idx = 0; idx < first.prompt.size(); ++idx) {
        CHECK(first.prompt[idx].token_id == prompt[idx + 1]);
      }

      // Beside other requests, and although all of its pages are known.
      std::vector<int32_t> whole = prompt;
      for (const TokenEvent& event : first.generated) whole.push_back(event.token_id);
      const auto beside = std::make_shared<CollectingSink>();
      const auto scoring = std::make_shared<CollectingSink>();
      const auto also_scoring = std::make_shared<CollectingSink>();
      REQUIRE(engine.submit(greedy_request(make_prompt(4, 90, 512), 30, beside)).ok());
      REQUIRE(engine.submit(scored_request(whole, 1, scoring)).ok());
      REQUIRE(engine.submit(scored_request(whole, 1, also_scoring)).ok());
      for (const auto& sink : {scoring, also_scoring}) {
        const Scored second = split(*sink);
        CHECK(second.last.cached_tokens == 0);
        REQUIRE(second.prompt.size() == 169);
        CHECK(second.generated.size() == 1);
        for (size_t idx = 0; idx < 69; ++idx) check_equal(second.prompt[idx], first.prompt[idx]);
        for (size_t idx = 0; idx < 100; ++idx) {
          check_equal(second.prompt[69 + idx], first.generated[idx]);
        }
      }
      CHECK(beside->wait().finish_reason == FinishReason::kLength);
      CHECK(model.violations().empty());
      for (const StepTrace& step : model.traces()) CHECK(step.num_logit_rows <= max_sequences);
    }
  }
}

TEST_CASE("a prompt's tokens are told once, also when pages run out", "[engine][prompt_logprobs]") {
  HashModel model({.num_kv_pages = 6});
  Engine engine(model, {.max_sequences = 4, .prefill_chunk_tokens = 32});
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    sinks.push_back(std::make_shared<CollectingSink>());
    REQUIRE(engine.submit(scored_request(make_prompt(seed, 100, 512), 150, sinks.back())).ok());
  }
  for (uint32_t seed = 0; seed < 4; ++seed) {
    const Scored scored = split(*sinks[seed]);
    CHECK(scored.last.finish_reason == FinishReason::kLength);
    CHECK(scored.prompt.size() == 99);
    CHECK(scored.generated.size() == 150);
  }
  CHECK(model.violations().empty());
}

TEST_CASE("a receiver that refuses a prompt token ends the request", "[engine][prompt_logprobs]") {
  class RefusingSink final : public TokenSink {
   public:
    bool push(TokenEvent event) noexcept override {
      if (event.kind == TokenEvent::Kind::kPromptToken) return false;
      return ends.push(std::move(event));
    }
    CollectingSink ends;
  };
  HashModel model;
  Engine engine(model, {});
  const auto sink = std::make_shared<RefusingSink>();
  REQUIRE(engine.submit(scored_request(make_prompt(1, 100, 512), 5, sink)).ok());
  CHECK(sink->ends.wait().finish_reason == FinishReason::kAborted);
  CHECK(sink->ends.num_tokens() == 0);
}

}  // namespace
}  // namespace tandem::tests
