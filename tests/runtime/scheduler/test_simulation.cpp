// Thousands of random lives of a scheduler, with a model that notices a wrong page.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "runtime/scheduler/scheduler.h"
#include "tests/support/fake_model.h"

namespace tandem {
namespace {

constexpr int32_t kVocabSize = 64;

struct Request {
  Sequence sequence;
  int32_t arrival_step = 0;
  int32_t abort_step = -1;
  int32_t num_wanted_tokens = 0;  // it ends after so many new tokens, <= max_total - prompt
  int32_t age = -1;
  bool is_done = false;
};

// Keeps some of what leaves the model, and is slow to bring it.
class SlowPages final : public PageSource {
 public:
  SlowPages(uint32_t seed, tests::HashModel& model) : rng_(seed), model_(model) {}

  PagePresence look_up(PageHash hash) override {
    const auto found = pages_.find({hash.low, hash.high});
    if (found == pages_.end()) return PagePresence::kAbsent;
    if (found->second.num_waits == 0) return PagePresence::kThere;
    ++num_waits;
    if (rng_() % 8 == 0) return PagePresence::kNoRoom;
    --found->second.num_waits;
    return PagePresence::kComing;
  }
  [[nodiscard]] int32_t read_ahead_pages() const override { return 3; }

  void forget_sometimes() {
    if (rng_() % 200 == 0) pages_.clear();
  }
  void keep(std::span<const KnownPage> leaving) {
    for (const KnownPage& page : leaving) {
      if (rng_() % 8 == 0) continue;
      Kept kept{.bytes = std::vector<std::byte>(model_.kv_page_size_bytes()),
                .num_waits = static_cast<int32_t>(rng_() % 4)};
      model_.read_kv_pages(std::vector<KvPageBytes>{{page.page_id, kept.bytes}});
      pages_[{page.hash.low, page.hash.high}] = std::move(kept);
    }
  }
  void restore(std::span<const RestoredPage> restored) {
    for (const RestoredPage& one : restored) {
      Kept& kept = pages_.at({one.page.hash.low, one.page.hash.high});
      model_.write_kv_pages(std::vector<KvPageBytes>{{one.page.page_id, kept.bytes}});
      ++num_restored;
    }
  }

  int32_t num_waits = 0;
  int64_t num_restored = 0;

 private:
  struct Kept {
    std::vector<std::byte> bytes;
    int32_t num_waits = 0;  // until it is there
  };
  std::mt19937 rng_;
  tests::HashModel& model_;
  std::map<std::pair<uint64_t, uint64_t>, Kept> pages_;
};

struct Scenario {
  explicit Scenario(uint32_t seed);

  uint32_t draw(uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(rng()) % (high - low + 1);
  }
  void add_request(const std::vector<std::vector<int32_t>>& prefixes);
  void run();
  void enqueue_arrivals();
  void abort_some();
  // Running sequences that have one token to compute, with how often each was preempted.
  [[nodiscard]] std::map<const Sequence*, int32_t> decoding() const;
  void check_limits(std::span<const ScheduledItem> items,
                    const std::map<const Sequence*, int32_t>& decoding_before);
  void compute(std::span<const ScheduledItem> items);
  void take_token(Request& request, std::span<const float> logits);
  void check_order() const;
  void check_pages() const;

  std::mt19937 rng;
  int32_t num_pages;
  SchedulerLimits limits;
  tests::HashModel model;
  SlowPages kept_pages;
  PrefixCache cache;
  Scheduler scheduler;
  std::vector<std::unique_ptr<Request>> requests;
  std::map<const Sequence*, Request*> request_of;
  int32_t step_idx = 0;
  int32_t num_planned_steps = 0;
  int32_t num_arrived = 0;
  int32_t num_larger_steps = 0;  // with more of prompts than a chunk
  bool has_cache;
  bool has_priorities;
};

Scenario::Scenario(uint32_t seed)
    : rng(seed),
      num_pages(static_cast<int32_t>(draw(2, 14))),
      limits({.max_sequences = static_cast<int32_t>(draw(1, 8)),
              .max_logit_rows = static_cast<int32_t>(draw(1, 8)),
              .max_batch_tokens = static_cast<int32_t>(draw(1, 5) == 1 ? draw(1, 8) : draw(1, 200)),
              .prefill_chunk_tokens = static_cast<int32_t>(draw(1, 150)),
              .prefill_alone_tokens = static_cast<int32_t>(draw(0, 1) ? draw(1, 300) : 0)}),
      model({.vocab_size = kVocabSize,
             .num_kv_pages = num_pages,
             .max_batch_tokens = limits.max_batch_tokens,
             .max_logit_rows = limits.max_logit_rows}),
      kept_pages(seed, model),
      cache({.num_pages = num_pages,
             .enabled = draw(1, 4) > 1,
             .secret = seed,
             .lists_changes = true}),
      scheduler(limits, cache, draw(0, 2) > 0 ? &kept_pages : nullptr),
      has_cache(cache.enabled()),
      has_priorities(draw(0, 2) == 0) {
  std::vector<std::vector<int32_t>> prefixes(3);
  for (std::vector<int32_t>& prefix : prefixes) {
    prefix.resize(draw(0, 1) ? draw(0, 400) : draw(0, 20));
    for (int32_t& token_id : prefix) token_id = static_cast<int32_t>(draw(0, kVocabSize - 1));
  }
  const uint32_t num_requests = draw(1, 10);
  for (uint32_t request_idx = 0; request_idx < num_requests; ++request_idx) add_request(prefixes);
}

void Scenario::add_request(const std::vector<std::vector<int32_t>>& prefixes) {
  auto request = std::make_unique<Request>();
  const int32_t capacity_tokens = num_pages * kPageSizeTokens;
  std::vector<int32_t>& token_ids = request->sequence.token_ids;
  token_ids = prefixes[draw(0, 2)];
  const uint32_t num_own = draw(0, 3) == 0 ? 0 : draw(1, 70);
  for (uint32_t token_idx = 0; token_idx < num_own; ++token_idx)
    token_ids.push_back(static_cast<int32_t>(draw(0, kVocabSize - 1)));
  if (token_ids.empty()) token_ids.push_back(5);
  token_ids.resize(std::min<size_t>(token_ids.size(), capacity_tokens - 1));
  const int32_t room = capacity_tokens - request->sequence.num_tokens();
  const int32_t max_new = static_cast<int32_t>(draw(1, std::min(room, draw(0, 2) == 0 ? 20 : 400)));
  request->sequence.num_prompt_tokens = request->sequence.num_tokens();
  request->sequence.max_total_tokens = request->sequence.num_tokens() + max_new;
  request->num_wanted_tokens = static_cast<int32_t>(draw(0, 1) ? draw(1, max_new) : max_new);
  request->arrival_step = static_cast<int32_t>(draw(0, 1) ? 0 : draw(0, 60));
  if (has_priorities) request->sequence.priority = static_cast<int32_t>(draw(0, 2)) - 1;
  if (draw(0, 3) == 0) request->sequence.cache_salt = "salt";
  if (draw(0, 3) == 0)
    request->abort_step = request->arrival_step + static_cast<int32_t>(draw(0, 80));
  request_of[&request->sequence] = request.get();
  requests.push_back(std::move(request));
}

void Scenario::run() {
  // A step computes at least one token of the oldest sequence, or admits it and does; the oldest
  // stays the oldest until it ends. So there are no more steps than tokens in all; and, where one
  // that comes may take the pages of those before it, no more than that for each that comes.
  int32_t max_steps = 0;
  for (const std::unique_ptr<Request>& request : requests)
    max_steps += request->sequence.max_total_tokens;
  if (has_priorities) max_steps *= static_cast<int32_t>(requests.size());
  const auto all_done = [this] {
    return std::all_of(requests.begin(), requests.end(),
                       [](const std::unique_ptr<Request>& request) { return request->is_done; });
  };
  for (; !all_done(); ++step_idx) {
    enqueue_arrivals();
    abort_some();
    kept_pages.forget_sometimes();
    const int32_t num_waits = kept_pages.num_waits;
    const std::map<const Sequence*, int32_t> decoding_before = decoding();
    const std::span<const ScheduledItem> items = scheduler.plan();
    kept_pages.keep(cache.evicted());
    cache.clear_changes();
    kept_pages.restore(scheduler.restored());
    const bool has_moved = kept_pages.num_waits > num_waits || !scheduler.restored().empty();
    REQUIRE((!items.empty() || has_moved || scheduler.empty()));
    if (items.empty()) continue;
    ++num_planned_steps;
    REQUIRE(num_planned_steps <= max_steps + kept_pages.num_waits);
    check_order();
    check_limits(items, decoding_before);
    compute(items);
    check_pages();
  }
  REQUIRE(cache.num_available() == num_pages);
  REQUIRE(scheduler.empty());
  REQUIRE(model.violations() == std::vector<std::string>{});
}

void Scenario::enqueue_arrivals() {
  for (const std::unique_ptr<Request>& request : requests) {
    if (request->arrival_step != step_idx) continue;
    request->age = num_arrived++;
    scheduler.enqueue(request->sequence);
  }
}

void Scenario::abort_some() {
  for (const std::unique_ptr<Request>& request : requests) {
    if (request->abort_step != step_idx || request->is_done) continue;
    scheduler.remove(request->sequence);
    request->is_done = true;
  }
}

std::map<const Sequence*, int32_t> Scenario::decoding() const {
  std::map<const Sequence*, int32_t> result;
  for (const Sequence* sequence : scheduler.running()) {
    if (sequence->num_uncomputed_tokens() == 1) result[sequence] = sequence->num_preemptions;
  }
  return result;
}

// Prompts take a chunk beside decodes, or what is left of the step; alone no more than they may.
void Scenario::check_limits(std::span<const ScheduledItem> items,
                            const std::map<const Sequence*, int32_t>& decoding_before) {
  int32_t num_decodes = 0, num_prefill_tokens = 0;
  for (const ScheduledItem& item : items) {
    const auto found = decoding_before.find(item.sequence);
    // One that was preempted and came back at once is a prompt again.
    const bool decodes =
        found != decoding_before.end() && found->second == item.sequence->num_preemptions;
    (decodes ? num_decodes : num_prefill_tokens) += item.num_tokens;
  }
  const int32_t alone = std::max(limits.prefill_alone_tokens, limits.prefill_chunk_tokens);
  REQUIRE(num_prefill_tokens <= (num_decodes > 0 ? limits.prefill_chunk_tokens : alone));
  REQUIRE(num_prefill_tokens + num_decodes <= limits.max_batch_tokens);
  if (num_prefill_tokens > limits.prefill_chunk_tokens) ++num_larger_steps;
}

void Scenario::compute(std::span<const ScheduledItem> items) {
  std::vector<int32_t> token_ids, logit_token_idx;
  std::vector<BatchItem> batch_items;
  std::vector<Request*> rows;
  for (const ScheduledItem& item : items) {
    const Sequence& sequence = *item.sequence;
    REQUIRE(item.num_tokens >= 1);
    batch_items.push_back({.token_begin = static_cast<int32_t>(token_ids.size()),
                           .num_tokens = item.num_tokens,
                           .context_size_tokens = sequence.num_computed_tokens,
                           .page_ids = sequence.pages.page_ids()});
    const auto begin = sequence.token_ids.begin() + sequence.num_computed_tokens;
    token_ids.insert(token_ids.end(), begin, begin + item.num_tokens);
    if (item.num_logit_rows == 0) continue;
    logit_token_idx.push_back(static_cast<int32_t>(token_ids.size()) - 1);
    rows.push_back(request_of.at(&sequence));
  }
  std::vector<float> logits(rows.size() * kVocabSize);
  const MatrixView<float> view(logits.data(), static_cast<int64_t>(rows.size()), kVocabSize);
  model.forward({token_ids, batch_items, logit_token_idx}, view);
  scheduler.complete();
  for (size_t row_idx = 0; row_idx < rows.size(); ++row_idx)
    take_token(*rows[row_idx], view.row(static_cast<int64_t>(row_idx)));
}

void Scenario::take_token(Request& request, std::span<const float> logits) {
  Sequence& sequence = request.sequence;
  const auto best = std::max_element(logits.begin(), logits.end());
  sequence.token_ids.push_back(static_cast<int32_t>(best - logits.begin()));
  const int32_t num_new = sequence.num_tokens() - sequence.num_prompt_tokens;
  if (num_new < request.num_wanted_tokens) return;
  const std::span<const int32_t> all(sequence.token_ids);
  const std::vector<int32_t> expected =
      model.expected_greedy(all.first(sequence.num_prompt_tokens), num_new);
  REQUIRE(std::equal(expected.begin(), expected.end(),
                     sequence.token_ids.begin() + sequence.num_prompt_tokens));
  REQUIRE(sequence.num_cached_tokens < sequence.num_prompt_tokens);
  REQUIRE(sequence.num_restored_tokens <= sequence.num_cached_tokens);
  scheduler.remove(sequence);
  request.is_done = true;
}

// Of every priority the running sequences in the order of age, then the waiting ones, and all of
// either in the order of priority; none is lost.
void Scenario::check_order() const {
  std::vector<int32_t> priorities;
  std::map<int32_t, std::vector<int32_t>> ages;
  const auto note = [&](const Sequence* sequence) {
    priorities.push_back(sequence->priority);
    ages[sequence->priority].push_back(request_of.at(sequence)->age);
  };
  for (const Sequence* sequence : scheduler.running()) note(sequence);
  const auto num_running = static_cast<int64_t>(priorities.size());
  for (const Sequence* sequence : scheduler.waiting()) note(sequence);
  REQUIRE(std::is_sorted(priorities.begin(), priorities.begin() + num_running));
  REQUIRE(std::is_sorted(priorities.begin() + num_running, priorities.end()));
  for (const auto& [priority, of_one] : ages) REQUIRE(std::is_sorted(of_one.begin(), of_one.end()));
  const auto num_alive =
      std::count_if(requests.begin(), requests.end(), [this](const std::unique_ptr<Request>& r) {
        return r->arrival_step <= step_idx && !r->is_done;
      });
  REQUIRE(static_cast<int64_t>(priorities.size()) == num_alive);
  REQUIRE(static_cast<int32_t>(scheduler.running().size()) <= limits.max_sequences);
}

// Every page is held as often as tables name it.
void Scenario::check_pages() const {
  std::map<int32_t, int32_t> num_holders;
  for (const std::unique_ptr<Request>& request : requests) {
    for (const int32_t page_id : request->sequence.pages.page_ids()) ++num_holders[page_id];
    const bool is_running = request->sequence.state == Sequence::State::kRunning;
    if (!is_running && request->sequence.pages.num_pages() > 0) FAIL("pages of one that waits");
  }
  REQUIRE(std::all_of(num_holders.begin(), num_holders.end(), [this](const auto& holder) {
    return cache.ref_count(holder.first) == holder.second;
  }));
  REQUIRE(cache.num_used() == static_cast<int32_t>(num_holders.size()));
}

TEST_CASE("in any scenario every request ends, with its own tokens, in bounded steps",
          "[scheduler]") {
  int64_t num_preemptions = 0, num_cached_tokens = 0, num_scenarios_with_cache = 0;
  int64_t num_restored_pages = 0, num_larger_steps = 0;
  constexpr uint32_t kNumScenarios = 1500;
  for (uint32_t seed = 0; seed < kNumScenarios; ++seed) {
    INFO("seed " << seed);
    Scenario scenario(seed);
    scenario.run();
    num_preemptions += scenario.scheduler.num_preemptions();
    num_scenarios_with_cache += scenario.has_cache ? 1 : 0;
    num_restored_pages += scenario.kept_pages.num_restored;
    num_larger_steps += scenario.num_larger_steps;
    for (const std::unique_ptr<Request>& request : scenario.requests)
      num_cached_tokens += std::max(request->sequence.num_cached_tokens, 0);
  }
  // The scenarios reach what they are there for.
  CHECK(num_preemptions > kNumScenarios / 4);
  CHECK(num_cached_tokens > 10 * kNumScenarios);
  CHECK(num_scenarios_with_cache > kNumScenarios / 2);
  CHECK(num_restored_pages > kNumScenarios / 10);
  CHECK(num_larger_steps > kNumScenarios / 10);
}

}  // namespace
}  // namespace tandem
