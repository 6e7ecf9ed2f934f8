// A checked request whose prompt is rendered and fits, and what the engine is asked for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/engine.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"
#include "server/chat/served_model.h"

namespace tandem::server {

struct PreparedChat {
  ChatRequest request;
  std::vector<int32_t> prompt_ids;
  int32_t num_history_tool_calls = 0;
  int32_t max_new_tokens = 0;
  std::shared_ptr<const AnswerGrammar> grammar;  // where the request needs one and it is compiled
};

// What a parser must know of the server that `model` stands in.
RequestLimits request_limits(const ServedModel& model);

// Whether the first generated token belongs to the thinking part.
bool starts_in_reasoning(const ChatRequest& request, const ServedModel& model);

// The prompt as the model will see it. Arguments of calls in the history get the form in which this
// server knows them, so that the prompt of the next turn begins with the tokens of this one. An
// error when the model is not served.
Result<RenderedPrompt, ApiError> render_request(ChatRequest& request, const ServedModel& model);

// Renders and measures; the slow part of a request on this side of the engine.
Result<PreparedChat, ApiError> prepare_chat(ChatRequest request, const ServedModel& model);

// What one answer may hold of logprobs beyond the usual few, so that no request fills the memory or
// holds up others while it is written.
std::optional<ApiError> check_num_logprobs(std::string_view field,
                                           int32_t num_logprobs,
                                           int64_t num_tokens);

// What no grammar can enforce is an error that names the field. Takes what GrammarCompiler takes.
Result<std::shared_ptr<const AnswerGrammar>, ApiError> compile_rules(const AnswerRules& rules,
                                                                     const ServedModel& model);

// Whether compile_grammar() has something to do.
bool needs_grammar(const PreparedChat& chat, const ServedModel& model);
// A format that no grammar can enforce is an error that names the field; of tools, only one that is
// declared strict.
std::optional<ApiError> compile_grammar(PreparedChat& chat, const ServedModel& model);

// What holds a choice: `grammar` (or null) and the request's lists of tokens.
std::shared_ptr<TokenConstraint> constraint_of(const GenerationOptions& options,
                                               const ServedModel& model,
                                               std::span<const int32_t> stop_token_ids,
                                               const AnswerGrammar* grammar);

// The engine request of one choice, without its sink. Choices differ in their seeds.
GenerationRequest generation_request(const PreparedChat& chat,
                                     const ServedModel& model,
                                     int32_t choice_idx);

// An answer's limit: what was asked for, clamped to the room behind the prompt; agents send the
// limit of another model (serving/clients.md). An error, of `prompt_field`, when there is no room.
Result<int32_t, ApiError> fit_new_tokens(std::string_view prompt_field,
                                         int64_t num_prompt_tokens,
                                         std::optional<int32_t> wanted,
                                         const ServedModel& model);

}  // namespace tandem::server
