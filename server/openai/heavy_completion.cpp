#include "server/openai/heavy_completion.h"

#include <fmt/format.h>

#include <utility>

#include "server/http/sse.h"
#include "server/openai/error_body.h"

namespace tandem::server {
namespace {

constexpr std::string_view kTask =
    "Above are {} independent attempts at my last request. They may disagree, and any of them may "
    "be wrong. Check them against each other and against the request, then answer the request "
    "itself as well as you can, without a word about the attempts.";

// What a trajectory came to, as the final pass reads it: thinking left out, calls as text.
std::string attempt_text(const AssistantMessage& message) {
  std::string text = message.content;
  for (const ToolCall& call : message.tool_calls) {
    if (!text.empty()) text += '\n';
    text += fmt::format("[calls {} with {}]", call.name, call.arguments);
  }
  return text.empty() ? "(no answer)" : text;
}

ChatMessage aggregation_message(const std::vector<AssistantMessage>& attempts) {
  ChatMessage message;
  message.role = "user";
  for (size_t idx = 0; idx < attempts.size(); ++idx) {
    message.content +=
        fmt::format("<attempt {0}>\n{1}\n</attempt {0}>\n\n", idx + 1, attempt_text(attempts[idx]));
  }
  message.content += fmt::format(kTask, attempts.size());
  return message;
}

PreparedChat rollout_chat(PreparedChat chat) {
  chat.request.n = chat.request.heavy->num_trajectories;
  chat.request.stream = false;
  chat.request.logprobs = false;
  return chat;
}

}  // namespace

HeavyCompletion::HeavyCompletion(PreparedChat chat, const ServedModel& model)
    : model_(model),
      request_(chat.request),
      rollouts_(std::make_unique<ChatCompletion>(rollout_chat(std::move(chat)), model)) {}

bool HeavyCompletion::needs_preparation() const {
  if (!rollouts_->finished()) return rollouts_->needs_preparation();
  return !final_ && !error();
}

void HeavyCompletion::prepare() {
  if (rollouts_->finished()) {
    begin_final();
  } else {
    rollouts_->prepare();
  }
}

std::vector<GenerationRequest> HeavyCompletion::take_requests() {
  return final_ ? final_->take_requests() : rollouts_->take_requests();
}

bool HeavyCompletion::push(int32_t choice_idx, const TokenEvent& event, std::string& frames) {
  const int32_t num_rollouts = request_.heavy->num_trajectories;
  if (choice_idx < num_rollouts) return rollouts_->push(choice_idx, event, frames);
  return final_->push(choice_idx - num_rollouts, event, frames);
}

// The prompt of the final pass begins with the prompt of the rollouts: those pages are found.
void HeavyCompletion::begin_final() {
  ChatRequest request = request_;
  request.prompt.messages.push_back(aggregation_message(rollouts_->messages()));
  auto chat = prepare_chat(std::move(request), model_);
  if (!chat) return fail(chat.error());
  final_ = std::make_unique<ChatCompletion>(std::move(*chat), model_);
  if (final_->needs_preparation()) final_->prepare();  // the rollouts' grammar, still compiled
  final_->add_rollouts(*rollouts_, request_.heavy->return_trajectories);
}

void HeavyCompletion::fail(ApiError error) { error_ = std::move(error); }

bool HeavyCompletion::finished() const { return error() || (final_ && final_->finished()); }

const std::optional<ApiError>& HeavyCompletion::error() const {
  if (error_) return error_;
  return final_ ? final_->error() : rollouts_->error();
}

void HeavyCompletion::append_stream_end(std::string& frames) {
  if (final_ && !error_) return final_->append_stream_end(frames);
  append_sse_data(frames, error_json(*error()));
  append_sse_data(frames, "[DONE]");
}

std::string HeavyCompletion::body() const { return final_->body(); }

TokenUsage HeavyCompletion::usage() const { return final_ ? final_->usage() : rollouts_->usage(); }

}  // namespace tandem::server
