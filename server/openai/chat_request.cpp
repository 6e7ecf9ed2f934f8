#include "server/openai/chat_request.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/openai/answer_format.h"
#include "server/openai/chat_messages.h"
#include "server/openai/tool_choice.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr int32_t kMaxTopLogprobs = 20;
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// A token id of `text`, -1 when it is none.
int64_t parse_token_id(std::string_view text, int32_t vocab_size) {
  int64_t id = -1;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (code != std::errc{} || end != text.data() + text.size()) return -1;
  return id >= 0 && id < vocab_size ? id : -1;
}

void read_logit_bias(FieldReader& fields, const RequestLimits& limits, SamplingParams& sampling) {
  const json::object* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  FieldReader entries(*biases, "logit_bias.");
  for (const auto& entry : *biases) {
    const std::string_view name(entry.key().data(), entry.key().size());
    const int64_t token_id = parse_token_id(name, limits.vocab_size);
    if (token_id < 0) {
      fields.fail(invalid_value(
          "logit_bias", fmt::format("token ids from 0 to {} as keys", limits.vocab_size - 1),
          fmt::format("'{}'", name.substr(0, 40))));
      return;
    }
    const auto bias = entries.number(name, {.min = -100, .max = 100});
    if (bias) {
      sampling.logit_bias.emplace_back(static_cast<int32_t>(token_id), static_cast<float>(*bias));
    }
  }
  if (!entries.ok()) fields.fail(*entries.error());
}

void read_sampling(FieldReader& fields, const RequestLimits& limits, SamplingParams& sampling) {
  fields.read("temperature", {.min = 0, .max = 2}, sampling.temperature);
  fields.read("top_p", {.min = 0, .max = 1, .min_excluded = true}, sampling.top_p);
  fields.read("top_k", -1, kMaxInt32, sampling.top_k);
  fields.read("min_p", {.min = 0, .max = 1}, sampling.min_p);
  fields.read("repetition_penalty", {.min = 0, .max = 10, .min_excluded = true},
              sampling.repetition_penalty);
  fields.read("frequency_penalty", {.min = -2, .max = 2}, sampling.frequency_penalty);
  fields.read("presence_penalty", {.min = -2, .max = 2}, sampling.presence_penalty);
  read_logit_bias(fields, limits, sampling);

  const json::value* seed = fields.find("seed");
  if (seed == nullptr) return;
  if (seed->is_uint64()) {
    sampling.seed = seed->get_uint64();
  } else if (const auto value = fields.integer("seed", std::numeric_limits<int64_t>::min(),
                                               std::numeric_limits<int64_t>::max())) {
    sampling.seed = static_cast<uint64_t>(*value);
  }
}

void read_lengths(FieldReader& fields, const RequestLimits& limits, ChatRequest& request) {
  const auto max_tokens = fields.integer("max_tokens", 1, kMaxInt32);
  const auto max_completion_tokens = fields.integer("max_completion_tokens", 1, kMaxInt32);
  const auto chosen = max_completion_tokens ? max_completion_tokens : max_tokens;
  if (chosen) request.max_tokens = static_cast<int32_t>(*chosen);
  fields.read("min_tokens", 0, kMaxInt32, request.min_tokens);
  if (fields.ok() && chosen && request.min_tokens > *chosen) {
    fields.fail_value("min_tokens", fmt::format("at most max_tokens, {}", *chosen),
                      *fields.find("min_tokens"));
  }
  fields.read("ignore_eos", request.ignore_eos);
  fields.read("n", 1, limits.max_n, request.n);
}

void read_stop_strings(FieldReader& fields, std::vector<std::string>& stop) {
  const json::value* value = fields.find("stop");
  if (value == nullptr) return;
  const std::string expected = fmt::format(
      "a string or a list of up to {} strings of 1 to {} bytes", kMaxStopStrings, kMaxStopBytes);
  const auto add = [&](const json::value& item) {
    const bool fits = item.is_string() && item.get_string().size() <= kMaxStopBytes;
    if (!fits) return fields.fail_value("stop", expected, item);
    if (!item.get_string().empty()) stop.emplace_back(as_view(item.get_string()));
  };
  if (!value->is_array()) return add(*value);
  if (value->get_array().size() > kMaxStopStrings) {
    return fields.fail_value("stop", expected, *value);
  }
  for (const json::value& item : value->get_array()) add(item);
}

void read_stops(FieldReader& fields, const RequestLimits& limits, ChatRequest& request) {
  read_stop_strings(fields, request.stop);
  fields.read("include_stop_str_in_output", request.include_stop_in_output);
  const json::array* ids = fields.array("stop_token_ids");
  if (ids == nullptr) return;
  for (const json::value& item : *ids) {
    const auto token_id = as_integer(item, 0, limits.vocab_size - 1);
    if (!token_id) {
      return fields.fail_value("stop_token_ids",
                               fmt::format("token ids from 0 to {}", limits.vocab_size - 1), item);
    }
    request.stop_token_ids.push_back(static_cast<int32_t>(*token_id));
  }
}

void read_logprobs(FieldReader& fields, ChatRequest& request) {
  fields.read("logprobs", request.logprobs);
  fields.read("top_logprobs", 0, kMaxTopLogprobs, request.top_logprobs);
  if (fields.ok() && request.top_logprobs > 0 && !request.logprobs) {
    fields.fail_value("top_logprobs", "logprobs: true beside it", *fields.find("top_logprobs"));
  }
}

void read_stream(FieldReader& fields, ChatRequest& request) {
  fields.read("stream", request.stream);
  const json::object* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!request.stream) {
    return fields.fail_value("stream_options", "stream: true beside it",
                             *fields.find("stream_options"));
  }
  FieldReader entries(*options, "stream_options.");
  entries.read("include_usage", request.include_usage);
  static_cast<void>(entries.boolean("continuous_usage_stats"));
  if (!entries.ok()) fields.fail(*entries.error());
}

void read_tools(FieldReader& fields, ChatRequest& request) {
  for (const std::string_view legacy : {"functions", "function_call"}) {
    if (fields.find(legacy) != nullptr) {
      fields.fail(unsupported(legacy, "the legacy form of tools", "send tools and tool_choice"));
    }
  }
  if (const json::array* tools = fields.array("tools")) {
    auto parsed = parse_tools(*tools);
    if (!parsed) return fields.fail(parsed.error());
    request.tools = std::move(parsed->declarations);
    request.prompt.tools_json = std::move(parsed->tools_json);
  }
  read_tool_choice(fields, request);
}

// Keys that change the answer and that are not there yet: refused, since an answer without them
// would be wrong without a word.
void refuse_unsupported(FieldReader& fields) {
  if (const json::value* value = fields.find("prompt_logprobs")) {
    fields.fail(unsupported("prompt_logprobs", json_excerpt(*value), ""));
  }
  for (const std::string_view key : {"use_beam_search", "continue_final_message", "echo"}) {
    if (fields.boolean(key).value_or(false)) fields.fail(unsupported(key, "true", ""));
  }
  if (const json::array* modalities = fields.array("modalities")) {
    for (const json::value& modality : *modalities) {
      if (modality.is_string() && modality.get_string() == "text") continue;
      fields.fail(unsupported("modalities", json_excerpt(modality), "expected [\"text\"]"));
    }
  }
}

// Thinking controls: K2-Thinking always thinks, so effort is checked and left alone; a budget cuts
// the thinking off.
void read_thinking(FieldReader& fields, ChatRequest& request) {
  static_cast<void>(fields.string("reasoning_effort"));
  const auto set_budget = [&](const std::optional<int64_t>& tokens) {
    if (tokens) request.thinking_budget = static_cast<int32_t>(*tokens);
  };
  set_budget(fields.integer("thinking_token_budget", 0, kMaxInt32));
  fields.read("preserve_thinking", request.prompt.preserve_thinking);
  fields.read("include_reasoning", request.include_reasoning);
  if (const auto separate = fields.boolean("separate_reasoning")) {
    if (!*separate) fields.fail(unsupported("separate_reasoning", "false", ""));
  }
  if (const json::object* kwargs = fields.object("chat_template_kwargs")) {
    FieldReader entries(*kwargs, "chat_template_kwargs.");
    entries.read("preserve_thinking", request.prompt.preserve_thinking);
    static_cast<void>(entries.boolean("thinking"));
    static_cast<void>(entries.boolean("enable_thinking"));
    if (!entries.ok()) fields.fail(*entries.error());
  }
  // {"type": "enabled" | "disabled", "keep": "all", "budget_tokens": N}: Moonshot's and
  // Anthropic's.
  const json::value* thinking = fields.find("thinking");
  if (thinking == nullptr || !thinking->is_object()) return;
  FieldReader entries(thinking->get_object(), "thinking.");
  if (entries.string("keep").value_or("") == "all") request.prompt.preserve_thinking = true;
  set_budget(entries.integer("budget_tokens", 0, kMaxInt32));
  if (!entries.ok()) fields.fail(*entries.error());
}

}  // namespace

Result<ChatRequest, ApiError> parse_chat_request(std::string_view body,
                                                 const RequestLimits& limits) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  ChatRequest request;
  request.model = fields.string("model").value_or("");
  const json::array* messages = fields.array("messages");
  if (fields.ok() && messages == nullptr) {
    fields.fail(invalid_value("messages", "a list of messages", "nothing"));
  }
  if (messages != nullptr) {
    auto parsed = parse_messages(*messages);
    if (parsed) {
      request.prompt.messages = std::move(*parsed);
    } else {
      fields.fail(parsed.error());
    }
  }
  fields.read("add_generation_prompt", request.prompt.add_generation_prompt);
  read_sampling(fields, limits, request.sampling);
  read_lengths(fields, limits, request);
  read_stops(fields, limits, request);
  read_logprobs(fields, request);
  read_stream(fields, request);
  read_tools(fields, request);
  read_answer_format(fields, request);
  read_thinking(fields, request);
  refuse_unsupported(fields);
  if (!fields.ok()) return *fields.error();
  return request;
}

}  // namespace tandem::server
