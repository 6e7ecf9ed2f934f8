// POST /v1/messages: the answer as Anthropic's content blocks, in events or in one body
// (serving/spec.md §4.6; which field breaks which client: serving/clients.md).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/chat/block_exchange.h"

namespace tandem::server {

Result<std::unique_ptr<Exchange>, ApiError> open_messages(std::string_view body,
                                                          const ServedModel& model);

// POST /v1/messages/count_tokens: {"input_tokens": N}, exactly what a request would be billed.
Result<std::string, ApiError> count_tokens_json(std::string_view body, const ServedModel& model);

class MessagesExchange : public BlockExchange {
 public:
  MessagesExchange(PreparedChat chat, const ServedModel& model, bool shows_thinking);

  void append_stream_end(std::string& frames) override;
  [[nodiscard]] std::string body() const override;

 private:
  void begin_answer(std::string& frames) override;
  void begin_block(const AnswerBlock& block, std::string& frames) override;
  void add_piece(const AnswerBlock& block, std::string_view piece, std::string& frames) override;
  void end_block(const AnswerBlock& block, std::string& frames) override;
  void end_answer(std::string& frames) override;
  [[nodiscard]] size_t block_idx() const { return blocks().size() - 1; }
};

}  // namespace tandem::server
