// How much a client wants the model to think, in whichever words of its dialect (serving/spec.md
// §2.4). K2-Thinking always opens <think>: what can be chosen is after how many tokens </think> is
// forced.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "server/chat/json_fields.h"

namespace tandem::server {

class ThinkingControls {
 public:
  // "disabled", enable_thinking: false, effort none: </think> follows <think> at once.
  void disable() { is_disabled_ = true; }
  // An explicit budget in tokens counts more than an effort.
  void set_budget(const std::optional<int64_t>& tokens);
  // none, minimal, low, medium, high, xhigh or max; other values fail the field.
  void read_effort(FieldReader& fields, std::string_view key);
  // chat_template_kwargs, as other servers hand them to a template: thinking or enable_thinking:
  // false, and preserve_thinking. What else is in there is the client's business.
  void read_template_kwargs(FieldReader& fields, bool& preserve_thinking);

  // Tokens before </think> is forced; none: as many as the model likes.
  [[nodiscard]] std::optional<int32_t> budget() const;

 private:
  bool is_disabled_ = false;
  std::optional<int32_t> budget_;
  std::optional<int32_t> effort_budget_;
};

}  // namespace tandem::server
