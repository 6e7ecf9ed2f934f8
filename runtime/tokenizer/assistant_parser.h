// From generated token ids to reasoning, content and tool calls: markers are told by id
// (serving/spec.md §1.6, 1.9, 2.1).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/chat.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

// One piece of the visible answer; exactly one of the kinds.
struct AssistantDelta {
  enum class Kind { kReasoning, kContent, kToolCallBegin, kToolCallArguments };
  Kind kind = Kind::kContent;
  std::string text;       // reasoning, content or a piece of arguments, whole UTF-8
  int32_t call_idx = -1;  // dense from 0
  std::string call_id;    // kToolCallBegin: functions.NAME:IDX
  std::string call_name;  // kToolCallBegin
};

struct AssistantParserOptions {
  bool starts_in_reasoning = false;    // the rendered prompt ended with <think> (K2.5)
  int32_t num_history_tool_calls = 0;  // index of the next call
  std::vector<ToolDeclaration> tools;  // for ids that name no function
  std::vector<std::string> stop;  // matched in content only; text from the match on is not emitted
  bool include_stop_in_output = false;
  bool parse_tool_calls = true;  // false for plain completions: everything is content
  bool parse_reasoning = true;
};

class AssistantParser {
 public:
  AssistantParser(const Tokenizer& tokenizer, AssistantParserOptions options);

  // Feeds one generated token; deltas that can be shown now are appended to `out`.
  void push(int32_t token_id, std::vector<AssistantDelta>& out);
  // End of generation: flushes held-back text and an unclosed call.
  void finish(std::vector<AssistantDelta>& out);

  [[nodiscard]] bool stopped() const;  // a stop string was met: generation should end
  [[nodiscard]] const std::optional<std::string>& matched_stop() const;
  [[nodiscard]] int32_t num_tool_calls() const;  // emitted so far
  [[nodiscard]] bool in_unclosed_call() const;
  [[nodiscard]] int32_t reasoning_tokens()
      const;  // generated inside the thinking part, markers included

 private:
  const Tokenizer& tokenizer_;
  AssistantParserOptions options_;
};

}  // namespace tandem
