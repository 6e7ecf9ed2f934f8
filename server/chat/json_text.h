// Boost.JSON values back to text, as Python's json.dumps(ensure_ascii=False) writes them: that is
// what the model saw in training.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>

namespace tandem::server {

struct JsonTextStyle {
  std::string_view item_separator = ", ";
  std::string_view key_separator = ": ";
};
inline constexpr JsonTextStyle kCompactJson{",", ":"};

void append_json_text(std::string& out, const boost::json::value& value, JsonTextStyle style = {});
std::string json_text(const boost::json::value& value, JsonTextStyle style = {});

// At most ~80 bytes of it, for error messages.
std::string json_excerpt(const boost::json::value& value);

}  // namespace tandem::server
