#include "server/chat/thinking_controls.h"

#include <algorithm>
#include <array>

namespace tandem::server {
namespace {

struct Effort {
  std::string_view name;
  std::optional<int32_t> budget;  // tokens
};
constexpr std::array<Effort, 7> kEfforts = {{{"none", 0},
                                             {"minimal", 512},
                                             {"low", 2048},
                                             {"medium", 8192},
                                             {"high", std::nullopt},
                                             {"xhigh", std::nullopt},
                                             {"max", std::nullopt}}};

}  // namespace

void ThinkingControls::set_budget(const std::optional<int64_t>& tokens) {
  if (tokens) budget_ = static_cast<int32_t>(*tokens);
}

void ThinkingControls::read_effort(FieldReader& fields, std::string_view key) {
  const auto name = fields.string(key);
  if (!name) return;
  const auto effort = std::find_if(kEfforts.begin(), kEfforts.end(),
                                   [&](const Effort& known) { return known.name == *name; });
  if (effort == kEfforts.end()) {
    return fields.fail_value(key, "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'",
                             *fields.find(key));
  }
  effort_budget_ = effort->budget;
  is_disabled_ = is_disabled_ || effort->budget == 0;
}

void ThinkingControls::read_template_kwargs(FieldReader& fields, bool& preserve_thinking) {
  const boost::json::object* kwargs = fields.object("chat_template_kwargs");
  if (kwargs == nullptr) return;
  FieldReader entries(*kwargs, "chat_template_kwargs.");
  entries.allow_any_key();
  entries.read("preserve_thinking", preserve_thinking);
  for (const std::string_view key : {"thinking", "enable_thinking"}) {
    if (!entries.boolean(key).value_or(true)) disable();
  }
  if (!entries.ok()) fields.fail(*entries.error());
}

std::optional<int32_t> ThinkingControls::budget() const {
  if (is_disabled_) return 0;
  return budget_ ? budget_ : effort_budget_;
}

}  // namespace tandem::server
