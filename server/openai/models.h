// GET /v1/models and /v1/models/{id}.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/served_model.h"

namespace tandem::server {

std::string models_json(const ServedModel& model);
Result<std::string, ApiError> model_json(const ServedModel& model, std::string_view id);

}  // namespace tandem::server
