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

std::optional<int32_t> ThinkingControls::budget() const {
  if (is_disabled_) return 0;
  return budget_ ? budget_ : effort_budget_;
}

}  // namespace tandem::server
