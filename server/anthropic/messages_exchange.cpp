#include "server/anthropic/messages_exchange.h"

#include <boost/json/value.hpp>

#include "server/anthropic/error_body.h"
#include "server/anthropic/messages_request.h"
#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/http/json_writer.h"
#include "server/http/sse.h"

namespace tandem::server {
namespace {

// Clients send it back unread; that the block is ours is all it says.
constexpr std::string_view kSignature = "dGFuZGVt";

std::string_view stop_reason(const ChatChoice& choice) {
  switch (choice.end()) {
    case ChatChoice::End::kLength:
      return "max_tokens";
    case ChatChoice::End::kToolCalls:
      return "tool_use";
    case ChatChoice::End::kAborted:
      return "abort";
    default:
      return choice.matched_stop() ? "stop_sequence" : "end_turn";
  }
}

void write_stop(JsonWriter& json, const ChatChoice& choice) {
  json.key("stop_reason").string(stop_reason(choice));
  json.key("stop_sequence");
  choice.matched_stop() ? json.string(*choice.matched_stop()) : json.null();
}

// Anthropic's input_tokens are those that were not cached.
void write_usage(JsonWriter& json, const TokenUsage& usage) {
  json.key("usage").begin_object();
  json.key("input_tokens").integer(usage.prompt_tokens - usage.cached_tokens);
  json.key("cache_creation_input_tokens").integer(0);
  json.key("cache_read_input_tokens").integer(usage.cached_tokens);
  json.key("output_tokens").integer(usage.completion_tokens);
  json.key("output_tokens_details").begin_object();
  json.key("thinking_tokens").integer(usage.reasoning_tokens).end_object();
  json.end_object();
}

// An object whatever the model wrote: what is none comes as text, for the client to complain of.
std::string input_json(std::string_view arguments) {
  if (const auto object = parse_json_object(arguments)) return json_text(*object, kWireJson);
  std::string out = "{\"arguments\":";
  append_json_string(out, arguments);
  return out + "}";
}

// A content block; without `whole`, as content_block_start has it: empty strings, not absent ones.
void write_block(JsonWriter& json, const AnswerBlock& block, bool whole) {
  const std::string_view text = whole ? std::string_view(block.text) : std::string_view();
  json.begin_object();
  switch (block.kind) {
    case AnswerBlock::Kind::kReasoning:
      json.key("type").string("thinking").key("thinking").string(text);
      json.key("signature").string(whole ? kSignature : std::string_view());
      break;
    case AnswerBlock::Kind::kText:
      json.key("type").string("text").key("text").string(text);
      break;
    case AnswerBlock::Kind::kToolCall:
      json.key("type").string("tool_use").key("id").string(block.call_id);
      json.key("name").string(block.call_name);
      json.key("input").raw(whole ? input_json(block.text) : "{}");
      break;
  }
  json.end_object();
}

void append_block_delta(std::string& frames,
                        size_t block_idx,
                        std::string_view type,
                        std::string_view key,
                        std::string_view text) {
  std::string data;
  JsonWriter json(data);
  json.begin_object().key("type").string("content_block_delta");
  json.key("index").integer(static_cast<int64_t>(block_idx));
  json.key("delta").begin_object();
  json.key("type").string(type).key(key).string(text);
  json.end_object().end_object();
  append_sse_event(frames, "content_block_delta", data);
}

}  // namespace

Result<std::unique_ptr<Exchange>, ApiError> open_messages(std::string_view body,
                                                          const ServedModel& model) {
  auto request = parse_messages_request(body, request_limits(model), MessagesUse::kGenerate);
  if (!request) return request.error();
  auto chat = prepare_chat(std::move(request->chat), model);
  if (!chat) return chat.error();
  return std::unique_ptr<Exchange>(
      std::make_unique<MessagesExchange>(std::move(*chat), model, request->shows_thinking));
}

Result<std::string, ApiError> count_tokens_json(std::string_view body, const ServedModel& model) {
  auto request = parse_messages_request(body, request_limits(model), MessagesUse::kCount);
  if (!request) return request.error();
  auto prompt = render_request(request->chat, model);
  if (!prompt) return prompt.error();
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("input_tokens").integer(static_cast<int64_t>(prompt->ids.size()));
  json.end_object();
  return out;
}

MessagesExchange::MessagesExchange(PreparedChat chat,
                                   const ServedModel& served,
                                   bool shows_thinking)
    : BlockExchange(std::move(chat), served, "msg_", shows_thinking) {}

// How much of the prompt was cached is known at the end only: message_delta says it.
void MessagesExchange::begin_answer(std::string& frames) {
  if (!streams()) return;
  std::string data;
  JsonWriter json(data);
  json.begin_object().key("type").string("message_start");
  json.key("message").begin_object();
  json.key("id").string(id()).key("type").string("message").key("role").string("assistant");
  json.key("model").string(model_name());
  json.key("content").begin_array().end_array();
  json.key("stop_reason").null().key("stop_sequence").null();
  write_usage(json, {.prompt_tokens = num_prompt_tokens()});
  json.end_object().end_object();
  append_sse_event(frames, "message_start", data);
}

void MessagesExchange::begin_block(const AnswerBlock& block, std::string& frames) {
  if (!streams()) return;
  std::string data;
  JsonWriter json(data);
  json.begin_object().key("type").string("content_block_start");
  json.key("index").integer(static_cast<int64_t>(block_idx()));
  json.key("content_block");
  write_block(json, block, false);
  json.end_object();
  append_sse_event(frames, "content_block_start", data);
}

void MessagesExchange::add_piece(const AnswerBlock& block,
                                 std::string_view piece,
                                 std::string& frames) {
  if (!streams()) return;
  switch (block.kind) {
    case AnswerBlock::Kind::kReasoning:
      return append_block_delta(frames, block_idx(), "thinking_delta", "thinking", piece);
    case AnswerBlock::Kind::kText:
      return append_block_delta(frames, block_idx(), "text_delta", "text", piece);
    case AnswerBlock::Kind::kToolCall:
      return append_block_delta(frames, block_idx(), "input_json_delta", "partial_json", piece);
  }
}

void MessagesExchange::end_block(const AnswerBlock& block, std::string& frames) {
  if (!streams()) return;
  if (block.kind == AnswerBlock::Kind::kReasoning) {
    append_block_delta(frames, block_idx(), "signature_delta", "signature", kSignature);
  }
  std::string data;
  JsonWriter json(data);
  json.begin_object().key("type").string("content_block_stop");
  json.key("index").integer(static_cast<int64_t>(block_idx())).end_object();
  append_sse_event(frames, "content_block_stop", data);
}

void MessagesExchange::end_answer(std::string& frames) {
  if (!streams()) return;
  std::string data;
  JsonWriter json(data);
  json.begin_object().key("type").string("message_delta");
  json.key("delta").begin_object();
  write_stop(json, choice(0));
  json.end_object();
  write_usage(json, usage());
  append_invalid_calls(data, invalid_calls(0));
  json.end_object();
  append_sse_event(frames, "message_delta", data);
  append_sse_event(frames, "message_stop", R"({"type":"message_stop"})");
}

void MessagesExchange::append_stream_end(std::string& frames) {
  if (error()) append_sse_event(frames, "error", anthropic_error_json(*error()));
}

std::string MessagesExchange::body() const {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("id").string(id()).key("type").string("message").key("role").string("assistant");
  json.key("model").string(model_name());
  json.key("content").begin_array();
  for (const AnswerBlock& block : blocks()) write_block(json, block, true);
  json.end_array();
  write_stop(json, choice(0));
  write_usage(json, usage());
  append_invalid_calls(out, invalid_calls(0));
  json.end_object();
  return out;
}

}  // namespace tandem::server
