#include "server/openai/generation_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "server/chat/json_text.h"
#include "server/chat/service_fields.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopPatterns = 4;
constexpr size_t kMaxBadWords = 128;
constexpr size_t kMaxBadWordBytes = 256;
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

void read_lengths(FieldReader& fields, const RequestLimits& limits, GenerationOptions& options) {
  const auto max_tokens = fields.integer("max_tokens", limits.least_max_tokens, kMaxInt32);
  const auto max_completion_tokens =
      fields.integer("max_completion_tokens", limits.least_max_tokens, kMaxInt32);
  const auto chosen = max_completion_tokens ? max_completion_tokens : max_tokens;
  if (chosen) options.max_tokens = static_cast<int32_t>(*chosen);
  fields.read("min_tokens", 0, kMaxInt32, options.min_tokens);
  if (fields.ok() && chosen && options.min_tokens > *chosen) {
    fields.fail_value("min_tokens", fmt::format("at most max_tokens, {}", *chosen),
                      *fields.find("min_tokens"));
  }
  fields.read("ignore_eos", options.ignore_eos);
  fields.read("n", 1, limits.max_n, options.n);
}

// {"max_pattern_size": 20, "min_count": 4}, vLLM's.
void read_repetition(FieldReader& fields, RepetitionLimit& limit) {
  constexpr int64_t kMaxPatternTokens = 1024;
  const json::object* detection = fields.object("repetition_detection");
  if (detection == nullptr) return;
  FieldReader entries(*detection, "repetition_detection.");
  entries.read("max_pattern_size", 0, kMaxPatternTokens, limit.max_pattern_tokens);
  entries.read("min_pattern_size", 0, kMaxPatternTokens, limit.min_pattern_tokens);
  entries.read("min_count", 2, kMaxInt32, limit.min_count);
  limit.min_pattern_tokens = std::max(limit.min_pattern_tokens, 1);
  if (entries.ok() && limit.max_pattern_tokens > 0 &&
      limit.min_pattern_tokens > limit.max_pattern_tokens) {
    entries.fail_value("min_pattern_size",
                       fmt::format("at most max_pattern_size, {}", limit.max_pattern_tokens),
                       *entries.find("min_pattern_size"));
  }
  if (!entries.ok()) fields.fail(*entries.error());
}

struct TextLimits {
  size_t max_texts = 0;
  size_t min_bytes = 1;
  size_t max_bytes = 0;
};

// One text or a list of them, each to `add` as it stands in the request.
template <typename Add>
void read_texts(FieldReader& fields,
                std::string_view key,
                const TextLimits& limits,
                std::string_view expected,
                const Add& add) {
  const json::value* value = fields.find(key);
  if (value == nullptr) return;
  const auto read_one = [&](const json::value& item) {
    const bool fits = item.is_string() && item.get_string().size() >= limits.min_bytes &&
                      item.get_string().size() <= limits.max_bytes;
    if (!fits) return fields.fail_value(key, expected, item);
    add(item);
  };
  if (!value->is_array()) return read_one(*value);
  if (value->get_array().size() > limits.max_texts) return fields.fail_value(key, expected, *value);
  for (const json::value& item : value->get_array()) read_one(item);
}

void read_stop_strings(FieldReader& fields, std::vector<std::string>& stop) {
  read_texts(fields, "stop",
             {.max_texts = kMaxStopStrings, .min_bytes = 0, .max_bytes = kMaxStopBytes},
             fmt::format("a string or a list of up to {} strings of 1 to {} bytes", kMaxStopStrings,
                         kMaxStopBytes),
             [&](const json::value& item) {
               if (!item.get_string().empty()) stop.emplace_back(as_view(item.get_string()));
             });
}

void read_stop_patterns(FieldReader& fields, GenerationOptions& options) {
  read_texts(
      fields, "stop_regex", {.max_texts = kMaxStopPatterns, .max_bytes = kMaxStopBytes},
      fmt::format("a regular expression or a list of up to {}, of 1 to {} bytes", kMaxStopPatterns,
                  kMaxStopBytes),
      [&](const json::value& item) {
        auto pattern = StopPattern::compile(as_view(item.get_string()));
        if (!pattern) {
          return fields.fail(invalid_value("stop_regex", "a regular expression",
                                           json_excerpt(item) + ": " + pattern.error().message));
        }
        options.stop_patterns.push_back(std::move(*pattern));
      });
}

void read_token_ids(FieldReader& fields,
                    std::string_view key,
                    const RequestLimits& limits,
                    std::vector<int32_t>& out) {
  const json::array* ids = fields.array(key);
  if (ids == nullptr) return;
  for (const json::value& item : *ids) {
    const auto token_id = as_integer(item, 0, limits.vocab_size - 1);
    if (!token_id) {
      return fields.fail_value(key, fmt::format("token ids from 0 to {}", limits.vocab_size - 1),
                               item);
    }
    out.push_back(static_cast<int32_t>(*token_id));
  }
}

void read_stops(FieldReader& fields, const RequestLimits& limits, GenerationOptions& options) {
  read_stop_strings(fields, options.stop);
  read_stop_patterns(fields, options);
  fields.read("include_stop_str_in_output", options.include_stop_in_output);
  if (fields.boolean("no_stop_trim").value_or(false)) options.include_stop_in_output = true;
  read_token_ids(fields, "stop_token_ids", limits, options.stop_token_ids);
}

void read_lists(FieldReader& fields, const RequestLimits& limits, GenerationOptions& options) {
  read_token_ids(fields, "allowed_token_ids", limits, options.allowed_token_ids);
  if (fields.array("bad_words") == nullptr) return;
  read_texts(
      fields, "bad_words", {.max_texts = kMaxBadWords, .max_bytes = kMaxBadWordBytes},
      fmt::format("up to {} strings of 1 to {} bytes", kMaxBadWords, kMaxBadWordBytes),
      [&](const json::value& item) { options.bad_words.emplace_back(as_view(item.get_string())); });
}

void read_stream(FieldReader& fields, const RequestLimits& limits, GenerationOptions& out) {
  fields.read("stream", out.stream);
  fields.read("stream_interval", 1, kMaxInt32, out.stream_interval);
  out.include_usage = limits.force_include_usage;
  const json::object* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!out.stream) {
    return fields.fail_value("stream_options", "stream: true beside it",
                             *fields.find("stream_options"));
  }
  FieldReader entries(*options, "stream_options.");
  if (entries.boolean("include_usage").value_or(false)) out.include_usage = true;
  entries.read("continuous_usage_stats", out.continuous_usage);
  entries.ignore({"include_obfuscation"});
  if (!entries.ok()) fields.fail(*entries.error());
}

// Keys of other servers that change the answer and that are not there: an answer without them would
// be wrong without a word.
void refuse_unsupported(FieldReader& fields) {
  for (const std::string_view key : {"use_beam_search", "return_hidden_states"}) {
    if (fields.boolean(key).value_or(false)) fields.fail(unsupported(key, "true", ""));
  }
  for (const std::string_view key : {"truncate_prompt_tokens", "input_ids", "prompt_embeds",
                                     "custom_logit_processor", "lora_path"}) {
    const json::value* value = fields.find(key);
    const bool is_empty = value == nullptr || (value->is_array() && value->get_array().empty());
    if (!is_empty) fields.fail(unsupported(key, json_excerpt(*value), ""));
  }
}

}  // namespace

void read_num_logprobs(FieldReader& fields,
                       std::string_view key,
                       const RequestLimits& limits,
                       int32_t& out) {
  const auto wanted = fields.integer(key, -1, kMaxInt32);
  if (!wanted) return;
  const int64_t num =
      *wanted < 0 ? limits.vocab_size : std::min<int64_t>(*wanted, limits.vocab_size);
  if (limits.max_logprobs >= 0 && num > limits.max_logprobs) {
    return fields.fail_value(
        key, fmt::format("at most {}, the server's --max-logprobs", limits.max_logprobs),
        *fields.find(key));
  }
  out = static_cast<int32_t>(num);
}

void read_prompt_logprobs(FieldReader& fields,
                          const RequestLimits& limits,
                          const GenerationOptions& options,
                          int32_t& out) {
  read_num_logprobs(fields, "prompt_logprobs", limits, out);
  if (fields.ok() && out >= 0 && options.stream) {
    fields.fail_value("prompt_logprobs", "no stream: true beside it",
                      *fields.find("prompt_logprobs"));
  }
}

void read_generation_options(FieldReader& fields,
                             const RequestLimits& limits,
                             GenerationOptions& options) {
  options.model = fields.string("model").value_or("");
  read_sampling(fields, limits, options.sampling);
  read_lengths(fields, limits, options);
  read_stops(fields, limits, options);
  read_lists(fields, limits, options);
  read_repetition(fields, options.repetition);
  read_stream(fields, limits, options);
  fields.read("return_token_ids", options.return_token_ids);
  // The vocabulary has no tokens that go with every text: with and without are the same.
  static_cast<void>(fields.boolean("add_special_tokens"));
  refuse_unsupported(fields);
  // What OpenAI's and other servers' clients send and what no answer of one machine depends on.
  fields.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "session_id",
                 "prompt_cache_key", "prompt_cache_retention"});
  read_service_fields(fields, options);
}

}  // namespace tandem::server
