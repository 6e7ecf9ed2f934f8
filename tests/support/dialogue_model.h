// A ForwardModel without weights that plays given answers over any vocabulary, so that server and
// clients can be tried on any answer. It remembers tokens in its pages as a real model does: what
// it says next follows from the pages that it is shown, under any batching, chunking and caching.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/forward_model.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem::tests {

struct ScriptedAnswer {
  std::string when;              // part of the last message's text; "" for any
  std::vector<int32_t> say_ids;  // <|im_end|> follows
  int32_t tokens_per_step = 1;   // come without a pause between them, as from speculative decoding
  bool repeat = false;           // from the start again, without end
  std::optional<uint64_t> random_seed;  // random logits instead of say_ids
};

struct DialogueLimits {
  int32_t num_kv_pages = 4096;
  int32_t max_batch_tokens = 4096;
  int32_t max_logit_rows = 256;
  int32_t max_context_tokens = 32768;
};

// The first answer that fits is played; none: the turn ends at once. A prompt without an assistant
// header (plain completions) is one message. Where a token was forced on the model (a marker that
// its script has later), it goes on behind that marker.
class DialogueModel : public ForwardModel {
 public:
  // `tokenizer` outlives the model.
  DialogueModel(const Tokenizer& tokenizer,
                std::vector<ScriptedAnswer> answers,
                const DialogueLimits& limits);

  void forward(const Batch& batch, MatrixView<float> logits) override;
  // Pages come back empty. A step meanwhile throws.
  void release_memory(const ModelMemory& what) override;
  void restore_memory(const ModelMemory& what, const ProgressFn& progress) override;
  [[nodiscard]] ModelMemory released() const;
  void fail_next_restore() { restore_fails_ = true; }

  [[nodiscard]] int32_t vocab_size() const override { return tokenizer_.vocab_size(); }
  [[nodiscard]] int32_t num_kv_pages() const override { return limits_.num_kv_pages; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return limits_.max_batch_tokens; }
  [[nodiscard]] int32_t max_logit_rows() const override { return limits_.max_logit_rows; }
  [[nodiscard]] int32_t max_context_tokens() const override { return limits_.max_context_tokens; }

  // Every step takes this long, but for those inside a burst of tokens_per_step.
  void set_step_time(std::chrono::microseconds time) { step_time_us_ = time.count(); }
  void hold();     // the next step or restore waits...
  void release();  // ...until here
  void fail_next_step() { fails_ = true; }

 private:
  // A token in its page, and where the dialogue stands behind it.
  struct Cell {
    enum class Place : int8_t { kPrompt, kAssistantName, kAnswer };
    int32_t token_id = -1;
    int32_t answer_idx = -1;  // of the answer being played; -1: not chosen yet
    int32_t num_said = 0;     // of its tokens
    Place place = Place::kPrompt;
  };

  void wait_for_step();
  void pause(const Batch& batch);
  void append_tokens(const Batch& batch, const BatchItem& item);
  [[nodiscard]] Cell following(const Cell& before, int32_t token_id) const;
  void begin_answer(const BatchItem& item, int32_t position);
  [[nodiscard]] int32_t choose_answer(const BatchItem& item, int32_t position) const;
  void write_logits(const Cell& cell, int32_t position, std::span<float> logits) const;
  Cell& cell_at(const BatchItem& item, int32_t position);
  [[nodiscard]] const Cell& cell_at(const BatchItem& item, int32_t position) const;

  const Tokenizer& tokenizer_;
  const std::vector<ScriptedAnswer> answers_;
  const DialogueLimits limits_;
  const int32_t fallback_id_;  // what is sampled when the script's token is forbidden
  std::vector<Cell> cells_;    // [num_kv_pages, 64]: all that this model remembers
  std::atomic<int64_t> step_time_us_{0};
  std::atomic<bool> fails_{false};
  std::atomic<bool> restore_fails_{false};
  mutable std::mutex mutex_;
  ModelMemory given_back_;
  std::condition_variable released_;
  bool held_ = false;
};

}  // namespace tandem::tests
