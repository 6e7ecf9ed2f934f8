// A value that is there against a JSON Schema (draft 2020-12, and what draft-07 has beside it): the
// check of what no grammar could hold a call to.
#pragma once

#include <boost/json/value.hpp>
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
};

// `root` is the document that references are looked up in.
SchemaVerdict check_schema(const boost::json::value& value,
                           const boost::json::value& schema,
                           const boost::json::value& root);

// Keywords that say something about values and that check_schema() does not look at.
std::span<const std::string_view> unchecked_keywords();

}  // namespace tandem
