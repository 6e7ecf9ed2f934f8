// tool_choice, parallel_tool_calls, response_format, guided_* and thinking budgets: the server
// against a model that says something else.
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";

constexpr std::string_view kTools =
    R"("tools":[{"type":"function","function":{"name":"get_weather","parameters":
       {"type":"object","properties":{"city":{"enum":["Oslo","Rome"]}},"required":["city"]}}},
       {"type":"function","function":{"name":"stop","parameters":{"type":"object",
       "properties":{}}}}],"temperature":0)";

const std::vector<Script>& scripts() {
  static const std::vector<Script> all = {
      {"think", "<think>Hm, so.</think>plain text"},
      {"muse", "<think>on and on and on and on and on</think>done"},
      {"two",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.stop:0<|tool_call_argument_begin|>"
       "{}<|tool_call_end|><|tool_call_begin|>functions.stop:1<|tool_call_argument_begin|>{}"
       "<|tool_call_end|><|tool_calls_section_end|>"},
      {"wrong",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
       "<|tool_call_argument_begin|>{\"city\": \"Rome\", \"days\": 3}<|tool_call_end|>"},
      {"twice",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.label:0<|tool_call_argument_begin|"
       ">"
       "{\"tags\": [\"a\", \"a\"]}<|tool_call_end|><|tool_call_begin|>functions.label:1"
       "<|tool_call_argument_begin|>{\"tags\": [\"a\", \"b\"]}<|tool_call_end|>"
       "<|tool_calls_section_end|>"},
      {"", "Hello there!"},
  };
  return all;
}

json::value ask(Client& client, std::string_view text, const std::string& extra) {
  const Response response = client.post(kChat, chat_body(text, extra));
  INFO(response.body);
  REQUIRE(response.status == 200);
  return response.json().at("choices").at(0);
}

std::string content(const json::value& choice) {
  return std::string(choice.at("message").at("content").as_string());
}

TEST_CASE("a required call is made by a model that would rather talk", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string extra = std::string(kTools) + R"(,"tool_choice":"required","max_tokens":200,
      "parallel_tool_calls":false)";
  const json::value choice = ask(client, "hello", extra);
  CHECK(choice.at("finish_reason").as_string() == "tool_calls");
  const json::array& calls = choice.at("message").at("tool_calls").as_array();
  REQUIRE(calls.size() == 1);
  CHECK(calls[0].at("id").as_string().starts_with("functions."));

  const Response streamed = client.post(kChat, chat_body("hello", extra + R"(,"stream":true)"));
  const auto added_up = add_up(sse_events(streamed.body));
  REQUIRE(added_up.size() == 1);
  REQUIRE(added_up[0].tool_calls.size() == 1);
  CHECK(added_up[0].finish_reason == "tool_calls");
}

TEST_CASE("a named function is the one that is called, once", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  for (const char* choice : {R"({"type":"function","function":{"name":"get_weather"}})",
                             R"({"type":"function","name":"get_weather"})"}) {
    const json::value answer =
        ask(client, "two", std::string(kTools) + R"(,"tool_choice":)" + choice);
    const json::array& calls = answer.at("message").at("tool_calls").as_array();
    REQUIRE(calls.size() == 1);
    CHECK(calls[0].at("function").at("name").as_string() == "get_weather");
    const json::value arguments = json::parse(calls[0].at("function").at("arguments").as_string());
    const json::string& city = arguments.at("city").as_string();
    CHECK((city == "Oslo" || city == "Rome"));
  }
}

TEST_CASE("allowed_tools leaves the others out", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string choice =
      R"(,"parallel_tool_calls":false,"tool_choice":{"type":"allowed_tools","allowed_tools":
      {"mode":"required","tools":[{"type":"function","function":{"name":"get_weather"}}]}})";
  const json::value answer = ask(client, "two", std::string(kTools) + choice);
  CHECK(answer.at("message").at("tool_calls").at(0).at("function").at("name").as_string() ==
        "get_weather");
}

TEST_CASE("auto leaves text alone and keeps calls to their schemas", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  CHECK(content(ask(client, "hello", std::string(kTools))) == "Hello there!");
  const json::value wrong = ask(client, "wrong", std::string(kTools) + R"(,"max_tokens":300)");
  const json::value& call = wrong.at("message").at("tool_calls").at(0);
  CHECK(json::parse(call.at("function").at("arguments").as_string()) ==
        json::parse(R"({"city":"Rome"})"));
  const json::value two = ask(client, "two", std::string(kTools));
  CHECK(two.at("message").at("tool_calls").as_array().size() == 2);
  const json::value one =
      ask(client, "two", std::string(kTools) + R"(,"parallel_tool_calls":false)");
  CHECK(one.at("message").at("tool_calls").as_array().size() == 1);
  CHECK(one.at("finish_reason").as_string() == "tool_calls");
}

TEST_CASE("a schema holds behind the thinking, which stays free", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string schema = R"({"type":"object","properties":{"n":{"enum":[7]}},"required":["n"],
      "additionalProperties":false})";
  const std::string format = R"("temperature":0,"response_format":{"type":"json_schema",
      "json_schema":{"name":"x","schema":)" +
                             schema + "}}";
  const json::value choice = ask(client, "think", format);
  CHECK(choice.at("message").at("reasoning_content").as_string() == "Hm, so.");
  CHECK(json::parse(content(choice)) == json::parse(R"({"n":7})"));
  CHECK(choice.at("finish_reason").as_string() == "stop");
  for (const std::string key : {"guided_json", "nvext", "structured_outputs"}) {
    const std::string value = key == "nvext"         ? R"({"guided_json":)" + schema + "}"
                              : key == "guided_json" ? schema
                                                     : R"({"json":)" + schema + "}";
    const json::value alias = ask(client, "hello", R"("temperature":0,")" + key + R"(":)" + value);
    CHECK(json::parse(content(alias)) == json::parse(R"({"n":7})"));
  }
}

TEST_CASE("patterns, choices and grammars by each of their names", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const auto answer = [&](const std::string& extra) {
    return content(ask(client, "hello", R"("temperature":0,)" + extra));
  };
  CHECK(answer(R"("guided_choice":["yes"])") == "yes");
  CHECK(answer(R"("nvext":{"guided_choice":["yes"]})") == "yes");
  CHECK(answer(R"("structured_outputs":{"choice":["yes"]})") == "yes");
  CHECK(answer(R"("guided_regex":"a{3}")") == "aaa");
  CHECK(answer(R"("regex":"a{3}")") == "aaa");
  CHECK(answer(R"("ebnf":"root ::= \"x\"")") == "x");
  CHECK(answer(R"("guided_grammar":"root ::= \"x\"")") == "x");
  // Greedy choice of the lowest byte that is allowed: an object, closed at once or soon.
  const std::string object = answer(R"("response_format":{"type":"json_object"},"max_tokens":4)");
  CHECK(object.starts_with("{"));
}

TEST_CASE("a structural tag holds behind the thinking, by each of its names and forms",
          "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string format = R"({"type":"tag","begin":"<n>","end":"</n>",
      "content":{"type":"json_schema","json_schema":{"enum":[7]}}})";
  for (const std::string& tag :
       {R"("response_format":{"type":"structural_tag","format":)" + format + "}",
        R"("structured_outputs":{"structural_tag":{"format":)" + format + "}}",
        R"("structured_outputs":{"structural_tag":)" +
            json::serialize(json::string(R"({"type":"structural_tag","format":)" + format + "}")) +
            "}"}) {
    const json::value choice = ask(client, "think", R"("temperature":0,)" + tag);
    CHECK(choice.at("message").at("reasoning_content").as_string() == "Hm, so.");
    CHECK(content(choice) == "<n>7</n>");
    CHECK(choice.at("finish_reason").as_string() == "stop");
  }
  // Nothing in what the model says triggers the older form.
  const std::string legacy = R"("temperature":0,"response_format":{"type":"structural_tag",
      "structures":[{"begin":"<n>","schema":{"const":7},"end":"</n>"}],"triggers":["<n"]})";
  CHECK(content(ask(client, "hello", legacy)) == "Hello there!");
  const Response refused =
      client.post(kChat, chat_body("hello", R"("response_format":{"type":"structural_tag",
      "structures":[{"begin":"<n>","schema":{"not":{}},"end":"</n>"}],"triggers":["<n"]})"));
  CHECK(refused.status == 400);
  const json::value error = refused.json().at("error");
  CHECK(error.at("param").as_string() == "response_format");
  CHECK(error.at("message").as_string().find("structures[0].schema") != std::string::npos);
  const Response no_json =
      client.post(kChat, chat_body("hello", R"("structured_outputs":{"structural_tag":"{"})"));
  CHECK(no_json.status == 400);
  CHECK(no_json.json().at("error").at("param").as_string() == "structured_outputs.structural_tag");
}

TEST_CASE("allowed_token_ids and bad_words hold the answer, beside a format as well",
          "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  // Bytes are tokens: 'H' and '!'; without a stop token the answer goes on to its limit.
  const json::value allowed =
      ask(client, "hello", R"("temperature":0,"max_tokens":5,"allowed_token_ids":[72,33])");
  CHECK(content(allowed).find_first_not_of("H!") == std::string::npos);
  CHECK(content(allowed).size() == 5);
  CHECK(allowed.at("finish_reason").as_string() == "length");
  const std::string without = content(
      ask(client, "hello", R"("temperature":0,"max_tokens":12,"bad_words":["lo","there"])"));
  CHECK(without.starts_with("Hel"));
  CHECK(without.find("lo") == std::string::npos);
  CHECK(without.find("there") == std::string::npos);
  CHECK(content(ask(client, "hello", R"("temperature":0,"guided_choice":["no","yes"],
      "bad_words":["n"])")) == "yes");
  const Response stuck = client.post(kChat, chat_body("hello", R"("temperature":0,
      "guided_choice":["no"],"bad_words":["no"])"));
  CHECK(stuck.status == 400);  // to try again is no use
  CHECK(stuck.json().at("error").at("type").as_string() == "invalid_request_error");
  CHECK(stuck.json().at("error").at("message").as_string() ==
        "nothing can follow in bad_words beside guided_choice");
  const Response no_sentence =
      client.post("/v1/completions", R"({"prompt":"hello","guided_grammar":"root ::= root"})");
  CHECK(no_sentence.status == 400);
  CHECK(no_sentence.body.find("nothing can follow in guided_grammar") != std::string::npos);
  const Response text = client.post("/v1/completions", R"({"prompt":"hello","max_tokens":3,
      "temperature":0,"allowed_token_ids":[72]})");
  CHECK(text.json().at("choices").at(0).at("text").as_string() == "HHH");
  const Response rendered =
      client.post("/v1/chat/completions/render", chat_body("hello", R"("bad_words":["a"],
      "allowed_token_ids":[72])"));
  CHECK(rendered.body.find(R"("allowed_token_ids":[72],"bad_words":["a"])") != std::string::npos);
}

TEST_CASE("what no grammar can enforce is a 400 that names field, keyword and path",
          "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const auto refused = [&](const std::string& extra) {
    const Response response = client.post(kChat, chat_body("hello", extra));
    CHECK(response.status == 400);
    return response.json().at("error");
  };
  const json::value schema = refused(R"("response_format":{"type":"json_schema","json_schema":
      {"name":"x","schema":{"type":"object","properties":{"a":{"not":{"type":"null"}}}}}})");
  CHECK(schema.at("param").as_string() == "response_format.json_schema.schema");
  const std::string message(schema.at("message").as_string());
  CHECK(message.find("'not'") != std::string::npos);
  CHECK(message.find("properties.a") != std::string::npos);
  CHECK(refused(R"s("guided_regex":"(?=a)")s").at("param").as_string() == "guided_regex");
  CHECK(refused(R"("guided_choice":[])").at("param").as_string() == "guided_choice");
  CHECK(refused(R"("ebnf":"nonsense")").at("param").as_string() == "ebnf");
  // The next request is served as if nothing had been.
  CHECK(content(ask(client, "hello", R"("temperature":0)")) == "Hello there!");
}

TEST_CASE("a strict function is refused for what cannot be enforced, others are served",
          "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string schema = R"({"type":"object","properties":{"a":{"uniqueItems":true}}})";
  const auto status = [&](const std::string& path, const std::string& tool) {
    const Response response = client.post(
        path, R"({"messages":[{"role":"user","content":"hello"}],"input":"hello","max_tokens":9,)"
              R"("tools":[)" +
                  tool + "]}");
    if (response.status == 400) {
      CHECK(response.body.find("function f: properties.a") != std::string::npos);
      CHECK(response.body.find("uniqueItems") != std::string::npos);
    }
    return response.status;
  };
  for (const bool strict : {true, false}) {
    const std::string is_strict = strict ? R"("strict":true,)" : R"("strict":false,)";
    const int expected = strict ? 400 : 200;
    CHECK(status(kChat, R"({"type":"function","function":{"name":"f",)" + is_strict +
                            R"("parameters":)" + schema + "}}") == expected);
    CHECK(status("/v1/responses", R"({"type":"function","name":"f",)" + is_strict +
                                      R"("parameters":)" + schema + "}") == expected);
    CHECK(status("/v1/messages",
                 R"({"name":"f",)" + is_strict + R"("input_schema":)" + schema + "}") == expected);
  }
}

TEST_CASE("a call that breaks what no grammar enforces is passed on, and said to be wrong",
          "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string schema = R"({"type":"object","properties":{"tags":{"type":"array",
      "items":{"type":"string"},"uniqueItems":true}},"required":["tags"]})";
  const std::string error = "tags: uniqueItems: items 0 and 1 are the same";
  const auto ask_all = [&](const std::string& path, const std::string& tool, bool streams) {
    const Response response = client.post(
        path, R"({"messages":[{"role":"user","content":"twice"}],"input":"twice","max_tokens":500,)"
              R"("temperature":0,"stream":)" +
                  std::string(streams ? "true" : "false") + R"(,"tools":[)" + tool + "]}");
    INFO(response.body);
    REQUIRE(response.status == 200);
    if (!streams) return std::vector<json::value>{response.json()};
    if (path == kChat) return sse_events(response.body);
    std::vector<json::value> events;
    for (const NamedEvent& event : named_events(response.body)) events.push_back(event.data);
    return events;
  };
  const auto check_list = [&](const json::value& list) {
    REQUIRE(list.as_array().size() == 1);  // the other call is good
    CHECK(list.at(0).at("id").as_string() == "functions.label:0");
    CHECK(list.at(0).at("name").as_string() == "label");
    CHECK(list.at(0).at("error").as_string() == error);
  };
  for (const bool streams : {false, true}) {
    const auto chat = ask_all(
        kChat, R"({"type":"function","function":{"name":"label","parameters":)" + schema + "}}",
        streams);
    const json::value& choice = chat.back().at("choices").at(0);
    CHECK(choice.at("finish_reason").as_string() == "tool_calls");
    check_list(choice.at("invalid_tool_calls"));

    const auto messages =
        ask_all("/v1/messages", R"({"name":"label","input_schema":)" + schema + "}", streams);
    const json::value& end = streams ? messages[messages.size() - 2] : messages.back();
    CHECK((streams ? end.at("delta") : end).at("stop_reason").as_string() == "tool_use");
    check_list(end.at("invalid_tool_calls"));

    const auto responses =
        ask_all("/v1/responses",
                R"({"type":"function","name":"label","parameters":)" + schema + "}", streams);
    check_list(
        (streams ? responses.back().at("response") : responses.back()).at("invalid_tool_calls"));
  }
  const std::string metrics = client.get("/metrics").body;
  CHECK(metrics.find("tandem:invalid_tool_calls_total{model_name=\"tiny\"} 6") !=
        std::string::npos);
  // Nothing is said of calls that are right.
  const json::value good = ask(client, "two", std::string(kTools));
  CHECK_FALSE(good.as_object().contains("invalid_tool_calls"));
}

TEST_CASE("a thinking budget ends the thinking", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  for (const char* budget :
       {R"("thinking_token_budget":5)", R"("thinking":{"type":"enabled","budget_tokens":5})"}) {
    const json::value choice =
        ask(client, "muse", std::string(R"("temperature":0,"max_tokens":60,)") + budget);
    CHECK(choice.at("message").at("reasoning_content").as_string() == "on an");
  }
}

TEST_CASE("thinking that is switched off ends where it begins", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  for (const char* off :
       {R"("reasoning_effort":"none")", R"("reasoning":{"effort":"none"})",
        R"("thinking":{"type":"disabled"})", R"("chat_template_kwargs":{"thinking":false})",
        R"("chat_template_kwargs":{"enable_thinking":false},"thinking_token_budget":9)"}) {
    INFO(off);
    const json::value choice =
        ask(client, "muse", std::string(R"("temperature":0,"max_tokens":60,)") + off);
    const json::object& message = choice.at("message").as_object();
    const json::value& reasoning = message.at("reasoning_content");
    CHECK((reasoning.is_null() || reasoning.as_string().empty()));
    CHECK_FALSE(message.at("content").as_string().empty());
  }
}

TEST_CASE("an answer goes on with a message that was begun", "[server][constraint]") {
  ServerFixture fixture({.scripts = {{"text", "and more"}, {"thought", "and</think>then"}}});
  Client client(fixture);
  const auto go_on = [&](const std::string& user, const std::string& last) {
    const Response response = client.post(
        kChat, R"({"messages":[{"role":"user","content":")" + user + R"("},{"role":"assistant",)" +
                   last + R"(}],"continue_final_message":true,"temperature":0})");
    INFO(response.body);
    REQUIRE(response.status == 200);
    return response.json().at("choices").at(0).at("message");
  };
  const json::value text = go_on("text", R"("content":"some text")");
  CHECK(text.at("content").as_string() == "and more");
  CHECK(text.at("reasoning_content").is_null());
  const json::value thought = go_on("thought", R"("content":"","reasoning_content":"a thought")");
  CHECK(thought.at("reasoning_content").as_string() == "and");
  CHECK(thought.at("content").as_string() == "then");
}

TEST_CASE("Messages goes on with an assistant's message at the end", "[server][messages]") {
  ServerFixture fixture({.scripts = {{"text", "and more"}, {"thought", "and</think>then"}}});
  Client client(fixture);
  const auto go_on = [&](const std::string& user, const std::string& block) {
    const Response response = client.post(
        "/v1/messages", R"({"max_tokens":60,"temperature":0,"thinking":{"type":"enabled"},)"
                        R"("messages":[{"role":"user","content":")" +
                            user + R"("},{"role":"assistant","content":[)" + block + "]}]}");
    INFO(response.body);
    REQUIRE(response.status == 200);
    return response.json().at("content").as_array();
  };
  const json::array text = go_on("text", R"({"type":"text","text":"some text"})");
  REQUIRE(text.size() == 1);
  CHECK(text[0].at("text").as_string() == "and more");
  const json::array thought =
      go_on("thought", R"({"type":"thinking","thinking":"a thought","signature":""})");
  REQUIRE(thought.size() == 2);
  CHECK(thought[0].at("thinking").as_string() == "and");
  CHECK(thought[1].at("text").as_string() == "then");
}

TEST_CASE("choices of one request are constrained each by itself", "[server][constraint]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  // The budget ends a thinking part that chance may have begun.
  const std::string extra = R"("n":4,"seed":3,"guided_regex":"[ab]{12}","thinking_token_budget":0)";
  const auto contents = [&] {
    const Response response = client.post(kChat, chat_body("hello", extra));
    REQUIRE(response.status == 200);
    std::vector<std::string> result;
    const json::value body = response.json();
    for (const json::value& choice : body.at("choices").as_array())
      result.push_back(content(choice));
    return result;
  };
  const std::vector<std::string> answers = contents();
  REQUIRE(answers.size() == 4);
  for (const std::string& answer : answers) {
    CHECK(answer.size() == 12);
    CHECK(answer.find_first_not_of("ab") == std::string::npos);
  }
  CHECK(answers[0] != answers[1]);
  CHECK(contents() == answers);
}

}  // namespace
}  // namespace tandem::tests
