#include "server/chat/block_exchange.h"

#include <utility>

namespace tandem::server {
namespace {

AnswerBlock::Kind kind_of(const AssistantDelta& delta) {
  switch (delta.kind) {
    case AssistantDelta::Kind::kReasoning:
      return AnswerBlock::Kind::kReasoning;
    case AssistantDelta::Kind::kContent:
      return AnswerBlock::Kind::kText;
    case AssistantDelta::Kind::kToolCallBegin:
    case AssistantDelta::Kind::kToolCallArguments:
      break;
  }
  return AnswerBlock::Kind::kToolCall;
}

}  // namespace

BlockExchange::BlockExchange(PreparedChat chat,
                             const ServedModel& model,
                             std::string_view id_prefix,
                             bool shows_reasoning)
    : ChatExchange(std::move(chat), model, id_prefix), shows_reasoning_(shows_reasoning) {}

void BlockExchange::on_begin(int32_t /*choice_idx*/, std::string& frames) { begin_answer(frames); }

void BlockExchange::on_deltas(int32_t /*choice_idx*/,
                              std::span<const AssistantDelta> deltas,
                              std::string& frames) {
  for (const AssistantDelta& delta : deltas) {
    const AnswerBlock::Kind kind = kind_of(delta);
    if (kind == AnswerBlock::Kind::kReasoning && !shows_reasoning_) continue;
    if (delta.kind == AssistantDelta::Kind::kToolCallBegin) {
      begin({kind, "", delta.call_id, delta.call_name}, frames);
      continue;
    }
    if (delta.text.empty()) continue;  // a thinking part without text makes no block
    if (!in_block_ || blocks_.back().kind != kind) begin({kind, "", "", ""}, frames);
    blocks_.back().text += delta.text;
    add_piece(blocks_.back(), delta.text, frames);
  }
}

void BlockExchange::on_end(int32_t /*choice_idx*/, std::string& frames) {
  has_all_blocks_ = true;
  finish_block(frames);
  end_answer(frames);
}

void BlockExchange::begin(AnswerBlock block, std::string& frames) {
  finish_block(frames);
  blocks_.push_back(std::move(block));
  in_block_ = true;
  begin_block(blocks_.back(), frames);
}

void BlockExchange::finish_block(std::string& frames) {
  if (std::exchange(in_block_, false)) end_block(blocks_.back(), frames);
}

}  // namespace tandem::server
