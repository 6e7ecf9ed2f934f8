// POST /tokenize, /detokenize, /apply-template and GET /tokenizer_info.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/served_model.h"

namespace tandem::server {

// {"prompt": text} (markers in it become special tokens) or a chat request; answers
// {"count", "max_model_len", "tokens"} and, asked with return_token_strs, "token_strs".
Result<std::string, ApiError> tokenize_json(std::string_view body, const ServedModel& model);
// {"tokens": [id, ...]} to {"prompt": text}.
Result<std::string, ApiError> detokenize_json(std::string_view body, const ServedModel& model);
// A chat request to {"prompt": text, "tokens": ids, "count"}: what would be fed to the model.
Result<std::string, ApiError> apply_template_json(std::string_view body, const ServedModel& model);
std::string tokenizer_info_json(const ServedModel& model);

}  // namespace tandem::server
