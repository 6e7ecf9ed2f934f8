#include "server/http/api_keys.h"

#include <cstdint>

namespace tandem::server {
namespace {

bool equal_in_constant_time(std::string_view sent, std::string_view key) {
  if (key.empty()) return false;
  size_t difference = sent.size() ^ key.size();
  for (size_t idx = 0; idx < sent.size(); ++idx) {
    difference |= static_cast<unsigned char>(sent[idx] ^ key[idx % key.size()]);
  }
  return difference == 0;
}

// The token behind "Bearer ", whose case does not matter (RFC 9110 11.1).
std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size()) return {};
  for (size_t idx = 0; idx < kScheme.size(); ++idx) {
    const char c = authorization[idx];
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower != kScheme[idx]) return {};
  }
  authorization.remove_prefix(kScheme.size());
  while (authorization.starts_with(' ')) authorization.remove_prefix(1);
  return authorization;
}

}  // namespace

bool is_authorized(const HttpRequest& request, std::span<const std::string> keys) {
  if (keys.empty()) return true;
  const std::string_view bearer = bearer_token(request.authorization);
  bool found = false;
  for (const std::string& key : keys) {
    found |= equal_in_constant_time(bearer, key);
    found |= equal_in_constant_time(request.x_api_key, key);
  }
  return found;
}

}  // namespace tandem::server
