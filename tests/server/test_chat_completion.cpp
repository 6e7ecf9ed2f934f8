#include "server/openai/chat_completion.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;
using server::ChatCompletion;
using server::PreparedChat;
using server::ServedModel;

ServedModel served_model() {
  ServedModel model;
  model.tokenizer = &byte_tokenizer();
  model.vocab_size = byte_tokenizer().vocab_size();
  model.max_context_tokens = 4096;
  model.names = {"tiny"};
  model.stop_token_ids = {byte_tokenizer().specials().im_end};
  return model;
}

constexpr std::string_view kTools =
    R"("tools":[{"type":"function","function":{"name":"f"}},
                {"type":"function","function":{"name":"g"}}])";

struct Ending {
  FinishReason reason = FinishReason::kStop;
  int32_t stop_token_id = -1;
};

struct Played {
  json::value whole;   // the body when not streamed
  std::string frames;  // the same tokens streamed
  std::vector<json::value> events;
  int num_tokens_taken = 0;  // until the completion had enough
};

TokenEvent finished_event(int32_t num_tokens, const Ending& ending) {
  TokenEvent event;
  event.kind = TokenEvent::Kind::kFinished;
  event.finish_reason = ending.reason;
  event.stop_token_id = ending.stop_token_id;
  event.prompt_tokens = 11;
  event.cached_tokens = 5;
  event.completion_tokens = num_tokens;
  return event;
}

// Plays `text` as tokens into a completion of the request, streamed and not.
Played play(std::string_view text, const std::string& extra = "", const Ending& ending = {}) {
  const ServedModel model = served_model();
  const std::vector<int32_t> ids = byte_tokenizer().encode(text, Tokenizer::Specials::kAsTokens);
  Played played;
  for (const bool stream : {false, true}) {
    std::string members = extra;
    if (stream) {
      members += std::string(members.empty() ? "" : ",") +
                 R"("stream":true,"stream_options":{"include_usage":true})";
    }
    auto chat = server::prepare_chat(chat_body("hi", members), model);
    REQUIRE(chat.ok());
    ChatCompletion completion(*chat, model);
    std::string frames;
    int num_taken = 0;
    for (const int32_t id : ids) {
      TokenEvent event;
      event.token_id = id;
      event.logprob = -0.25f;
      event.top_logprobs = {{id, -0.25f}, {'x', -2.0f}};
      ++num_taken;
      if (completion.push(0, event, frames)) break;
    }
    const bool cut = num_taken < static_cast<int>(ids.size());
    Ending actual = ending;
    if (cut) actual.reason = FinishReason::kAborted;
    CHECK_FALSE(completion.finished());
    static_cast<void>(
        completion.push(0, finished_event(static_cast<int32_t>(ids.size()) + 1, actual), frames));
    CHECK(completion.finished());
    if (stream) {
      completion.append_stream_end(frames);
      played.frames = frames;
      played.events = sse_events(frames);
    } else {
      CHECK(frames.empty());
      if (!completion.error()) played.whole = json::parse(completion.body());
    }
    played.num_tokens_taken = num_taken;
  }
  return played;
}

// Streamed deltas and the whole message say the same.
StreamedChoice check_same(const Played& played) {
  const auto choices = add_up(played.events);
  REQUIRE(choices.size() == 1);
  const StreamedChoice& streamed = choices.front();
  const json::value& choice = played.whole.at("choices").at(0);
  const json::object& message = choice.at("message").as_object();
  CHECK(streamed.role_first);
  CHECK(streamed.finish_reason == choice.at("finish_reason").as_string());
  const auto text_of = [&](const char* key) {
    return message.at(key).is_null() ? std::string() : std::string(message.at(key).as_string());
  };
  CHECK(streamed.content == text_of("content"));
  CHECK(streamed.reasoning == text_of("reasoning_content"));
  CHECK(streamed.reasoning == text_of("reasoning"));
  CHECK(message.contains("tool_calls") == !streamed.tool_calls.empty());
  for (size_t call_idx = 0; call_idx < streamed.tool_calls.size(); ++call_idx) {
    const json::value& call = message.at("tool_calls").as_array().at(call_idx);
    CHECK(call.at("type").as_string() == "function");
    CHECK(call.at("id").as_string() == streamed.tool_calls[call_idx].at("id"));
    CHECK(call.at("function").at("name").as_string() == streamed.tool_calls[call_idx].at("name"));
    CHECK(call.at("function").at("arguments").as_string() ==
          streamed.tool_calls[call_idx].at("arguments"));
  }
  CHECK(message.size() == (streamed.tool_calls.empty() ? 5 : 6));
  return streamed;
}

TEST_CASE("streamed deltas add up to the whole answer", "[server][completion]") {
  const auto thought = check_same(play("<think>Let me \u4e2d see.</think>It is \U0001f600."));
  CHECK(thought.reasoning == "Let me \u4e2d see.");
  CHECK(thought.content == "It is \U0001f600.");
  CHECK(thought.finish_reason == "stop");

  const auto plain = check_same(play("No thinking."));
  CHECK(plain.reasoning.empty());
  CHECK(plain.content == "No thinking.");

  const auto empty = check_same(play(""));
  CHECK(empty.content.empty());
  CHECK(empty.finish_reason == "stop");
}

TEST_CASE("a character cut between tokens never leaves half", "[server][completion]") {
  // Every byte is a token here, so each of these arrives in pieces; the last is never completed.
  const auto played = play("\u00e9\u4e2d\U0001f600\xe4\xb8");
  const auto streamed = check_same(played);
  CHECK(streamed.content == "\u00e9\u4e2d\U0001f600\uFFFD");
  for (const json::value& event : played.events) {
    if (event.at("choices").as_array().empty()) continue;  // usage
    const json::object& delta = event.at("choices").at(0).at("delta").as_object();
    if (delta.contains("content") && !delta.contains("role")) {
      CHECK_FALSE(delta.at("content").as_string().empty());
    }
  }
}

TEST_CASE("tool calls keep their shape and order", "[server][completion]") {
  const std::string call =
      "<think>t</think>Look:<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
      "<|tool_call_argument_begin|>{\"city\": \"\u5317\u4eac\"}<|tool_call_end|>"
      "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
      "<|tool_calls_section_end|>";
  const auto streamed = check_same(play(call, std::string(kTools)));
  CHECK(streamed.finish_reason == "tool_calls");
  REQUIRE(streamed.tool_calls.size() == 2);
  CHECK(streamed.tool_calls[0].at("id") == "functions.f:0");
  CHECK(streamed.tool_calls[0].at("name") == "f");
  CHECK(streamed.tool_calls[0].at("arguments") == "{\"city\": \"\u5317\u4eac\"}");
  CHECK(streamed.tool_calls[1].at("id") == "functions.g:1");
  CHECK(streamed.content == "Look:");

  const auto played = play(call, std::string(kTools) + R"(,"parallel_tool_calls":false)");
  const auto first_only = check_same(played);
  REQUIRE(first_only.tool_calls.size() == 1);
  CHECK(first_only.finish_reason == "tool_calls");
  CHECK(first_only.tool_calls[0].at("arguments") == "{\"city\": \"\u5317\u4eac\"}");
  const json::value& usage = played.whole.at("usage");
  CHECK(usage.at("completion_tokens").as_int64() == played.num_tokens_taken);
}

TEST_CASE("content beside tool calls is null when there is none", "[server][completion]") {
  const auto played = play(
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}"
      "<|tool_call_end|><|tool_calls_section_end|>",
      std::string(kTools));
  check_same(played);
  CHECK(played.whole.at("choices").at(0).at("message").at("content").is_null());
  const auto only_thought = play("<think>hm", "", {.reason = FinishReason::kLength});
  CHECK(only_thought.whole.at("choices").at(0).at("message").at("content").is_null());
  CHECK(only_thought.whole.at("choices").at(0).at("finish_reason").as_string() == "length");
  const auto nothing = play("");
  CHECK(nothing.whole.at("choices").at(0).at("message").at("content").as_string().empty());
}

TEST_CASE("a call that stays open ends with length, its arguments kept", "[server][completion]") {
  const std::string open =
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
      "{\"a\": ";
  for (const FinishReason reason : {FinishReason::kLength, FinishReason::kStop}) {
    const auto streamed = check_same(play(open, std::string(kTools), {.reason = reason}));
    CHECK(streamed.finish_reason == "length");
    REQUIRE(streamed.tool_calls.size() == 1);
    CHECK(streamed.tool_calls[0].at("arguments").starts_with("{\"a\":"));
  }
}

TEST_CASE("a stop string ends the content before it, not the thinking", "[server][completion]") {
  const auto played = play("<think>END not</think>one END two", R"("stop":["END"])");
  const auto streamed = check_same(played);
  CHECK(streamed.reasoning == "END not");
  CHECK(streamed.content == "one ");
  CHECK(streamed.finish_reason == "stop");
  CHECK(played.whole.at("choices").at(0).at("stop_reason").as_string() == "END");
  const auto kept =
      check_same(play("one END two", R"("stop":"END","include_stop_str_in_output":true)"));
  CHECK(kept.content == "one END");
}

TEST_CASE("the request's own stop token is reported, the model's is not", "[server][completion]") {
  const auto own = play("abc", R"("stop_token_ids":[33])", {.stop_token_id = 33});
  CHECK(own.whole.at("choices").at(0).at("stop_reason").as_int64() == 33);
  const auto models = play("abc", R"("stop_token_ids":[33])", {.stop_token_id = 258});
  CHECK(models.whole.at("choices").at(0).at("stop_reason").is_null());
}

TEST_CASE("logprobs list the content's tokens with their bytes", "[server][completion]") {
  const auto played = play("<think>no</think>h\u00e9", R"("logprobs":true,"top_logprobs":2)");
  const json::array& entries =
      played.whole.at("choices").at(0).at("logprobs").at("content").as_array();
  std::string bytes;
  for (const json::value& entry : entries) {
    for (const json::value& byte : entry.at("bytes").as_array()) {
      bytes.push_back(static_cast<char>(byte.as_int64()));
    }
    CHECK(entry.at("logprob").as_double() == -0.25);
    CHECK(entry.at("top_logprobs").as_array().size() == 2);
    CHECK(entry.at("top_logprobs").at(1).at("token").as_string() == "x");
  }
  CHECK(bytes == "h\u00e9");
  CHECK(entries.at(1).at("token").as_string() == "\uFFFD");  // half a character
  CHECK(add_up(played.events).front().logprobs == entries);

  const auto without = play("abc");
  CHECK(without.whole.at("choices").at(0).at("logprobs").is_null());
}

TEST_CASE("usage counts cached and reasoning tokens", "[server][completion]") {
  const auto played = play("<think>ab</think>cd");
  const json::value& usage = played.events.back().at("usage");
  CHECK(played.events.back().at("choices").as_array().empty());
  CHECK(usage.at("prompt_tokens").as_int64() == 11);
  CHECK(usage.at("completion_tokens").as_int64() == 7);  // 6 tokens and the end
  CHECK(usage.at("total_tokens").as_int64() == 18);
  CHECK(usage.at("prompt_tokens_details").at("cached_tokens").as_int64() == 5);
  CHECK(usage.at("completion_tokens_details").at("reasoning_tokens").as_int64() == 4);
  const json::value& last_chunk = played.events.at(played.events.size() - 2);
  CHECK(last_chunk.at("choices").at(0).at("usage") == usage);
  CHECK(played.whole.at("usage") == usage);
}

TEST_CASE("a failed engine ends a stream with an error event and [DONE]", "[server][completion]") {
  const auto played = play("par", "", {.reason = FinishReason::kError});
  const json::value& error = played.events.back().at("error");
  CHECK(error.at("object").as_string() == "error");
  CHECK(error.at("code").as_string() == "engine_failed");
  CHECK(played.frames.ends_with("data: [DONE]\n\n"));
}

TEST_CASE("reasoning is left out when the client does not want it", "[server][completion]") {
  const auto streamed = check_same(play("<think>ab</think>cd", R"("include_reasoning":false)"));
  CHECK(streamed.reasoning.empty());
  CHECK(streamed.content == "cd");
}

TEST_CASE("reasoning stays in the content, as it was written, where it is not to be separated",
          "[server][completion]") {
  const std::string extra =
      R"("separate_reasoning":false,"logprobs":true,"stop":["b","c"],)" + std::string(kTools);
  const Played played = play(
      "<think>ab</think>de<|tool_calls_section_begin|><|tool_call_begin|>functions.g:0"
      "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
      extra);
  const json::value& choice = played.whole.at("choices").at(0);
  const json::object& message = choice.at("message").as_object();
  CHECK(message.at("content").as_string() == "<think>ab</think>de");
  CHECK_FALSE(message.contains("reasoning_content"));
  CHECK_FALSE(message.contains("reasoning"));
  CHECK(message.at("tool_calls").as_array().size() == 1);
  CHECK(choice.at("logprobs").at("content").as_array().size() == 6);
  CHECK(played.whole.at("usage").at("completion_tokens_details").at("reasoning_tokens") == 4);
  const auto streamed = add_up(played.events);
  REQUIRE(streamed.size() == 1);
  CHECK(streamed[0].content == "<think>ab</think>de");
  CHECK(streamed[0].reasoning.empty());
  CHECK(streamed[0].tool_calls.size() == 1);
  CHECK(played.frames.find("reasoning_content") == std::string::npos);
  // Stops are met behind the thinking, as without the key; a call ends thinking without a marker.
  const Played stopped = play("<think>ab</think>dcb", extra);
  CHECK(stopped.whole.at("choices").at(0).at("message").at("content").as_string() ==
        "<think>ab</think>d");
  const Played open = play(
      "<think>a<|tool_call_begin|>functions.g:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
      extra);
  const json::value& called = open.whole.at("choices").at(0).at("message");
  CHECK(called.at("content").as_string() == "<think>a");
  CHECK(called.at("tool_calls").as_array().size() == 1);
  CHECK(play("<think></think>d", extra).whole.at("choices").at(0).at("message").at("content") ==
        "<think></think>d");
}

TEST_CASE("what the engine is asked for follows from the request", "[server][completion]") {
  const ServedModel model = served_model();
  const auto prepare = [&](const std::string& extra) {
    auto chat = server::prepare_chat(chat_body("hi", extra), model);
    REQUIRE(chat.ok());
    return std::move(*chat);
  };
  const PreparedChat plain = prepare(R"("seed":5,"n":2)");
  const GenerationRequest first = server::generation_request(plain, model, 0);
  CHECK(first.max_new_tokens == 4096 - static_cast<int32_t>(first.prompt_ids.size()));
  CHECK(first.sampling.seed == 5u);
  CHECK(server::generation_request(plain, model, 1).sampling.seed == 6u);
  CHECK(first.stop_token_ids == model.stop_token_ids);
  CHECK(first.num_logprobs == -1);

  // No tools: the markers that begin a call are out of reach.
  const SpecialTokens& specials = byte_tokenizer().specials();
  REQUIRE(first.sampling.logit_bias.size() == 2);
  CHECK(first.sampling.logit_bias[0].first == specials.tool_calls_section_begin);
  CHECK(first.sampling.logit_bias[1].first == specials.tool_call_begin);
  CHECK(first.sampling.logit_bias[0].second < -1e6f);
  const PreparedChat with_tools = prepare(std::string(kTools));
  CHECK(server::generation_request(with_tools, model, 0).sampling.logit_bias.empty());

  const PreparedChat clamped =
      prepare(R"("max_tokens":100000,"min_tokens":90000,"logprobs":true,"top_logprobs":3)");
  const GenerationRequest request = server::generation_request(clamped, model, 0);
  CHECK(request.max_new_tokens == first.max_new_tokens);
  CHECK(request.min_new_tokens == request.max_new_tokens);
  CHECK(request.num_logprobs == 3);

  auto too_long = server::prepare_chat(chat_body(std::string(5000, 'a')), model);
  REQUIRE_FALSE(too_long.ok());
  CHECK(too_long.error().code == "context_length_exceeded");
  CHECK(too_long.error().message.starts_with("This model's maximum context length is 4096 tokens"));
  auto unknown = server::prepare_chat(chat_body("hi", R"("model":"gpt")"), model);
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.error().status == 404);
}

}  // namespace
}  // namespace tandem::tests
