// Sequences side by side: tokens do not notice, pages are shared.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <numeric>
#include <random>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

int64_t num_computed_tokens(const FakeModel& model) {
  const std::vector<StepTrace> traces = model.traces();
  return std::accumulate(
      traces.begin(), traces.end(), int64_t{0},
      [](int64_t sum, const StepTrace& trace) { return sum + trace.num_tokens; });
}

struct Setting {
  FakeModelOptions model;
  EngineOptions engine;
};

std::vector<Setting> settings() {
  std::vector<Setting> all(9);
  all[1].engine.prefill_chunk_tokens = 7;
  all[2].engine.prefix_cache = false;
  all[2].model.max_batch_tokens = 50;
  all[3].engine.max_sequences = 1;
  all[4].model.num_kv_pages = 7;  // a sequence needs up to six: preemption
  all[5].model.num_kv_pages = 7;
  all[5].model.max_logit_rows = 3;
  all[5].engine.prefix_cache = false;
  all[5].engine.prefill_chunk_tokens = 33;
  all[6].engine.prefill_chunk_tokens = 7;
  all[6].engine.prefill_alone_tokens = 300;
  all[7].engine.prefill_chunk_tokens = 33;
  all[7].engine.prefill_alone_tokens = 100'000;
  all[7].model.num_kv_pages = 7;
  all[8].engine.prefill_chunk_tokens = 1;
  all[8].engine.prefill_alone_tokens = 90;
  all[8].model.max_batch_tokens = 70;
  all[8].model.max_logit_rows = 3;
  return all;
}

TEST_CASE("greedy tokens do not depend on batch, chunking, cache, limits or preemption",
          "[engine]") {
  for (const Setting& setting : settings()) {
    HashModel model(setting.model);
    Engine engine(model, setting.engine);
    std::vector<std::vector<int32_t>> prompts;
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    int64_t num_needed_tokens = 0;
    model.pause();  // so that all are there at once
    for (uint32_t request_idx = 0; request_idx < 12; ++request_idx) {
      prompts.push_back(
          make_prompt(request_idx / 3, 20 + 10 * static_cast<int32_t>(request_idx), 512));
      sinks.push_back(std::make_shared<CollectingSink>());
      REQUIRE(engine.submit(greedy_request(prompts.back(), 230, sinks.back())).ok());
      num_needed_tokens += static_cast<int64_t>(prompts.back().size()) + 229;
    }
    model.resume();
    for (size_t request_idx = 0; request_idx < sinks.size(); ++request_idx) {
      INFO("request " << request_idx << ", pages " << setting.model.num_kv_pages);
      REQUIRE(sinks[request_idx]->wait().finish_reason == FinishReason::kLength);
      CHECK(sinks[request_idx]->token_ids() == model.expected_greedy(prompts[request_idx], 230));
    }
    CHECK(model.violations() == std::vector<std::string>{});
    CHECK(engine.stats().kv_pages_used == 0);
    // With few pages and no cache, more is computed than needed: preemption did happen.
    const bool recomputes = setting.model.num_kv_pages == 7 && !setting.engine.prefix_cache;
    if (recomputes) CHECK(num_computed_tokens(model) > num_needed_tokens);
    if (!recomputes && !setting.engine.prefix_cache)
      CHECK(num_computed_tokens(model) == num_needed_tokens);
  }
}

TEST_CASE("sampled tokens do not depend on batch or preemption", "[engine]") {
  std::vector<std::vector<int32_t>> expected;
  for (const int32_t num_pages : {64, 5}) {
    for (const bool is_alone : {true, false}) {
      HashModel model({.num_kv_pages = num_pages});
      Engine engine(model, {});
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      if (!is_alone) model.pause();
      for (uint32_t request_idx = 0; request_idx < 4; ++request_idx) {
        sinks.push_back(std::make_shared<CollectingSink>());
        GenerationRequest request =
            greedy_request(make_prompt(request_idx, 30, 512), 200, sinks.back());
        request.sampling.temperature = 1.0f;
        request.sampling.top_p = 0.9f;
        request.sampling.repetition_penalty = 1.1f;
        request.sampling.frequency_penalty = 0.2f;
        request.sampling.seed = request_idx;
        REQUIRE(engine.submit(std::move(request)).ok());
        if (is_alone) sinks.back()->wait();
      }
      model.resume();
      std::vector<std::vector<int32_t>> answers;
      for (const auto& sink : sinks) {
        REQUIRE(sink->wait().finish_reason == FinishReason::kLength);
        answers.push_back(sink->token_ids());
      }
      if (expected.empty()) expected = answers;
      CHECK(answers == expected);
    }
  }
}

TEST_CASE("a known prompt is found to the page, and only the rest is computed", "[engine]") {
  for (const int32_t num_prompt : {63, 64, 65, 128, 129, 200}) {
    HashModel model;
    Engine engine(model, {});
    const std::vector<int32_t> prompt = make_prompt(5, num_prompt, 512);
    const int32_t expected_cached = (num_prompt - 1) / 64 * 64;
    for (int time_idx = 0; time_idx < 3; ++time_idx) {
      const int64_t num_before = num_computed_tokens(model);
      const auto sink = std::make_shared<CollectingSink>();
      REQUIRE(engine.submit(greedy_request(prompt, 4, sink)).ok());
      const TokenEvent last = sink->wait();
      CHECK(last.cached_tokens == (time_idx == 0 ? 0 : expected_cached));
      CHECK(num_computed_tokens(model) - num_before == num_prompt + 3 - last.cached_tokens);
    }
    CHECK(engine.stats().cached_tokens == 2 * expected_cached);
    CHECK(engine.stats().prompt_tokens == 3 * num_prompt);
    CHECK(engine.stats().generated_tokens == 12);
    CHECK(model.violations().empty());
  }
}

TEST_CASE("a dialogue's next turn finds the answer's pages too", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  std::vector<int32_t> dialogue = make_prompt(6, 100, 512);
  int32_t num_known = 0;
  for (int turn_idx = 0; turn_idx < 4; ++turn_idx) {
    const auto sink = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request(dialogue, 70, sink)).ok());
    const TokenEvent last = sink->wait();
    CHECK(last.cached_tokens == num_known);
    CHECK(sink->token_ids() == model.expected_greedy(dialogue, 70));
    const std::vector<int32_t> answer = sink->token_ids();
    dialogue.insert(dialogue.end(), answer.begin(), answer.end());
    num_known = static_cast<int32_t>(dialogue.size() - 1) / 64 * 64;  // the last is not computed
    const std::vector<int32_t> question = make_prompt(static_cast<uint32_t>(turn_idx), 30, 512);
    dialogue.insert(dialogue.end(), question.begin(), question.end());
  }
  CHECK(model.violations().empty());
}

TEST_CASE("several choices of one request compute the prompt once", "[engine]") {
  HashModel model;
  Engine engine(model, {.prefill_chunk_tokens = 100});
  constexpr int32_t kNumPrompt = 330, kNumNew = 10, kNumChoices = 4;
  const std::vector<int32_t> prompt = make_prompt(7, kNumPrompt, 512);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  model.pause();
  for (int32_t choice_idx = 0; choice_idx < kNumChoices; ++choice_idx) {
    sinks.push_back(std::make_shared<CollectingSink>());
    REQUIRE(engine.submit(greedy_request(prompt, kNumNew, sinks.back())).ok());
  }
  model.resume();
  for (int32_t choice_idx = 0; choice_idx < kNumChoices; ++choice_idx) {
    const TokenEvent last = sinks[choice_idx]->wait();
    CHECK(last.cached_tokens == (choice_idx == 0 ? 0 : 320));
    CHECK(sinks[choice_idx]->token_ids() == model.expected_greedy(prompt, kNumNew));
  }
  CHECK(num_computed_tokens(model) == kNumPrompt + 3 * 10 + kNumChoices * (kNumNew - 1));
  CHECK(model.violations().empty());
}

TEST_CASE("when pages run out new requests wait and all finish", "[engine]") {
  HashModel model({.num_kv_pages = 6});
  Engine engine(model, {});
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint32_t request_idx = 0; request_idx < 40; ++request_idx) {
    sinks.push_back(std::make_shared<CollectingSink>());
    const auto num_prompt = static_cast<int32_t>(1 + 37 * request_idx % 250);
    REQUIRE(
        engine.submit(greedy_request(make_prompt(request_idx, num_prompt, 512), 100, sinks.back()))
            .ok());
  }
  for (uint32_t request_idx = 0; request_idx < 40; ++request_idx) {
    REQUIRE(sinks[request_idx]->wait().finish_reason == FinishReason::kLength);
    const auto num_prompt = static_cast<int32_t>(1 + 37 * request_idx % 250);
    CHECK(sinks[request_idx]->token_ids() ==
          model.expected_greedy(make_prompt(request_idx, num_prompt, 512), 100));
  }
  const EngineStats stats = engine.stats();
  CHECK(stats.num_finished == 40);
  CHECK(stats.kv_pages_used == 0);
  CHECK(stats.kv_pages_total == 6);
  CHECK(model.violations().empty());
}

TEST_CASE("a long prompt does not stop running answers", "[engine]") {
  HashModel model;
  Engine engine(model, {.prefill_chunk_tokens = 20});
  const auto running = std::make_shared<CollectingSink>();
  const auto longer = std::make_shared<CollectingSink>();
  model.hold_at_step(3);
  REQUIRE(engine.submit(greedy_request(make_prompt(8, 10, 512), 60, running)).ok());
  model.wait_until_held();
  REQUIRE(engine.submit(greedy_request(make_prompt(9, 400, 512), 5, longer)).ok());
  model.resume();
  running->wait();
  longer->wait();
  // Steps 4 .. 23 hold a decode and 20 prompt tokens each.
  const std::vector<StepTrace> traces = model.traces();
  for (size_t step_idx = 4; step_idx < 24; ++step_idx) {
    CHECK(traces[step_idx].num_items == 2);
    CHECK(traces[step_idx].num_tokens == 21);
    CHECK(traces[step_idx].num_logit_rows == (step_idx == 23 ? 2 : 1));
  }
}

TEST_CASE("a long prompt that is alone takes larger steps until an answer runs", "[engine]") {
  HashModel model({.max_batch_tokens = 160});
  Engine engine(model, {.prefill_chunk_tokens = 20, .prefill_alone_tokens = 150});
  CHECK(engine.max_prefill_tokens() == 150);
  const std::vector<std::vector<int32_t>> prompts = {make_prompt(8, 400, 512),
                                                     make_prompt(9, 50, 512)};
  const auto first = std::make_shared<CollectingSink>();
  const auto second = std::make_shared<CollectingSink>();
  model.hold_at_step(3);  // the first one's first decode
  REQUIRE(engine.submit(greedy_request(prompts[0], 60, first)).ok());
  model.wait_until_held();
  REQUIRE(engine.submit(greedy_request(prompts[1], 5, second)).ok());
  model.resume();
  first->wait();
  second->wait();
  const std::vector<StepTrace> traces = model.traces();
  const std::vector<int32_t> expected = {150, 150, 100, 1, 21, 21, 11, 2};
  REQUIRE(traces.size() >= expected.size());
  for (size_t step_idx = 0; step_idx < expected.size(); ++step_idx)
    CHECK(traces[step_idx].num_tokens == expected[step_idx]);
  CHECK(first->token_ids() == model.expected_greedy(prompts[0], 60));
  CHECK(second->token_ids() == model.expected_greedy(prompts[1], 5));
  CHECK(Engine(model, {.prefill_chunk_tokens = 20}).max_prefill_tokens() == 20);
  CHECK(Engine(model, {.prefill_chunk_tokens = 512}).max_prefill_tokens() == 160);
}

TEST_CASE("pages are found under the same salt only, and not behind a reset", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(5, 200, 512);
  const auto num_cached = [&](const std::string& salt) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(prompt, 4, sink);
    request.cache_salt = salt;
    REQUIRE(engine.submit(std::move(request)).ok());
    const int32_t num_found = sink->wait().cached_tokens;
    CHECK(sink->token_ids() == model.expected_greedy(prompt, 4));
    return num_found;
  };
  for (int time_idx = 0; time_idx < 2; ++time_idx) {
    for (const char* salt : {"", "a", "b"}) CHECK(num_cached(salt) == 0);
    for (const char* salt : {"", "a", "b"}) CHECK(num_cached(salt) == 192);
    engine.reset_prefix_cache();
  }
}

TEST_CASE("what earlier requests compute behind a reset is not found by later ones", "[engine]") {
  HashModel model;
  Engine engine(model, {.max_sequences = 1, .prefill_chunk_tokens = 50});
  const std::vector<int32_t> prompt = make_prompt(5, 200, 512);
  const auto submit = [&](const std::vector<int32_t>& token_ids) {
    auto sink = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request(token_ids, 4, sink)).ok());
    return sink;
  };
  model.hold_at_step(2);
  const auto running = submit(prompt);
  model.wait_until_held();
  const std::vector<int32_t> other = make_prompt(6, 200, 512);
  const auto waiting = submit(other);  // is taken together with the order
  engine.reset_prefix_cache();
  const auto later = submit(other);
  model.resume();
  running->wait();
  CHECK(waiting->wait().cached_tokens == 0);
  CHECK(later->wait().cached_tokens == 0);
  CHECK(submit(prompt)->wait().cached_tokens == 0);
  CHECK(submit(prompt)->wait().cached_tokens == 192);
}

TEST_CASE("a better priority takes the place of a worse one, which loses nothing", "[engine]") {
  HashModel model;
  Engine engine(model, {.max_sequences = 1});
  const auto batch = std::make_shared<CollectingSink>();
  const std::vector<int32_t> prompt = make_prompt(1, 100, 512);
  model.hold_at_step(2);
  GenerationRequest request = greedy_request(prompt, 50, batch);
  request.priority = 1;
  REQUIRE(engine.submit(std::move(request)).ok());
  model.wait_until_held();
  const auto urgent = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(make_prompt(2, 20, 512), 5, urgent)).ok());
  model.resume();
  CHECK(urgent->wait().finish_reason == FinishReason::kLength);
  CHECK(batch->wait().finish_reason == FinishReason::kLength);
  CHECK(batch->token_ids() == model.expected_greedy(prompt, 50));
  const std::vector<StepTrace> traces = model.traces();
  const auto prefill = std::find_if(traces.begin(), traces.end(),
                                    [](const StepTrace& trace) { return trace.num_tokens == 20; });
  CHECK(prefill - traces.begin() <= 3);  // of some 57 steps
}

}  // namespace
}  // namespace tandem::tests
