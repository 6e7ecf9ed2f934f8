#include "server/chat/chat_exchange.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace tandem::server {
namespace {

ChatChoice::Options choice_options(const PreparedChat& chat, const ServedModel& model) {
  const ChatRequest& request = chat.request;
  ChatChoice::Options options;
  options.parser.starts_in_reasoning = starts_in_reasoning(request, model);
  options.parser.num_history_tool_calls = chat.num_history_tool_calls;
  options.parser.tools = request.tools;
  options.parser.stop = {.strings = request.stop,
                         .patterns = request.stop_patterns,
                         .include_match = request.include_stop_in_output};
  options.parser.reasoning_in_content = !request.separate_reasoning;
  options.first_call_only = !request.parallel_tool_calls;
  options.logprobs = request.logprobs;
  // Ids would show the thinking that the request wants hidden.
  options.token_ids = request.return_token_ids && request.include_reasoning;
  options.reported_stop_ids = request.stop_token_ids;
  return options;
}

}  // namespace

ChatExchange::ChatExchange(PreparedChat chat, const ServedModel& model, std::string_view id_prefix)
    : chat_(std::move(chat)),
      model_(model),
      id_(answer_id(id_prefix, chat_.request.request_id)),
      num_prompt_tokens_(static_cast<int32_t>(chat_.prompt_ids.size())),
      stream_interval_(std::max(chat_.request.stream_interval, model.stream_interval)) {
  const ChatChoice::Options options = choice_options(chat_, model);
  choices_.reserve(static_cast<size_t>(chat_.request.n));
  for (int32_t choice_idx = 0; choice_idx < chat_.request.n; ++choice_idx) {
    choices_.push_back({.state = ChatChoice(*model.tokenizer, options)});
  }
}

void ChatExchange::prepare() {
  if (auto error = compile_grammar(chat_, model_)) fail(std::move(*error));
}

std::vector<GenerationRequest> ChatExchange::take_requests() {
  std::vector<GenerationRequest> requests;
  if (std::exchange(taken_, true)) return requests;
  for (int32_t choice_idx = 0; choice_idx < chat_.request.n; ++choice_idx) {
    requests.push_back(generation_request(chat_, model_, choice_idx));
  }
  // The engine has them now.
  if (!chat_.request.return_token_ids) std::vector<int32_t>().swap(chat_.prompt_ids);
  return requests;
}

bool ChatExchange::push(int32_t choice_idx, const TokenEvent& event, std::string& frames) {
  if (event.kind == TokenEvent::Kind::kPromptToken) {
    prompt_logprobs_.push_back(event);
    return false;
  }
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  deltas_.clear();
  const bool enough = choice.state.push(event, deltas_);
  if (event.kind == TokenEvent::Kind::kToken) ++choice.num_held_tokens;
  if (choice.state.end() == ChatChoice::End::kFailed) {
    if (choice.begun) tell(choice_idx, frames);
    fail(choice.state.error());
    return false;
  }
  note_calls(choice);
  if (!std::exchange(choice.begun, true)) on_begin(choice_idx, frames);
  hold_deltas(choice);
  const bool has_ended = choice.state.end() != ChatChoice::End::kRunning;
  if (has_ended || is_due(choice)) tell(choice_idx, frames);
  if (has_ended) on_end(choice_idx, frames);
  return enough;
}

void ChatExchange::hold_deltas(Choice& choice) {
  if (choice.held.empty()) return choice.held.swap(deltas_);
  for (AssistantDelta& delta : deltas_) {
    AssistantDelta& last = choice.held.back();
    const bool goes_on = delta.kind == last.kind && delta.call_idx == last.call_idx &&
                         delta.kind != AssistantDelta::Kind::kToolCallBegin;
    if (goes_on) {
      last.text += delta.text;
      last.num_tokens += delta.num_tokens;
    } else {
      choice.held.push_back(std::move(delta));
    }
  }
}

bool ChatExchange::is_due(const Choice& choice) const {
  if (choice.held.empty()) return false;
  const bool still_thinks = choice.held.back().kind == AssistantDelta::Kind::kReasoning;
  if (!chat_.request.stream_reasoning && still_thinks) return false;
  return !choice.told || choice.num_held_tokens >= stream_interval_;
}

void ChatExchange::tell(int32_t choice_idx, std::string& frames) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  if (choice.held.empty()) return;
  on_deltas(choice_idx, choice.held, frames);
  choice.held.clear();
  choice.num_held_tokens = 0;
  choice.told = true;
}

// At the end of an answer its calls are known in the form in which the model wrote them, and
// checked for what the grammar could not hold them to.
void ChatExchange::note_calls(Choice& choice) const {
  for (const AssistantDelta& delta : deltas_) {
    if (delta.kind == AssistantDelta::Kind::kToolCallBegin)
      choice.calls.push_back({delta.call_id, delta.call_name, ""});
    if (delta.kind == AssistantDelta::Kind::kToolCallArguments)
      choice.calls.back().arguments += delta.text;
  }
  if (choice.state.end() != ChatChoice::End::kToolCalls) return;
  for (const ToolCall& call : choice.calls) {
    model_.argument_forms->learn(call.arguments);
    if (!chat_.grammar) continue;
    auto violation = chat_.grammar->find_violation(call.name, call.arguments);
    if (!violation) continue;
    spdlog::warn("{}: the call {} does not satisfy its schema: {}", id_, call.id, *violation);
    choice.invalid_calls.push_back({call.id, call.name, *std::move(violation)});
  }
}

bool ChatExchange::finished() const {
  if (error_) return true;
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
    return choice.state.end() != ChatChoice::End::kRunning;
  });
}

TokenUsage ChatExchange::usage() const {
  TokenUsage total = choices_.front().state.usage();
  if (total.prompt_tokens == 0) total.prompt_tokens = num_prompt_tokens_;  // before its end
  for (size_t choice_idx = 1; choice_idx < choices_.size(); ++choice_idx) {
    const TokenUsage& usage = choices_[choice_idx].state.usage();
    total.completion_tokens += usage.completion_tokens;
    total.reasoning_tokens += usage.reasoning_tokens;
  }
  return total;
}

int64_t ChatExchange::num_invalid_calls() const {
  int64_t total = 0;
  for (const Choice& choice : choices_) total += std::ssize(choice.invalid_calls);
  return total;
}

const std::string& ChatExchange::model_name() const {
  return chat_.request.model.empty() ? model_.names.front() : chat_.request.model;
}

}  // namespace tandem::server
