// Boost.JSON values back to text, as Python's json.dumps(ensure_ascii=False) writes them: that is
// what the model saw in training.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>

#include "server/http/json_writer.h"

namespace tandem::server {

struct JsonTextStyle {
  std::string_view item_separator = ", ";
  std::string_view key_separator = ": ";
  JsonEscapes escapes = JsonEscapes::kMinimal;
};
inline constexpr JsonTextStyle kCompactJson{",", ":"};
inline constexpr JsonTextStyle kWireJson{",", ":", JsonEscapes::kWire};  // for answers

void append_json_text(std::string& out, const boost::json::value& value, JsonTextStyle style = {});
std::string json_text(const boost::json::value& value, JsonTextStyle style = {});

// At most ~80 bytes of it, for error messages.
std::string json_excerpt(const boost::json::value& value);

}  // namespace tandem::server
