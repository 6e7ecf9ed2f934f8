// KV pages copied out of a model and back: to other places, behind a sleep, into another model, and
// the tokens behind them are computed as if nothing had happened.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "offload/kv_cache.h"
#include "tests/offload/kv_page_copies.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/recording_ops.h"

namespace tandem::tests {
namespace {

constexpr int32_t kNumPrompt = 150;  // two full pages and a part of one
constexpr int32_t kNumDecoded = 6;
const std::vector<int32_t> kPages = {4, 1, 9};
const std::vector<int32_t> kOtherPages = {2, 9, 7};

using Devices = std::vector<gpu::LogicalDevice>;

// On devices that behave like cards, whose memory is not the host's.
offload::KimiK2Options recording_on(size_t num_devices,
                                    std::vector<RecordingOps*>* made = nullptr) {
  offload::KimiK2Options options;
  options.devices = Devices(num_devices);
  options.make_ops = [made](const gpu::LogicalDevice&, WorkerPool& pool) {
    auto ops = std::make_unique<RecordingOps>(pool);
    if (made != nullptr) made->push_back(ops.get());
    return ops;
  };
  return options;
}

SequenceState prompt_of(const ForwardModel& model) {
  return {.token_ids = random_tokens(kNumPrompt + kNumDecoded, model.vocab_size(), 17),
          .page_ids = kPages,
          .logits = {}};
}

void run(ForwardModel& model, SequenceState& sequence, int32_t num_new) {
  run_step(model, {&sequence, 1}, {&num_new, 1});
}

TEST_CASE("pages that leave the cache and come back to other places hold what they held",
          "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  const size_t num_devices = GENERATE(size_t{1}, size_t{2});
  const bool on_card = GENERATE(false, true);
  INFO(name << ", " << num_devices << " devices" << (on_card ? " like cards" : ""));
  const offload::KimiK2Options options =
      on_card ? recording_on(num_devices) : offload::KimiK2Options{.devices = Devices(num_devices)};
  LoadedModel loaded(golden_dir(name), 2, options);
  ForwardModel& model = *loaded.model;
  SequenceState expected = prompt_of(model);
  run(model, expected, kNumPrompt);
  SequenceState sequence = expected;
  const std::vector<std::vector<std::byte>> pages = read_pages(model, kPages);
  for (int idx = 0; idx < kNumDecoded; ++idx) run(model, expected, 1);
  model.release_memory({.kv_cache = true});
  model.restore_memory({.kv_cache = true}, {});
  CHECK(read_pages(model, kPages).front() == std::vector<std::byte>(pages.front().size()));
  write_pages(model, kOtherPages, pages);
  CHECK(read_pages(model, kOtherPages) == pages);
  sequence.page_ids = kOtherPages;
  for (int idx = 0; idx < kNumDecoded; ++idx) run(model, sequence, 1);
  CHECK(sequence.logits == expected.logits);
}

TEST_CASE("a page has the same bytes for any number of devices, and either can go on with it",
          "[offload]") {
  const bool from_one = GENERATE(true, false);
  LoadedModel one(golden_dir("k2_thinking"), 2);
  LoadedModel two(golden_dir("k2_thinking"), 2, {.devices = Devices(2)});
  ForwardModel& from = from_one ? *one.model : *two.model;
  ForwardModel& to = from_one ? *two.model : *one.model;
  REQUIRE(from.kv_identity() == to.kv_identity());
  SequenceState expected = prompt_of(from);
  run(from, expected, kNumPrompt);
  SequenceState sequence = expected;
  write_pages(to, kOtherPages, read_pages(from, kPages));
  sequence.page_ids = kOtherPages;
  for (int idx = 0; idx < kNumDecoded; ++idx) {
    run(from, expected, 1);
    run(to, sequence, 1);
  }
  CHECK(sequence.logits == expected.logits);
}

TEST_CASE("what is copied between steps becomes no part of a recording", "[offload]") {
  const size_t num_devices = GENERATE(size_t{1}, size_t{2});
  std::vector<RecordingOps*> devices;
  LoadedModel plain(golden_dir("k2_thinking"), 2);
  LoadedModel copied(golden_dir("k2_thinking"), 2, recording_on(num_devices, &devices));
  LoadedModel uncopied(golden_dir("k2_thinking"), 2, recording_on(num_devices, &devices));
  SequenceState expected = prompt_of(*plain.model);
  SequenceState other = expected;
  SequenceState sequence = expected;
  run(*plain.model, expected, kNumPrompt);
  run(*copied.model, sequence, kNumPrompt);
  run(*uncopied.model, other, kNumPrompt);
  std::vector<std::vector<int32_t>> places = {kOtherPages, kPages, {3, 5, 6}};
  // Behind steps that run as they are, that are recorded and that are replayed.
  for (int idx = 0; idx < kNumDecoded; ++idx) {
    const std::vector<int32_t>& next_pages = places[static_cast<size_t>(idx) % places.size()];
    write_pages(*copied.model, next_pages, read_pages(*copied.model, sequence.page_ids));
    sequence.page_ids = next_pages;
    run(*plain.model, expected, 1);
    run(*copied.model, sequence, 1);
    run(*uncopied.model, other, 1);
  }
  CHECK(sequence.logits == expected.logits);
  for (size_t idx = 0; idx < num_devices; ++idx) {
    CHECK(devices[idx]->num_recorded() == devices[num_devices + idx]->num_recorded());
    CHECK(devices[idx]->num_replayed() == devices[num_devices + idx]->num_replayed());
    CHECK(devices[idx]->num_replayed() > 0);
  }
}

TEST_CASE("more pages than wait for a card at once are copied in one call", "[offload]") {
  const bool on_card = GENERATE(false, true);
  LoadedModel loaded(golden_dir("k2_thinking"), 2,
                     on_card ? recording_on(2) : offload::KimiK2Options{});
  ForwardModel& model = *loaded.model;
  const int32_t num_pages = 2 * offload::KvCache::kNumStagedPages + 3;
  REQUIRE(num_pages < model.num_kv_pages());
  std::vector<int32_t> page_ids;
  std::vector<std::vector<std::byte>> pages;
  for (int32_t idx = 0; idx < num_pages; ++idx) {
    page_ids.push_back((idx * 5) % model.num_kv_pages());
    pages.emplace_back(static_cast<size_t>(model.kv_page_size_bytes()));
    for (size_t pos = 0; pos < pages.back().size(); ++pos)
      pages.back()[pos] = static_cast<std::byte>(pos * 7 + static_cast<size_t>(idx) * 31);
  }
  write_pages(model, page_ids, pages);
  CHECK(read_pages(model, page_ids) == pages);
  // Each of them alone, and the other way round.
  for (size_t idx = 0; idx < pages.size(); ++idx)
    CHECK(read_pages(model, {page_ids[idx]}).front() == pages[idx]);
  std::reverse(page_ids.begin(), page_ids.end());
  std::reverse(pages.begin(), pages.end());
  CHECK(read_pages(model, page_ids) == pages);
}

TEST_CASE("a page holds the KV of 64 tokens of all layers", "[offload]") {
  LoadedModel loaded(golden_dir("moonlight"), 1);
  const ModelConfig& config = loaded.checkpoint.config();
  CHECK(loaded.model->kv_page_size_bytes() ==
        int64_t{64} * config.num_hidden_layers * config.kv_dim() * 2);
}

TEST_CASE("the model says what host memory was planned for pages", "[offload]") {
  LoadedModel without(golden_dir("k2_thinking"), 1);
  CHECK(without.model->kv_host_size_bytes() == 0);
  const int64_t page_size_bytes = without.model->kv_page_size_bytes();
  LoadedModel with(golden_dir("k2_thinking"), 1,
                   {.kv_host_size_bytes = 5 * page_size_bytes + page_size_bytes / 2});
  CHECK(with.model->kv_host_size_bytes() == 5 * page_size_bytes);
}

}  // namespace
}  // namespace tandem::tests
