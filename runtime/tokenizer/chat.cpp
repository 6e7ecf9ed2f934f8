#include "runtime/tokenizer/chat.h"

#include <algorithm>
#include <unordered_map>

namespace tandem {
namespace {

constexpr std::string_view kDefaultSystemPrompt =
    "You are Kimi, an AI assistant created by Moonshot AI.";

// Builds both views. Ordinary text between two markers is encoded as one run, as if the whole
// prompt had been one string (spec §4.5), but with specials off: what a user types stays text.
class PromptWriter {
 public:
  PromptWriter(const Tokenizer& tokenizer, RenderedPrompt& prompt)
      : tokenizer_(tokenizer), prompt_(prompt) {}

  void text(std::string_view text) {
    run_ += text;
    prompt_.text += text;
  }

  // A vocabulary without this marker gets its literal text.
  void marker(int32_t id, std::string_view literal) {
    if (id < 0) return text(literal);
    flush();
    prompt_.ids.push_back(id);
    prompt_.text += literal;
  }

  void flush() {
    if (run_.empty()) return;
    tokenizer_.encode_append(run_, Tokenizer::Specials::kAsText, prompt_.ids);
    run_.clear();
  }

 private:
  const Tokenizer& tokenizer_;
  RenderedPrompt& prompt_;
  std::string run_;
};

// The prompt's ids of all calls and results of the history (serving/spec.md §1.3): calls are
// numbered over the whole conversation, results follow their call.
class CallIds {
 public:
  explicit CallIds(const std::vector<ChatMessage>& messages) {
    result_ids_.resize(messages.size());
    for (size_t message_idx = 0; message_idx < messages.size();) {
      if (messages[message_idx].role != "tool") {
        number_calls(messages[message_idx++]);
        continue;
      }
      size_t block_end = message_idx;
      while (block_end < messages.size() && messages[block_end].role == "tool") ++block_end;
      match_results(messages, message_idx, block_end);
      message_idx = block_end;
    }
  }

  [[nodiscard]] int32_t num_calls() const { return static_cast<int32_t>(calls_.size()); }
  [[nodiscard]] const std::string& call_id(size_t call_idx) const {
    return calls_[call_idx].prompt_id;
  }
  [[nodiscard]] const std::string& result_id(size_t message_idx) const {
    return result_ids_[message_idx];
  }

 private:
  struct Call {
    std::string prompt_id;
    bool is_answered = false;
  };

  void number_calls(const ChatMessage& message) {
    if (message.role != "assistant" || message.tool_calls.empty()) return;
    turn_begin_ = calls_.size();
    for (const ToolCall& call : message.tool_calls) {
      std::vector<size_t>& same_id = calls_by_client_id_[call.id];
      // A later turn that uses an id again takes it over; within a turn the calls share it.
      if (!same_id.empty() && same_id.front() < turn_begin_) same_id.clear();
      same_id.push_back(calls_.size());
      calls_.push_back({"functions." + call.name + ":" + std::to_string(calls_.size()), false});
    }
  }

  // Results by id first, then the rest by position: the unanswered calls of the last turn in order.
  void match_results(const std::vector<ChatMessage>& messages, size_t begin, size_t end) {
    std::vector<size_t> unmatched;
    for (size_t message_idx = begin; message_idx < end; ++message_idx) {
      const std::string& client_id = messages[message_idx].tool_call_id;
      const auto entry = calls_by_client_id_.find(client_id);
      if (client_id.empty() || entry == calls_by_client_id_.end()) {
        unmatched.push_back(message_idx);
        continue;
      }
      size_t call_idx = entry->second.back();
      for (const size_t candidate : entry->second) {
        if (calls_[candidate].is_answered) continue;
        call_idx = candidate;
        break;
      }
      answer(call_idx, message_idx);
    }
    size_t call_idx = turn_begin_;
    for (const size_t message_idx : unmatched) {
      while (call_idx < calls_.size() && calls_[call_idx].is_answered) ++call_idx;
      if (call_idx < calls_.size()) {
        answer(call_idx, message_idx);
      } else {
        result_ids_[message_idx] = orphan_id(messages[message_idx]);
      }
    }
  }

  void answer(size_t call_idx, size_t message_idx) {
    calls_[call_idx].is_answered = true;
    result_ids_[message_idx] = calls_[call_idx].prompt_id;
  }

  // A result without a call (the client cut the history): its own id, as the template does.
  [[nodiscard]] std::string orphan_id(const ChatMessage& message) const {
    if (!message.tool_call_id.empty()) return message.tool_call_id;
    return "functions." + message.name.value_or("unknown") + ":" + std::to_string(calls_.size());
  }

  std::vector<Call> calls_;
  std::unordered_map<std::string, std::vector<size_t>> calls_by_client_id_;
  std::vector<std::string> result_ids_;  // by message; "" unless it is a tool's
  size_t turn_begin_ = 0;                // first call of the last turn that had any
};

// Index of the last assistant message without calls; reasoning up to it is dropped (spec §5.2, 3).
int64_t last_plain_answer(const ChatPrompt& prompt) {
  if (prompt.preserve_thinking) return -1;
  // A message that is still being written is no answer yet.
  const int64_t num_complete =
      std::ssize(prompt.messages) - (prompt.continue_final_message ? 1 : 0);
  for (int64_t idx = num_complete - 1; idx >= 0; --idx) {
    const ChatMessage& message = prompt.messages[static_cast<size_t>(idx)];
    if (message.role == "assistant" && message.tool_calls.empty()) return idx;
  }
  return -1;
}

// <|im_ROLE|>name<|im_middle|>
void write_opener(const SpecialTokens& ids,
                  std::string_view role,
                  std::string_view name,
                  PromptWriter& writer) {
  if (role == "user") {
    writer.marker(ids.im_user, "<|im_user|>");
  } else if (role == "assistant") {
    writer.marker(ids.im_assistant, "<|im_assistant|>");
  } else {
    writer.marker(ids.im_system, "<|im_system|>");
  }
  writer.text(name);
  writer.marker(ids.im_middle, "<|im_middle|>");
}

void write_system_block(const SpecialTokens& ids,
                        std::string_view name,
                        std::string_view content,
                        PromptWriter& writer) {
  write_opener(ids, "system", name, writer);
  writer.text(content);
  writer.marker(ids.im_end, "<|im_end|>");
}

void write_calls(const SpecialTokens& ids,
                 const std::vector<ToolCall>& calls,
                 const CallIds& call_ids,
                 size_t first_call_idx,
                 PromptWriter& writer) {
  writer.marker(ids.tool_calls_section_begin, "<|tool_calls_section_begin|>");
  for (size_t idx = 0; idx < calls.size(); ++idx) {
    writer.marker(ids.tool_call_begin, "<|tool_call_begin|>");
    writer.text(call_ids.call_id(first_call_idx + idx));
    writer.marker(ids.tool_call_argument_begin, "<|tool_call_argument_begin|>");
    writer.text(calls[idx].arguments.empty() ? "{}" : std::string_view(calls[idx].arguments));
    writer.marker(ids.tool_call_end, "<|tool_call_end|>");
  }
  writer.marker(ids.tool_calls_section_end, "<|tool_calls_section_end|>");
}

}  // namespace

bool continues_thinking(const ChatPrompt& prompt) {
  if (!prompt.continue_final_message || prompt.messages.empty()) return false;
  const ChatMessage& last = prompt.messages.back();
  return last.content.empty() && !last.reasoning_content.empty();
}

RenderedPrompt render_chat(const Tokenizer& tokenizer, const ChatPrompt& prompt) {
  RenderedPrompt rendered;
  PromptWriter writer(tokenizer, rendered);
  const SpecialTokens& ids = tokenizer.specials();
  const CallIds call_ids(prompt.messages);
  const int64_t last_history_idx = last_plain_answer(prompt);
  rendered.num_tool_calls = call_ids.num_calls();

  if (!prompt.tools_json.empty() && prompt.tools_json != "[]") {
    write_system_block(ids, "tool_declare", prompt.tools_json, writer);
  }
  if (prompt.messages.empty() || prompt.messages[0].role != "system") {
    write_system_block(ids, "system", kDefaultSystemPrompt, writer);
  }
  size_t call_idx = 0;
  for (size_t message_idx = 0; message_idx < prompt.messages.size(); ++message_idx) {
    const ChatMessage& message = prompt.messages[message_idx];
    const bool stays_open =
        prompt.continue_final_message && message_idx + 1 == prompt.messages.size();
    const bool has_name = message.name.has_value() && !message.name->empty();
    write_opener(ids, message.role, has_name ? *message.name : message.role, writer);
    if (message.role == "assistant") {
      writer.marker(ids.think_begin, "<think>");
      if (static_cast<int64_t>(message_idx) > last_history_idx) {
        writer.text(message.reasoning_content);
      }
      if (!stays_open || !continues_thinking(prompt)) writer.marker(ids.think_end, "</think>");
    } else if (message.role == "tool") {
      writer.text("## Return of " + call_ids.result_id(message_idx) + "\n");
    }
    writer.text(message.content);
    if (message.role == "assistant" && !message.tool_calls.empty()) {
      write_calls(ids, message.tool_calls, call_ids, call_idx, writer);
      call_idx += message.tool_calls.size();
    }
    if (!stays_open) writer.marker(ids.im_end, "<|im_end|>");
  }
  const bool opens_answer = prompt.add_generation_prompt && !prompt.continue_final_message;
  if (opens_answer) write_opener(ids, "assistant", "assistant", writer);
  writer.flush();
  return rendered;
}

}  // namespace tandem
