// POST /v1/responses: the answer as items, in events or in one response object. Which event or
// field breaks which client: serving/clients.md.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/block_exchange.h"
#include "server/responses/responses_request.h"

namespace tandem::server {

Result<std::unique_ptr<Exchange>, ApiError> open_response(std::string_view body,
                                                          const ServedModel& model);

class ResponsesExchange : public BlockExchange {
 public:
  ResponsesExchange(PreparedChat chat,
                    const ServedModel& model,
                    ResponseTools tools,
                    std::string echo_json);

  void append_stream_end(std::string& frames) override;
  [[nodiscard]] std::string body() const override;

 private:
  enum class Status { kInProgress, kCompleted, kIncomplete, kFailed };

  void begin_answer(std::string& frames) override;
  void begin_block(const AnswerBlock& block, std::string& frames) override;
  void add_piece(const AnswerBlock& block, std::string_view piece, std::string& frames) override;
  void end_block(const AnswerBlock& block, std::string& frames) override;
  void end_answer(std::string& frames) override;

  [[nodiscard]] size_t item_idx() const { return blocks().size() - 1; }
  [[nodiscard]] Status final_status() const;
  // An item that is not whole: the last of an answer that is not.
  [[nodiscard]] bool is_cut(size_t item_idx) const;
  [[nodiscard]] std::string_view item_status(size_t item_idx, bool done) const;
  // What the client's own tool gets; of a call that was cut what there is.
  [[nodiscard]] std::string custom_input(size_t item_idx) const;
  [[nodiscard]] std::string response_json(Status status) const;
  [[nodiscard]] std::string item_json(size_t item_idx, bool done) const;
  [[nodiscard]] std::string call_json(size_t item_idx, bool done) const;

  // Events of one kind differ in `members`: JSON members behind type and sequence number, or "".
  void append_event(std::string& frames, std::string_view type, std::string_view members);
  void append_response_event(std::string& frames, std::string_view type, Status status);
  void append_item_event(std::string& frames, std::string_view type, std::string_view members);

  ResponseTools tools_;
  std::string echo_json_;
  int64_t created_unix_s_ = 0;
  std::vector<std::string> item_ids_;  // of blocks()
  int64_t num_events_ = 0;
};

}  // namespace tandem::server
