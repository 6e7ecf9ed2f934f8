#include "server/request_log/request_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <boost/json/serialize.hpp>
#include <utility>

#include "runtime/tokenizer/tokenizer.h"
#include "server/chat/json_fields.h"
#include "server/chat/sampling_text.h"
#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kRepetition:
      return "repetition";
    case FinishReason::kAborted:
      return "abort";
    case FinishReason::kError:
      break;
  }
  return "error";
}

double milliseconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

std::string utc(std::chrono::system_clock::time_point time) {
  const auto since_epoch =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03d}Z",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(time)), since_epoch % 1000);
}

double seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

// {"key": ..., "value": {"stringValue": ...}}, as OTLP writes an attribute.
class Attributes {
 public:
  explicit Attributes(JsonWriter& writer) : writer_(writer) {}
  void string(std::string_view key, std::string_view value) {
    begin(key).key("stringValue").string(value);
    end();
  }
  void integer(std::string_view key, int64_t value) {
    begin(key).key("intValue").string(std::to_string(value));
    end();
  }
  void number(std::string_view key, double value) {
    begin(key).key("doubleValue").number(value);
    end();
  }

 private:
  JsonWriter& begin(std::string_view key) {
    writer_.begin_object().key("key").string(key);
    return writer_.key("value").begin_object();
  }
  void end() { writer_.end_object().end_object(); }

  JsonWriter& writer_;
};

}  // namespace

RequestRecord::RequestRecord(std::string endpoint, std::string request_id, bool with_content)
    : with_content_(with_content),
      endpoint_(std::move(endpoint)),
      request_id_(std::move(request_id)),
      time_(std::chrono::system_clock::now()),
      begin_(Clock::now()) {}

void RequestRecord::keep_body(const std::string& body) {
  if (with_content_) body_ = body;
}

void RequestRecord::note_answer(std::string answer_id, std::string model, bool streams) {
  answer_id_ = std::move(answer_id);
  model_ = std::move(model);
  streams_ = streams;
}

void RequestRecord::note_request(const GenerationRequest& request) {
  choices_.emplace_back();
  if (asked_) return;
  asked_ = {.sampling = request.sampling,
            .max_new_tokens = request.max_new_tokens,
            .priority = request.priority};
}

void RequestRecord::note_event(int32_t choice_idx, const TokenEvent& event) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  if (event.kind == TokenEvent::Kind::kToken) {
    if (!first_token_) first_token_ = Clock::now();
    ++choice.completion_tokens;
    if (with_content_) choice.token_ids.push_back(event.token_id);
  } else if (event.kind == TokenEvent::Kind::kFinished) {
    const bool is_stop = choice.is_complete && event.finish_reason == FinishReason::kAborted;
    choice.finish_reason = is_stop ? FinishReason::kStop : event.finish_reason;
    choice.completion_tokens = event.completion_tokens;
    if (choice_idx == 0) queue_wait_ = event.queue_wait;
  }
}

void RequestRecord::note_complete(int32_t choice_idx) {
  choices_[static_cast<size_t>(choice_idx)].is_complete = true;
}

void RequestRecord::end(const std::optional<ApiError>& error,
                        bool client_gone,
                        const TokenUsage& usage) {
  error_ = error;
  client_gone_ = client_gone;
  usage_ = usage;
  end_ = Clock::now();
}

size_t RequestRecord::size_bytes() const {
  size_t size_bytes = sizeof(*this) + body_.size();
  for (const Choice& choice : choices_) size_bytes += choice.token_ids.size() * sizeof(int32_t);
  return size_bytes;
}

const char* RequestRecord::outcome() const {
  if (client_gone_) return "client_gone";
  if (!error_) return "done";
  return choices_.empty() ? "refused" : "failed";
}

std::string RequestRecord::to_json_line(const Tokenizer* tokenizer) const {
  std::string line;
  JsonWriter writer(line);
  writer.begin_object();
  writer.key("time").string(utc(time_));
  writer.key("request_id").string(request_id_);
  writer.key("endpoint").string(endpoint_);
  writer.key("outcome").string(outcome());
  if (!answer_id_.empty()) {
    writer.key("id").string(answer_id_);
    writer.key("model").string(model_);
    writer.key("stream").boolean(streams_);
  }
  if (error_) {
    writer.key("error").begin_object();
    writer.key("status").integer(error_->status);
    writer.key("type").string(error_->type);
    writer.key("param").string(error_->param);
    writer.key("code").string(error_->code);
    writer.key("message").string(error_->message);
    writer.end_object();
  }
  writer.key("usage").begin_object();
  writer.key("prompt_tokens").integer(usage_.prompt_tokens);
  writer.key("cached_tokens").integer(usage_.cached_tokens);
  writer.key("completion_tokens").integer(usage_.completion_tokens);
  writer.key("reasoning_tokens").integer(usage_.reasoning_tokens);
  writer.end_object();
  append_choices(writer, tokenizer);
  append_times(writer);
  append_sampling(writer);
  if (!body_.empty()) {
    // On one line; what could be no request is a string.
    const auto body = parse_json_object(body_);
    writer.key("body");
    if (body) {
      writer.raw(boost::json::serialize(*body));
    } else {
      writer.string(body_);
    }
  }
  writer.end_object();
  return line;
}

std::string RequestRecord::to_span_json(const TraceContext& context) const {
  const auto unix_ns = [&](Clock::time_point time) {
    return std::to_string(
        std::chrono::nanoseconds(time_.time_since_epoch() + (time - begin_)).count());
  };
  std::string span;
  JsonWriter writer(span);
  writer.begin_object();
  writer.key("traceId").string(context.trace_id);
  writer.key("spanId").string(context.span_id);
  if (!context.parent_span_id.empty()) writer.key("parentSpanId").string(context.parent_span_id);
  writer.key("name").string("llm_request");
  writer.key("kind").integer(2);  // SERVER
  writer.key("startTimeUnixNano").string(unix_ns(begin_));
  writer.key("endTimeUnixNano").string(unix_ns(end_));
  writer.key("attributes").begin_array();
  Attributes attributes(writer);
  attributes.string("url.path", endpoint_);
  attributes.string("gen_ai.request.id", answer_id_.empty() ? request_id_ : answer_id_);
  attributes.string("gen_ai.response.model", model_);
  attributes.string("tandem.outcome", outcome());
  if (asked_) {
    attributes.integer("gen_ai.request.n", static_cast<int64_t>(choices_.size()));
    attributes.integer("gen_ai.request.max_tokens", asked_->max_new_tokens);
    attributes.number("gen_ai.request.temperature",
                      static_cast<double>(asked_->sampling.temperature));
    attributes.number("gen_ai.request.top_p", static_cast<double>(asked_->sampling.top_p));
  }
  attributes.integer("gen_ai.usage.prompt_tokens", usage_.prompt_tokens);
  attributes.integer("gen_ai.usage.completion_tokens", usage_.completion_tokens);
  attributes.number("gen_ai.latency.time_in_queue", seconds(queue_wait_));
  if (first_token_) {
    attributes.number("gen_ai.latency.time_to_first_token", seconds(*first_token_ - begin_));
    attributes.number("gen_ai.latency.time_in_model_decode", seconds(end_ - *first_token_));
  }
  attributes.number("gen_ai.latency.e2e", seconds(end_ - begin_));
  writer.end_array();
  if (error_) {
    writer.key("status").begin_object();
    writer.key("code").integer(2);  // ERROR
    writer.key("message").string(error_->message);
    writer.end_object();
  }
  writer.end_object();
  return span;
}

void RequestRecord::append_choices(JsonWriter& writer, const Tokenizer* tokenizer) const {
  writer.key("choices").begin_array();
  for (const Choice& choice : choices_) {
    writer.begin_object();
    writer.key("finish_reason");
    if (choice.finish_reason) {
      writer.string(name_of(*choice.finish_reason));
    } else if (error_ || client_gone_) {
      writer.null();
    } else {
      writer.string("stop");  // the answer was complete before the engine knew
    }
    writer.key("completion_tokens").integer(choice.completion_tokens);
    if (with_content_ && tokenizer != nullptr) {
      writer.key("text").string(tokenizer->decode(choice.token_ids));
    }
    writer.end_object();
  }
  writer.end_array();
}

void RequestRecord::append_times(JsonWriter& writer) const {
  writer.key("milliseconds").begin_object();
  writer.key("queue").number(milliseconds(queue_wait_));
  if (first_token_) writer.key("first_token").number(milliseconds(*first_token_ - begin_));
  writer.key("total").number(milliseconds(end_ - begin_));
  writer.end_object();
}

void RequestRecord::append_sampling(JsonWriter& writer) const {
  if (!asked_) return;
  const SamplingParams& sampling = asked_->sampling;
  writer.key("sampling").begin_object();
  writer.key("max_tokens").integer(asked_->max_new_tokens);
  write_sampling(writer, sampling);
  if (sampling.seed) writer.key("seed").string(std::to_string(*sampling.seed));
  writer.key("priority").integer(asked_->priority);
  writer.end_object();
}

}  // namespace tandem::server
