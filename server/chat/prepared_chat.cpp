#include "server/chat/prepared_chat.h"

#include <algorithm>

namespace tandem::server {
namespace {

// Never chosen, whatever the logits: far below them, and finite so that no NaN can come of it.
constexpr float kForbiddenBias = -1e9f;

}  // namespace

Result<PreparedChat, ApiError> prepare_chat(ChatRequest request, const ServedModel& model) {
  if (!request.model.empty() && !is_served(model, request.model)) {
    return model_not_found(request.model);
  }
  PreparedChat chat;
  RenderedPrompt prompt = render_chat(*model.tokenizer, request.prompt);
  const auto max_new_tokens =
      fit_new_tokens(static_cast<int64_t>(prompt.ids.size()), request.max_tokens, model);
  if (!max_new_tokens) return max_new_tokens.error();
  chat.max_new_tokens = *max_new_tokens;
  chat.num_history_tool_calls = prompt.num_tool_calls;
  chat.prompt_ids = std::move(prompt.ids);
  chat.request = std::move(request);
  return chat;
}

Result<int32_t, ApiError> fit_new_tokens(int64_t num_prompt_tokens,
                                         std::optional<int32_t> wanted,
                                         const ServedModel& model) {
  const int64_t room = model.max_context_tokens - num_prompt_tokens;
  if (room < 1) return context_too_long(num_prompt_tokens, model.max_context_tokens);
  return static_cast<int32_t>(std::min<int64_t>(room, wanted.value_or(static_cast<int32_t>(room))));
}

GenerationRequest generation_request(const PreparedChat& chat,
                                     const ServedModel& model,
                                     int32_t choice_idx) {
  const ChatRequest& request = chat.request;
  GenerationRequest generation;
  generation.prompt_ids = chat.prompt_ids;
  generation.sampling = request.sampling;
  if (generation.sampling.seed) *generation.sampling.seed += static_cast<uint64_t>(choice_idx);
  if (!request.tool_calls_allowed) {
    const SpecialTokens& specials = model.tokenizer->specials();
    for (const int32_t marker : {specials.tool_calls_section_begin, specials.tool_call_begin}) {
      if (marker < 0 || marker >= model.vocab_size) continue;
      generation.sampling.logit_bias.emplace_back(marker, kForbiddenBias);
    }
  }
  generation.max_new_tokens = chat.max_new_tokens;
  generation.min_new_tokens = std::min(request.min_tokens, chat.max_new_tokens);
  generation.stop_token_ids = model.stop_token_ids;
  generation.stop_token_ids.insert(generation.stop_token_ids.end(), request.stop_token_ids.begin(),
                                   request.stop_token_ids.end());
  generation.ignore_eos = request.ignore_eos;
  generation.num_logprobs = request.logprobs ? request.top_logprobs : -1;
  return generation;
}

}  // namespace tandem::server
