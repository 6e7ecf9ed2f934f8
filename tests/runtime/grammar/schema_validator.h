// A JSON Schema validator that shares nothing with runtime/grammar but the JSON parser: the judge
// of what grammars let through. Draft 2020-12 with draft-07's lists in `items`; no remote
// references, no unevaluated*.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace tandem::tests {

// "" when `text` is JSON and satisfies the schema, else what is wrong and where.
std::string find_violation(std::string_view text, const boost::json::value& schema);

}  // namespace tandem::tests
