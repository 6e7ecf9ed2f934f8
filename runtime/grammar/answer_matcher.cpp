#include "runtime/grammar/answer_matcher.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem {
namespace {

using Allowance = TokenConstraint::Allowance;
using Tokens = TokenConstraint::Allowance::Tokens;

void set_bit(std::span<uint32_t> mask, int32_t token_id) {
  if (token_id < 0 || token_id / 32 >= static_cast<int32_t>(mask.size())) return;
  mask[token_id / 32] |= 1u << (token_id % 32);
}

void clear_bit(std::span<uint32_t> mask, int32_t token_id) {
  if (token_id < 0 || token_id / 32 >= static_cast<int32_t>(mask.size())) return;
  mask[token_id / 32] &= ~(1u << (token_id % 32));
}

Allowance masked(std::span<const uint32_t> mask, bool may_end) {
  const bool is_empty = std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return !word; });
  return {is_empty ? Tokens::kNone : Tokens::kMasked, may_end};
}

}  // namespace

AnswerMatcher::AnswerMatcher(std::shared_ptr<const CompiledAnswer> answer)
    : answer_(std::move(answer)), markers_(answer_->tokenizer->specials()) {
  if (answer_->starts_in_reasoning) part_ = Part::kReasoning;
  if (answer_->format) begin_text(answer_->format, answer_->format_lengths);
}

void AnswerMatcher::begin_text(const SharedTextGrammar& grammar,
                               const std::shared_ptr<const LengthPlan>& lengths) {
  text_.emplace(grammar);
  lengths_.reset();
  if (lengths) lengths_.emplace(lengths, answer_->token_lengths);
}

void AnswerMatcher::fill_text(std::span<uint32_t> mask) {
  text_->fill(mask);
  if (lengths_) lengths_->narrow(mask);
}

bool AnswerMatcher::accept_text(int32_t token_id) {
  if (lengths_) lengths_->accept(token_id);
  return text_->accept(token_id);
}

TokenConstraint::Allowance AnswerMatcher::allow(std::span<uint32_t> mask) {
  switch (part_) {
    case Part::kContent:
      return allow_content(mask);
    case Part::kReasoning:
      return allow_reasoning(mask);
    case Part::kSection:
      return allow_section(mask);
    case Part::kHeader:
      return allow_text(mask, markers_.tool_call_argument_begin);
    case Part::kArguments:
      return allow_text(mask, markers_.tool_call_end);
    case Part::kEnd:
      break;
  }
  return {Tokens::kNone, true};
}

bool AnswerMatcher::may_call() const {
  return !answer_->functions.empty() &&
         (answer_->max_calls == 0 || num_calls_ < answer_->max_calls);
}

Allowance AnswerMatcher::allow_content(std::span<uint32_t> mask) {
  const bool may_think = answer_->may_think && !has_reasoned_ && !has_content_;
  if (answer_->format) {
    fill_text(mask);
    if (may_think) set_bit(mask, markers_.think_begin);
    if (may_call() && !has_content_) set_bit(mask, markers_.tool_calls_section_begin);
    return masked(mask, text_->is_complete());
  }
  if (answer_->call_required && num_calls_ == 0) {
    std::fill(mask.begin(), mask.end(), 0);
    if (may_think) set_bit(mask, markers_.think_begin);
    set_bit(mask, markers_.tool_calls_section_begin);
    return masked(mask, false);
  }
  if (answer_->functions.empty() || may_call()) return {Tokens::kAll, true};
  std::fill(mask.begin(), mask.end(), ~0u);
  clear_bit(mask, markers_.tool_calls_section_begin);
  clear_bit(mask, markers_.tool_call_begin);
  return {Tokens::kMasked, true};
}

Allowance AnswerMatcher::allow_reasoning(std::span<uint32_t> mask) const {
  const auto& budget = answer_->thinking_budget;
  if (budget && num_reasoning_tokens_ >= *budget) {
    std::fill(mask.begin(), mask.end(), 0);
    set_bit(mask, markers_.think_end);
    return masked(mask, false);
  }
  return {Tokens::kAll, !answer_->call_required && !answer_->format};
}

Allowance AnswerMatcher::allow_section(std::span<uint32_t> mask) const {
  std::fill(mask.begin(), mask.end(), 0);
  if (may_call()) set_bit(mask, markers_.tool_call_begin);
  if (section_has_call_) set_bit(mask, markers_.tool_calls_section_end);
  return masked(mask, false);
}

Allowance AnswerMatcher::allow_text(std::span<uint32_t> mask, int32_t end_marker) {
  fill_text(mask);
  if (text_->is_complete()) set_bit(mask, end_marker);
  return masked(mask, false);
}

bool AnswerMatcher::accept(int32_t token_id) {
  switch (part_) {
    case Part::kContent:
      return accept_content(token_id);
    case Part::kReasoning:
      if (token_id == markers_.think_end) {
        part_ = Part::kContent;
        return true;
      }
      ++num_reasoning_tokens_;
      // A call ends the thinking, too; any other marker is what the model makes of it.
      return answer_->functions.empty() || accept_content(token_id);
    case Part::kSection:
      if (token_id == markers_.tool_calls_section_end) {
        end_section();
        return true;
      }
      if (token_id != markers_.tool_call_begin) return false;
      return accept_content(token_id);
    case Part::kHeader:
      if (token_id == markers_.tool_call_argument_begin) return begin_arguments();
      header_ += answer_->tokenizer->token_bytes(token_id);
      return text_->accept(token_id);
    case Part::kArguments:
      if (token_id != markers_.tool_call_end) return accept_text(token_id);
      text_.reset();
      lengths_.reset();
      section_has_call_ = true;
      part_ = in_section_ ? Part::kSection : Part::kContent;
      return true;
    case Part::kEnd:
      break;
  }
  return false;
}

// Content, and the markers that begin other parts, which thinking may meet as well.
bool AnswerMatcher::accept_content(int32_t token_id) {
  const bool calls = !answer_->functions.empty();
  if (token_id == markers_.think_begin && part_ == Part::kContent) {
    part_ = Part::kReasoning;
    has_reasoned_ = true;
  } else if (calls && token_id == markers_.tool_calls_section_begin) {
    part_ = Part::kSection;
    in_section_ = true;
    section_has_call_ = false;
  } else if (calls && token_id == markers_.tool_call_begin) {
    part_ = Part::kHeader;
    ++num_calls_;
    header_.clear();
    begin_text(answer_->header, nullptr);
  } else if (part_ == Part::kContent) {
    has_content_ = true;
    if (answer_->format) return accept_text(token_id);
  }
  return true;
}

// The header is one that its grammar allows: functions.NAME:IDX.
bool AnswerMatcher::begin_arguments() {
  constexpr std::string_view kPrefix = "functions.";
  const size_t colon = header_.rfind(':');
  if (!header_.starts_with(kPrefix) || colon == std::string::npos) return false;
  const std::string name = header_.substr(kPrefix.size(), colon - kPrefix.size());
  const auto found = std::find_if(answer_->functions.begin(), answer_->functions.end(),
                                  [&](const auto& function) { return function.name == name; });
  if (found == answer_->functions.end()) return false;
  function_ = &*found;
  begin_text(found->arguments, found->lengths);
  part_ = Part::kArguments;
  return true;
}

// With `auto` the model may go on as it likes.
void AnswerMatcher::end_section() {
  const bool is_done = answer_->call_required || answer_->format || !may_call();
  part_ = is_done ? Part::kEnd : Part::kContent;
  in_section_ = false;
  has_content_ = true;
}

std::string AnswerMatcher::feature() const {
  switch (part_) {
    case Part::kContent:
      return answer_->format ? answer_->format_field : "tool_choice";
    case Part::kReasoning:
      return "thinking_token_budget";
    case Part::kArguments:
      return fmt::format("the arguments of function '{}'", function_->name);
    default:
      return "tool calls";
  }
}

}  // namespace tandem
