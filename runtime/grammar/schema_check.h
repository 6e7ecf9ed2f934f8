// A value that is there against a JSON Schema (draft 2020-12, and what draft-07 has beside it): the
// check of what no grammar could hold a call to.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

struct SchemaVerdict {
  // "tags: uniqueItems: items 0 and 2 are the same": where in the value, the keyword, what is
  // wrong.
  std::optional<std::string> violation;
  // Whether all was looked at: no unchecked_keywords() but `format`, no reference that points
  // nowhere, no pattern that does not compile or takes long, no more than some million steps.
  bool is_complete = true;
  int64_t num_steps = 0;  // schemas met and values compared
};

// `root` is the document that references are looked up in; `known` the argument of a const or enum
// that lists the value, which then need not be looked for.
SchemaVerdict check_schema(const boost::json::value& value,
                           const boost::json::value& schema,
                           const boost::json::value& root,
                           const boost::json::value* known = nullptr);

// Keywords that say something about values and that check_schema() does not look at.
std::span<const std::string_view> unchecked_keywords();

}  // namespace tandem
