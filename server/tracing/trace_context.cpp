#include "server/tracing/trace_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <random>

namespace tandem::server {
namespace {

bool is_lower_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char digit) {
    return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
  });
}
bool is_id(std::string_view text) {
  return is_lower_hex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

std::string random_id(int num_words) {
  thread_local std::mt19937_64 random(std::random_device{}());
  std::string id;
  for (int word = 0; word < num_words; ++word) {
    id += fmt::format("{:016x}", std::max<uint64_t>(random(), 1));
  }
  return id;
}

}  // namespace

TraceContext trace_context_of(std::string_view traceparent) {
  // version "-" trace-id "-" parent-id "-" flags; later versions may have more behind another "-"
  constexpr size_t kSize = 55;
  const bool is_whole =
      traceparent.size() >= kSize && traceparent[2] == '-' && traceparent[35] == '-' &&
      traceparent[52] == '-' && is_lower_hex(traceparent.substr(0, 2)) &&
      traceparent.substr(0, 2) != "ff" && is_id(traceparent.substr(3, 32)) &&
      is_id(traceparent.substr(36, 16)) && is_lower_hex(traceparent.substr(53, 2)) &&
      (traceparent.size() == kSize ||
       (traceparent.substr(0, 2) != "00" && traceparent[kSize] == '-'));
  if (!is_whole) return {.trace_id = random_id(2), .span_id = random_id(1), .parent_span_id = {}};
  return {.trace_id = std::string(traceparent.substr(3, 32)),
          .span_id = random_id(1),
          .parent_span_id = std::string(traceparent.substr(36, 16)),
          .sampled = std::string_view("13579bdf").find(traceparent[54]) != std::string_view::npos};
}

}  // namespace tandem::server
