// JSON as some clients send it: text cut in the middle of a character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::server {

// Every ill-formed piece of UTF-8 and every \uD800-\uDFFF without its other half becomes U+FFFD;
// absent when there is none of either. A client that cuts a text between the halves of an emoji
// sends such an escape, and its request should not fail for that.
std::optional<std::string> repair_json_text(std::string_view text);

}  // namespace tandem::server
