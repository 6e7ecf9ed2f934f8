// A step in steady state takes no memory: the global allocator is counted.
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstdlib>
#include <memory>
#include <new>

#include "runtime/engine/step_loop.h"
#include "runtime/kv_store/page_folder.h"
#include "tests/runtime/engine/engine_fixture.h"
#include "tests/runtime/model/temp_dir.h"

namespace {
thread_local int64_t num_allocations = 0;
}  // namespace

void* operator new(std::size_t size_bytes) {
  ++num_allocations;
  if (void* memory = std::malloc(size_bytes == 0 ? 1 : size_bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace tandem::tests {
namespace {

// Cheap logits and no memory of its own.
class PlainModel final : public ForwardModel {
 public:
  void forward(const Batch& batch, MatrixView<float> logits) override {
    for (int64_t row_idx = 0; row_idx < logits.rows; ++row_idx) {
      uint32_t state = static_cast<uint32_t>(batch.token_ids[batch.logit_token_idx[row_idx]]) + 1;
      for (float& logit : logits.row(row_idx)) {
        state = state * 1664525u + 1013904223u;
        logit = static_cast<float>(state >> 8) * 0x1p-22f;
      }
    }
  }
  [[nodiscard]] int64_t kv_page_size_bytes() const override { return page_size_bytes; }
  [[nodiscard]] int32_t vocab_size() const override { return 5000; }
  [[nodiscard]] int32_t num_kv_pages() const override { return 200; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 1024; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 16; }
  [[nodiscard]] int32_t max_context_tokens() const override { return 4096; }

  int64_t page_size_bytes = 0;  // 0: none is kept
};

class CountingSink final : public TokenSink {
 public:
  bool push(TokenEvent event) noexcept override {
    num_tokens += event.kind == TokenEvent::Kind::kToken ? 1 : 0;
    return true;
  }
  int64_t num_tokens = 0;
};

TEST_CASE("decode steps allocate nothing within their pages", "[engine]") {
  PlainModel model;
  const test::TempDir dir;
  EngineOptions options;
  if (GENERATE(false, true)) {
    model.page_size_bytes = 64;
    options.kv_folder = PageFolder::open({.dir = dir.path(), .max_size_bytes = 1 << 20});
  }
  std::atomic<int32_t> num_written = 0;
  StepLoop steps(model, options, [&] {
    ++num_written;
    num_written.notify_one();
  });
  const auto sink = std::make_shared<CountingSink>();
  for (uint32_t request_idx = 0; request_idx < 8; ++request_idx) {
    GenerationRequest request = greedy_request(make_prompt(request_idx, 70, 5000), 1000, sink);
    // Greedy, plain, and every filter.
    if (request_idx % 4 != 0) request.sampling.temperature = 1.0f;
    if (request_idx % 4 == 2) request.sampling.top_p = 0.9f;
    if (request_idx % 4 == 3) request.sampling.top_k = 40;
    if (request_idx >= 4) request.sampling.min_p = 0.01f;
    request.stop_token_ids = {1};
    request.ignore_eos = true;
    steps.add(std::make_unique<ActiveRequest>(request_idx, request_idx, std::move(request)));
  }
  for (int step_idx = 0; step_idx < 10; ++step_idx) steps.step();
  if (options.kv_folder != nullptr) {  // the first page of every prompt goes there
    for (int32_t num = 0; num < 8; num = num_written) num_written.wait(num);
  }
  steps.step();
  // 70 prompt tokens and eleven more: 40 steps stay within the second page.
  const int64_t num_before = num_allocations;
  const int64_t num_tokens_before = sink->num_tokens;
  REQUIRE(num_before > 0);  // the counter counts
  for (int step_idx = 0; step_idx < 40; ++step_idx) steps.step();
  CHECK(num_allocations == num_before);
  CHECK(sink->num_tokens == num_tokens_before + 8 * 40);
}

}  // namespace
}  // namespace tandem::tests
