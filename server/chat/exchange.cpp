#include "server/chat/exchange.h"

#include <fmt/format.h>

#include <chrono>
#include <random>

#include "runtime/base/random_seed.h"

namespace tandem::server {

std::string new_id(std::string_view prefix) {
  thread_local std::mt19937_64 generator(random_seed());
  return fmt::format("{}{:016x}{:016x}", prefix, generator(), generator());
}

std::string answer_id(std::string_view prefix, std::string_view request_id) {
  return request_id.empty() ? new_id(prefix) : fmt::format("{}{}", prefix, request_id);
}

int64_t unix_time_s() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace tandem::server
