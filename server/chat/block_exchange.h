// A chat of one choice for dialects whose answer is a list of blocks: what arrives is put into
// reasoning, text and tool-call blocks, each begun and ended once and none inside another.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/chat_exchange.h"

namespace tandem::server {

struct AnswerBlock {
  enum class Kind { kReasoning, kText, kToolCall };
  Kind kind = Kind::kText;
  std::string text;       // of a call: its arguments
  std::string call_id;    // kToolCall
  std::string call_name;  // kToolCall
};

class BlockExchange : public ChatExchange {
 protected:
  // Without `shows_reasoning` the model thinks, but no block says so.
  BlockExchange(PreparedChat chat,
                const ServedModel& model,
                std::string_view id_prefix,
                bool shows_reasoning);

  // In the order of the answer; `block` is blocks().back(). Called whether or not it streams.
  virtual void begin_answer(std::string& frames) = 0;
  virtual void begin_block(const AnswerBlock& block, std::string& frames) = 0;
  virtual void add_piece(const AnswerBlock& block, std::string_view piece, std::string& frames) = 0;
  virtual void end_block(const AnswerBlock& block, std::string& frames) = 0;
  virtual void end_answer(std::string& frames) = 0;

  [[nodiscard]] const std::vector<AnswerBlock>& blocks() const { return blocks_; }
  // All blocks of the answer have come; the last may be about to end.
  [[nodiscard]] bool has_all_blocks() const { return has_all_blocks_; }
  [[nodiscard]] ChatChoice::End end() const { return choice(0).end(); }
  [[nodiscard]] bool shows_reasoning() const { return shows_reasoning_; }

 private:
  void on_begin(int32_t choice_idx, std::string& frames) override;
  void on_deltas(int32_t choice_idx,
                 std::span<const AssistantDelta> deltas,
                 std::string& frames) override;
  void on_end(int32_t choice_idx, std::string& frames) override;
  void begin(AnswerBlock block, std::string& frames);
  void finish_block(std::string& frames);

  bool shows_reasoning_;
  bool in_block_ = false;
  bool has_all_blocks_ = false;
  std::vector<AnswerBlock> blocks_;
};

}  // namespace tandem::server
