#include "server/chat/json_repair.h"

#include <charconv>

#include "runtime/base/utf8.h"

namespace tandem::server {
namespace {

constexpr size_t kEscapeSize = 6;  // \uXXXX

// The code unit of an escape at `pos`, -1 when there is none.
int32_t escaped_unit(std::string_view text, size_t pos) {
  if (pos + kEscapeSize > text.size() || text[pos] != '\\' || text[pos + 1] != 'u') return -1;
  int32_t unit = -1;
  const char* begin = text.data() + pos + 2;
  const auto [end, error] = std::from_chars(begin, begin + 4, unit, 16);
  return error == std::errc() && end == begin + 4 ? unit : -1;
}

bool is_high_half(int32_t unit) { return unit >= 0xd800 && unit <= 0xdbff; }
bool is_low_half(int32_t unit) { return unit >= 0xdc00 && unit <= 0xdfff; }

}  // namespace

std::optional<std::string> repair_json_text(std::string_view text) {
  bool is_repaired = !is_valid_utf8(text);
  std::string repaired = is_repaired ? replace_invalid_utf8(text) : std::string(text);
  for (size_t pos = repaired.find('\\'); pos != std::string::npos; pos = repaired.find('\\', pos)) {
    const int32_t unit = escaped_unit(repaired, pos);
    if (unit < 0) {
      pos += 2;  // also the second of two backslashes
    } else if (is_high_half(unit) && is_low_half(escaped_unit(repaired, pos + kEscapeSize))) {
      pos += 2 * kEscapeSize;
    } else {
      if (is_high_half(unit) || is_low_half(unit)) {
        repaired.replace(pos + 2, 4, "fffd");
        is_repaired = true;
      }
      pos += kEscapeSize;
    }
  }
  if (!is_repaired) return std::nullopt;
  return repaired;
}

}  // namespace tandem::server
