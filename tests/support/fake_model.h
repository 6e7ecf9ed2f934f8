// ForwardModels for tests of everything above the arithmetic.
//
// HashModel: the logits of a token are a deterministic hash of the whole history, read back THROUGH
// the page tables (pages hold tokens, and the model writes them there), so that a wrong page gives
// wrong tokens. Besides, every read is checked: a context token that was never written, is poisoned
// or belongs to another history, two sequences writing one page, logit rows out of order, limits
// exceeded: each counts in violations().
// expected_greedy() says what a greedy engine must generate for a prompt, with no pages at all.
//
// AnswerModel: plays answers. The prompt is everything up to and including the last occurrence of
// `generation_prompt`; what follows is the answer so far. `script(prompt)` gives the whole answer's
// tokens; each has a logit of 30 (all others 0), after the last one it is `end_token_id`'s turn.
// At temperature <= 1 and some 100,000 tokens the script is left with probability < 1e-7 a token.
//
//   AnswerModel model({.vocab_size = n},
//       {.generation_prompt = tokenizer.encode(...), .end_token_id = im_end,
//        .script = answers_by_substring({{ids_of("weather"), answer_ids}}, default_answer_ids)});
//
// Both can be slowed down (step_delay), held (pause, hold_at_step, wait_until_held, resume),
// broken (fail_at_step) and put to sleep (release_memory): a step meanwhile is a violation, and so
// is a page copied out or back without the KV cache.
// Thread-safe where a test needs it: holding, num_steps, violations, traces, pages copied.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/forward_model.h"

namespace tandem::tests {

struct FakeModelOptions {
  int32_t vocab_size = 512;
  int32_t num_kv_pages = 64;
  int32_t max_batch_tokens = 4096;
  int32_t max_logit_rows = 64;
  int32_t max_context_tokens = 4096;
  std::chrono::microseconds step_delay{0};
  bool chooses_tokens = false;  // as a model on a card does
  int64_t fail_at_step = -1;    // forward() number fail_at_step (from 0) throws std::runtime_error
  int64_t kv_host_size_bytes = 0;
};

// What a step computed, for tests that count work.
struct StepTrace {
  int32_t num_tokens = 0;
  int32_t num_items = 0;
  int32_t num_logit_rows = 0;
  bool is_chosen = false;  // by forward_and_choose()
};

class FakeModel : public ForwardModel {
 public:
  explicit FakeModel(const FakeModelOptions& options);

  void forward(const Batch& batch, MatrixView<float> logits) final;
  [[nodiscard]] bool chooses_tokens() const override { return options_.chooses_tokens; }
  void forward_and_choose(const Batch& batch,
                          std::span<const TokenChoice> choices,
                          std::span<int32_t> token_ids) final;
  // Pages come back poisoned; what was not given back may not be taken.
  void release_memory(const ModelMemory& what) override;
  void restore_memory(const ModelMemory& what, const ProgressFn& progress) override;
  [[nodiscard]] ModelMemory released() const;
  [[nodiscard]] int64_t num_restores() const;  // that were tried
  void fail_restores(int32_t num_restores);    // so many of the next
  void fail_releases();                        // all of the next
  void hold_restores();                        // they wait, and go on telling their progress...
  void wait_until_restoring();
  void let_restores_go();  // ...until here

  // A page's bytes are its cells, history hashes included: one that comes back to another prompt's
  // place is found out by the step that reads it.
  [[nodiscard]] int64_t kv_page_size_bytes() const override;
  void read_kv_pages(std::span<const KvPageBytes> pages) override;
  void write_kv_pages(std::span<const KvPageBytes> pages) override;
  [[nodiscard]] std::string kv_identity() const override { return "fake"; }
  [[nodiscard]] int64_t kv_host_size_bytes() const override { return options_.kv_host_size_bytes; }
  [[nodiscard]] int64_t num_kv_pages_read() const;
  [[nodiscard]] int64_t num_kv_pages_written() const;

  [[nodiscard]] int32_t vocab_size() const override { return options_.vocab_size; }
  [[nodiscard]] int32_t num_kv_pages() const override { return options_.num_kv_pages; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return options_.max_batch_tokens; }
  [[nodiscard]] int32_t max_logit_rows() const override { return options_.max_logit_rows; }
  [[nodiscard]] int32_t max_context_tokens() const override { return options_.max_context_tokens; }

  // The next forward(), or the one numbered step_idx (from 0), stops before it computes, until
  // resume().
  void pause() { hold_at_step(0); }
  void hold_at_step(int64_t step_idx);
  void resume();
  void wait_until_held();  // until a forward() is being held

  [[nodiscard]] int64_t num_steps() const;
  [[nodiscard]] std::vector<StepTrace> traces() const;
  [[nodiscard]] std::vector<std::string> violations() const;  // must stay empty

 protected:
  // logits [vocab_size] of the last token of `history`, which was read through the pages.
  virtual void logits_of(std::span<const int32_t> history, std::span<float> logits) const = 0;

 private:
  // One token's place in a page: what was written, and the history that it ends.
  struct Cell {
    int32_t token_id = kPoison;
    int32_t position = kPoison;
    uint64_t history_hash = 0;
  };
  static constexpr int32_t kPoison = 0x7fffff00;
  static constexpr int64_t kNever = int64_t{1} << 62;

  void compute(const Batch& batch, MatrixView<float> logits, bool is_chosen);
  void enter_step();
  void check_batch(const Batch& batch, const MatrixView<float>& logits);
  void check_item(const BatchItem& item, std::vector<int32_t>& page_owners, int32_t item_idx);
  void append_tokens(const Batch& batch, const BatchItem& item);
  void read_history(const BatchItem& item, int32_t num_tokens, std::vector<int32_t>& history);
  Cell& cell_at(const BatchItem& item, int32_t position);
  // The cells [64] of the pages, in their order; empty for one that cannot be copied, a violation.
  std::vector<std::span<std::byte>> cells_of(std::span<const KvPageBytes> pages);
  void violate(const std::string& message);

  const FakeModelOptions options_;
  std::vector<Cell> cells_;  // [num_kv_pages * 64]

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t hold_from_step_ = kNever;
  int64_t held_step_ = -1;  // the step at the barrier
  std::vector<StepTrace> traces_;
  ModelMemory released_;
  int64_t num_restores_ = 0;
  int32_t num_failing_restores_ = 0;
  bool releases_fail_ = false;
  bool holds_restores_ = false;
  bool is_restoring_ = false;
  int64_t num_kv_pages_read_ = 0;
  int64_t num_kv_pages_written_ = 0;
  std::vector<std::string> violations_;
};

class HashModel final : public FakeModel {
 public:
  explicit HashModel(const FakeModelOptions& options = {}) : FakeModel(options) {}

  // The greedy continuation of `prompt_ids` by `num_tokens`.
  [[nodiscard]] std::vector<int32_t> expected_greedy(std::span<const int32_t> prompt_ids,
                                                     int32_t num_tokens) const;

 protected:
  void logits_of(std::span<const int32_t> history, std::span<float> logits) const override;
};

using ScriptFn = std::function<std::vector<int32_t>(std::span<const int32_t> prompt_ids)>;

// The answer whose key occurs in the prompt, latest wins (the last user message rather than
// history); `otherwise` when none does.
ScriptFn answers_by_substring(
    std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> answers,
    std::vector<int32_t> otherwise);

struct PlayedAnswers {
  std::vector<int32_t> generation_prompt;  // not empty; must not occur in an answer
  int32_t end_token_id = 0;
  ScriptFn script;  // called on the engine thread
};

class AnswerModel final : public FakeModel {
 public:
  AnswerModel(const FakeModelOptions& options, PlayedAnswers script)
      : FakeModel(options), script_(std::move(script)) {}

 protected:
  void logits_of(std::span<const int32_t> history, std::span<float> logits) const override;

 private:
  PlayedAnswers script_;
};

}  // namespace tandem::tests
