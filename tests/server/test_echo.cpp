// echo of a chat: the answer begins with the last message where that is of its own role.
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>

#include "server/openai/chat_completion.h"
#include "tests/server/exchange_player.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

struct Answer {
  std::string role;
  json::value content;
  std::string streamed_role;
  std::string streamed;
};

Answer answer_to(std::string_view messages, std::string_view members, std::string_view says) {
  const std::string body =
      R"({"messages":)" + std::string(messages) + "," + std::string(members) + "}";
  const Playback playback = play_exchange(server::open_chat_completion, json::parse(body), says);
  Answer answer;
  const json::object& message = playback.whole.at("choices").at(0).at("message").as_object();
  answer.role = message.at("role").as_string();
  answer.content = message.at("content");
  for (const NamedEvent& event : playback.events) {
    const json::object& delta = event.data.at("choices").at(0).at("delta").as_object();
    if (delta.contains("role")) answer.streamed_role += delta.at("role").as_string();
    if (delta.contains("content")) answer.streamed += delta.at("content").as_string();
  }
  return answer;
}

constexpr std::string_view kUser = R"([{"role":"user","content":"Say"}])";
constexpr std::string_view kPrefill =
    R"([{"role":"user","content":"Say"},{"role":"assistant","content":"It is "}])";

TEST_CASE("a message that is gone on with is echoed before its end", "[server][echo]") {
  const Answer answer =
      answer_to(kPrefill, R"("echo":true,"continue_final_message":true)", "\u4e2d.");
  CHECK(answer.role == "assistant");
  CHECK(answer.content.as_string() == "It is \u4e2d.");
  CHECK(answer.streamed_role == "assistant");
  CHECK(answer.streamed == "It is \u4e2d.");
  // As vLLM has it, an earlier message of the assistant's is echoed as well.
  CHECK(answer_to(kPrefill, R"("echo":true)", "Yes").content.as_string() == "It is Yes");
}

TEST_CASE("a message of another role is not echoed, nor any that nobody asked for",
          "[server][echo]") {
  CHECK(answer_to(kUser, R"("echo":true)", "Yes").content.as_string() == "Yes");
  for (const char* members :
       {R"("continue_final_message":true)", R"("echo":false,"continue_final_message":true)",
        R"("echo":null,"continue_final_message":true)"}) {
    const Answer answer = answer_to(kPrefill, members, "Yes");
    CHECK(answer.content.as_string() == "Yes");
    CHECK(answer.streamed == "Yes");
  }
}

TEST_CASE("without a generation prompt the answer is of the last message's role",
          "[server][echo]") {
  const Answer answer = answer_to(kUser, R"("add_generation_prompt":false,"echo":true)", "!");
  CHECK(answer.role == "user");
  CHECK(answer.streamed_role == "user");
  CHECK(answer.content.as_string() == "Say!");
  CHECK(answer.streamed == "Say!");
  CHECK(answer_to(kUser, R"("add_generation_prompt":true)", "!").role == "assistant");
}

TEST_CASE("an echo stands before calls and beside thinking", "[server][echo]") {
  const Answer answer =
      answer_to(kPrefill, R"("echo":true,"tools":[{"type":"function","function":{"name":"f"}}])",
                "<think>Hm</think><|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
                "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>");
  CHECK(answer.content.as_string() == "It is ");
  CHECK(answer.streamed == "It is ");
}

}  // namespace
}  // namespace tandem::tests
