// KV pages that have left the model's memory come back in place of being computed: from host
// memory, from a folder, behind a sleep and in another process.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/step_loop.h"
#include "runtime/kv_store/page_folder.h"
#include "runtime/memory/file_descriptor.h"
#include "tests/runtime/engine/engine_fixture.h"
#include "tests/runtime/kv_store/page_files.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem::tests {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMuchHostMemory = int64_t{1} << 24;
constexpr int32_t kNumPages = 12;

FakeModelOptions small_model(int64_t kv_host_size_bytes, int32_t num_kv_pages = kNumPages) {
  FakeModelOptions options;
  options.num_kv_pages = num_kv_pages;
  options.kv_host_size_bytes = kv_host_size_bytes;
  return options;
}

EngineOptions with_folder(const fs::path& dir, int64_t max_size_bytes = 1 << 24) {
  EngineOptions options;
  options.kv_folder = PageFolder::open({.dir = dir, .max_size_bytes = max_size_bytes});
  return options;
}

std::vector<int32_t> prompt_of(uint32_t seed) { return make_prompt(seed, 8 * 64 + 10, 512); }

// Tokens found of a prompt whose answer is right.
int32_t num_cached(Engine& engine, const HashModel& model, const std::vector<int32_t>& prompt) {
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(prompt, 4, sink)).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kLength);
  CHECK(sink->token_ids() == model.expected_greedy(prompt, 4));
  CHECK(model.violations() == std::vector<std::string>{});
  return last.cached_tokens;
}

void order(Engine& engine, bool sleeps, const ModelMemory& memory, SleepMode mode) {
  std::promise<SleepOutcome> promise;
  const SleepDone done = [&](const SleepOutcome& outcome) { promise.set_value(outcome); };
  if (sleeps) {
    engine.sleep(memory, mode, done);
  } else {
    engine.wake_up(memory, done);
  }
  CHECK(promise.get_future().get().kind == SleepOutcome::Kind::kDone);
}

TEST_CASE("a prompt that had to make room comes back from host memory", "[engine]") {
  HashModel model(small_model(kMuchHostMemory));
  Engine engine(model, {});
  for (uint32_t seed = 1; seed <= 5; ++seed) CHECK(num_cached(engine, model, prompt_of(seed)) == 0);
  for (uint32_t seed = 1; seed <= 5; ++seed)
    CHECK(num_cached(engine, model, prompt_of(seed)) == 512);
  const EngineStats stats = engine.stats();
  CHECK(stats.cached_tokens == 5 * 512);
  CHECK(stats.restored_tokens > 4 * 512);
  CHECK(stats.restored_tokens <= 5 * 512);
  CHECK(stats.kv_host_pages_used > 0);
  CHECK(stats.kv_host_pages_total == kMuchHostMemory / model.kv_page_size_bytes());
  CHECK(stats.kv_disk_limit_bytes == 0);
  engine.reset_prefix_cache();
  for (uint32_t seed = 1; seed <= 5; ++seed) CHECK(num_cached(engine, model, prompt_of(seed)) == 0);
}

TEST_CASE("without a place for them pages are computed again", "[engine]") {
  HashModel model(small_model(0));
  Engine engine(model, {});
  for (int time_idx = 0; time_idx < 2; ++time_idx) {
    for (uint32_t seed = 1; seed <= 3; ++seed) num_cached(engine, model, prompt_of(seed));
  }
  CHECK(engine.stats().restored_tokens == 0);
  CHECK(model.num_kv_pages_read() == 0);
}

TEST_CASE("an engine that remembers no prefix keeps no pages either", "[engine]") {
  const test::TempDir dir;
  HashModel model(small_model(kMuchHostMemory));
  EngineOptions options = with_folder(dir.path());
  options.prefix_cache = false;
  Engine engine(model, options);
  for (int time_idx = 0; time_idx < 2; ++time_idx)
    CHECK(num_cached(engine, model, prompt_of(1)) == 0);
  CHECK(model.num_kv_pages_read() == 0);
}

TEST_CASE("prompts come back in another process, with what was answered", "[engine]") {
  const test::TempDir dir;
  const int64_t host_size_bytes = GENERATE(int64_t{0}, kMuchHostMemory);
  std::vector<int32_t> prompt = prompt_of(1);
  {
    HashModel model(small_model(host_size_bytes));
    Engine engine(model, with_folder(dir.path()));
    const auto sink = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request(prompt, 200, sink)).ok());
    CHECK(sink->wait().finish_reason == FinishReason::kLength);
    const std::vector<int32_t> answer = sink->token_ids();
    prompt.insert(prompt.end(), answer.begin(), answer.end());
  }
  HashModel model(small_model(host_size_bytes));
  Engine engine(model, with_folder(dir.path()));
  // The last token of an answer is never computed.
  CHECK(num_cached(engine, model, prompt) == (8 * 64 + 10 + 199) / 64 * 64);
  const EngineStats stats = engine.stats();
  CHECK(stats.kv_disk_pages_read == 11);
  CHECK(stats.restored_tokens == 11 * 64);
  CHECK(stats.cached_tokens == 11 * 64);
  CHECK(stats.kv_disk_size_bytes > 0);
  CHECK(stats.kv_disk_limit_bytes == 1 << 24);
  // One step computed the rest of the prompt.
  CHECK(model.traces().front().num_tokens == 8 * 64 + 10 + 200 - 11 * 64);
}

TEST_CASE("an engine without work tells what has been written, asleep too", "[engine]") {
  const test::TempDir dir;
  HashModel model(small_model(0, 64));
  EngineOptions options = with_folder(dir.path());
  options.prefill_chunk_tokens = 1024;
  Engine engine(model, options);
  const auto is_told = [&](int64_t num_pages) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (engine.stats().kv_disk_pages_written < num_pages) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  };
  // Pages become full with the only step, behind which nothing happens.
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    const auto sink = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request(prompt_of(seed), 1, sink)).ok());
    sink->wait();
    if (seed == 3) order(engine, true, kDeviceModelMemory, SleepMode::kWait);
    CHECK(is_told(8 * int64_t{seed}));
  }
}

// A FIFO in a page's place stands for a disk that does not answer: who opens it waits for a writer.
TEST_CASE("a disk that does not answer keeps no request waiting for ever", "[engine]") {
  const test::TempDir dir;
  {
    HashModel model(small_model(0));
    Engine engine(model, with_folder(dir.path()));
    num_cached(engine, model, prompt_of(1));
  }
  const std::vector<fs::path> fifos = test::page_files(dir.path());
  REQUIRE(fifos.size() == 8);
  HashModel model(small_model(0));
  EngineOptions options = with_folder(dir.path());
  options.kv_folder_patience = std::chrono::milliseconds(20);
  std::vector<FileDescriptor> writers;
  {
    Engine engine(model, options);
    for (const fs::path& path : fifos) {
      fs::remove(path);
      REQUIRE(::mkfifo(path.c_str(), S_IRUSR | S_IWUSR) == 0);
    }
    CHECK(num_cached(engine, model, prompt_of(1)) == 0);
    CHECK(num_cached(engine, model, prompt_of(2)) == 0);
    // Lets go of those that wait, with more than a page, so that the engine can end.
    const std::string rubbish(4096, 'x');
    for (const fs::path& path : fifos) writers.emplace_back(::open(path.c_str(), O_RDWR));
    for (const FileDescriptor& writer : writers) {
      CHECK(::write(writer.get(), rubbish.data(), rubbish.size()) == 4096);
    }
  }
}

TEST_CASE("a reset forgets the folder for good", "[engine]") {
  const test::TempDir dir;
  {
    HashModel model(small_model(0));
    Engine engine(model, with_folder(dir.path()));
    num_cached(engine, model, prompt_of(1));
    engine.reset_prefix_cache();
    CHECK(num_cached(engine, model, prompt_of(1)) == 0);
    engine.reset_prefix_cache();
    num_cached(engine, model, prompt_of(2));
  }
  HashModel model(small_model(0));
  Engine engine(model, with_folder(dir.path()));
  CHECK(num_cached(engine, model, prompt_of(1)) == 0);
  CHECK(num_cached(engine, model, prompt_of(2)) == 512);
}

TEST_CASE("what the KV cache held is there again behind a sleep", "[engine]") {
  HashModel model(small_model(kMuchHostMemory));
  Engine engine(model, {});
  CHECK(num_cached(engine, model, prompt_of(1)) == 0);
  for (int time_idx = 0; time_idx < 3; ++time_idx) {
    order(engine, true, kDeviceModelMemory, SleepMode::kWait);
    order(engine, false, kAllModelMemory, SleepMode::kWait);
    CHECK(num_cached(engine, model, prompt_of(1)) == 512);
  }
  CHECK(engine.stats().restored_tokens == 3 * 512);
}

TEST_CASE("a request kept through a sleep goes on from its kept pages", "[engine]") {
  HashModel model(small_model(kMuchHostMemory, 64));
  Engine engine(model, {});
  const std::vector<int32_t> prompt = prompt_of(1);
  const auto sink = std::make_shared<CollectingSink>();
  model.hold_at_step(100);
  REQUIRE(engine.submit(greedy_request(prompt, 200, sink)).ok());
  model.wait_until_held();
  std::promise<SleepOutcome> asleep;
  engine.sleep(kDeviceModelMemory, SleepMode::kKeep,
               [&](const SleepOutcome& outcome) { asleep.set_value(outcome); });
  model.resume();
  asleep.get_future().get();
  const int64_t num_steps = model.num_steps();
  order(engine, false, kAllModelMemory, SleepMode::kWait);
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kLength);
  CHECK(last.cached_tokens == 0);  // of its prompt nothing had been known
  CHECK(sink->token_ids() == model.expected_greedy(prompt, 200));
  CHECK(model.violations() == std::vector<std::string>{});
  // Nine full pages came back.
  CHECK(model.traces().at(static_cast<size_t>(num_steps)).num_tokens < 64 + 1);
  CHECK(engine.stats().restored_tokens == 0);
}

// More pages than one step restores.
TEST_CASE("restored tokens are cached ones, also of who leaves before its first step", "[engine]") {
  FakeModelOptions large = small_model(kMuchHostMemory, 140);
  large.max_context_tokens = 140 * 64;
  HashModel model(large);
  StepLoop steps(model, {});
  const auto add = [&](uint64_t request_id) {
    const auto sink = std::make_shared<CollectingSink>();
    steps.add(std::make_unique<ActiveRequest>(
        request_id, 0, greedy_request(make_prompt(1, 130 * 64 + 10, 512), 1, sink)));
  };
  add(0);
  while (!steps.empty()) steps.step();
  steps.leave_kv_cache();
  const int64_t num_steps = model.num_steps();
  add(1);
  steps.step();
  CHECK(model.num_kv_pages_written() == 128);
  CHECK(model.num_steps() == num_steps);
  steps.abort(1);
  CHECK(steps.stats().restored_tokens == 0);
  CHECK(steps.stats().cached_tokens == 0);
  add(2);
  while (!steps.empty()) steps.step();
  CHECK(steps.stats().restored_tokens == 2 * 64);
  CHECK(steps.stats().cached_tokens == 130 * 64);
}

TEST_CASE("prompt logprobs are computed, whatever is kept", "[engine]") {
  HashModel model(small_model(kMuchHostMemory));
  Engine engine(model, {});
  for (uint32_t seed = 1; seed <= 3; ++seed) num_cached(engine, model, prompt_of(seed));
  const auto sink = std::make_shared<CollectingSink>();
  GenerationRequest request = greedy_request(prompt_of(1), 4, sink);
  request.prompt_logprobs = true;
  REQUIRE(engine.submit(std::move(request)).ok());
  CHECK(sink->wait().cached_tokens == 0);
  CHECK(sink->num_tokens() == 8 * 64 + 10 - 1 + 4);
}

// The beginning of all prompts is computed once and found in the KV cache ever after: the folder
// has to be told that it is in use.
TEST_CASE("what many prompts begin with outlives what single ones end with", "[engine]") {
  const test::TempDir dir;
  const std::vector<int32_t> shared = make_prompt(99, 4 * 64, 512);
  const auto prompt = [&](uint32_t seed) {
    std::vector<int32_t> ids = shared;
    const std::vector<int32_t> own = make_prompt(seed, 4 * 64 + 10, 512);
    ids.insert(ids.end(), own.begin(), own.end());
    return ids;
  };
  EngineOptions options;
  options.max_sequences = 1;
  const auto open = [&](const HashModel& model) {
    const int64_t file_bytes = model.kv_page_size_bytes() + kPageFileHeaderBytes;
    options.kv_folder = PageFolder::open({.dir = dir.path(), .max_size_bytes = 14 * file_bytes});
  };
  {
    HashModel model(small_model(0, 64));
    open(model);
    Engine engine(model, options);
    for (uint32_t seed = 1; seed <= 10; ++seed)
      CHECK(num_cached(engine, model, prompt(seed)) == (seed == 1 ? 0 : 256));
  }
  options.kv_folder.reset();
  HashModel model(small_model(0, 64));
  open(model);
  Engine engine(model, options);
  CHECK(num_cached(engine, model, prompt(11)) == 256);
}

TEST_CASE("pages of one salt do not come back under another", "[engine]") {
  const test::TempDir dir;
  const auto cached_with = [&](const std::string& salt) {
    HashModel model(small_model(0));
    Engine engine(model, with_folder(dir.path()));
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(prompt_of(1), 4, sink);
    request.cache_salt = salt;
    REQUIRE(engine.submit(std::move(request)).ok());
    return sink->wait().cached_tokens;
  };
  CHECK(cached_with("a") == 0);
  CHECK(cached_with("b") == 0);
  CHECK(cached_with("") == 0);
  for (const char* salt : {"a", "b", ""}) CHECK(cached_with(salt) == 512);
}

struct Life {
  uint32_t seed = 0;
  int64_t host_pages = 0;
  int64_t disk_pages = 0;  // 0: no folder
  int32_t prefill_chunk_tokens = 512;
  int32_t num_turns = 60;
  uint32_t turns_a_reset = 16, turns_a_sleep = 16;
};

// Conversations that go on by turns, more than there is room for anywhere, with resets, sleeps and
// aborts.
void live(const Life& life, const fs::path& dir) {
  std::mt19937 rng(life.seed);
  constexpr int64_t kPageBytes = 64 * 16;
  HashModel model(small_model(life.host_pages * kPageBytes, 16));
  EngineOptions options;
  if (life.disk_pages > 0)
    options = with_folder(dir, life.disk_pages * (kPageBytes + kPageFileHeaderBytes));
  options.prefill_chunk_tokens = life.prefill_chunk_tokens;
  Engine engine(model, options);
  std::vector<std::vector<int32_t>> talks(5);
  for (uint32_t talk = 0; talk < 5; ++talk) talks[talk] = make_prompt(talk % 3, 130, 512);
  for (int turn = 0; turn < life.num_turns; ++turn) {
    std::vector<std::pair<std::vector<int32_t>*, std::shared_ptr<CollectingSink>>> running;
    for (std::vector<int32_t>& talk : talks) {
      if (rng() % 2 == 0) continue;
      if (talk.size() > 700) talk.resize(130);
      talk.push_back(static_cast<int32_t>(rng() % 512));
      const auto sink = std::make_shared<CollectingSink>();
      GenerationRequest request = greedy_request(talk, 40, sink);
      request.priority = static_cast<int32_t>(rng() % 2);
      if (rng() % 8 == 0) request.cache_salt = "salt";
      const auto submitted = engine.submit(std::move(request));
      REQUIRE(submitted.ok());
      if (rng() % 8 == 0) {
        engine.abort(*submitted);
      } else {
        running.emplace_back(&talk, sink);
      }
    }
    if (rng() % life.turns_a_reset == 0) engine.reset_prefix_cache();
    if (rng() % life.turns_a_sleep == 0) {
      order(engine, true, kDeviceModelMemory, SleepMode::kKeep);
      order(engine, false, kAllModelMemory, SleepMode::kKeep);
    }
    for (const auto& [talk, sink] : running) {
      const TokenEvent last = sink->wait();
      REQUIRE(last.finish_reason == FinishReason::kLength);
      REQUIRE(last.cached_tokens < static_cast<int32_t>(talk->size()));
      const std::vector<int32_t> answer = sink->token_ids();
      REQUIRE(answer == model.expected_greedy(*talk, 40));
      talk->insert(talk->end(), answer.begin(), answer.end());
    }
  }
  const EngineStats stats = engine.stats();
  CHECK(stats.restored_tokens > 0);
  CHECK(stats.restored_tokens <= stats.cached_tokens);
  CHECK(stats.kv_disk_failures == 0);
  CHECK(stats.kv_disk_size_bytes <= stats.kv_disk_limit_bytes);
  CHECK(model.violations() == std::vector<std::string>{});
}

TEST_CASE("whatever is kept and lost, every answer is its own", "[engine]") {
  const test::TempDir dir;
  for (const Life& life : {
           Life{.seed = 0, .disk_pages = 10'000},
           Life{.seed = 1, .host_pages = 20, .disk_pages = 10'000},
           Life{.seed = 2, .disk_pages = 10'000, .prefill_chunk_tokens = 100},
           Life{.seed = 3, .host_pages = 20, .prefill_chunk_tokens = 100},
           Life{.seed = 4, .disk_pages = 40},
           // Host memory is full, and much of what it holds is not in the folder any more.
           Life{.seed = 5,
           .host_pages = 256,
           .disk_pages = 40,
           .num_turns = 400,
           .turns_a_reset = 1000,
           .turns_a_sleep = 100},
       }) {
    INFO("seed " << life.seed);
    live(life, dir.path());
  }
}

}  // namespace
}  // namespace tandem::tests
