#include "server/openapi.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <vector>

#include "server/chat/field_recorder.h"
#include "server/dialects.h"
#include "server/handlers.h"
#include "server/http/json_writer.h"
#include "server/http/router.h"
#include "server/sleep_request.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

struct Operation {
  std::string_view summary;
  std::string_view smallest_body;  // its keys are those required; "" without a body
  bool streams = false;            // events with "stream": true
  std::string_view content_type = "application/json";
  bool any_key_will_do = false;  // of a body none of whose keys is required, but one
};

constexpr std::string_view kMessages = R"({"messages":[{"role":"user","content":"hello"}]})";
constexpr std::string_view kAnthropicMessages =
    R"({"max_tokens":1,"messages":[{"role":"user","content":"hello"}]})";

Operation operation_of(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kRoot:
      return {"What this server is", ""};
    case Endpoint::kHealth:
      return {"Whether it can answer: 200, or 503 with the reason", ""};
    case Endpoint::kHealthGenerate:
      return {"Whether a token comes: 200, or 503 with the reason", ""};
    case Endpoint::kVersion:
      return {"The server's version", ""};
    case Endpoint::kServerInfo:
      return {"What is served, on what, with which limits and flags", ""};
    case Endpoint::kModelInfo:
      return {"The checkpoint that is served", ""};
    case Endpoint::kMetrics:
      return {"Counters and histograms for Prometheus", "", false, "text/plain"};
    case Endpoint::kLoad:
      return {"Requests that run or wait", ""};
    case Endpoint::kSglangLoad:
      return {"Requests and KV tokens, as routers of SGLang read them", ""};
    case Endpoint::kOpenApi:
      return {"This document", ""};
    case Endpoint::kModels:
      return {"Models served", ""};
    case Endpoint::kModel:
      return {"One model", ""};
    case Endpoint::kChatCompletions:
      return {"Chat, OpenAI's form", kMessages, true};
    case Endpoint::kCompletions:
      return {"Completion of a prompt, OpenAI's form", R"({"prompt":"hello"})", true};
    case Endpoint::kResponses:
      return {"Responses, OpenAI's form, stateless", R"({"input":"hello"})", true};
    case Endpoint::kMessages:
      return {"Messages, Anthropic's form", kAnthropicMessages, true};
    case Endpoint::kCountTokens:
      return {"Prompt tokens of messages, Anthropic's form", kMessages};
    case Endpoint::kTokenize:
      return {"Text to token ids", R"({"prompt":"hello"})"};
    case Endpoint::kDetokenize:
      return {"Token ids to text", R"({"tokens":[1]})"};
    case Endpoint::kApplyTemplate:
      return {"The prompt that a chat request becomes", kMessages};
    case Endpoint::kRenderChat:
      return {"What the engine would be asked for a chat", kMessages};
    case Endpoint::kRenderText:
      return {"What the engine would be asked for a completion, prompt by prompt",
              R"({"prompt":"hello"})"};
    case Endpoint::kTokenizerInfo:
      return {"Special tokens of the vocabulary", ""};
    case Endpoint::kAbortRequest:
      return {"Ends answers by their ids, or all", R"({"request_ids":[]})", false,
              "application/json", true};
    case Endpoint::kResetPrefixCache:
      return {"Later requests find no KV pages of earlier ones", ""};
    case Endpoint::kSleep:
      return {"Gives the model's memory on its devices back", "{}"};
    case Endpoint::kWakeUp:
      return {"Takes that memory again", "{}"};
    case Endpoint::kIsSleeping:
      return {"Whether the model's memory is given back", ""};
  }
  return {};
}

// Whatever the reader says of the body, it looks at every key that it knows.
std::vector<FieldUse> fields_of(Endpoint endpoint,
                                std::string_view body,
                                const ServerState& state) {
  FieldRecorder recorder;
  const Dialect& dialect = dialect_of(endpoint);
  if (dialect.open != nullptr) {
    static_cast<void>(dialect.open(body, state.model()));
  } else if (endpoint == Endpoint::kSleep) {
    static_cast<void>(read_sleep_request("", body));
  } else if (endpoint == Endpoint::kWakeUp) {
    static_cast<void>(read_wake_request("", body));
  } else {
    static_cast<void>(handle(endpoint, "", body, state));
  }
  return recorder.uses();
}

void write_limit(JsonWriter& out, std::string_view key, const FieldUse& use, double limit) {
  out.key(key);
  if (use.type == "integer") {
    out.integer(static_cast<int64_t>(limit));
  } else {
    out.number(limit);
  }
}

void write_schema(JsonWriter& out, const FieldUse& use) {
  out.begin_object();
  if (!use.type.empty()) out.key("type").string(use.type);
  if (use.min) write_limit(out, "minimum", use, *use.min);
  if (use.max) write_limit(out, "maximum", use, *use.max);
  if (use.is_ignored) out.key("description").string("Accepted, without effect");
  out.end_object();
}

// What may stand in the query as well as in the body, which may then be absent.
void write_query(JsonWriter& out,
                 Endpoint endpoint,
                 const Operation& operation,
                 const ServerState& state) {
  out.key("parameters").begin_array();
  for (const FieldUse& use : fields_of(endpoint, operation.smallest_body, state)) {
    out.begin_object().key("name").string(use.name).key("in").string("query");
    out.key("required").boolean(false).key("schema");
    write_schema(out, use);
    out.end_object();
  }
  out.end_array();
}

void write_request(JsonWriter& out,
                   Endpoint endpoint,
                   const Operation& operation,
                   const ServerState& state) {
  const std::string_view body = operation.smallest_body;
  out.key("requestBody").begin_object().key("required").boolean(!is_sleep_order(endpoint));
  out.key("content").begin_object().key("application/json").begin_object();
  out.key("schema").begin_object().key("type").string("object");
  out.key("properties").begin_object();
  for (const FieldUse& use : fields_of(endpoint, body, state)) {
    out.key(use.name);
    write_schema(out, use);
  }
  out.end_object();
  if (operation.any_key_will_do) {
    out.key("minProperties").integer(1);
  } else {
    out.key("required").begin_array();
    const json::value smallest = json::parse({body.data(), body.size()});
    for (const auto& entry : smallest.get_object()) {
      out.string({entry.key().data(), entry.key().size()});
    }
    out.end_array();
  }
  out.end_object().end_object().end_object().end_object();
}

void write_responses(JsonWriter& out, Endpoint endpoint, const Operation& operation) {
  out.key("responses").begin_object();
  out.key("200").begin_object().key("description").string("The answer");
  out.key("content").begin_object();
  out.key(operation.content_type).begin_object().end_object();
  if (operation.streams) out.key("text/event-stream").begin_object().end_object();
  out.end_object().end_object();
  out.key("default").begin_object().key("description").string("An error: 4xx or 5xx");
  out.key("content").begin_object().key("application/json").begin_object();
  const ApiError sample = invalid_value("temperature", "a number from 0 to 2", "3");
  out.key("example").raw(dialect_of(endpoint).error_json(sample));
  out.end_object().end_object().end_object().end_object();
}

void write_route(JsonWriter& out, const Route& route, const ServerState& state) {
  const Operation operation = operation_of(route.endpoint);
  const bool has_parameter = route.path.size() > 1 && route.path.ends_with('/');
  out.key(std::string(route.path) + (has_parameter ? "{model}" : "")).begin_object();
  out.key(route.method == Method::kGet ? "get" : "post").begin_object();
  out.key("summary").string(operation.summary);
  if (has_parameter) {
    out.key("parameters").begin_array().begin_object();
    out.key("name").string("model").key("in").string("path").key("required").boolean(true);
    out.key("schema").begin_object().key("type").string("string").end_object();
    out.end_object().end_array();
  }
  if (is_sleep_order(route.endpoint)) write_query(out, route.endpoint, operation, state);
  if (is_open_endpoint(route.endpoint)) out.key("security").begin_array().end_array();
  if (!operation.smallest_body.empty()) {
    write_request(out, route.endpoint, operation, state);
  }
  write_responses(out, route.endpoint, operation);
  out.end_object().end_object();
}

}  // namespace

std::string openapi_json(const ServerState& state) {
  std::string document;
  JsonWriter out(document);
  out.begin_object().key("openapi").string("3.1.0");
  out.key("info").begin_object().key("title").string("tandem");
  out.key("version").string(TANDEM_VERSION);
  const std::string unlisted = state.options.strict_params ? "a 400 that names them" : "ignored";
  out.key("description")
      .string("Keys that are not listed are " + unlisted +
              "; null is as good as absent. A listed key of a wrong type or range is a 400 that "
              "names it.");
  out.end_object().key("paths").begin_object();
  for (const Route& route : routes()) write_route(out, route, state);
  out.end_object().key("components").begin_object().key("securitySchemes").begin_object();
  out.key("bearer").begin_object().key("type").string("http").key("scheme").string("bearer");
  out.end_object().key("x-api-key").begin_object().key("type").string("apiKey");
  out.key("in").string("header").key("name").string("x-api-key").end_object();
  out.end_object().end_object();
  if (!state.options.api_keys.empty()) {
    out.key("security").begin_array();
    for (const char* scheme : {"bearer", "x-api-key"}) {
      out.begin_object().key(scheme).begin_array().end_array().end_object();
    }
    out.end_array();
  }
  out.end_object();
  return document;
}

}  // namespace tandem::server
