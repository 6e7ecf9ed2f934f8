// From generated token ids to reasoning, content and tool calls: markers are told by id
// (serving/spec.md §1.6, 1.9, 2.1).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/utf8.h"
#include "runtime/tokenizer/chat.h"
#include "runtime/tokenizer/stop_scanner.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

// One piece of the visible answer; exactly one of the kinds. Texts are never empty, but for one
// kReasoning that stands for a thinking part without text (<think></think>).
struct AssistantDelta {
  enum class Kind { kReasoning, kContent, kToolCallBegin, kToolCallArguments };
  Kind kind = Kind::kContent;
  std::string text{};       // reasoning, content or a piece of arguments, whole UTF-8
  int32_t call_idx = -1;    // dense from 0
  std::string call_id{};    // kToolCallBegin: functions.NAME:IDX
  std::string call_name{};  // kToolCallBegin
  // Tokens that have come since the delta before it: those of its text, of markers ahead of it, and
  // the one that let it be shown.
  int32_t num_tokens = 0;
};

struct AssistantParserOptions {
  bool starts_in_reasoning = false;      // the rendered prompt ended with <think> (K2.5)
  int32_t num_history_tool_calls = 0;    // index of the next call
  std::vector<ToolDeclaration> tools{};  // for ids that name no function
  StopRules stop{};                      // met in content only; what follows is not emitted
  bool parse_tool_calls = true;          // false for plain completions: everything is content
  bool parse_reasoning = true;
  // Thinking and its markers are shown as content, as the model wrote them; it counts as reasoning
  // all the same, and no stop is met in it.
  bool reasoning_in_content = false;
};

// Deltas of a call that names its function are forwarded piece by piece, never re-serialised; only
// white space around the arguments is left out, and an argument text that is empty becomes `{}`.
// The call of an id that names no function (a bare counter, a client's own id) waits for its end
// when several tools are declared, and is dropped unless exactly one of them fits its arguments.
class AssistantParser {
 public:
  AssistantParser(const Tokenizer& tokenizer, AssistantParserOptions options);

  // Feeds one generated token; deltas that can be shown now are appended to `out`. Tokens after
  // stopped() are ignored.
  void push(int32_t token_id, std::vector<AssistantDelta>& out);
  // End of generation: flushes held-back text and an unclosed call.
  void finish(std::vector<AssistantDelta>& out);

  // A stop was met, or cannot be looked for: generation should end.
  [[nodiscard]] bool stopped() const { return stops_.stopped(); }
  [[nodiscard]] const std::optional<std::string>& matched_stop() const { return stops_.matched(); }
  [[nodiscard]] const std::string& stop_failure() const { return stops_.failure(); }
  [[nodiscard]] int32_t num_tool_calls() const;     // emitted so far
  [[nodiscard]] int32_t num_dropped_calls() const;  // named no function that could be inferred
  [[nodiscard]] bool in_unclosed_call() const;
  // Of content that has come, what no delta has shown: held back, or cut off by a stop.
  [[nodiscard]] size_t num_hidden_bytes() const {
    return stops_.num_hidden_bytes() + held_space_.size();
  }
  // Generated inside the thinking part, markers included.
  [[nodiscard]] int32_t reasoning_tokens() const;

 private:
  using Deltas = std::vector<AssistantDelta>;

  enum class State {
    kContent,    // also before <think>
    kReasoning,  // after <think>
    kSection,    // between section_begin and call_begin, and between calls: text is noise
    kCallId,     // after call_begin
    kArguments,  // after argument_begin
  };

  void parse(int32_t token_id, Deltas& out);
  bool push_marker(int32_t token_id, Deltas& out);
  bool push_tool_marker(int32_t token_id, Deltas& out);
  void push_text(std::string_view text, Deltas& out);
  void enter(State state, Deltas& out);
  void begin_arguments(Deltas& out);
  void end_call(bool is_closed, Deltas& out);
  void emit_call_begin(const std::string& name, Deltas& out);
  void emit_arguments(std::string_view text, Deltas& out);
  void emit_content(std::string_view text, Deltas& out);
  void release_content(Deltas& out);

  const Tokenizer& tokenizer_;
  AssistantParserOptions options_;

  State state_ = State::kContent;
  Utf8Stream utf8_;
  bool in_section_ = false;
  bool is_finished_ = false;

  int32_t num_untold_tokens_ = 0;  // since the last delta

  bool has_reasoning_text_ = false;  // of the current thinking part
  int32_t reasoning_tokens_ = 0;

  StopScanner stops_;
  bool after_section_ = false;  // content so far behind a section is white space only...
  std::string held_space_;      // ...and is here

  std::string call_header_;
  bool call_is_deferred_ = false;  // no name yet: arguments wait in held_arguments_
  bool call_has_arguments_ = false;
  std::string held_arguments_;
  std::string held_arguments_space_;  // trailing white space so far
  int32_t num_tool_calls_ = 0;
  int32_t num_dropped_calls_ = 0;
};

}  // namespace tandem
