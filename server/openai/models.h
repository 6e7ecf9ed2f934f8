// GET /v1/models and /v1/models/{id}.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "server/openai/errors.h"
#include "server/openai/served_model.h"

namespace tandem::server {

std::string models_json(const ServedModel& model);
Result<std::string, ApiError> model_json(const ServedModel& model, std::string_view id);

bool is_served(const ServedModel& model, std::string_view name);

}  // namespace tandem::server
