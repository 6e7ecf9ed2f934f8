// JSON that may nest deeper than the 32 levels which Boost's parser takes by itself.
#pragma once

#include <boost/json/parse.hpp>
#include <cstddef>
#include <optional>
#include <string_view>

namespace tandem {

// Of a request, and of what stands in one as text: tool schemas nest two levels a property.
inline constexpr size_t kMaxRequestDepth = 128;

// Absent for what is no JSON, or deeper.
inline std::optional<boost::json::value> parse_nested_json(std::string_view text,
                                                           size_t max_depth) {
  boost::json::parse_options options;
  options.max_depth = max_depth;
  boost::system::error_code code;
  boost::json::value value =
      boost::json::parse(boost::json::string_view(text.data(), text.size()), code, {}, options);
  if (code) return std::nullopt;
  return value;
}

}  // namespace tandem
