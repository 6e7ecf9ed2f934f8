#include "server/chat/service_fields.h"

#include <algorithm>
#include <limits>

namespace tandem::server {
namespace {

constexpr size_t kMaxSaltBytes = 1024;
constexpr size_t kMaxIdBytes = 128;

// It becomes part of the answer's id, which is written as it is.
bool is_id(std::string_view text) {
  const auto is_good = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.' || c == ':';
  };
  return !text.empty() && text.size() <= kMaxIdBytes &&
         std::all_of(text.begin(), text.end(), is_good);
}

}  // namespace

void read_service_fields(FieldReader& fields, GenerationOptions& options) {
  for (const std::string_view key : {"request_id", "rid"}) {
    const auto id = fields.string(key);
    if (!id) continue;
    if (!is_id(*id)) {
      fields.fail_value(key, "1 to 128 letters, digits and -_.:", *fields.find(key));
    }
    options.request_id = *id;
  }
  fields.read("priority", std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(),
              options.priority);
  for (const std::string_view key : {"extra_key", "cache_salt"}) {
    const auto salt = fields.string(key);
    if (!salt) continue;
    if (salt->empty() || salt->size() > kMaxSaltBytes) {
      fields.fail_value(key, "1 to 1024 bytes", *fields.find(key));
    }
    options.cache_salt = *salt;
  }
}

}  // namespace tandem::server
