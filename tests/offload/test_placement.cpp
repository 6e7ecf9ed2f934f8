#include "offload/placement.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "offload/kv_cache.h"
#include "offload/workspace.h"
#include "runtime/base/errors.h"
#include "tests/offload/model_fixture.h"

namespace tandem::tests {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// Memory of a machine without cards, and of one with.
offload::AvailableMemory host_with(int64_t size_bytes) { return {.host_size_bytes = size_bytes}; }

// A checkpoint whose planned bytes are all in its weights: KV and workspace are small beside them.
Checkpoint open_golden() { return Checkpoint::open(golden_dir("k2_thinking")); }

// For cards whose operations take nothing for themselves.
offload::PlacementRequest request_of(int32_t max_batch_tokens, int32_t max_logit_rows) {
  return {.max_batch_tokens = max_batch_tokens,
          .max_logit_rows = max_logit_rows,
          .ops_size_bytes = [](const gpu::LogicalDevice&, const gpu::OpsLimits&,
                               const gpu::MlaShape&) { return int64_t{0}; }};
}
offload::PlacementRequest small_request() { return request_of(64, 8); }

const std::vector<gpu::LogicalDevice> kTwoCards = {{.card_idx = 0}, {.card_idx = 1}};

TEST_CASE("the plan keeps to the KV tokens asked for, in whole pages", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = 1000;
  const offload::Placement placement =
      offload::plan_placement(checkpoint, request, host_with(4 * kGiB));
  CHECK(placement.num_kv_pages == 16);
  REQUIRE(placement.devices.size() == 1);
  CHECK(placement.devices[0].kv_size_bytes == int64_t{16} * 64 * checkpoint.config().kv_dim() * 2 *
                                                  checkpoint.config().num_hidden_layers);
  CHECK(placement.max_context_tokens == 1024);  // no sequence can be longer than the cache
}

TEST_CASE("without a wish the cache holds several full contexts", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  const offload::Placement placement =
      offload::plan_placement(checkpoint, small_request(), host_with(64 * kGiB));
  CHECK(placement.max_context_tokens == checkpoint.config().max_position_embeddings);
  CHECK(placement.num_kv_pages >= 4 * placement.max_context_tokens / 64);
  CHECK(placement.size_bytes_in({}) < 64 * kGiB);
}

TEST_CASE("the dense weights of all devices are those of the checkpoint", "[offload]") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const Checkpoint checkpoint = Checkpoint::open(golden_dir(name));
    offload::PlacementRequest request = small_request();
    request.devices = {{}, {}};
    const offload::Placement placement =
        offload::plan_placement(checkpoint, request, host_with(64 * kGiB));
    // A head that shares the embedding's weights lies in memory by itself.
    const int64_t tied_size_bytes =
        checkpoint.config().tie_word_embeddings
            ? int64_t{checkpoint.config().vocab_size} * checkpoint.config().hidden_size * 2
            : 0;
    CHECK(placement.dense_size_bytes() == checkpoint.dense_size_bytes() + tied_size_bytes);
  }
}

TEST_CASE("layers lie in runs on the devices, each with its KV, balanced by bytes", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  const int32_t num_layers = checkpoint.config().num_hidden_layers;
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = 64 * 1000;
  request.devices = kTwoCards;
  const offload::Placement placement = offload::plan_placement(
      checkpoint, request, {.host_size_bytes = 4 * kGiB, .card_size_bytes = {kGiB, kGiB}});
  REQUIRE(placement.devices.size() == 2);
  const offload::DevicePlacement& first = placement.devices[0];
  const offload::DevicePlacement& second = placement.devices[1];
  CHECK(first.first_layer_idx == 0);
  CHECK(second.first_layer_idx == first.num_layers);
  CHECK(first.num_layers + second.num_layers == num_layers);
  const int64_t layer_kv_size_bytes = int64_t{1000} * 64 * checkpoint.config().kv_dim() * 2;
  CHECK(first.kv_size_bytes == first.num_layers * layer_kv_size_bytes);
  CHECK(second.kv_size_bytes == second.num_layers * layer_kv_size_bytes);
  CHECK(first.max_logit_rows == 0);
  CHECK(second.max_logit_rows == 8);
  // Moving a layer over the border would not help.
  const int64_t layer_size_bytes = std::max(first.total_size_bytes() / first.num_layers,
                                            second.total_size_bytes() / second.num_layers);
  CHECK(std::abs(first.total_size_bytes() - second.total_size_bytes()) <= layer_size_bytes);
  // The experts stay on the host, the rest does not.
  CHECK(placement.size_bytes_in({}) ==
        placement.experts_size_bytes() + placement.staging_size_bytes);
  CHECK(placement.size_bytes_in({.card_idx = 1}) == second.total_size_bytes());
}

TEST_CASE("without a wish a card is filled with KV but for a reserve, one shared by two as well",
          "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  const auto plan = [&](std::vector<gpu::LogicalDevice> devices) {
    request.devices = std::move(devices);
    return offload::plan_placement(
        checkpoint, request,
        {.host_size_bytes = 4 * kGiB,
         .card_size_bytes = {kGiB / 2 + (kGiB >> 7), kGiB / 2 + (kGiB >> 7)}});
  };
  const offload::Placement one = plan({{.card_idx = 0}});
  const offload::Placement shared = plan({{.card_idx = 0}, {.card_idx = 0}});
  const offload::Placement two = plan(kTwoCards);
  const int64_t page_size_bytes =
      int64_t{64} * checkpoint.config().kv_dim() * 2 * checkpoint.config().num_hidden_layers;
  for (const offload::Placement* placement : {&one, &shared}) {
    const int64_t left_size_bytes =
        placement->available_in({.card_idx = 0}) - placement->size_bytes_in({.card_idx = 0});
    CHECK(left_size_bytes >= kGiB / 2);
    CHECK(left_size_bytes < kGiB / 2 + page_size_bytes);
  }
  CHECK(two.num_kv_pages > one.num_kv_pages);
}

// "... --flag VALUE ...": the value.
int64_t value_of(const std::string& text, const std::string& flag) {
  const size_t begin = text.find(flag + " ");
  REQUIRE(begin != std::string::npos);
  return std::stoll(text.substr(begin + flag.size() + 1));
}

std::string refusal(const Checkpoint& checkpoint,
                    const offload::PlacementRequest& request,
                    const offload::AvailableMemory& available) {
  try {
    offload::plan_placement(checkpoint, request, available);
  } catch (const LoadError& error) {
    return error.what();
  }
  FAIL("it fits");
  return "";
}

TEST_CASE("too many KV tokens: the number that fits is named, and fits, and no more would",
          "[offload]") {
  using Catch::Matchers::ContainsSubstring;
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = 100'000'000;
  request.devices = GENERATE(std::vector<gpu::LogicalDevice>{{}}, kTwoCards);
  const offload::AvailableMemory available = {.host_size_bytes = kGiB,
                                              .card_size_bytes = {kGiB, kGiB}};
  const std::string message = refusal(checkpoint, request, available);
  CHECK_THAT(message, ContainsSubstring("does not fit in the memory of") &&
                          ContainsSubstring("KV cache") && ContainsSubstring("would fit"));
  request.kv_cache_tokens = value_of(message, "--kv-cache-tokens");
  CHECK(offload::plan_placement(checkpoint, request, available).num_kv_pages * 64 ==
        request.kv_cache_tokens);
  request.kv_cache_tokens += 64;
  CHECK_THROWS_AS(offload::plan_placement(checkpoint, request, available), LoadError);
}

TEST_CASE("a step too large: values of both flags are named that fit", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = request_of(1 << 20, 64);
  const std::string message = refusal(checkpoint, request, host_with(kGiB));
  request.max_batch_tokens = static_cast<int32_t>(value_of(message, "--max-batch-tokens"));
  request.kv_cache_tokens = value_of(message, "--kv-cache-tokens");
  CHECK(request.max_batch_tokens > 1);
  CHECK_NOTHROW(offload::plan_placement(checkpoint, request, host_with(kGiB)));
}

// The golden on one device, with steps of 64 tokens, or of 72 where they are preferred.
struct PreferredSteps {
  Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  offload::AvailableMemory available;
  PreferredSteps(const gpu::LogicalDevice& device, int64_t kv_cache_tokens) {
    request.kv_cache_tokens = kv_cache_tokens;
    request.devices = {device};
    leave_room_for(64);
    request.preferred_batch_tokens = 72;
  }
  [[nodiscard]] offload::Placement plan() const {
    return offload::plan_placement(checkpoint, request, available);
  }
  // As much as a plan needs, and not a byte more.
  void leave_room_for(int32_t max_batch_tokens) {
    offload::PlacementRequest needed = request;
    needed.max_batch_tokens = max_batch_tokens;
    const offload::Placement placement = offload::plan_placement(
        checkpoint, needed, {.host_size_bytes = 64 * kGiB, .card_size_bytes = {64 * kGiB}});
    available.host_size_bytes = placement.size_bytes_in({}) + kGiB / 2;
    available.card_size_bytes = {placement.size_bytes_in({.card_idx = 0}) + kGiB / 2};
  }
};

TEST_CASE("steps are as large as preferred where that fits, to the byte, else as needed",
          "[offload]") {
  const gpu::LogicalDevice device = GENERATE(gpu::LogicalDevice{}, kTwoCards[0]);
  PreferredSteps steps(device, 640);
  int64_t& size_bytes =
      device.is_host() ? steps.available.host_size_bytes : steps.available.card_size_bytes[0];
  CHECK(steps.plan().max_batch_tokens == 64);
  // What is said of a plan that does not fit is of the steps that are needed.
  size_bytes -= 1;
  const std::string message = refusal(steps.checkpoint, steps.request, steps.available);
  steps.request.preferred_batch_tokens = 0;
  CHECK(refusal(steps.checkpoint, steps.request, steps.available) == message);
  steps.leave_room_for(72);
  CHECK(steps.plan().max_batch_tokens == 64);
  steps.request.preferred_batch_tokens = 72;
  CHECK(steps.plan().max_batch_tokens == 72);
  CHECK_THAT(offload::format_memory_map(steps.plan()),
             Catch::Matchers::ContainsSubstring("for steps of up to 72 tokens"));
  size_bytes -= 1;
  CHECK(steps.plan().max_batch_tokens == 64);
  steps.request.max_batch_tokens = 72;
  CHECK_THROWS_AS(steps.plan(), LoadError);
}

TEST_CASE("steps as large as preferred make no context shorter", "[offload]") {
  const int32_t full_context = open_golden().config().max_position_embeddings;
  PreferredSteps steps(kTwoCards[0], full_context);
  steps.available.host_size_bytes = 64 * kGiB;
  steps.request.kv_cache_tokens = 0;
  CHECK(steps.plan().max_context_tokens == full_context);
  CHECK(steps.plan().max_batch_tokens == 64);
  steps.available.card_size_bytes[0] -= 2 * steps.plan().kv_page_size_bytes();  // cut short already
  CHECK(steps.plan().max_context_tokens == full_context - 2 * kPageSizeTokens);
  CHECK(steps.plan().max_batch_tokens == 64);
  steps.request.max_context_tokens = 640;
  CHECK(steps.plan().max_context_tokens == 640);
  CHECK(steps.plan().max_batch_tokens == 72);
  steps.request.preferred_batch_tokens = 130;
  // More memory a page at a time: they cost an eighth of the pages at most.
  bool seen[2] = {};
  for (int page = 0; page < 60; ++page) {
    steps.available.card_size_bytes[0] += steps.plan().kv_page_size_bytes();
    const offload::Placement placement = steps.plan();
    steps.request.preferred_batch_tokens = 0;
    const int32_t num_needed = steps.plan().num_kv_pages;
    steps.request.preferred_batch_tokens = 130;
    seen[placement.max_batch_tokens == 64 ? 0 : 1] = true;
    CHECK(placement.num_kv_pages >= num_needed - num_needed / 8);
  }
  CHECK((seen[0] && seen[1]));
}

TEST_CASE("weights too large for a card: the number of cards that would do is named, and does",
          "[offload]") {
  using Catch::Matchers::ContainsSubstring;
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = request_of(1, 1);
  request.devices = {{.card_idx = 0}};
  const int64_t needed_size_bytes =
      offload::plan_placement(checkpoint, request,
                              {.host_size_bytes = 4 * kGiB, .card_size_bytes = {8 * kGiB}})
          .dense_size_bytes();
  const int64_t card_size_bytes = kGiB / 2 + needed_size_bytes * 3 / 4;
  const std::string message = refusal(
      checkpoint, request, {.host_size_bytes = 4 * kGiB, .card_size_bytes = {card_size_bytes}});
  CHECK_THAT(message, ContainsSubstring("memory of GPU 0") && ContainsSubstring("(--gpus 0,1)"));
  request.devices = kTwoCards;
  CHECK_NOTHROW(offload::plan_placement(
      checkpoint, request,
      {.host_size_bytes = 4 * kGiB, .card_size_bytes = {card_size_bytes, card_size_bytes}}));
  CHECK_THAT(refusal(checkpoint, request,
                     {.host_size_bytes = 4 * kGiB, .card_size_bytes = {kGiB / 2, kGiB / 2}}),
             ContainsSubstring("--gpus none"));
}

TEST_CASE("what the operations take for themselves counts on their device", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.devices = kTwoCards;
  const offload::AvailableMemory available = {.host_size_bytes = 4 * kGiB,
                                              .card_size_bytes = {kGiB, kGiB}};
  const offload::Placement without = offload::plan_placement(checkpoint, request, available);
  request.ops_size_bytes = [](const gpu::LogicalDevice& device, const gpu::OpsLimits&,
                              const gpu::MlaShape&) { return int64_t{1000} * device.card_idx; };
  const offload::Placement with = offload::plan_placement(checkpoint, request, available);
  CHECK(with.devices[0].workspace_size_bytes == without.devices[0].workspace_size_bytes);
  CHECK(with.devices[1].workspace_size_bytes == without.devices[1].workspace_size_bytes + 1000);
}

// A card that holds the golden with the experts of all its MoE layers, and no more.
struct CardForAll {
  Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  offload::AvailableMemory available = {.host_size_bytes = 4 * kGiB, .card_size_bytes = {8 * kGiB}};
  CardForAll() {
    request.kv_cache_tokens = 640;
    request.devices = {{.card_idx = 0}};
    request.device_expert_layers = checkpoint.config().num_moe_layers();
    available.card_size_bytes = {kGiB / 2 + plan().size_bytes_in({.card_idx = 0})};
  }
  [[nodiscard]] offload::Placement plan() const {
    return offload::plan_placement(checkpoint, request, available);
  }
};

TEST_CASE("experts of the layers asked for count on their device and no longer on the host",
          "[offload]") {
  CardForAll card;
  const int32_t num_moe_layers = card.checkpoint.config().num_moe_layers();
  REQUIRE(num_moe_layers > 1);
  const offload::Placement all = card.plan();
  CHECK(all.host_experts_size_bytes == 0);
  CHECK(all.devices[0].num_expert_layers == num_moe_layers);
  CHECK(all.devices[0].experts_size_bytes >= card.checkpoint.resident_expert_size_bytes());
  card.request.device_expert_layers = 1;
  const offload::Placement one = card.plan();
  CHECK(one.devices[0].experts_size_bytes * num_moe_layers == all.devices[0].experts_size_bytes);
  CHECK(one.host_experts_size_bytes ==
        card.checkpoint.resident_expert_size_bytes() / num_moe_layers * (num_moe_layers - 1));
  CHECK_THAT(offload::format_memory_map(one),
             Catch::Matchers::ContainsSubstring("of 1 MoE layers"));
}

TEST_CASE("without a wish as many layers have their experts on a card as fit, none on the host",
          "[offload]") {
  CardForAll card;
  const int32_t num_moe_layers = card.checkpoint.config().num_moe_layers();
  card.request.device_expert_layers.reset();
  CHECK(card.plan().num_device_expert_layers == num_moe_layers);
  card.available.card_size_bytes[0] -= 1;
  CHECK(card.plan().num_device_expert_layers == num_moe_layers - 1);
  card.request.device_expert_layers = 0;
  card.available.card_size_bytes[0] = kGiB / 2 + card.plan().size_bytes_in({.card_idx = 0});
  card.request.device_expert_layers.reset();
  CHECK(card.plan().num_device_expert_layers == 0);
  card.request.devices = {{}};
  CHECK(card.plan().num_device_expert_layers == 0);
}

TEST_CASE("steps as large as preferred send no experts from a card", "[offload]") {
  CardForAll card;
  const int32_t num_moe_layers = card.checkpoint.config().num_moe_layers();
  card.request.device_expert_layers.reset();
  card.request.preferred_batch_tokens = 72;
  CHECK(card.plan().num_device_expert_layers == num_moe_layers);
  CHECK(card.plan().max_batch_tokens == 64);
  card.available.card_size_bytes[0] -= 1;  // a layer's lie on the host anyway
  CHECK(card.plan().num_device_expert_layers == num_moe_layers - 1);
  CHECK(card.plan().max_batch_tokens == 72);
}

TEST_CASE("more experts than a card holds: the number of layers that fits is named, and fits",
          "[offload]") {
  CardForAll card;
  card.available.card_size_bytes[0] -= 1;
  const std::string message = refusal(card.checkpoint, card.request, card.available);
  const auto fitting = static_cast<int32_t>(value_of(message, "--gpu-expert-layers"));
  CHECK(fitting == card.checkpoint.config().num_moe_layers() - 1);
  card.request.device_expert_layers = fitting;
  CHECK_NOTHROW(card.plan());
}

TEST_CASE("experts of more layers than the model has are refused", "[offload]") {
  CardForAll card;
  *card.request.device_expert_layers += 1;
  CHECK_THROWS_MATCHES(
      card.plan(), ConfigError,
      Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("--gpu-expert-layers") &&
                                      Catch::Matchers::ContainsSubstring("MoE layers")));
}

TEST_CASE("experts too large for the host: the memory that is needed is named", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  const std::string message = refusal(checkpoint, small_request(), host_with(kGiB / 2));
  CHECK_THAT(message, Catch::Matchers::ContainsSubstring("GiB of free memory is needed"));
}

TEST_CASE("what experts take on several nodes, and what they work in, is part of the plan",
          "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  const int64_t without =
      offload::plan_placement(checkpoint, request, host_with(64 * kGiB)).size_bytes_in({});
  request.kv_cache_tokens = 64;
  // A step takes 64 MiB a token.
  request.host_experts_size = [](int32_t num_layers, int32_t max_batch_tokens) {
    return cpu_experts::MoeExperts::PlannedSize{.weights_bytes = num_layers * kGiB,
                                                .work_bytes = max_batch_tokens * (kGiB / 16)};
  };
  const int32_t num_layers = checkpoint.config().num_moe_layers();
  const offload::Placement placement =
      offload::plan_placement(checkpoint, request, host_with(64 * kGiB));
  CHECK(placement.host_experts_size_bytes == num_layers * kGiB);
  CHECK(placement.size_bytes_in({}) >= (num_layers + 4) * kGiB);
  CHECK(placement.size_bytes_in({}) <= (num_layers + 4) * kGiB + without);
  const std::string message = refusal(checkpoint, request, host_with((num_layers + 2) * kGiB));
  CHECK_THAT(message, Catch::Matchers::ContainsSubstring("--max-batch-tokens 2"));
}

TEST_CASE("reserved huge pages count where they hold all experts, and for nothing else",
          "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = 64;
  request.host_experts_size = [](int32_t, int32_t) {
    return cpu_experts::MoeExperts::PlannedSize{.weights_bytes = 8 * kGiB};
  };
  offload::AvailableMemory available = host_with(kGiB);
  available.huge_page_size_bytes = 8 * kGiB - 1;
  CHECK_THROWS_AS(offload::plan_placement(checkpoint, request, available), LoadError);
  available.huge_page_size_bytes = 100 * kGiB;
  CHECK(offload::plan_placement(checkpoint, request, available).available_in({}) == 9 * kGiB);
}

// On two cards, with as much free on the host.
offload::Placement plan_kv_host(std::optional<int64_t> kv_host_size_bytes,
                                int64_t host_size_bytes,
                                std::vector<gpu::LogicalDevice> devices = kTwoCards) {
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = 640;
  request.devices = std::move(devices);
  request.kv_host_size_bytes = kv_host_size_bytes;
  return offload::plan_placement(
      open_golden(), request,
      {.host_size_bytes = host_size_bytes, .card_size_bytes = {kGiB, kGiB}});
}

TEST_CASE("host memory for KV pages is whole pages of what was asked for, part of the host's sum",
          "[offload]") {
  const std::vector<gpu::LogicalDevice> devices =
      GENERATE(kTwoCards, std::vector<gpu::LogicalDevice>{{}});
  const offload::Placement none = plan_kv_host(0, 4 * kGiB, devices);
  const int64_t page_size_bytes = none.kv_page_size_bytes();
  const offload::Placement some =
      plan_kv_host(10 * page_size_bytes + page_size_bytes - 1, 4 * kGiB, devices);
  CHECK(none.kv_host_size_bytes == 0);
  CHECK(some.kv_host_size_bytes == 10 * page_size_bytes);
  CHECK(some.size_bytes_in({}) == none.size_bytes_in({}) + 10 * page_size_bytes);
  CHECK(some.num_kv_pages == none.num_kv_pages);
  using Catch::Matchers::ContainsSubstring;
  CHECK_THAT(offload::format_memory_map(some),
             ContainsSubstring("640 tokens that leave the KV cache (--kv-host-gib)"));
  CHECK_THAT(offload::format_memory_map(none), !ContainsSubstring("--kv-host-gib"));
}

TEST_CASE("without a wish cards leave their KV pages half of the host's memory, up to 32 GiB",
          "[offload]") {
  const offload::Placement none = plan_kv_host(0, 4 * kGiB);
  const int64_t left_size_bytes = 4 * kGiB - kGiB / 2 - none.size_bytes_in({});
  const int64_t chosen_size_bytes = plan_kv_host({}, 4 * kGiB).kv_host_size_bytes;
  CHECK(chosen_size_bytes <= left_size_bytes / 2);
  CHECK(chosen_size_bytes > left_size_bytes / 2 - none.kv_page_size_bytes());
  CHECK(plan_kv_host({}, 1000 * kGiB).kv_host_size_bytes > 32 * kGiB - none.kv_page_size_bytes());
  CHECK(plan_kv_host({}, 1000 * kGiB).kv_host_size_bytes <= 32 * kGiB);
  CHECK(plan_kv_host({}, none.size_bytes_in({}) + kGiB / 2).kv_host_size_bytes == 0);
  CHECK(plan_kv_host({}, 4 * kGiB, {{}}).kv_host_size_bytes == 0);
}

TEST_CASE("what pages take on their way to a folder is planned where host memory for pages is less",
          "[offload]") {
  using Catch::Matchers::ContainsSubstring;
  offload::PlacementRequest request = small_request();
  request.devices = GENERATE(kTwoCards, std::vector<gpu::LogicalDevice>{{}});
  const Checkpoint checkpoint = open_golden();
  offload::AvailableMemory available = {.host_size_bytes = 4 * kGiB,
                                        .card_size_bytes = {kGiB, kGiB}};
  const offload::Placement none = offload::plan_placement(checkpoint, request, available);
  const int64_t page_size_bytes = none.kv_page_size_bytes();
  request.kv_cache_tokens = int64_t{none.num_kv_pages} * kPageSizeTokens;
  request.min_kv_host_pages = 256;
  for (const int64_t num_pages : {0, 56, 256, 300}) {
    request.kv_host_size_bytes = num_pages * page_size_bytes;
    const offload::Placement some = offload::plan_placement(checkpoint, request, available);
    CHECK(some.kv_host_size_bytes == num_pages * page_size_bytes);
    CHECK(some.size_bytes_in({}) ==
          none.size_bytes_in({}) + std::max<int64_t>(num_pages, 256) * page_size_bytes);
    const std::string map = offload::format_memory_map(some);
    CHECK((map.find("on their way to disk and back (--kv-disk)") != std::string::npos) ==
          (num_pages < 256));
  }
  request.kv_host_size_bytes = {};
  CHECK(offload::plan_placement(checkpoint, request, available).size_bytes_in({}) <=
        4 * kGiB - kGiB / 2);
  available.host_size_bytes = none.size_bytes_in({}) + kGiB / 2;
  CHECK_THAT(refusal(checkpoint, request, available),
             ContainsSubstring("without --kv-disk it would fit"));
  request.min_kv_host_pages = 0;
  CHECK_NOTHROW(offload::plan_placement(checkpoint, request, available));
}

TEST_CASE("pages wait for a card in memory that is counted as staging", "[offload]") {
  const offload::Placement on_cards = plan_kv_host(0, 4 * kGiB);
  const offload::Placement on_host = plan_kv_host(0, 4 * kGiB, {{}, {}});
  const auto without_pages = [](const offload::Placement& placement, bool memory_is_host) {
    int64_t size_bytes = 0;
    for (const offload::DevicePlacement& part : placement.devices) {
      size_bytes += offload::Workspace::planned_host_size_bytes(
                        open_golden().config(), {64, part.max_logit_rows}, memory_is_host) +
                    gpu::planned_upload_size_bytes(part.device);
    }
    return size_bytes;
  };
  CHECK(on_cards.staging_size_bytes ==
        without_pages(on_cards, false) +
            offload::KvCache::kNumStagedPages * on_cards.kv_page_size_bytes());
  CHECK(on_host.staging_size_bytes == without_pages(on_host, true));
}

TEST_CASE("more host memory for KV pages than is free: an amount that fits is named, and fits",
          "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = GENERATE(0, 640);
  request.devices = GENERATE(kTwoCards, std::vector<gpu::LogicalDevice>{{}});
  request.kv_host_size_bytes = 100 * kGiB;
  const offload::AvailableMemory available = {.host_size_bytes = 8 * kGiB,
                                              .card_size_bytes = {kGiB, kGiB}};
  const std::string message = refusal(checkpoint, request, available);
  CHECK_THAT(message, Catch::Matchers::ContainsSubstring("memory of the host"));
  const int64_t fitting_gib = value_of(message, "--kv-host-gib");
  CHECK(fitting_gib >= 6);
  request.kv_host_size_bytes = fitting_gib * kGiB;
  CHECK_NOTHROW(offload::plan_placement(checkpoint, request, available));
  request.kv_host_size_bytes = (fitting_gib + 1) * kGiB;
  CHECK_THROWS_AS(offload::plan_placement(checkpoint, request, available), LoadError);
}

TEST_CASE("what is too large beside host memory for KV pages is what is named", "[offload]") {
  using Catch::Matchers::ContainsSubstring;
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_host_size_bytes = kGiB;
  const auto check_tokens = [&](const offload::AvailableMemory& available) {
    const std::string message = refusal(checkpoint, request, available);
    CHECK_THAT(message, !ContainsSubstring("--kv-host-gib 0"));
    request.kv_cache_tokens = value_of(message, "--kv-cache-tokens");
    CHECK(offload::plan_placement(checkpoint, request, available).kv_host_size_bytes > kGiB / 2);
  };
  SECTION("on the host") {
    request.kv_cache_tokens = 100'000'000;
    check_tokens(host_with(4 * kGiB));
  }
  SECTION("on a card") {
    request.kv_cache_tokens = 100'000'000;
    request.devices = kTwoCards;
    check_tokens({.host_size_bytes = 4 * kGiB, .card_size_bytes = {kGiB, kGiB}});
  }
  SECTION("in both memories") {
    request.devices = kTwoCards;
    request.kv_cache_tokens = 100'000'000;
    request.kv_host_size_bytes = 100 * kGiB;
    const offload::AvailableMemory available = {.host_size_bytes = 4 * kGiB,
                                                .card_size_bytes = {kGiB, kGiB}};
    const std::string message = refusal(checkpoint, request, available);
    request.kv_host_size_bytes = value_of(message, "--kv-host-gib") * kGiB;
    request.kv_cache_tokens = value_of(message, "--kv-cache-tokens");
    CHECK_NOTHROW(offload::plan_placement(checkpoint, request, available));
  }
  SECTION("experts") {
    const std::string message = refusal(checkpoint, request, host_with(kGiB / 2));
    CHECK_THAT(message, ContainsSubstring("--kv-host-gib 0, and a machine with"));
  }
}

TEST_CASE("more KV tokens than can be counted are refused", "[offload]") {
  const Checkpoint checkpoint = open_golden();
  offload::PlacementRequest request = small_request();
  request.kv_cache_tokens = int64_t{1} << 40;
  CHECK_THROWS_AS(offload::plan_placement(checkpoint, request, host_with(kGiB)), ConfigError);
}

TEST_CASE("the memory map names every device and every part", "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("moonlight"));
  offload::PlacementRequest request = small_request();
  request.devices = kTwoCards;
  const std::string map = offload::format_memory_map(offload::plan_placement(
      checkpoint, request, {.host_size_bytes = 4 * kGiB, .card_size_bytes = {kGiB, kGiB}}));
  for (const char* part : {"GPU 0, layers 0 to", "GPU 1, layers", "dense weights", "KV cache",
                           "workspace", "routed experts", "staging", "total", "host"}) {
    CHECK_THAT(map, Catch::Matchers::ContainsSubstring(part));
  }
}

TEST_CASE("available memory is a positive amount, and without cards among the devices the host's",
          "[offload]") {
  const std::vector<gpu::LogicalDevice> devices = {{}, {}};
  const offload::AvailableMemory available = offload::available_memory(devices);
  CHECK(available.host_size_bytes > 0);
  CHECK(available.card_size_bytes.empty());
}

}  // namespace
}  // namespace tandem::tests
