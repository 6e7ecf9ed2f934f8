// KV pages copied out of an emulated card's memory and back, by way of pinned memory, between steps
// that are recorded and replayed.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "offload/kv_cache.h"
#include "tests/gpu/card/emulated_card.h"
#include "tests/offload/kv_page_copies.h"
#include "tests/offload/model_fixture.h"

namespace tandem::tests {
namespace {

namespace card = gpu::emulated_card;

constexpr int32_t kNumPrompt = 70;  // a full page and a part of one
constexpr int32_t kNumDecoded = 6;

offload::KimiK2Options on_cards(const std::vector<int32_t>& card_idxs) {
  offload::KimiK2Options options;
  options.devices.clear();
  for (const int32_t card_idx : card_idxs) options.devices.push_back({.card_idx = card_idx});
  return options;
}

SequenceState prompt_of(const ForwardModel& model) {
  return {.token_ids = random_tokens(kNumPrompt + kNumDecoded, model.vocab_size(), 17),
          .page_ids = {4, 1},
          .logits = {}};
}

void run(ForwardModel& model, SequenceState& sequence, int32_t num_new) {
  run_step(model, {&sequence, 1}, {&num_new, 1});
}

TEST_CASE("on an emulated card pages move between recorded steps, which replay as they did",
          "[cuda_card]") {
  const std::vector<int32_t> cards = GENERATE(std::vector<int32_t>{0}, std::vector<int32_t>{0, 1});
  LoadedModel uncopied(golden_dir("k2_thinking"), 2, on_cards(cards));
  LoadedModel copied(golden_dir("k2_thinking"), 2, on_cards(cards));
  SequenceState expected = prompt_of(*uncopied.model);
  SequenceState sequence = expected;
  run(*uncopied.model, expected, kNumPrompt);
  run(*copied.model, sequence, kNumPrompt);
  const std::vector<std::vector<int32_t>> places = {{2, 9}, {4, 1}, {1, 2}};
  for (int idx = 0; idx < kNumDecoded; ++idx) {
    const std::vector<int32_t>& next_pages = places[static_cast<size_t>(idx) % places.size()];
    write_pages(*copied.model, next_pages, read_pages(*copied.model, sequence.page_ids));
    sequence.page_ids = next_pages;
    run(*uncopied.model, expected, 1);
    run(*copied.model, sequence, 1);
    CHECK(copied.model->replayed_launches() == uncopied.model->replayed_launches());
  }
  CHECK(uncopied.model->replayed_launches().num_recordings > 0);
  CHECK(sequence.logits == expected.logits);
}

TEST_CASE("behind a sleep an emulated card's pages come back to other places", "[cuda_card]") {
  const std::vector<int32_t> cards = GENERATE(std::vector<int32_t>{0}, std::vector<int32_t>{0, 1});
  LoadedModel loaded(golden_dir("k2_thinking"), 2, on_cards(cards));
  ForwardModel& model = *loaded.model;
  SequenceState expected = prompt_of(model);
  run(model, expected, kNumPrompt);
  SequenceState sequence = expected;
  const std::vector<std::vector<std::byte>> pages = read_pages(model, sequence.page_ids);
  for (int idx = 0; idx < kNumDecoded; ++idx) run(model, expected, 1);
  model.release_memory({.weights = true, .kv_cache = true});
  CHECK(card::used_size_bytes() == 0);
  model.restore_memory({.weights = true, .kv_cache = true}, {});
  sequence.page_ids = {9, 3};
  write_pages(model, sequence.page_ids, pages);
  for (int idx = 0; idx < kNumDecoded; ++idx) run(model, sequence, 1);
  CHECK(sequence.logits == expected.logits);
}

TEST_CASE("more pages than pinned memory holds at once leave an emulated card and come back",
          "[cuda_card]") {
  LoadedModel loaded(golden_dir("k2_thinking"), 2, on_cards({0, 1}));
  ForwardModel& model = *loaded.model;
  std::vector<int32_t> page_ids;
  std::vector<std::vector<std::byte>> pages;
  for (int32_t idx = 0; idx < 2 * offload::KvCache::kNumStagedPages + 3; ++idx) {
    page_ids.push_back((idx * 5) % model.num_kv_pages());
    pages.emplace_back(static_cast<size_t>(model.kv_page_size_bytes()),
                       static_cast<std::byte>(idx * 7 + 1));
  }
  write_pages(model, page_ids, pages);
  CHECK(read_pages(model, page_ids) == pages);
  CHECK(read_pages(model, {page_ids[5]}).front() == pages[5]);
}

TEST_CASE("pages of models on one card and on two can be exchanged, not with the host's",
          "[cuda_card]") {
  const std::string dir = golden_dir("k2_thinking");
  const auto identity_of = [&](const offload::KimiK2Options& options) {
    return LoadedModel(dir, 2, options).model->kv_identity();
  };
  const std::string identity = identity_of(on_cards({0}));
  CHECK(identity_of(on_cards({0, 1})) == identity);
  CHECK(identity_of({}) != identity);
  // What has room on cards goes by the rest of what lies there.
  offload::KimiK2Options options = on_cards({0});
  options.gpu_expert_layers = 1;
  CHECK(identity_of(options) == identity);
}

}  // namespace
}  // namespace tandem::tests
