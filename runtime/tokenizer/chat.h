// A conversation as the chat format sees it, and its rendering to token ids (model/spec.md §5.2,
// serving/spec.md §1.2-1.3).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

struct ToolCall {
  std::string id{};  // as the client knows it; rewritten to functions.NAME:IDX in the prompt
  std::string name{};
  std::string arguments{};  // JSON text, inserted verbatim
};

struct ChatMessage {
  // system, user, assistant, tool (developer is mapped to system by the caller).
  std::string role{};
  std::optional<std::string> name{};
  std::string content{};            // text parts already joined; null is ""
  std::string reasoning_content{};  // assistant only
  std::vector<ToolCall> tool_calls{};
  std::string tool_call_id{};  // tool only
};

// A declared function, for the parser's inference of unnamed calls and for tool_choice.
struct ToolDeclaration {
  std::string name{};
  std::string parameters_json{};  // JSON Schema, "" when absent
  bool is_strict = false;         // a schema that cannot be enforced in full is an error

  bool operator==(const ToolDeclaration&) const = default;
};

struct ChatPrompt {
  std::vector<ChatMessage> messages{};
  // The compact, recursively key-sorted JSON of the tool list; "" or "[]" for none.
  std::string tools_json{};
  bool add_generation_prompt = true;
  // The last message, an assistant's without calls, stays open: the answer goes on behind it,
  // inside its thinking when it has no content yet. No generation prompt then.
  bool continue_final_message = false;
  bool preserve_thinking = false;  // render reasoning of every turn (off: the official template)
};

// Whether what is generated begins inside the thinking of the message that it goes on with.
bool continues_thinking(const ChatPrompt& prompt);

// The prompt in two views of one rendering. In `ids` content never contains specials (a typed
// marker stays text).
struct RenderedPrompt {
  std::vector<int32_t> ids{};
  std::string text{};
  int32_t num_tool_calls = 0;  // calls in the history: the next call's index
};
RenderedPrompt render_chat(const Tokenizer& tokenizer, const ChatPrompt& prompt);

// Compact JSON with recursively sorted keys, non-ASCII kept raw: what tool_declare holds. Throws
// std::invalid_argument on bad JSON.
std::string canonical_tools_json(std::string_view tools_json);

// JSON with `, ` and `: ` and its keys as they stand, non-ASCII raw: how the model writes the
// arguments of its calls. Throws std::invalid_argument on bad JSON.
std::string spaced_json(std::string_view text);

}  // namespace tandem
