#include "server/openai/text_completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "runtime/base/utf8.h"
#include "server/chat/prepared_chat.h"
#include "server/http/json_writer.h"
#include "server/http/sse.h"
#include "server/openai/choice_fields.h"
#include "server/openai/error_body.h"
#include "server/openai/usage.h"

namespace tandem::server {
namespace {

// A token that has no logprob: the first of a prompt follows nothing.
constexpr float kNoLogprob = std::numeric_limits<float>::quiet_NaN();

ChatChoice::Options choice_options(const TextRequest& request) {
  ChatChoice::Options options;
  options.parser.stop = {.strings = request.stop,
                         .patterns = request.stop_patterns,
                         .include_match = request.include_stop_in_output};
  options.parser.parse_tool_calls = false;
  options.parser.parse_reasoning = false;
  options.logprobs = request.logprobs >= 0;
  options.token_ids = request.return_token_ids;
  options.reported_stop_ids = request.stop_token_ids;
  return options;
}

int64_t num_chars(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return !continues_character(byte); });
}

// What a token adds to the text: the prompt is echoed as it is, of an answer some special tokens
// are left out.
int64_t num_shown_chars(const Tokenizer& tokenizer, const TokenEvent& token) {
  const bool is_of_prompt = token.kind == TokenEvent::Kind::kPromptToken;
  if (!is_of_prompt && tokenizer.is_skipped(token.token_id)) return 0;
  return num_chars(tokenizer.token_bytes(token.token_id));
}

// Part of a character is no text: OpenAI writes such a token as "bytes:\xe4\xb8", which also keeps
// the keys of top_logprobs apart.
std::string token_text(const Tokenizer& tokenizer, int32_t token_id) {
  const std::string_view bytes = tokenizer.token_bytes(token_id);
  if (is_valid_utf8(bytes)) return std::string(bytes);
  std::string text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return text;
}

void write_logprob(JsonWriter& json, float logprob) {
  std::isnan(logprob) ? json.null() : json.number(static_cast<double>(logprob));
}

// {" the": -0.25, ...}: the best and the token itself, when it is not among them.
void write_top(JsonWriter& json,
               const Tokenizer& tokenizer,
               const TokenEvent& token,
               int32_t num_best) {
  if (std::isnan(token.logprob)) {
    json.null();
    return;
  }
  json.begin_object();
  bool has_token = false;
  for (const TokenLogprob& best : best_logprobs(token, num_best)) {
    json.key(token_text(tokenizer, best.token_id));
    write_logprob(json, best.logprob);
    has_token |= best.token_id == token.token_id;
  }
  if (!has_token) {
    json.key(token_text(tokenizer, token.token_id));
    write_logprob(json, token.logprob);
  }
  json.end_object();
}

// More than the queue takes would never be accepted, however often a client tries again.
std::optional<ApiError> check_num_choices(const TextRequest& request, const ServedModel& model) {
  const size_t num_prompts = request.prompts.size();
  const size_t num_choices = num_prompts * static_cast<size_t>(request.n);
  if (num_choices <= static_cast<size_t>(model.max_choices)) return std::nullopt;
  return invalid_value(
      num_prompts > 1 ? "prompt" : "n",
      fmt::format("at most {} choices in all, prompts times n (--max-queue)", model.max_choices),
      fmt::format("{} times {}", num_prompts, request.n));
}

std::optional<ApiError> check_logprobs(const TextRequest& request,
                                       std::span<const int32_t> max_new_tokens) {
  int64_t num_tokens = 0;
  for (size_t prompt_idx = 0; prompt_idx < max_new_tokens.size(); ++prompt_idx) {
    num_tokens += max_new_tokens[prompt_idx];
    const bool of_prompt = request.echo || request.prompt_logprobs >= 0;
    if (of_prompt) num_tokens += std::ssize(request.prompts[prompt_idx]);
  }
  return check_num_logprobs(
      request.prompt_logprobs > request.logprobs ? "prompt_logprobs" : "logprobs",
      std::max(request.logprobs, request.prompt_logprobs), num_tokens * request.n);
}

}  // namespace

Result<std::unique_ptr<Exchange>, ApiError> open_text_completion(std::string_view body,
                                                                 const ServedModel& model) {
  auto completion = make_text_completion(body, model);
  if (!completion) return completion.error();
  return std::unique_ptr<Exchange>(std::move(*completion));
}

Result<std::unique_ptr<TextCompletion>, ApiError> make_text_completion(std::string_view body,
                                                                       const ServedModel& model) {
  auto request = parse_text_request(body, model);
  if (!request) return request.error();
  if (auto error = check_num_choices(*request, model)) return *std::move(error);
  std::vector<int32_t> max_new_tokens;
  for (const auto& prompt : request->prompts) {
    // The engine generates at least one token; an echo alone leaves it out.
    const auto fitted = fit_new_tokens("prompt", static_cast<int64_t>(prompt.size()),
                                       std::max(*request->max_tokens, 1), model);
    if (!fitted) return fitted.error();
    max_new_tokens.push_back(*fitted);
  }
  if (auto error = check_logprobs(*request, max_new_tokens)) return *std::move(error);
  return std::make_unique<TextCompletion>(std::move(*request), std::move(max_new_tokens), model);
}

TextCompletion::TextCompletion(TextRequest request,
                               std::vector<int32_t> max_new_tokens,
                               const ServedModel& model)
    : request_(std::move(request)),
      max_new_tokens_(std::move(max_new_tokens)),
      model_(model),
      id_(answer_id("cmpl-", request_.request_id)),
      created_unix_s_(unix_time_s()) {
  const size_t num_choices = request_.prompts.size() * static_cast<size_t>(request_.n);
  choices_.reserve(num_choices);
  for (size_t choice_idx = 0; choice_idx < num_choices; ++choice_idx) {
    choices_.push_back({.state = ChatChoice(*model.tokenizer, choice_options(request_))});
  }
  prompt_tokens_.resize(request_.prompts.size());
  request_.stream_interval = std::max(request_.stream_interval, model.stream_interval);
  if (request_.format && model.grammars != nullptr) grammar_ = model.grammars->find(answer_rules());
}

size_t TextCompletion::prompt_idx_of(size_t choice_idx) const {
  return choice_idx / static_cast<size_t>(request_.n);
}

bool TextCompletion::is_first_of_prompt(size_t choice_idx) const {
  return choice_idx % static_cast<size_t>(request_.n) == 0;
}

const std::vector<int32_t>& TextCompletion::prompt_of(size_t choice_idx) const {
  return request_.prompts[prompt_idx_of(choice_idx)];
}

bool TextCompletion::needs_preparation() const {
  return request_.format && model_.grammars != nullptr && grammar_ == nullptr;
}

AnswerRules TextCompletion::answer_rules() const {
  AnswerRules rules;
  rules.format = request_.format;
  rules.may_think = false;
  return rules;
}

void TextCompletion::prepare() {
  auto grammar = compile_rules(answer_rules(), model_);
  if (!grammar) return fail(grammar.error());
  grammar_ = std::move(*grammar);
}

std::vector<GenerationRequest> TextCompletion::take_requests() {
  std::vector<GenerationRequest> requests;
  if (std::exchange(taken_, true)) return requests;
  for (size_t choice_idx = 0; choice_idx < choices_.size(); ++choice_idx) {
    GenerationRequest& generation = requests.emplace_back();
    generation.prompt_ids = prompt_of(choice_idx);
    generation.sampling = request_.sampling;
    if (generation.sampling.seed) *generation.sampling.seed += choice_idx;
    generation.max_new_tokens = max_new_tokens_[prompt_idx_of(choice_idx)];
    generation.min_new_tokens = std::min(request_.min_tokens, generation.max_new_tokens);
    generation.stop_token_ids = model_.stop_token_ids;
    generation.stop_token_ids.insert(generation.stop_token_ids.end(),
                                     request_.stop_token_ids.begin(),
                                     request_.stop_token_ids.end());
    generation.ignore_eos = request_.ignore_eos;
    // Those of a prompt are told once, by its first choice, unless its text is echoed with them.
    const bool tells_prompt = request_.prompt_logprobs >= 0 && is_first_of_prompt(choice_idx);
    generation.num_logprobs =
        tells_prompt ? std::max(request_.logprobs, request_.prompt_logprobs) : request_.logprobs;
    generation.constraint =
        constraint_of(request_, model_, generation.stop_token_ids, grammar_.get());
    generation.prompt_logprobs = tells_prompt || (request_.echo && request_.logprobs >= 0);
    generation.repetition = request_.repetition;
    generation.priority = request_.priority;
    generation.cache_salt = request_.cache_salt;
  }
  return requests;
}

bool TextCompletion::push(int32_t choice_idx, const TokenEvent& event, std::string& frames) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  if (event.kind == TokenEvent::Kind::kPromptToken) {
    const auto idx = static_cast<size_t>(choice_idx);
    if (request_.prompt_logprobs >= 0 && is_first_of_prompt(idx))
      prompt_tokens_[prompt_idx_of(idx)].push_back(event);
    if (request_.echo && request_.logprobs >= 0) choice.tokens.push_back(event);
    return false;
  }
  if (!std::exchange(choice.told_prompt, true)) begin_with_prompt(static_cast<size_t>(choice_idx));
  const bool is_echo_alone = *request_.max_tokens == 0;
  if (is_echo_alone && event.kind == TokenEvent::Kind::kToken) return false;
  TokenEvent taken = event;
  const bool is_good_end =
      event.finish_reason == FinishReason::kLength || event.finish_reason == FinishReason::kStop;
  if (is_echo_alone && is_good_end) {
    taken.completion_tokens = 0;
    taken.finish_reason = FinishReason::kLength;
    taken.stop_token_id = -1;
  }
  deltas_.clear();
  const bool enough = choice.state.push(taken, deltas_);
  if (choice.state.end() == ChatChoice::End::kFailed) {
    if (choice.has_chunk && !choice.text.empty())
      append_chunk(static_cast<size_t>(choice_idx), frames);
    fail(choice.state.error());
    return false;
  }
  for (const AssistantDelta& delta : deltas_) choice.text += delta.text;
  std::vector<TokenEvent> tokens = choice.state.take_logprobs();
  std::move(tokens.begin(), tokens.end(), std::back_inserter(choice.tokens));
  if (event.kind == TokenEvent::Kind::kToken) ++choice.num_held_tokens;
  const std::vector<int32_t> ids = choice.state.take_token_ids();
  choice.token_ids.insert(choice.token_ids.end(), ids.begin(), ids.end());
  if (request_.stream && is_due(choice)) append_chunk(static_cast<size_t>(choice_idx), frames);
  return enough;
}

bool TextCompletion::is_due(const Choice& choice) const {
  if (choice.state.end() != ChatChoice::End::kRunning) return true;
  if (choice.text.empty() && choice.tokens.empty()) return false;
  return !choice.has_chunk || choice.num_held_tokens >= request_.stream_interval;
}

void TextCompletion::begin_with_prompt(size_t choice_idx) {
  if (!request_.echo) return;
  Choice& choice = choices_[choice_idx];
  choice.text = model_.tokenizer->decode(prompt_of(choice_idx));
  if (request_.logprobs < 0) return;
  TokenEvent first;
  first.kind = TokenEvent::Kind::kPromptToken;
  first.token_id = prompt_of(choice_idx).front();
  first.logprob = kNoLogprob;
  choice.tokens.insert(choice.tokens.begin(), std::move(first));
}

bool TextCompletion::finished() const {
  if (error_) return true;
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
    return choice.state.end() != ChatChoice::End::kRunning;
  });
}

TokenUsage TextCompletion::usage() const {
  TokenUsage total;
  for (size_t choice_idx = 0; choice_idx < choices_.size(); ++choice_idx) {
    const TokenUsage& usage = choices_[choice_idx].state.usage();
    total.completion_tokens += usage.completion_tokens;
    if (!is_first_of_prompt(choice_idx)) continue;  // a prompt counts once
    total.prompt_tokens += usage.prompt_tokens > 0  // not before its end
                               ? usage.prompt_tokens
                               : static_cast<int32_t>(prompt_of(choice_idx).size());
    total.cached_tokens += usage.cached_tokens;
  }
  return total;
}

void TextCompletion::append_chunk(size_t choice_idx, std::string& frames) {
  Choice& choice = choices_[choice_idx];
  std::string data = head_json("[");
  append_choice(data, choice_idx, choice);
  data += ']';
  if (request_.continuous_usage) {
    TokenUsage usage = choice.state.usage();
    usage.prompt_tokens = static_cast<int32_t>(prompt_of(choice_idx).size());
    data += ",\"usage\":";
    JsonWriter json(data);
    write_usage(json, usage);
  }
  data += '}';
  append_sse_data(frames, data);
  choice.has_chunk = true;
  choice.text.clear();
  choice.token_ids.clear();
  choice.num_held_tokens = 0;
  for (const TokenEvent& token : choice.tokens) {
    choice.text_size_chars += num_shown_chars(*model_.tokenizer, token);
  }
  choice.tokens.clear();
}

void TextCompletion::append_stream_end(std::string& frames) {
  if (error_) {
    append_sse_data(frames, error_json(*error_));
  } else if (request_.include_usage) {
    std::string data = head_json("[],\"usage\":");
    JsonWriter json(data);
    write_usage(json, usage());
    data += "}";
    append_sse_data(frames, data);
  }
  append_sse_data(frames, "[DONE]");
}

std::string TextCompletion::body() const {
  std::string out = head_json("[");
  for (size_t choice_idx = 0; choice_idx < choices_.size(); ++choice_idx) {
    if (choice_idx > 0) out += ',';
    append_choice(out, choice_idx, choices_[choice_idx]);
  }
  out += "],\"usage\":";
  JsonWriter json(out);
  write_usage(json, usage());
  out += "}";
  return out;
}

void TextCompletion::append_choice(std::string& out,
                                   size_t choice_idx,
                                   const Choice& choice) const {
  JsonWriter json(out);
  json.begin_object().key("index").integer(static_cast<int64_t>(choice_idx));
  json.key("text").string(choice.text);
  out += ",\"logprobs\":";
  append_logprobs(out, choice);
  json.key("finish_reason");
  if (choice.state.end() == ChatChoice::End::kRunning ||
      choice.state.end() == ChatChoice::End::kFailed) {
    json.null();
  } else {
    json.string(finish_reason(choice.state.end()));
    append_stop_reason(out, choice.state);
  }
  if (request_.prompt_logprobs >= 0) {
    json.key("prompt_logprobs");
    write_prompt_logprobs(json, *model_.tokenizer, prompt_tokens_[prompt_idx_of(choice_idx)],
                          request_.prompt_logprobs);
  }
  if (request_.return_token_ids) {
    if (!choice.has_chunk) append_ids(out, "prompt_token_ids", prompt_of(choice_idx));
    append_ids(out, "token_ids", choice.token_ids);
  }
  json.end_object();
}

void TextCompletion::append_logprobs(std::string& out, const Choice& choice) const {
  if (request_.logprobs < 0) {
    out += "null";
    return;
  }
  JsonWriter json(out);
  const Tokenizer& tokenizer = *model_.tokenizer;
  json.begin_object().key("tokens").begin_array();
  for (const TokenEvent& token : choice.tokens) json.string(token_text(tokenizer, token.token_id));
  json.end_array().key("token_logprobs").begin_array();
  for (const TokenEvent& token : choice.tokens) write_logprob(json, token.logprob);
  json.end_array().key("top_logprobs").begin_array();
  for (const TokenEvent& token : choice.tokens)
    write_top(json, tokenizer, token, request_.logprobs);
  json.end_array().key("text_offset").begin_array();
  int64_t offset = choice.text_size_chars;
  for (const TokenEvent& token : choice.tokens) {
    json.integer(offset);
    offset += num_shown_chars(tokenizer, token);
  }
  json.end_array().end_object();
}

std::string TextCompletion::head_json(std::string_view choices_open) const {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("id").string(id_).key("object").string("text_completion");
  json.key("created").integer(created_unix_s_);
  json.key("model").string(request_.model.empty() ? model_.names.front() : request_.model);
  out += ",\"choices\":";
  out += choices_open;
  return out;
}

}  // namespace tandem::server
