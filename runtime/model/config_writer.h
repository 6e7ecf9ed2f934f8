// config.json and generation_config.json of a ModelConfig, such that ModelConfig::parse gives it
// back.
#pragma once

#include <string>

#include "runtime/model/model_config.h"

namespace tandem {

// Nested under text_config when the configuration has the prefix "language_model.".
std::string config_text(const ModelConfig& config);
std::string generation_config_text(const ModelConfig& config);

}  // namespace tandem
