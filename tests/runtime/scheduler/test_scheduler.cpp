// Single rules; the simulation shows that they hold together.
#include "runtime/scheduler/scheduler.h"

#include <catch2/catch_test_macros.hpp>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

namespace tandem {
namespace {

struct Extra {
  int32_t priority = 0;
  std::string salt{};
};

// Of what it was told; the rest is nowhere.
class ListedPages final : public PageSource {
 public:
  PagePresence look_up(PageHash hash) override {
    const auto found = pages_.find({hash.low, hash.high});
    return found == pages_.end() ? PagePresence::kAbsent : found->second;
  }
  [[nodiscard]] int32_t read_ahead_pages() const override { return 0; }
  void set(PageHash hash, PagePresence presence) { pages_[{hash.low, hash.high}] = presence; }

 private:
  std::map<std::pair<uint64_t, uint64_t>, PagePresence> pages_;
};

// Sequences that give their pages back however a test ends.
struct Fixture {
  Fixture(const SchedulerLimits& limits, int32_t num_pages, PageSource* kept_pages = nullptr)
      : cache({.num_pages = num_pages, .enabled = true, .secret = 3}),
        scheduler(limits, cache, kept_pages) {}
  ~Fixture() {
    for (const std::unique_ptr<Sequence>& sequence : sequences) scheduler.remove(*sequence);
  }

  Sequence& add(int32_t num_prompt_tokens,
                int32_t max_new_tokens,
                int32_t first_token,
                const Extra& extra = {}) {
    auto sequence = std::make_unique<Sequence>();
    sequence->priority = extra.priority;
    sequence->cache_salt = extra.salt;
    sequence->token_ids.resize(num_prompt_tokens);
    std::iota(sequence->token_ids.begin(), sequence->token_ids.end(), first_token);
    sequence->num_prompt_tokens = num_prompt_tokens;
    sequence->max_total_tokens = num_prompt_tokens + max_new_tokens;
    scheduler.enqueue(*sequence);
    sequences.push_back(std::move(sequence));
    return *sequences.back();
  }
  // Plans and completes a step; every token that it produces is 7.
  std::vector<ScheduledItem> step() {
    const std::span<const ScheduledItem> planned = scheduler.plan();
    std::vector<ScheduledItem> items(planned.begin(), planned.end());
    scheduler.complete();
    for (const ScheduledItem& item : items) {
      if (item.num_logit_rows > 0) item.sequence->token_ids.push_back(7);
    }
    return items;
  }

  // A step, by its tokens of each sequence.
  std::vector<int32_t> step_tokens() {
    std::vector<int32_t> num_tokens;
    for (const ScheduledItem& item : step()) num_tokens.push_back(item.num_tokens);
    return num_tokens;
  }

  PrefixCache cache;
  Scheduler scheduler;
  std::vector<std::unique_ptr<Sequence>> sequences;
};

using Tokens = std::vector<int32_t>;

TEST_CASE("a prompt is cut into chunks and only its end produces a token", "[scheduler]") {
  Fixture fixture({.prefill_chunk_tokens = 100}, 10);
  Sequence& sequence = fixture.add(250, 10, 0);
  for (const int32_t num_tokens : {100, 100, 50, 1, 1}) {
    const std::vector<ScheduledItem> items = fixture.step();
    REQUIRE(items.size() == 1);
    CHECK(items[0].num_tokens == num_tokens);
    CHECK(items[0].num_logit_rows == (num_tokens < 100 ? 1 : 0));
  }
  CHECK(sequence.num_computed_tokens == 252);
}

TEST_CASE("prompts alone take the larger limit, beside a decode the chunk", "[scheduler]") {
  Fixture fixture({.prefill_chunk_tokens = 100, .prefill_alone_tokens = 400}, 50);
  Sequence& first = fixture.add(1000, 3, 0);
  CHECK(fixture.step_tokens() == Tokens{400});
  CHECK(fixture.step_tokens() == Tokens{400});
  CHECK(fixture.step_tokens() == Tokens{200});
  fixture.add(700, 3, 10000);
  CHECK(fixture.step_tokens() == Tokens{1, 100});
  CHECK(fixture.step_tokens() == Tokens{1, 100});
  fixture.scheduler.remove(first);
  CHECK(fixture.step_tokens() == Tokens{400});
  CHECK(fixture.step_tokens() == Tokens{100});
}

TEST_CASE("prompts of one step share the larger limit", "[scheduler]") {
  Fixture fixture({.prefill_chunk_tokens = 100, .prefill_alone_tokens = 400}, 50);
  for (int32_t sequence_idx = 0; sequence_idx < 4; ++sequence_idx)
    fixture.add(150, 10, 10000 * sequence_idx);
  CHECK(fixture.step_tokens() == Tokens{150, 150, 100});
  CHECK(fixture.scheduler.waiting().size() == 1);
  // Two decode now: the third's last tokens and the fourth's first are a chunk.
  CHECK(fixture.step_tokens() == Tokens{1, 1, 50, 50});
}

TEST_CASE("the larger limit is no less than a chunk and no more than a step", "[scheduler]") {
  const auto limit_of = [](const SchedulerLimits& limits) {
    Fixture fixture(limits, 50);
    fixture.add(3000, 10, 0);
    const int32_t num_tokens = fixture.step_tokens().front();
    CHECK(fixture.scheduler.limits().prefill_alone_tokens == num_tokens);
    return num_tokens;
  };
  for (const int32_t alone : {0, 1, 99, 100}) {
    CHECK(limit_of({.prefill_chunk_tokens = 100, .prefill_alone_tokens = alone}) == 100);
  }
  CHECK(limit_of({.prefill_chunk_tokens = 100, .prefill_alone_tokens = 101}) == 101);
  for (const int32_t chunk : {100, 300, 400}) {
    const SchedulerLimits limits{
        .max_batch_tokens = 300, .prefill_chunk_tokens = chunk, .prefill_alone_tokens = 1000};
    CHECK(limit_of(limits) == 300);
  }
}

TEST_CASE("pages that come back count to no limit, and who waits for one leaves it to others",
          "[scheduler]") {
  ListedPages kept_pages;
  Fixture fixture(
      {.max_batch_tokens = 600, .prefill_chunk_tokens = 100, .prefill_alone_tokens = 400}, 50,
      &kept_pages);
  Sequence& first = fixture.add(1000, 10, 0);
  for (size_t page_idx = 0; page_idx < 3; ++page_idx)
    kept_pages.set(first.page_hashes[page_idx], PagePresence::kThere);
  kept_pages.set(first.page_hashes[3], PagePresence::kComing);
  Sequence& second = fixture.add(1000, 10, 10000);
  std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 1);
  CHECK(items[0].sequence == &second);
  CHECK(items[0].num_tokens == 400);
  CHECK(first.num_restored_tokens == 3 * 64);
  kept_pages.set(first.page_hashes[3], PagePresence::kThere);
  items = fixture.step();
  REQUIRE(items.size() == 1);
  CHECK(items[0].sequence == &first);
  CHECK(items[0].num_tokens == 400);
  CHECK(first.num_computed_tokens == 4 * 64 + 400);
}

TEST_CASE("a sequence does not wait for the prefill of one that it outranks", "[scheduler]") {
  Fixture fixture({.prefill_chunk_tokens = 100}, 200);
  fixture.add(1000, 10, 0, {.priority = 2});
  fixture.step();
  fixture.add(5000, 10, 100000, {.priority = 1});  // takes all chunks
  fixture.step();
  const Sequence& best = fixture.add(1000, 10, 0, {.priority = 0});  // the first one's prompt
  for (int step = 0; step < 10; ++step) fixture.step();
  CHECK(best.num_tokens() == 1001);
}

TEST_CASE("decodes go first and prompts fill the rest of the step", "[scheduler]") {
  Fixture fixture({.max_batch_tokens = 64, .prefill_chunk_tokens = 64}, 20);
  Sequence& first = fixture.add(30, 10, 0);
  fixture.step();
  Sequence& second = fixture.add(100, 10, 1000);
  Sequence& third = fixture.add(20, 10, 2000);
  std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 2);
  CHECK(items[0].sequence == &first);
  CHECK(items[1].sequence == &second);
  CHECK(items[1].num_tokens == 63);
  items = fixture.step();
  REQUIRE(items.size() == 3);
  CHECK(items[1].num_tokens == 37);
  CHECK(items[2].sequence == &third);
  CHECK(items[2].num_tokens == 20);
}

TEST_CASE("no more sequences run than have room for a token and a logit row", "[scheduler]") {
  CHECK(Fixture({.max_sequences = 9, .max_logit_rows = 3}, 1).scheduler.limits().max_sequences ==
        3);
  CHECK(Fixture({.max_batch_tokens = 2}, 1).scheduler.limits().max_sequences == 2);
  CHECK(Fixture({.max_sequences = 0}, 1).scheduler.limits().max_sequences == 1);
  Fixture fixture({.max_sequences = 2}, 20);
  for (int32_t sequence_idx = 0; sequence_idx < 3; ++sequence_idx)
    fixture.add(10, 10, 100 * sequence_idx);
  CHECK(fixture.step().size() == 2);
  CHECK(fixture.scheduler.waiting().size() == 1);
  fixture.scheduler.remove(*fixture.sequences[0]);
  CHECK(fixture.step().size() == 2);
  CHECK(fixture.scheduler.waiting().empty());
}

TEST_CASE("a sequence waits until its pages and one more are there", "[scheduler]") {
  Fixture fixture({}, 4);
  Sequence& first = fixture.add(3 * 64, 20, 0);
  fixture.add(64, 65, 1000);  // a page, and one more
  CHECK(fixture.step().size() == 1);
  CHECK(fixture.scheduler.waiting().size() == 1);
  fixture.step();  // the first now holds a fourth page
  CHECK(first.pages.num_pages() == 4);
  CHECK(fixture.scheduler.waiting().size() == 1);
  fixture.scheduler.remove(first);
  CHECK(fixture.step().size() == 1);
  CHECK(fixture.scheduler.waiting().empty());
}

TEST_CASE("a sequence that fills all pages is admitted when alone", "[scheduler]") {
  Fixture fixture({}, 4);
  fixture.add(4 * 64 - 1, 1, 0);
  CHECK(fixture.step().size() == 1);
}

TEST_CASE("when decodes run out of pages the youngest gives its own back", "[scheduler]") {
  Fixture fixture({}, 5);
  Sequence& oldest = fixture.add(64, 200, 0);
  Sequence& youngest = fixture.add(64, 200, 1000);
  CHECK(fixture.step().size() == 2);
  for (int step_idx = 0; step_idx < 64; ++step_idx) CHECK(fixture.step().size() == 2);
  CHECK(fixture.cache.num_available() == 1);
  CHECK(fixture.step().size() == 1);  // both need a third page, one is left
  CHECK(youngest.state == Sequence::State::kWaiting);
  CHECK(youngest.num_preemptions == 1);
  CHECK(oldest.num_computed_tokens == 129);
  // Its pages are known: when there is room again, nothing but the last page is computed anew.
  fixture.scheduler.remove(oldest);
  const std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 1);
  CHECK(items[0].sequence == &youngest);
  CHECK(items[0].num_tokens == 129 - 128);
  CHECK(youngest.num_cached_tokens == 0);  // what the request found at first, not what it refound
}

TEST_CASE("equal prompts are computed once, the second waits for the first's pages",
          "[scheduler]") {
  Fixture fixture({.prefill_chunk_tokens = 100}, 20);
  Sequence& first = fixture.add(300, 10, 0);
  Sequence& second = fixture.add(300, 10, 0);
  Sequence& longer = fixture.add(400, 10, 0);
  for (int step_idx = 0; step_idx < 2; ++step_idx) {
    CHECK(fixture.step().size() == 1);
    CHECK(fixture.scheduler.waiting().size() == 2);
  }
  // 200 tokens are computed; in the third step the first computes the last shared page.
  CHECK(fixture.step().size() == 1);
  const std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 3);
  CHECK(items[0].sequence == &first);
  CHECK(items[1].sequence == &second);
  CHECK(items[1].num_tokens == 300 - 4 * 64);
  CHECK(second.num_cached_tokens == 4 * 64);
  CHECK(items[2].sequence == &longer);
  CHECK(longer.num_cached_tokens == 4 * 64);
  CHECK(second.pages.page_ids()[3] == first.pages.page_ids()[3]);
}

TEST_CASE("one token of a known prompt is always computed", "[scheduler]") {
  Fixture fixture({}, 20);
  for (const int32_t num_tokens : {1, 63, 64, 65, 127, 128, 129}) {
    fixture.scheduler.remove(fixture.add(num_tokens, 1, 0));
    Sequence& first = fixture.add(num_tokens, 1, 0);
    fixture.step();
    fixture.scheduler.remove(first);
    Sequence& again = fixture.add(num_tokens, 1, 0);
    const std::vector<ScheduledItem> items = fixture.step();
    REQUIRE(items.size() == 1);
    CHECK(items[0].num_tokens >= 1);
    CHECK(again.num_cached_tokens == (num_tokens - 1) / 64 * 64);
    CHECK(items[0].num_tokens == num_tokens - again.num_cached_tokens);
    fixture.scheduler.remove(again);
  }
}

TEST_CASE("a better priority is admitted first and gets the next chunk", "[scheduler]") {
  Fixture fixture({.max_batch_tokens = 64, .prefill_chunk_tokens = 64}, 40);
  Sequence& batch = fixture.add(200, 10, 0);
  fixture.step();
  Sequence& later = fixture.add(100, 10, 1000);
  Sequence& urgent = fixture.add(100, 10, 2000, {.priority = -1});
  std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 1);
  CHECK(items[0].sequence == &urgent);
  items = fixture.step();  // the rest of its prompt, then those of priority 0 by age
  REQUIRE(items.size() == 2);
  CHECK(items[0].sequence == &urgent);
  CHECK(items[1].sequence == &batch);
  CHECK(later.state == Sequence::State::kWaiting);
}

TEST_CASE("a worse priority gives way where there is no place, an equal one does not",
          "[scheduler]") {
  Fixture fixture({.max_sequences = 1}, 20);
  Sequence& batch = fixture.add(130, 10, 0, {.priority = 1});
  fixture.step();
  fixture.step();
  Sequence& equal = fixture.add(10, 10, 1000, {.priority = 1});
  CHECK(fixture.step()[0].sequence == &batch);
  Sequence& urgent = fixture.add(10, 2, 2000);
  CHECK(fixture.step()[0].sequence == &urgent);
  CHECK(batch.num_preemptions == 1);
  fixture.scheduler.remove(urgent);
  // Its pages are still known, and it comes before the younger one.
  const std::vector<ScheduledItem> items = fixture.step();
  REQUIRE(items.size() == 1);
  CHECK(items[0].sequence == &batch);
  CHECK(items[0].num_tokens == batch.num_tokens() - 1 - 128);
  CHECK(equal.state == Sequence::State::kWaiting);
}

TEST_CASE("a worse priority gives its pages to a better one", "[scheduler]") {
  Fixture fixture({}, 6);
  Sequence& batch = fixture.add(3 * 64, 100, 0, {.priority = 1});
  fixture.step();
  Sequence& urgent = fixture.add(4 * 64, 60, 1000);
  CHECK(fixture.step()[0].sequence == &urgent);
  CHECK(batch.state == Sequence::State::kWaiting);
  fixture.scheduler.remove(urgent);
  CHECK(fixture.step()[0].sequence == &batch);
}

TEST_CASE("pages are shared between sequences of one salt only", "[scheduler]") {
  Fixture fixture({}, 40);
  const auto num_cached = [&](const std::string& salt) {
    Sequence& sequence = fixture.add(200, 5, 0, {.salt = salt});
    fixture.step();
    fixture.scheduler.remove(sequence);
    return sequence.num_cached_tokens;
  };
  for (const char* salt : {"", "a", "b", "aa"}) CHECK(num_cached(salt) == 0);
  for (const char* salt : {"", "a", "b", "aa"}) CHECK(num_cached(salt) == 192);
}

}  // namespace
}  // namespace tandem
