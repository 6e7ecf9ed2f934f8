// One streamed answer of /v1/chat/completions: server-sent events in, what a reader sees out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace tandem::cli {

struct ChatDelta {
  std::string reasoning;
  std::string content;
  std::string tool_call;  // "name " at the beginning of a call, then pieces of its arguments
};

struct ChatAnswer {
  std::string reasoning;
  std::string content;
  std::string finish_reason;
  std::string error;  // of an error event, or of a line that is no JSON
  int64_t prompt_tokens = -1;
  int64_t completion_tokens = -1;
  int64_t reasoning_tokens = -1;
  bool done = false;  // [DONE] was seen
};

class ChatStream {
 public:
  using OnDelta = std::function<void(const ChatDelta&)>;
  explicit ChatStream(OnDelta on_delta);

  void push(std::string_view bytes);  // any cut of the stream
  [[nodiscard]] const ChatAnswer& answer() const { return answer_; }

 private:
  void take_line(std::string_view line);
  void take_event(std::string_view json_text);

  OnDelta on_delta_;
  ChatAnswer answer_;
  std::string pending_;
};

// The message of an OpenAI error body, or the body itself, shortened, when it is none.
std::string error_message(std::string_view body);

}  // namespace tandem::cli
