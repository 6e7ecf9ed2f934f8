#include "server/chat/prepared_chat.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "runtime/sampling/token_lists.h"

namespace tandem::server {
namespace {

// Logprobs are 8 bytes each while they wait and some 60 as JSON: a token's whole vocabulary is 10
// MB.
constexpr int64_t kMaxAnswerLogprobs = 1 << 21;
constexpr int32_t kFewLogprobs = 20;  // as many may be had of any number of tokens

// Never chosen, whatever the logits: far below them, and finite so that no NaN can come of it.
constexpr float kForbiddenBias = -1e9f;

AnswerRules answer_rules(const ChatRequest& request, const ServedModel& model) {
  AnswerRules rules;
  if (request.tool_calls_allowed) {
    const auto& callable = request.callable_tools;
    for (const ToolDeclaration& tool : request.tools) {
      const bool is_callable = callable.empty() || std::find(callable.begin(), callable.end(),
                                                             tool.name) != callable.end();
      if (is_callable) rules.tools.push_back(tool);
    }
  }
  rules.call_required = request.call_required;
  rules.max_calls = request.parallel_tool_calls ? 0 : 1;
  if (!request.call_required) rules.format = request.format;
  rules.starts_in_reasoning = starts_in_reasoning(request, model);
  rules.may_think = !request.prompt.continue_final_message;
  rules.thinking_budget = request.thinking_budget;
  return rules;
}

// The engine tells as many of each token as the larger wish is for.
std::optional<ApiError> check_logprobs(const ChatRequest& request,
                                       int64_t num_prompt_tokens,
                                       int32_t max_new_tokens) {
  const int32_t num_top = request.logprobs ? request.top_logprobs : 0;
  const bool of_prompt = request.prompt_logprobs >= 0;
  const int64_t num_answers =
      request.heavy ? int64_t{request.heavy->num_trajectories} + 1 : request.n;
  return check_num_logprobs(request.prompt_logprobs > num_top ? "prompt_logprobs" : "top_logprobs",
                            std::max(num_top, request.prompt_logprobs),
                            num_answers * max_new_tokens + (of_prompt ? num_prompt_tokens : 0));
}

}  // namespace

bool starts_in_reasoning(const ChatRequest& request, const ServedModel& model) {
  if (request.prompt.continue_final_message) return continues_thinking(request.prompt);
  return model.generation_prompt_opens_think && request.prompt.add_generation_prompt;
}

RequestLimits request_limits(const ServedModel& model) {
  return {.max_n = model.max_n,
          .vocab_size = model.vocab_size,
          .max_logprobs = model.max_logprobs,
          .preserve_thinking = model.preserve_thinking,
          .force_include_usage = model.force_include_usage};
}

Result<RenderedPrompt, ApiError> render_request(ChatRequest& request, const ServedModel& model) {
  if (!request.model.empty() && !is_served(model, request.model)) {
    return model_not_found(request.model);
  }
  for (ChatMessage& message : request.prompt.messages) {
    for (ToolCall& call : message.tool_calls) {
      call.arguments = model.argument_forms->known_form(call.arguments);
    }
  }
  return render_chat(*model.tokenizer, request.prompt);
}

Result<PreparedChat, ApiError> prepare_chat(ChatRequest request, const ServedModel& model) {
  auto prompt = render_request(request, model);
  if (!prompt) return prompt.error();
  const auto max_new_tokens = fit_new_tokens(
      request.prompt_field, static_cast<int64_t>(prompt->ids.size()), request.max_tokens, model);
  if (!max_new_tokens) return max_new_tokens.error();
  if (auto error =
          check_logprobs(request, static_cast<int64_t>(prompt->ids.size()), *max_new_tokens)) {
    return *std::move(error);
  }
  PreparedChat chat;
  chat.max_new_tokens = *max_new_tokens;
  chat.num_history_tool_calls = prompt->num_tool_calls;
  chat.prompt_ids = std::move(prompt->ids);
  chat.request = std::move(request);
  if (needs_grammar(chat, model))
    chat.grammar = model.grammars->find(answer_rules(chat.request, model));
  return chat;
}

Result<int32_t, ApiError> fit_new_tokens(std::string_view prompt_field,
                                         int64_t num_prompt_tokens,
                                         std::optional<int32_t> wanted,
                                         const ServedModel& model) {
  const int64_t room = model.max_context_tokens - num_prompt_tokens;
  if (room < 1) return context_too_long(prompt_field, num_prompt_tokens, model.max_context_tokens);
  return static_cast<int32_t>(std::min<int64_t>(room, wanted.value_or(static_cast<int32_t>(room))));
}

std::optional<ApiError> check_num_logprobs(std::string_view field,
                                           int32_t num_logprobs,
                                           int64_t num_tokens) {
  if (num_logprobs <= kFewLogprobs) return std::nullopt;
  const int64_t most = kMaxAnswerLogprobs / num_logprobs;
  if (num_tokens <= most) return std::nullopt;
  return invalid_value(field,
                       fmt::format("at most {} tokens in all choices (and the prompt, where it is "
                                   "asked for) beside {} logprobs of each: max_tokens says so",
                                   most, num_logprobs),
                       fmt::format("up to {}", num_tokens));
}

Result<std::shared_ptr<const AnswerGrammar>, ApiError> compile_rules(const AnswerRules& rules,
                                                                     const ServedModel& model) {
  auto grammar = model.grammars->compile(rules);
  if (grammar) return std::move(*grammar);
  ApiError error;
  error.message = grammar.error().message;
  error.param = error.message.substr(0, error.message.find(':'));
  return error;
}

bool needs_grammar(const PreparedChat& chat, const ServedModel& model) {
  return model.grammars != nullptr && chat.grammar == nullptr &&
         !answer_rules(chat.request, model).empty();
}

std::optional<ApiError> compile_grammar(PreparedChat& chat, const ServedModel& model) {
  const AnswerRules rules = answer_rules(chat.request, model);
  auto grammar = compile_rules(rules, model);
  if (!grammar) return grammar.error();
  chat.grammar = std::move(*grammar);
  for (const std::string& what : chat.grammar->unenforced())
    spdlog::debug("tools: not enforced in {}", what);
  return std::nullopt;
}

std::shared_ptr<TokenConstraint> constraint_of(const GenerationOptions& options,
                                               const ServedModel& model,
                                               std::span<const int32_t> stop_token_ids,
                                               const AnswerGrammar* grammar) {
  std::shared_ptr<TokenConstraint> constraint;
  if (grammar != nullptr) constraint = grammar->start();
  TokenLists lists{.allowed_ids = options.allowed_token_ids};
  for (const std::string& word : options.bad_words) {
    const size_t begin = std::min(word.find_first_not_of(' '), word.size());
    for (const std::string& form : {word, ' ' + word.substr(begin)})
      lists.forbidden.push_back(model.tokenizer->encode(form, Tokenizer::Specials::kAsText));
  }
  if (lists.empty()) return constraint;
  return std::make_shared<ListedTokens>(std::move(lists), stop_token_ids, std::move(constraint));
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
  generation.prompt_logprobs = request.prompt_logprobs >= 0 && choice_idx == 0;
  if (generation.prompt_logprobs)
    generation.num_logprobs = std::max(generation.num_logprobs, request.prompt_logprobs);
  generation.repetition = request.repetition;
  generation.priority = request.priority;
  generation.cache_salt = request.cache_salt;
  generation.constraint =
      constraint_of(request, model, generation.stop_token_ids, chat.grammar.get());
  return generation;
}

}  // namespace tandem::server
