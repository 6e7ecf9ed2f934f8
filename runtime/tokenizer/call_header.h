// What a generated call id says: `functions.NAME:IDX`, or something else that names no function.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/tokenizer/chat.h"

namespace tandem {

// The function that `header` (the text between call_begin and argument_begin, trimmed) names:
//   NAME:IDX   without the prefix `functions.`; NAME if it is declared, else its last component
//   NAME       only if it is declared
// Nothing when it names none and the arguments must tell.
std::optional<std::string> name_of_call(std::string_view header,
                                        std::span<const ToolDeclaration> tools);

// The only declared tool whose parameters fit: `arguments` is a JSON object with every required
// key, no undeclared one, and values of the declared type, const and enum. Nothing if none or
// several do.
std::optional<std::string> infer_call_name(std::string_view arguments,
                                           std::span<const ToolDeclaration> tools);

}  // namespace tandem
