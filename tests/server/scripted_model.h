// A ForwardModel that plays given answers over a vocabulary of single bytes: what the server is
// tried on, with no weights.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/model/forward_model.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem::tests {

// 256 single bytes, then 256 added tokens with the names of model/spec.md §4.4.
const Tokenizer& byte_tokenizer();

struct Script {
  std::string when;     // part of the last message; "" for any
  std::string say;      // text with markers; <|im_end|> follows
  bool repeat = false;  // from the start again, without end
};

class ScriptedModel : public ForwardModel {
 public:
  // The first script that fits is played.
  ScriptedModel(std::vector<Script> scripts, int32_t num_kv_pages, int32_t max_context_tokens);

  void forward(const Batch& batch, MatrixView<float> logits) override;
  [[nodiscard]] int32_t vocab_size() const override;
  [[nodiscard]] int32_t num_kv_pages() const override { return num_kv_pages_; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 4096; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 128; }
  [[nodiscard]] int32_t max_context_tokens() const override { return max_context_tokens_; }

  void set_step_time(std::chrono::microseconds time) { step_time_us_ = time.count(); }
  void hold();     // the next step waits...
  void release();  // ...until here
  void fail_next_step() { fails_ = true; }

 private:
  [[nodiscard]] int32_t next_token(const BatchItem& item, int32_t position) const;

  std::vector<Script> scripts_;
  std::vector<std::vector<int32_t>> script_ids_;
  int32_t num_kv_pages_;
  int32_t max_context_tokens_;
  std::vector<int32_t> kv_;  // token ids [num_kv_pages, 64]: all that this model remembers
  std::atomic<int64_t> step_time_us_{0};
  std::atomic<bool> fails_{false};
  std::mutex mutex_;
  std::condition_variable released_;
  bool held_ = false;
};

}  // namespace tandem::tests
