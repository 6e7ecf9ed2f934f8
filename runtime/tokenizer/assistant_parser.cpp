#include "runtime/tokenizer/assistant_parser.h"

#include <algorithm>
#include <utility>

#include "runtime/tokenizer/call_header.h"

namespace tandem {
namespace {

using Kind = AssistantDelta::Kind;

constexpr std::string_view kSpace = " \t\n\v\f\r";

std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

void append_delta(Kind kind,
                  int32_t call_idx,
                  std::string_view text,
                  std::vector<AssistantDelta>& out) {
  AssistantDelta delta;
  delta.kind = kind;
  delta.call_idx = call_idx;
  delta.text = text;
  out.push_back(std::move(delta));
}

}  // namespace

AssistantParser::AssistantParser(const Tokenizer& tokenizer, AssistantParserOptions options)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      stops_(std::exchange(options_.stop, {})) {
  if (options_.starts_in_reasoning && options_.parse_reasoning) state_ = State::kReasoning;
}

int32_t AssistantParser::num_tool_calls() const { return num_tool_calls_; }
int32_t AssistantParser::num_dropped_calls() const { return num_dropped_calls_; }
int32_t AssistantParser::reasoning_tokens() const { return reasoning_tokens_; }
bool AssistantParser::in_unclosed_call() const {
  return state_ == State::kCallId || state_ == State::kArguments;
}

void AssistantParser::push(int32_t token_id, Deltas& out) {
  if (stopped() || is_finished_ || token_id < 0) return;
  const size_t num_before = out.size();
  parse(token_id, out);
  ++num_untold_tokens_;
  if (out.size() > num_before) out[num_before].num_tokens = std::exchange(num_untold_tokens_, 0);
}

void AssistantParser::parse(int32_t token_id, Deltas& out) {
  const bool was_reasoning = state_ == State::kReasoning;
  const SpecialTokens& ids = tokenizer_.specials();
  const bool is_marker = tokenizer_.is_special(token_id) && push_marker(token_id, out);
  if (!is_marker) push_text(utf8_.push(tokenizer_.token_bytes(token_id)), out);
  // A tool marker that ends the thinking part is not of it.
  const bool opened =
      options_.parse_reasoning && token_id == ids.think_begin && state_ == State::kReasoning;
  if (opened || (was_reasoning && (state_ == State::kReasoning || token_id == ids.think_end))) {
    ++reasoning_tokens_;
  }
}

void AssistantParser::finish(Deltas& out) {
  if (is_finished_) return;
  is_finished_ = true;
  if (stopped()) return;
  const size_t num_before = out.size();
  const State last_state = state_;
  if (in_unclosed_call()) {
    end_call(false, out);
  } else {
    enter(State::kContent, out);
  }
  release_content(out);
  state_ = last_state;  // in_unclosed_call() still answers
  if (out.size() > num_before) out[num_before].num_tokens = std::exchange(num_untold_tokens_, 0);
}

// False for a token that is text: a special that the options leave alone.
bool AssistantParser::push_marker(int32_t token_id, Deltas& out) {
  const SpecialTokens& ids = tokenizer_.specials();
  if (tokenizer_.is_skipped(token_id)) return true;
  if (token_id == ids.think_begin || token_id == ids.think_end) {
    if (!options_.parse_reasoning) return false;
    if (in_unclosed_call()) return false;  // inside a JSON string it is what the model writes
    if (state_ == State::kSection) return true;
    enter(token_id == ids.think_begin ? State::kReasoning : State::kContent, out);
    if (options_.reasoning_in_content)
      append_delta(Kind::kContent, -1, tokenizer_.token_bytes(token_id), out);
    return true;
  }
  return options_.parse_tool_calls && push_tool_marker(token_id, out);
}

bool AssistantParser::push_tool_marker(int32_t token_id, Deltas& out) {
  const SpecialTokens& ids = tokenizer_.specials();
  if (token_id == ids.tool_calls_section_begin) {
    enter(State::kSection, out);
    in_section_ = true;
    return true;
  }
  if (token_id == ids.tool_calls_section_end) {
    if (state_ != State::kReasoning && (in_section_ || in_unclosed_call())) {
      enter(State::kContent, out);
      in_section_ = false;
      after_section_ = true;
    }
    return true;
  }
  if (token_id == ids.tool_call_begin) {
    enter(State::kCallId, out);
    return true;
  }
  if (token_id == ids.tool_call_argument_begin) {
    if (state_ == State::kCallId) begin_arguments(out);
    return true;
  }
  if (token_id == ids.tool_call_end) {
    if (in_unclosed_call()) enter(in_section_ ? State::kSection : State::kContent, out);
    return true;
  }
  return false;
}

void AssistantParser::push_text(std::string_view text, Deltas& out) {
  if (text.empty()) return;
  switch (state_) {
    case State::kContent:
      return emit_content(text, out);
    case State::kSection:
      return;
    case State::kCallId:
      call_header_ += text;
      return;
    case State::kArguments:
      return emit_arguments(text, out);
    case State::kReasoning:
      has_reasoning_text_ = true;
      return append_delta(options_.reasoning_in_content ? Kind::kContent : Kind::kReasoning, -1,
                          text, out);
  }
}

// Leaves the present state, closing what it holds open, for `state`.
void AssistantParser::enter(State state, Deltas& out) {
  if (state == State::kReasoning && state_ == State::kReasoning) return;
  if (in_unclosed_call()) {
    end_call(true, out);
    after_section_ = true;  // behind a call without a section, too
  } else {
    push_text(utf8_.finish(), out);
  }
  if (state_ == State::kReasoning && !has_reasoning_text_ && !options_.reasoning_in_content) {
    append_delta(Kind::kReasoning, -1, "", out);
  }
  has_reasoning_text_ = false;
  if (state_ == State::kContent && state != State::kContent) {
    release_content(out);  // text that is cut off by a marker can no longer become a stop
    held_space_.clear();
  }
  if (state == State::kCallId) call_header_.clear();
  state_ = state;
}

void AssistantParser::begin_arguments(Deltas& out) {
  call_header_ += utf8_.finish();
  held_arguments_.clear();
  held_arguments_space_.clear();
  call_has_arguments_ = false;
  call_is_deferred_ = false;
  state_ = State::kArguments;
  const std::optional<std::string> name = name_of_call(trimmed(call_header_), options_.tools);
  if (name.has_value()) {
    emit_call_begin(*name, out);
  } else if (options_.tools.size() == 1) {
    emit_call_begin(options_.tools[0].name, out);
  } else {
    call_is_deferred_ = true;
  }
}

// `is_closed`: by any marker; false at the end of generation, where what is there is shown as it
// is.
void AssistantParser::end_call(bool is_closed, Deltas& out) {
  if (state_ == State::kCallId) {
    const std::string header = call_header_ + utf8_.finish();
    const std::optional<std::string> name = name_of_call(trimmed(header), options_.tools);
    if (!is_closed) return;  // the name may be incomplete
    if (!name.has_value()) {
      ++num_dropped_calls_;
      return;
    }
    call_is_deferred_ = false;
    emit_call_begin(*name, out);
    append_delta(Kind::kToolCallArguments, num_tool_calls_ - 1, "{}", out);
    return;
  }
  emit_arguments(utf8_.finish(), out);
  if (call_is_deferred_) {
    const std::optional<std::string> name = infer_call_name(held_arguments_, options_.tools);
    if (!name.has_value()) {
      ++num_dropped_calls_;
      return;
    }
    call_is_deferred_ = false;
    emit_call_begin(*name, out);
    append_delta(Kind::kToolCallArguments, num_tool_calls_ - 1, held_arguments_, out);
    return;
  }
  if (is_closed && !call_has_arguments_) {
    append_delta(Kind::kToolCallArguments, num_tool_calls_ - 1, "{}", out);
  }
}

// The id is the model's own where its index is the expected one, else made (serving/spec.md §1.3).
void AssistantParser::emit_call_begin(const std::string& name, Deltas& out) {
  std::string idx_text(":");
  idx_text += std::to_string(options_.num_history_tool_calls + num_tool_calls_);
  const std::string_view header = trimmed(call_header_);
  AssistantDelta delta;
  delta.kind = Kind::kToolCallBegin;
  delta.call_idx = num_tool_calls_++;
  delta.call_name = name;
  if (header.starts_with("functions.") && header.ends_with(name + idx_text)) {
    delta.call_id = header;
  } else {
    delta.call_id = "functions." + name + idx_text;
  }
  out.push_back(std::move(delta));
}

// Leading white space is left out; what trails waits until something follows it.
void AssistantParser::emit_arguments(std::string_view text, Deltas& out) {
  const size_t last = text.find_last_not_of(kSpace);
  if (last == std::string_view::npos) {
    if (call_has_arguments_) held_arguments_space_ += text;
    return;
  }
  std::string shown = std::exchange(held_arguments_space_, std::string(text.substr(last + 1)));
  shown += text.substr(0, last + 1);
  if (!call_has_arguments_) shown.erase(0, shown.find_first_not_of(kSpace));
  call_has_arguments_ = true;
  if (call_is_deferred_) {
    held_arguments_ += shown;
  } else {
    append_delta(Kind::kToolCallArguments, num_tool_calls_ - 1, shown, out);
  }
}

// White space behind a section is dropped unless other text follows it.
void AssistantParser::emit_content(std::string_view text, Deltas& out) {
  std::string ready(text);
  if (after_section_) {
    held_space_ += text;
    if (held_space_.find_first_not_of(kSpace) == std::string::npos) return;
    after_section_ = false;
    ready = std::exchange(held_space_, {});
  }
  const std::string shown = stops_.push(ready);
  if (!shown.empty()) append_delta(Kind::kContent, -1, shown, out);
}

// What was held back for a stop that did not come.
void AssistantParser::release_content(Deltas& out) {
  const std::string shown = stops_.flush();
  if (!shown.empty()) append_delta(Kind::kContent, -1, shown, out);
}

}  // namespace tandem
