// What a request gets back.
#include "runtime/engine/engine.h"

#include <catch2/catch_test_macros.hpp>

#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

TEST_CASE("greedy tokens are those of the model without pages", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(1, 100, 512);
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(prompt, 150, sink)).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kLength);
  CHECK(last.error.empty());
  CHECK(last.prompt_tokens == 100);
  CHECK(last.cached_tokens == 0);
  CHECK(last.completion_tokens == 150);
  CHECK(sink->token_ids() == model.expected_greedy(prompt, 150));
  CHECK(model.violations().empty());
}

}  // namespace
}  // namespace tandem::tests
