// A loaded checkpoint as the server serves it.
#pragma once

#include "runtime/engine/engine.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/server.h"

namespace tandem::server {

// Stop tokens are the checkpoint's eos tokens and the markers that close a turn; whether the chat
// format opens <think> itself is read off a rendering. Engine and tokenizer outlive the server.
ServingModel make_serving_model(Engine& engine,
                                const Tokenizer& tokenizer,
                                const ModelConfig& config);

}  // namespace tandem::server
