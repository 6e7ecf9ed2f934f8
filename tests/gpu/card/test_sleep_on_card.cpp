// A model on an emulated card gives the card's memory back and takes it again: by the card's own
// account, and with the tokens of before.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <vector>

#include "runtime/base/errors.h"
#include "tests/gpu/card/emulated_card.h"
#include "tests/offload/model_fixture.h"

namespace tandem::tests {
namespace {

namespace card = gpu::emulated_card;

constexpr ModelMemory kWeights{.weights = true};
constexpr ModelMemory kKvCache{.kv_cache = true};
constexpr ModelMemory kOnDevices{.weights = true, .kv_cache = true};
constexpr ModelMemory kAll{.weights = true, .host_weights = true, .kv_cache = true};

offload::KimiK2Options on_cards(const std::vector<int32_t>& card_idxs, int32_t expert_layers) {
  offload::KimiK2Options options;
  options.devices.clear();
  for (const int32_t card_idx : card_idxs) options.devices.push_back({.card_idx = card_idx});
  options.gpu_expert_layers = expert_layers;
  return options;
}

// The emulated card takes its time.
std::vector<int32_t> short_prompt() {
  std::vector<int32_t> prompt = demo_prompts().front();
  prompt.resize(8);
  return prompt;
}

TEST_CASE("asleep a model has nothing on its card, awake again it says what it said",
          "[cuda_card]") {
  // The experts on the host, or one layer's on the card; two logical devices.
  const bool more = GENERATE(false, true);
  const ModelMemory what = more ? kAll : kOnDevices;
  LoadedModel loaded(demo_dir(), 2,
                     more ? on_cards({0, 1}, /*expert_layers=*/1) : on_cards({0}, 0));
  const std::vector<int32_t> prompt = short_prompt();
  const std::vector<int32_t> expected = continue_greedily(*loaded.model, prompt, 8);
  const int64_t awake_bytes = card::used_size_bytes();
  const int64_t num_graphs = card::num_graphs();
  const int64_t num_algorithm_choices = card::num_algorithm_choices();
  REQUIRE(awake_bytes > 0);
  REQUIRE(num_graphs > 0);
  for (int round = 0; round < 2; ++round) {
    loaded.model->release_memory(what);
    CHECK(card::used_size_bytes() == 0);
    CHECK(card::num_graphs() == 0);
    loaded.model->restore_memory(what, {});
    CHECK(card::used_size_bytes() == awake_bytes);
    CHECK(continue_greedily(*loaded.model, prompt, 8) == expected);
    CHECK(card::num_graphs() == num_graphs);
  }
  CHECK(card::num_algorithm_choices() == num_algorithm_choices);  // they stay chosen
}

TEST_CASE("a card's memory goes and comes by its kind", "[cuda_card]") {
  LoadedModel loaded(demo_dir(), 2, on_cards({0}, 0));
  const std::vector<int32_t> prompt = short_prompt();
  const std::vector<int32_t> expected = continue_greedily(*loaded.model, prompt, 6);
  const int64_t all = card::used_size_bytes();
  loaded.model->release_memory(kKvCache);
  const int64_t weights = card::used_size_bytes();
  CHECK(weights < all);
  loaded.model->release_memory(kWeights);
  CHECK(card::used_size_bytes() == 0);
  loaded.model->restore_memory(kKvCache, {});
  const int64_t kv_cache = card::used_size_bytes();
  CHECK(kv_cache > 0);
  CHECK(kv_cache + weights < all);  // what steps work in comes last
  loaded.model->release_memory(kKvCache);
  loaded.model->restore_memory(kWeights, {});
  CHECK(card::used_size_bytes() == weights);
  loaded.model->restore_memory(kKvCache, {});
  CHECK(card::used_size_bytes() == all);
  CHECK(continue_greedily(*loaded.model, prompt, 6) == expected);
}

TEST_CASE("a model whose card has been filled by others sleeps on, and wakes when it is free",
          "[cuda_card]") {
  LoadedModel loaded(demo_dir(), 2, on_cards({0}, 0));
  const std::vector<int32_t> prompt = short_prompt();
  const std::vector<int32_t> expected = continue_greedily(*loaded.model, prompt, 6);
  const int64_t awake_bytes = card::used_size_bytes();
  constexpr int64_t kCard = int64_t{4} << 30;
  loaded.model->release_memory(kOnDevices);
  // Nothing left; and a byte less than is needed.
  for (const int64_t free_bytes : {int64_t{0}, awake_bytes - 1}) {
    card::set_others_size_bytes(kCard - free_bytes);
    CHECK_THROWS_MATCHES(
        loaded.model->restore_memory(kOnDevices, {}), LoadError,
        Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("GPU") &&
                                        Catch::Matchers::ContainsSubstring("memory map")));
    CHECK(card::used_size_bytes() == 0);
  }
  card::set_others_size_bytes(0);
  loaded.model->restore_memory(kOnDevices, {});
  CHECK(card::used_size_bytes() == awake_bytes);
  CHECK(continue_greedily(*loaded.model, prompt, 6) == expected);
}

}  // namespace
}  // namespace tandem::tests
