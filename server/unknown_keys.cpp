#include "server/unknown_keys.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cstddef>

namespace tandem::server {
namespace {

constexpr size_t kMaxMentioned = 256;
constexpr size_t kMaxNameBytes = 100;

// "messages[12].colour" as "messages[].colour", and nothing that could break a line of the log.
std::string without_indices(const std::string& path) {
  std::string name;
  bool in_brackets = false;
  for (const char c : path) {
    if (name.size() == kMaxNameBytes) break;
    if (c == ']') in_brackets = false;
    if (in_brackets && c >= '0' && c <= '9') continue;
    if (c == '[') in_brackets = true;
    name.push_back(c < ' ' || c > '~' ? '?' : c);
  }
  return name;
}

// In OpenAI's words, which its clients know.
ApiError unknown_parameter(const std::string& path) {
  ApiError error;
  error.param = path.substr(0, kMaxNameBytes);
  error.message = fmt::format(
      "Unknown parameter: '{}'. This server knows no such key and was started with "
      "--strict-params.",
      error.param);
  error.code = "unknown_parameter";
  return error;
}

}  // namespace

bool UnknownKeys::wanted() const { return is_strict_ || spdlog::should_log(spdlog::level::debug); }

std::optional<ApiError> UnknownKeys::judge(const KeyAudit& audit) {
  if (audit.unknown().empty()) return std::nullopt;
  if (is_strict_) return unknown_parameter(audit.unknown().front());
  for (const std::string& path : audit.unknown()) mention(path);
  return std::nullopt;
}

void UnknownKeys::mention(const std::string& path) {
  std::string name = without_indices(path);
  {
    const std::lock_guard lock(mutex_);
    if (mentioned_.size() >= kMaxMentioned || !mentioned_.insert(name).second) return;
  }
  spdlog::debug("unknown key '{}' of a request: ignored, and not mentioned again", name);
}

}  // namespace tandem::server
