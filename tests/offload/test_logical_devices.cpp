// A model spread over several logical devices, on the host and on a device that behaves like a
// card: the same bits as on one.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/sampling/sampler.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/recording_ops.h"

namespace tandem::tests {
namespace {

const std::vector<gpu::LogicalDevice> kTwoOnHost = {{}, {}};

// Prefills three sequences, then decodes them greedily in batches of three, two and one. Returns
// all logits of all sequences; the tokens follow from them.
std::vector<std::vector<float>> run_dialogues(ForwardModel& model) {
  const int32_t vocab_size = model.vocab_size();
  std::vector<SequenceState> sequences(3);
  for (int32_t idx = 0; idx < 3; ++idx) {
    sequences[idx].token_ids = random_tokens(60 + 7 * idx, vocab_size, 29 + idx);
    sequences[idx].page_ids = {2 * idx, 9 - idx};
  }
  const auto step = [&](const std::vector<int32_t>& num_new) {
    for (size_t idx = 0; idx < sequences.size(); ++idx) {
      SequenceState& sequence = sequences[idx];
      const size_t needed = static_cast<size_t>(sequence.done_tokens + num_new[idx]);
      if (sequence.token_ids.size() >= needed) continue;
      const auto last = sequence.logits.end() - vocab_size;
      sequence.token_ids.push_back(
          static_cast<int32_t>(std::max_element(last, sequence.logits.end()) - last));
    }
    run_step(model, sequences, num_new);
  };
  step({60, 40, 0});
  step({0, 27, 74});
  for (int idx = 0; idx < 5; ++idx) step({1, 1, 1});
  for (int idx = 0; idx < 4; ++idx) step({1, 0, 1});
  for (int idx = 0; idx < 4; ++idx) step({0, 1, 0});
  step({1, 1, 1});
  std::vector<std::vector<float>> logits;
  for (const SequenceState& sequence : sequences) logits.push_back(sequence.logits);
  return logits;
}

TEST_CASE("two logical devices compute the bits of one", "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  INFO(name);
  LoadedModel one(golden_dir(name), 2);
  LoadedModel two(golden_dir(name), 2, {.devices = kTwoOnHost});
  CHECK(run_dialogues(*two.model) == run_dialogues(*one.model));
}

TEST_CASE("as many devices as layers compute the bits of one, more are refused", "[offload]") {
  LoadedModel one(golden_dir("k2_thinking"), 2);
  const auto num_layers = static_cast<size_t>(one.checkpoint.config().num_hidden_layers);
  LoadedModel several(golden_dir("k2_thinking"), 2,
                      {.devices = std::vector<gpu::LogicalDevice>(num_layers)});
  CHECK(run_dialogues(*several.model) == run_dialogues(*one.model));
  CHECK_THROWS_MATCHES(
      LoadedModel(golden_dir("k2_thinking"), 2,
                  {.devices = std::vector<gpu::LogicalDevice>(num_layers + 1)}),
      ConfigError, Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("layers")));
}

TEST_CASE(
    "steps that are recorded and replayed, with rows behind their tokens, compute the same bits",
    "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  const size_t num_devices = GENERATE(size_t{1}, size_t{2});
  const int32_t all_layers = num_moe_layers(golden_dir(name));
  const int32_t expert_layers = GENERATE_COPY(0, all_layers);
  INFO(name << ", " << num_devices << " devices, experts of " << expert_layers << " layers there");
  LoadedModel plain(golden_dir(name), 2, {.gpu_expert_layers = expert_layers});
  std::vector<RecordingOps*> devices;
  LoadedModel recorded(golden_dir(name), 2,
                       {.devices = std::vector<gpu::LogicalDevice>(num_devices),
                        .gpu_expert_layers = expert_layers,
                        .make_ops = [&](const gpu::LogicalDevice&, WorkerPool& pool) {
                          auto ops = std::make_unique<RecordingOps>(pool);
                          devices.push_back(ops.get());
                          return ops;
                        }});
  CHECK(run_dialogues(*recorded.model) == run_dialogues(*plain.model));
  REQUIRE(devices.size() == num_devices);
  for (const RecordingOps* device : devices) {
    // Buckets of one, two and four rows; of one each step after the second is a replay.
    CHECK(device->num_recorded() > 0);
    CHECK(device->num_replayed() >= 2 * device->num_recorded());
    // Without the host's experts nothing cuts a step: one segment for each bucket. What becomes of
    // the logits is no part of it.
    if (expert_layers == all_layers) CHECK(device->num_recorded() == 3);
  }
}

TEST_CASE("a device chooses the tokens that its logits give, in recorded steps and others",
          "[offload]") {
  const auto on_device = [](const gpu::LogicalDevice&, WorkerPool& pool) {
    return std::make_unique<RecordingOps>(pool);
  };
  LoadedModel plain(golden_dir("k2_thinking"), 2);
  LoadedModel chooser(golden_dir("k2_thinking"), 2, {.make_ops = on_device});
  CHECK(!plain.model->chooses_tokens());
  REQUIRE(chooser.model->chooses_tokens());
  const int32_t vocab_size = plain.model->vocab_size();
  const std::vector<int32_t> prompt = random_tokens(20, vocab_size, 41);
  SequenceState with_logits{.token_ids = prompt, .page_ids = {3, 1}, .logits = {}};
  std::vector<int32_t> chosen = prompt;
  SamplerScratch scratch;
  for (uint64_t draw_idx = 0; draw_idx < 12; ++draw_idx) {
    const TokenChoice choice{.temperature = draw_idx % 3 == 0 ? 0.0f : 1.0f,
                             .top_k = draw_idx % 3 == 1 ? 5 : 0,
                             .seed = 9,
                             .draw_idx = draw_idx};
    const auto num_new =
        static_cast<int32_t>(with_logits.token_ids.size()) - with_logits.done_tokens;
    const int32_t context = with_logits.done_tokens;
    run_step(*plain.model, {&with_logits, 1}, {&num_new, 1});
    SamplingParams params;
    params.temperature = choice.temperature;
    params.top_k = choice.top_k;
    Sampler sampler(params, choice.seed, {}, draw_idx);
    const std::span<const float> row =
        std::span<const float>(with_logits.logits).last(static_cast<size_t>(vocab_size));
    with_logits.token_ids.push_back(sampler.choose({.logits = row}, scratch)->token_id);

    const int32_t last = num_new - 1;
    const BatchItem item{.token_begin = 0,
                         .num_tokens = num_new,
                         .context_size_tokens = context,
                         .page_ids = with_logits.page_ids};
    const Batch batch{.token_ids = std::span<const int32_t>(chosen).last(num_new),
                      .items = {&item, 1},
                      .logit_token_idx = {&last, 1}};
    int32_t token_id = -2;
    // Every fourth step asks for the logits instead: recordings serve both.
    if (draw_idx % 4 == 3) {
      std::vector<float> logits(static_cast<size_t>(vocab_size));
      chooser.model->forward(batch, {logits.data(), 1, vocab_size});
      CHECK(std::equal(logits.begin(), logits.end(), row.begin()));
      token_id = with_logits.token_ids.back();
    } else {
      chooser.model->forward_and_choose(batch, {&choice, 1}, {&token_id, 1});
    }
    chosen.push_back(token_id);
  }
  CHECK(chosen == with_logits.token_ids);
}

TEST_CASE("the memory map is told before anything is loaded", "[offload]") {
  bool told = false;
  LoadedModel loaded(golden_dir("k2_thinking"), 1,
                     {.on_plan =
                          [&](const std::string& memory_map) {
                            CHECK_THAT(memory_map,
                                       Catch::Matchers::ContainsSubstring("dense weights"));
                            told = true;
                          },
                      .make_ops =
                          [&](const gpu::LogicalDevice& device, WorkerPool& pool) {
                            CHECK(told);
                            return gpu::make_ops(device, pool);
                          }});
  CHECK(told);
}

}  // namespace
}  // namespace tandem::tests
