#include "server/openai/chat_request.h"

#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::server {
namespace {

constexpr RequestLimits kLimits{.max_n = 4, .vocab_size = 512};

std::string with(std::string_view members) {
  std::string body = R"({"messages":[{"role":"user","content":"hi"}])";
  if (!members.empty()) body.append(",").append(members);
  return body.append("}");
}

std::string with_message(std::string_view message) {
  return std::string(R"({"messages":[)").append(message).append("]}");
}

std::string with_tool(std::string_view function) {
  return with(
      std::string(R"("tools":[{"type":"function","function":)").append(function).append("}]"));
}

ChatRequest parsed(const std::string& body) {
  auto request = parse_chat_request(body, kLimits);
  INFO(body);
  INFO((request ? "" : request.error().message));
  REQUIRE(request.ok());
  return std::move(*request);
}

struct Bad {
  std::string body;
  std::string param;
};
const std::vector<Bad> kBadFields = {
    {with(R"("model":7)"), "model"},
    {with(R"("temperature":"hot")"), "temperature"},
    {with(R"("temperature":-0.1)"), "temperature"},
    {with(R"("temperature":2.01)"), "temperature"},
    {with(R"("temperature":1e999)"), "temperature"},
    {with(R"("top_p":0)"), "top_p"},
    {with(R"("top_p":1.1)"), "top_p"},
    {with(R"("top_k":-2)"), "top_k"},
    {with(R"("top_k":1.5)"), "top_k"},
    {with(R"("top_k":1e30)"), "top_k"},
    {with(R"("min_p":-0.5)"), "min_p"},
    {with(R"("repetition_penalty":0)"), "repetition_penalty"},
    {with(R"("frequency_penalty":2.5)"), "frequency_penalty"},
    {with(R"("presence_penalty":-2.5)"), "presence_penalty"},
    {with(R"("presence_penalty":[])"), "presence_penalty"},
    {with(R"("logit_bias":[1])"), "logit_bias"},
    {with(R"("logit_bias":{"abc":1})"), "logit_bias"},
    {with(R"("logit_bias":{"512":1})"), "logit_bias"},
    {with(R"("logit_bias":{"-1":1})"), "logit_bias"},
    {with(R"("logit_bias":{"5":101})"), "logit_bias.5"},
    {with(R"("logit_bias":{"5":"x"})"), "logit_bias.5"},
    {with(R"("seed":"x")"), "seed"},
    {with(R"("seed":1.5)"), "seed"},
    {with(R"("max_tokens":0)"), "max_tokens"},
    {with(R"("max_tokens":-1)"), "max_tokens"},
    {with(R"("max_tokens":"10")"), "max_tokens"},
    {with(R"("max_tokens":99999999999999999999)"), "max_tokens"},
    {with(R"("max_completion_tokens":0)"), "max_completion_tokens"},
    {with(R"("min_tokens":-1)"), "min_tokens"},
    {with(R"("max_tokens":3,"min_tokens":4)"), "min_tokens"},
    {with(R"("ignore_eos":1)"), "ignore_eos"},
    {with(R"("n":0)"), "n"},
    {with(R"("n":5)"), "n"},
    {with(R"("stop":7)"), "stop"},
    {with(R"("stop":["a",7])"), "stop"},
    {with(R"("stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])"),
     "stop"},
    {with(R"("stop":")" + std::string(1025, 'x') + R"(")"), "stop"},
    {with(R"("stop_token_ids":[512])"), "stop_token_ids"},
    {with(R"("stop_token_ids":["1"])"), "stop_token_ids"},
    {with(R"("stop_token_ids":1)"), "stop_token_ids"},
    {with(R"("logprobs":1)"), "logprobs"},
    {with(R"("logprobs":true,"top_logprobs":21)"), "top_logprobs"},
    {with(R"("top_logprobs":2)"), "top_logprobs"},
    {with(R"("stream":"yes")"), "stream"},
    {with(R"("stream_reasoning":1)"), "stream_reasoning"},
    {with(R"("echo":1)"), "echo"},
    {with(R"("echo":true,"heavy":true)"), "heavy"},
    {with(R"("add_special_tokens":"no")"), "add_special_tokens"},
    {with(R"("add_generation_prompt":"no")"), "add_generation_prompt"},
    {with(R"("no_stop_trim":1)"), "no_stop_trim"},
    {with(R"("extra_key":"")"), "extra_key"},
    {with(R"("stream_options":{"include_usage":true})"), "stream_options"},
    {with(R"("stream":true,"stream_options":true)"), "stream_options"},
    {with(R"("stream":true,"stream_options":{"include_usage":1})"), "stream_options.include_usage"},
    {with(R"("tools":{})"), "tools"},
    {with(R"("tools":[7])"), "tools[0]"},
    {with(R"("tools":[{"function":{"name":"f"}}])"), "tools[0].type"},
    {with(R"("tools":[{"type":"web_search"}])"), "tools[0].type"},
    {with(R"("tools":[{"type":"function"}])"), "tools[0].function"},
    {with_tool(R"({})"), "tools[0].function.name"},
    {with_tool(R"({"name":""})"), "tools[0].function.name"},
    {with_tool(R"({"name":"a b"})"), "tools[0].function.name"},
    {with_tool(R"({"name":"a:0"})"), "tools[0].function.name"},
    {with_tool(R"({"name":"f","parameters":"x"})"), "tools[0].function.parameters"},
    {with_tool(R"({"name":"f","description":1})"), "tools[0].function.description"},
    {with(R"("tool_choice":"maybe")"), "tool_choice"},
    {with(R"("tool_choice":7)"), "tool_choice"},
    {with(R"("tool_choice":{})"), "tool_choice"},
    {with(R"("parallel_tool_calls":"no")"), "parallel_tool_calls"},
    {with(R"("tool_choice":"required")"), "tool_choice"},
    {with(R"("tool_choice":{"type":"function","function":{"name":"g"}})"), "tool_choice"},
    {with(R"("tool_choice":{"type":"allowed_tools"})"), "tool_choice"},
    {with(R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{
        "type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}})"),
     "tool_choice"},
    {with(R"("thinking_token_budget":-1)"), "thinking_token_budget"},
    {with(R"("thinking":{"budget_tokens":"x"})"), "thinking.budget_tokens"},
    {with(R"("response_format":{"type":"json_schema"})"), "response_format.json_schema.schema"},
    {with(R"("response_format":{"type":"json_schema","json_schema":{"schema":[]}})"),
     "response_format.json_schema.schema"},
    {with(R"("guided_json":7)"), "guided_json"},
    {with(R"("guided_choice":"a")"), "guided_choice"},
    {with(R"("guided_choice":[1])"), "guided_choice"},
    {with(R"("nvext":{"guided_regex":{}})"), "nvext.guided_regex"},
    {with(R"("structured_outputs":{"choice":{}})"), "structured_outputs.choice"},
    {with(R"("response_format":"json")"), "response_format"},
    {with(R"("response_format":{})"), "response_format.type"},
    {with(R"("response_format":{"type":"yaml"})"), "response_format.type"},
    {with(R"("stop_regex":5)"), "stop_regex"},
    {with(R"("bad_words":"x")"), "bad_words"},
    {with(R"("bad_words":["x",""])"), "bad_words"},
    {with(R"("allowed_token_ids":[1,512])"), "allowed_token_ids"},
    {with(R"("allowed_token_ids":[-1])"), "allowed_token_ids"},
    {with(R"("separate_reasoning":0)"), "separate_reasoning"},
    {with(R"("separate_reasoning":false,"include_reasoning":false)"), "separate_reasoning"},
    {with(R"("separate_reasoning":false,"heavy":true)"), "heavy"},
    {with(R"("stop_regex":"")"), "stop_regex"},
    {with(R"s("stop_regex":["a","(b"])s"), "stop_regex"},
    {with(R"("stop_regex":"a*")"), "stop_regex"},
    {with(R"("stop_regex":["a","b","c","d","e"])"), "stop_regex"},
    {with(R"("structured_outputs":{"structural_tag":5})"), "structured_outputs.structural_tag"},
    {with(R"("chat_template_kwargs":7)"), "chat_template_kwargs"},
    {with(R"("chat_template_kwargs":{"preserve_thinking":"x"})"),
     "chat_template_kwargs.preserve_thinking"},
    {with(R"("reasoning_effort":3)"), "reasoning_effort"},
    {with(R"("reasoning_effort":"much")"), "reasoning_effort"},
    {with(R"("reasoning":{"effort":"much"})"), "reasoning.effort"},
    {with(R"("thinking":{"type":"maybe"})"), "thinking.type"},
    {with(R"("chat_template_kwargs":{"thinking":"no"})"), "chat_template_kwargs.thinking"},
    {with(R"("modalities":"text")"), "modalities"},
    {with(R"("continue_final_message":1)"), "continue_final_message"},
    {with(R"("continue_final_message":true)"), "continue_final_message"},
    {R"({"messages":[{"role":"assistant","content":"a"}],"continue_final_message":true,)"
     R"("add_generation_prompt":true})",
     "continue_final_message"},
    {R"({"messages":[{"role":"assistant","content":"a"}],"continue_final_message":true,)"
     R"("heavy":true})",
     "heavy"},
    {R"({"messages":null})", "messages"},
    {R"({"model":"x"})", "messages"},
    {R"({"messages":{}})", "messages"},
    {R"({"messages":[]})", "messages"},
    {with_message("7"), "messages[0]"},
    {with_message(R"({"content":"x"})"), "messages[0].role"},
    {with_message(R"({"role":"robot","content":"x"})"), "messages[0].role"},
    {with_message(R"({"role":1,"content":"x"})"), "messages[0].role"},
    {with_message(R"({"role":"user","content":7})"), "messages[0].content"},
    {with_message(R"({"role":"user","content":[7]})"), "messages[0].content[0]"},
    {with_message(R"({"role":"user","content":[{"type":"text"}]})"), "messages[0].content[0].text"},
    {with_message(R"({"role":"user","content":[{"type":"text","text":1}]})"),
     "messages[0].content[0].text"},
    {with_message(R"({"role":"user","content":"x","name":1})"), "messages[0].name"},
    {with_message(R"({"role":"tool","content":"x","tool_call_id":1})"), "messages[0].tool_call_id"},
    {with_message(R"({"role":"assistant","reasoning_content":1})"),
     "messages[0].reasoning_content"},
    {with_message(R"({"role":"assistant","reasoning":{}})"), "messages[0].reasoning"},
    {with_message(R"({"role":"user","tool_calls":[{}]})"), "messages[0].tool_calls"},
    {with_message(R"({"role":"assistant","tool_calls":"x"})"), "messages[0].tool_calls"},
    {with_message(R"({"role":"assistant","tool_calls":[7]})"), "messages[0].tool_calls[0]"},
    {with_message(R"({"role":"assistant","tool_calls":[{}]})"),
     "messages[0].tool_calls[0].function"},
    {with_message(R"({"role":"assistant","tool_calls":[{"function":{}}]})"),
     "messages[0].tool_calls[0].function.name"},
    {with_message(R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":7}}]})"),
     "messages[0].tool_calls[0].function.arguments"},
};

TEST_CASE("a field of the wrong type or range is a 400 that names it", "[server][request]") {
  for (const Bad& bad : kBadFields) {
    INFO(bad.body.substr(0, 200));
    auto request = parse_chat_request(bad.body, kLimits);
    REQUIRE_FALSE(request.ok());
    const ApiError& error = request.error();
    CHECK(error.status == 400);
    CHECK(error.param == bad.param);
    CHECK(error.message.find(bad.param) != std::string::npos);
    CHECK(error.message.find("expected") != std::string::npos);
    CHECK(error.type == "invalid_request_error");
    CHECK_FALSE(error.code.empty());
  }
}

TEST_CASE("what cannot be served yet is a 400 that says so", "[server][request]") {
  struct Unsupported {
    std::string body;
    std::string param;
  };
  const std::vector<Unsupported> table = {
      {with(R"("guided_regex":"a","guided_choice":["a"])"), "guided_choice"},
      {with(R"("chat_template":"{{ messages }}")"), "chat_template"},
      {with(R"("documents":[{"text":"x"}])"), "documents"},
      {with(R"("documents":"x")"), "documents"},
      {with(R"("return_hidden_states":true)"), "return_hidden_states"},
      {with(R"("input_ids":[1])"), "input_ids"},
      {with(R"("lora_path":"x")"), "lora_path"},
      {with(R"("truncate_prompt_tokens":9)"), "truncate_prompt_tokens"},
      {with(R"("functions":[])"), "functions"},
      {with(R"("function_call":"auto")"), "function_call"},
      {with(R"("modalities":["text","audio"])"), "modalities"},
      {with_message(R"({"role":"function","name":"f","content":"x"})"), "messages[0].role"},
      {with_message(R"({"role":"assistant","function_call":{"name":"f"}})"),
       "messages[0].function_call"},
      {with_message(R"({"role":"user","content":[{"type":"image_url","image_url":{}}]})"),
       "messages[0].content[0].type"},
  };
  for (const Unsupported& unsupported : table) {
    INFO(unsupported.body);
    auto request = parse_chat_request(unsupported.body, kLimits);
    REQUIRE_FALSE(request.ok());
    CHECK(request.error().status == 400);
    CHECK(request.error().param == unsupported.param);
    CHECK(request.error().code == "unsupported_parameter");
    CHECK(request.error().message.find("not supported") != std::string::npos);
  }
}

TEST_CASE("every field reaches the request", "[server][request]") {
  const ChatRequest request = parsed(with(
      R"("model":"m","temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,
         "repetition_penalty":1.1,"frequency_penalty":-1,"presence_penalty":1.5,
         "logit_bias":{"7":-100,"9":2.5},"seed":42,"max_tokens":10,"max_completion_tokens":20.0,
         "min_tokens":3,"ignore_eos":true,"n":3,"stop":["a","","b"],"stop_token_ids":[1,2],
         "include_stop_str_in_output":true,"logprobs":true,"top_logprobs":20,"stream":true,
         "stream_options":{"include_usage":true,"continuous_usage_stats":true},
         "request_id":"req-1","priority":-2,"cache_salt":"pepper",
         "parallel_tool_calls":false,"include_reasoning":false)"));
  CHECK(request.model == "m");
  CHECK(request.sampling.temperature == 0.5f);
  CHECK(request.sampling.top_p == 0.9f);
  CHECK(request.sampling.top_k == 40);
  CHECK(request.sampling.min_p == 0.1f);
  CHECK(request.sampling.repetition_penalty == 1.1f);
  CHECK(request.sampling.frequency_penalty == -1.0f);
  CHECK(request.sampling.presence_penalty == 1.5f);
  CHECK(request.sampling.logit_bias ==
        std::vector<std::pair<int32_t, float>>{{7, -100.0f}, {9, 2.5f}});
  CHECK(request.sampling.seed == 42u);
  CHECK(request.max_tokens == 20);
  CHECK(request.min_tokens == 3);
  CHECK(request.ignore_eos);
  CHECK(request.n == 3);
  CHECK(request.stop == std::vector<std::string>{"a", "b"});
  CHECK(request.stop_token_ids == std::vector<int32_t>{1, 2});
  CHECK(request.include_stop_in_output);
  CHECK(request.logprobs);
  CHECK(request.top_logprobs == 20);
  CHECK(request.stream);
  CHECK(request.include_usage);
  CHECK(request.continuous_usage);
  CHECK(request.request_id == "req-1");
  CHECK(request.priority == -2);
  CHECK(request.cache_salt == "pepper");
  CHECK_FALSE(request.parallel_tool_calls);
  CHECK_FALSE(request.include_reasoning);
  CHECK(parsed(with(R"("stop":"END")")).stop == std::vector<std::string>{"END"});
}

TEST_CASE("null is absent and unknown keys are ignored", "[server][request]") {
  const ChatRequest request = parsed(with(
      R"("model":null,"temperature":null,"top_p":null,"max_tokens":null,"stop":null,"n":null,
         "tools":null,"tool_choice":null,"logit_bias":null,"stream":null,"stream_options":null,
         "response_format":null,"seed":null,"logprobs":null,"top_logprobs":null,"user":"u",
         "store":true,"metadata":{"a":"b"},"service_tier":"auto","prompt_cache_key":"k",
         "thinking":{"type":"enabled"},"verbosity":"low","whatever":[{"deep":{}}])"));
  CHECK(request.sampling.temperature == 1.0f);
  CHECK_FALSE(request.max_tokens);
  CHECK(request.n == 1);
  CHECK_FALSE(request.sampling.seed);
  CHECK_FALSE(request.tool_calls_allowed);
}

TEST_CASE("the last of two equal keys counts and nothing breaks", "[server][request]") {
  CHECK(parsed(with(R"("temperature":0.1,"temperature":0.2)")).sampling.temperature == 0.2f);
}

TEST_CASE("seeds of any sign and size are taken", "[server][request]") {
  CHECK(parsed(with(R"("seed":-1)")).sampling.seed == ~uint64_t{0});
  CHECK(parsed(with(R"("seed":18446744073709551615)")).sampling.seed == ~uint64_t{0});
}

TEST_CASE("content is a string, parts or null for every role", "[server][request]") {
  for (const std::string role : {"system", "developer", "user", "assistant", "tool"}) {
    INFO(role);
    const auto content_of = [&](std::string_view content) {
      const auto request = parsed(
          with_message(R"({"role":")" + role + R"(","content":)" + std::string(content) + "}"));
      CHECK(request.prompt.messages.at(0).role == (role == "developer" ? "system" : role));
      return request.prompt.messages.at(0).content;
    };
    CHECK(content_of(R"("plain")") == "plain");
    CHECK(content_of("null").empty());
    CHECK(content_of("[]").empty());
    CHECK(content_of(R"([{"type":"text","text":"a"},{"type":"text","text":""},"b"])") == "ab");
  }
  CHECK(parsed(with_message(R"({"role":"assistant"})")).prompt.messages.at(0).content.empty());
}

TEST_CASE("an assistant message comes back as it was sent", "[server][request]") {
  // What openai's model_dump() and other clients make of an answer: nulls and unknown keys.
  const ChatRequest request = parsed(with_message(
      R"({"role":"assistant","content":null,"refusal":null,"audio":null,"function_call":null,
          "annotations":[],"reasoning_content":"why","reasoning":"why",
          "provider_specific_fields":{"refusal":null},
          "tool_calls":[{"id":"functions.f:0","type":"function","index":0,
                         "function":{"name":"f","arguments":"{\"a\": 1}"}}]},
         {"role":"tool","tool_call_id":"functions.f:0","content":"ok","name":"f"})"));
  const ChatMessage& assistant = request.prompt.messages.at(0);
  CHECK(assistant.reasoning_content == "why");
  REQUIRE(assistant.tool_calls.size() == 1);
  CHECK(assistant.tool_calls[0].id == "functions.f:0");
  CHECK(assistant.tool_calls[0].name == "f");
  CHECK(assistant.tool_calls[0].arguments == R"({"a": 1})");
  CHECK(request.prompt.messages.at(1).tool_call_id == "functions.f:0");
  CHECK(request.prompt.messages.at(1).name == "f");

  CHECK(parsed(with_message(R"({"role":"assistant","content":"x","tool_calls":null})"))
            .prompt.messages.at(0)
            .tool_calls.empty());
  CHECK(parsed(with_message(R"({"role":"user","content":"x","tool_calls":[]})"))
            .prompt.messages.at(0)
            .tool_calls.empty());
  CHECK(parsed(with_message(R"({"role":"assistant","reasoning":"r"})"))
            .prompt.messages.at(0)
            .reasoning_content == "r");
}

TEST_CASE("arguments are kept, written from an object or made {}", "[server][request]") {
  const auto arguments_of = [](std::string_view arguments) {
    const std::string member = arguments.empty() ? "" : R"(,"arguments":)" + std::string(arguments);
    return parsed(with_message(R"({"role":"assistant","tool_calls":[{"id":"x","function":)"
                               R"({"name":"f")" +
                               member + "}}]}"))
        .prompt.messages.at(0)
        .tool_calls.at(0)
        .arguments;
  };
  CHECK(arguments_of(R"("{\"a\":1 }")") == R"({"a":1 })");
  CHECK(arguments_of(R"("not json")") == "not json");
  CHECK(arguments_of(R"({"b":[1,2.0],"a":"\u00e9"})") == "{\"b\": [1, 2.0], \"a\": \"\u00e9\"}");
  CHECK(arguments_of(R"("")") == "{}");
  CHECK(arguments_of(R"(" \n")") == "{}");
  CHECK(arguments_of("null") == "{}");
  CHECK(arguments_of("") == "{}");
}

TEST_CASE("tools are declared, sorted for the prompt, and off on demand", "[server][request]") {
  const std::string tools =
      R"("tools":[{"type":"function","cache_control":{"type":"ephemeral"},"function":
         {"name":"get_weather","description":"\u5929\u6c14","strict":true,"parameters":
           {"type":"object","required":["city"],"properties":{"city":{"type":"string"}}}}}])";
  const ChatRequest request = parsed(with(tools));
  CHECK(request.tool_calls_allowed);
  REQUIRE(request.tools.size() == 1);
  CHECK(request.tools[0].name == "get_weather");
  CHECK(request.prompt.tools_json ==
        "[{\"function\":{\"description\":\"\u5929\u6c14\",\"name\":\"get_weather\",\"parameters\":"
        "{\"properties\":{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"],"
        "\"type\":\"object\"},\"strict\":true},\"type\":\"function\"}]");
  CHECK(parsed(with(tools + R"(,"tool_choice":"auto")")).tool_calls_allowed);

  const ChatRequest none = parsed(with(tools + R"(,"tool_choice":"none")"));
  CHECK_FALSE(none.tool_calls_allowed);
  CHECK(none.prompt.tools_json == request.prompt.tools_json);

  const ChatRequest empty = parsed(with(R"("tools":[],"tool_choice":"auto")"));
  CHECK_FALSE(empty.tool_calls_allowed);
  CHECK(empty.prompt.tools_json.empty());
}

TEST_CASE("thinking is preserved when any of the three forms asks for it", "[server][request]") {
  CHECK_FALSE(parsed(with("")).prompt.preserve_thinking);
  CHECK(parsed(with(R"("preserve_thinking":true)")).prompt.preserve_thinking);
  CHECK(parsed(with(R"("chat_template_kwargs":{"preserve_thinking":true,"thinking":true})"))
            .prompt.preserve_thinking);
  CHECK(parsed(with(R"("thinking":{"type":"enabled","keep":"all"})")).prompt.preserve_thinking);
  CHECK(parsed(with(R"("response_format":{"type":"text"})")).n == 1);
}

TEST_CASE("efforts are thinking budgets, which an explicit budget overrides", "[server][request]") {
  const auto budget = [](std::string_view members) {
    return parsed(with(members)).thinking_budget;
  };
  CHECK(budget("") == std::nullopt);
  CHECK(budget(R"("reasoning_effort":"none")") == 0);
  CHECK(budget(R"("reasoning_effort":"minimal")") == 512);
  CHECK(budget(R"("reasoning":{"effort":"low"})") == 2048);
  CHECK(budget(R"("reasoning_effort":"medium")") == 8192);
  for (const char* high : {"high", "xhigh", "max"})
    CHECK(budget(std::string(R"("reasoning_effort":")") + high + "\"") == std::nullopt);
  CHECK(budget(R"("reasoning_effort":"low","thinking_token_budget":7)") == 7);
  CHECK(budget(R"("thinking":{"type":"enabled","budget_tokens":9})") == 9);
  CHECK(budget(R"("thinking":{"type":"disabled"},"thinking_token_budget":7)") == 0);
  CHECK(budget(R"("chat_template_kwargs":{"enable_thinking":true})") == std::nullopt);
}

TEST_CASE("hostile bodies are a 400, never a crash", "[server][request]") {
  const std::string deep(100'000, '[');
  std::vector<std::string> bodies = {"",
                                     " ",
                                     "null",
                                     "[]",
                                     "7",
                                     "\"x\"",
                                     "{",
                                     "{}x",
                                     R"({"messages":)" + deep + "}",
                                     R"({"a":)" + deep,
                                     with(R"("x":NaN)"),
                                     with(R"("x":01)"),
                                     std::string("{\"a\":1}\0", 8)};
  for (const std::string& body : bodies) {
    INFO(body.substr(0, 60));
    auto request = parse_chat_request(body, kLimits);
    REQUIRE_FALSE(request.ok());
    CHECK(request.error().status == 400);
    CHECK_FALSE(request.error().message.empty());
  }
}

}  // namespace
}  // namespace tandem::server
