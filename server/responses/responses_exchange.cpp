#include "server/responses/responses_exchange.h"

#include <fmt/format.h>

#include <array>

#include "server/http/json_writer.h"
#include "server/http/sse.h"

namespace tandem::server {
namespace {

std::string json_quoted(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

std::string_view part_type(const AnswerBlock& block) {
  return block.kind == AnswerBlock::Kind::kReasoning ? "reasoning_text" : "output_text";
}

// {"type":"output_text","text":...,"annotations":[]}
std::string part_json(const AnswerBlock& block, bool done) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("type").string(part_type(block));
  json.key("text").string(done ? std::string_view(block.text) : std::string_view());
  if (block.kind == AnswerBlock::Kind::kText) {
    json.key("annotations").begin_array().end_array();
    json.key("logprobs").begin_array().end_array();
  }
  json.end_object();
  return out;
}

void write_usage(JsonWriter& json, const TokenUsage& usage) {
  json.begin_object();
  json.key("input_tokens").integer(usage.prompt_tokens);
  json.key("input_tokens_details").begin_object();
  json.key("cached_tokens").integer(usage.cached_tokens).end_object();
  json.key("output_tokens").integer(usage.completion_tokens);
  json.key("output_tokens_details").begin_object();
  json.key("reasoning_tokens").integer(usage.reasoning_tokens).end_object();
  json.key("total_tokens").integer(int64_t{usage.prompt_tokens} + usage.completion_tokens);
  json.end_object();
}

}  // namespace

Result<std::unique_ptr<Exchange>, ApiError> open_response(std::string_view body,
                                                          const ServedModel& model) {
  auto request = parse_responses_request(body, request_limits(model));
  if (!request) return request.error();
  auto chat = prepare_chat(std::move(request->chat), model);
  if (!chat) return chat.error();
  return std::unique_ptr<Exchange>(std::make_unique<ResponsesExchange>(
      std::move(*chat), model, std::move(request->tools), std::move(request->echo_json)));
}

ResponsesExchange::ResponsesExchange(PreparedChat chat,
                                     const ServedModel& served,
                                     ResponseTools tools,
                                     std::string echo_json)
    : BlockExchange(std::move(chat), served, "resp_", true),
      tools_(std::move(tools)),
      echo_json_(std::move(echo_json)),
      created_unix_s_(unix_time_s()) {}

void ResponsesExchange::begin_answer(std::string& frames) {
  append_response_event(frames, "response.created", Status::kInProgress);
  append_response_event(frames, "response.in_progress", Status::kInProgress);
}

void ResponsesExchange::begin_block(const AnswerBlock& block, std::string& frames) {
  switch (block.kind) {
    case AnswerBlock::Kind::kReasoning:
      item_ids_.push_back(new_id("rs_"));
      break;
    case AnswerBlock::Kind::kText:
      item_ids_.push_back(new_id("msg_"));
      break;
    case AnswerBlock::Kind::kToolCall:
      item_ids_.push_back(new_id("fc_"));
      break;
  }
  if (!streams()) return;
  append_event(
      frames, "response.output_item.added",
      fmt::format(R"(,"output_index":{},"item":{})", item_idx(), item_json(item_idx(), false)));
  if (block.kind == AnswerBlock::Kind::kToolCall) return;
  append_item_event(frames, "response.content_part.added",
                    fmt::format(R"(,"content_index":0,"part":{})", part_json(block, false)));
}

// The input of a custom tool is inside a JSON string: it comes in one piece, at its end.
void ResponsesExchange::add_piece(const AnswerBlock& block,
                                  std::string_view piece,
                                  std::string& frames) {
  if (!streams()) return;
  const std::string delta = fmt::format(R"(,"delta":{})", json_quoted(piece));
  switch (block.kind) {
    case AnswerBlock::Kind::kReasoning:
      return append_item_event(frames, "response.reasoning_text.delta",
                               R"(,"content_index":0)" + delta);
    case AnswerBlock::Kind::kText:
      return append_item_event(frames, "response.output_text.delta",
                               R"(,"content_index":0,"logprobs":[])" + delta);
    case AnswerBlock::Kind::kToolCall:
      if (tools_.find(block.call_name).kind == ResponseTool::Kind::kCustom) return;
      return append_item_event(frames, "response.function_call_arguments.delta", delta);
  }
}

void ResponsesExchange::end_block(const AnswerBlock& block, std::string& frames) {
  if (!streams()) return;
  if (block.kind == AnswerBlock::Kind::kToolCall) {
    const ResponseTool tool = tools_.find(block.call_name);
    if (tool.kind == ResponseTool::Kind::kCustom) {
      const std::string input = json_quoted(custom_input(item_idx()));
      append_item_event(frames, "response.custom_tool_call_input.delta", ",\"delta\":" + input);
      append_item_event(frames, "response.custom_tool_call_input.done", ",\"input\":" + input);
    } else {
      append_item_event(frames, "response.function_call_arguments.done",
                        fmt::format(R"(,"name":{},"arguments":{})", json_quoted(tool.name),
                                    json_quoted(block.text)));
    }
  } else {
    const bool is_text = block.kind == AnswerBlock::Kind::kText;
    append_item_event(frames,
                      is_text ? "response.output_text.done" : "response.reasoning_text.done",
                      fmt::format(R"(,"content_index":0{},"text":{})",
                                  is_text ? R"(,"logprobs":[])" : "", json_quoted(block.text)));
    append_item_event(frames, "response.content_part.done",
                      fmt::format(R"(,"content_index":0,"part":{})", part_json(block, true)));
  }
  append_event(
      frames, "response.output_item.done",
      fmt::format(R"(,"output_index":{},"item":{})", item_idx(), item_json(item_idx(), true)));
}

void ResponsesExchange::end_answer(std::string& frames) {
  if (final_status() == Status::kIncomplete) {
    append_response_event(frames, "response.incomplete", Status::kIncomplete);
  } else {
    append_response_event(frames, "response.completed", Status::kCompleted);
  }
}

// An error event alone is handed to the caller as an event and raises nothing in the SDKs.
void ResponsesExchange::append_stream_end(std::string& frames) {
  if (!error()) return;
  append_event(frames, "error",
               fmt::format(R"(,"code":{},"message":{},"param":null)", json_quoted(error()->code),
                           json_quoted(error()->message)));
  append_response_event(frames, "response.failed", Status::kFailed);
}

std::string ResponsesExchange::body() const { return response_json(final_status()); }

ResponsesExchange::Status ResponsesExchange::final_status() const {
  const bool is_whole = end() != ChatChoice::End::kLength && end() != ChatChoice::End::kAborted;
  return is_whole ? Status::kCompleted : Status::kIncomplete;
}

bool ResponsesExchange::is_cut(size_t idx) const {
  if (idx + 1 < blocks().size()) return false;
  if (error()) return true;
  if (!has_all_blocks() || final_status() == Status::kCompleted) return false;
  const bool is_call = blocks()[idx].kind == AnswerBlock::Kind::kToolCall;
  return !is_call || choice(0).in_unclosed_call();
}

std::string_view ResponsesExchange::item_status(size_t idx, bool done) const {
  if (!done) return "in_progress";
  return is_cut(idx) ? "incomplete" : "completed";
}

std::string ResponsesExchange::custom_input(size_t idx) const {
  const std::string& arguments = blocks()[idx].text;
  return is_cut(idx) ? ResponseTools::cut_custom_input(arguments)
                     : ResponseTools::custom_input(arguments);
}

std::string ResponsesExchange::response_json(Status status) const {
  constexpr std::array<std::string_view, 4> kNames = {"in_progress", "completed", "incomplete",
                                                      "failed"};
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("id").string(id()).key("object").string("response");
  json.key("created_at").integer(created_unix_s_);
  json.key("status").string(kNames[static_cast<size_t>(status)]);
  json.key("error");
  if (status == Status::kFailed) {
    json.begin_object().key("code").string(error()->code);
    json.key("message").string(error()->message).end_object();
  } else {
    json.null();
  }
  json.key("incomplete_details");
  if (status == Status::kIncomplete) {
    const bool is_aborted = end() == ChatChoice::End::kAborted;
    json.begin_object().key("reason").string(is_aborted ? "abort" : "max_output_tokens");
    json.end_object();
  } else {
    json.null();
  }
  json.key("model").string(model_name());
  json.key("output").begin_array();
  if (status != Status::kInProgress) {
    for (size_t idx = 0; idx < blocks().size(); ++idx) json.raw(item_json(idx, true));
  }
  json.end_array();
  json.key("usage");
  if (status == Status::kCompleted || status == Status::kIncomplete) {
    write_usage(json, usage());
  } else {
    json.null();
  }
  append_invalid_calls(out, invalid_calls(0));
  out += echo_json_;
  json.end_object();
  return out;
}

std::string ResponsesExchange::item_json(size_t idx, bool done) const {
  const AnswerBlock& block = blocks()[idx];
  if (block.kind == AnswerBlock::Kind::kToolCall) return call_json(idx, done);
  const bool is_text = block.kind == AnswerBlock::Kind::kText;
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("id").string(item_ids_[idx]);
  json.key("type").string(is_text ? "message" : "reasoning");
  json.key("status").string(item_status(idx, done));
  if (is_text) {
    json.key("role").string("assistant");
  } else {
    json.key("summary").begin_array().end_array();
    json.key("encrypted_content").null();
  }
  json.key("content").begin_array();
  if (done) json.raw(part_json(block, true));
  json.end_array().end_object();
  return out;
}

std::string ResponsesExchange::call_json(size_t idx, bool done) const {
  const AnswerBlock& block = blocks()[idx];
  const ResponseTool tool = tools_.find(block.call_name);
  const bool is_custom = tool.kind == ResponseTool::Kind::kCustom;
  const std::string_view text = done ? std::string_view(block.text) : std::string_view();
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("id").string(item_ids_[idx]);
  json.key("type").string(is_custom ? "custom_tool_call" : "function_call");
  json.key("status").string(item_status(idx, done));
  json.key("call_id").string(block.call_id);
  json.key("name").string(tool.name);
  if (!tool.name_space.empty()) json.key("namespace").string(tool.name_space);
  if (is_custom) {
    json.key("input").string(done ? custom_input(idx) : "");
  } else {
    json.key("arguments").string(text);
  }
  json.end_object();
  return out;
}

void ResponsesExchange::append_event(std::string& frames,
                                     std::string_view type,
                                     std::string_view members) {
  append_sse_event(
      frames, type,
      fmt::format(R"({{"type":"{}","sequence_number":{}{}}})", type, num_events_++, members));
}

void ResponsesExchange::append_response_event(std::string& frames,
                                              std::string_view type,
                                              Status status) {
  if (!streams()) return;
  append_event(frames, type, ",\"response\":" + response_json(status));
}

void ResponsesExchange::append_item_event(std::string& frames,
                                          std::string_view type,
                                          std::string_view members) {
  append_event(frames, type,
               fmt::format(R"(,"item_id":"{}","output_index":{}{})", item_ids_[item_idx()],
                           item_idx(), members));
}

}  // namespace tandem::server
