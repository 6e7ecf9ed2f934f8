// --strict-params: a key that no reader knows is a 400 that names it; without the flag it is
// ignored.
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kText = "/v1/completions";
constexpr const char* kMessages = "/v1/messages";
constexpr const char* kResponses = "/v1/responses";

ServerSetup strict() {
  ServerSetup setup;
  setup.options.strict_params = true;
  return setup;
}

struct Case {
  std::string path;
  std::string body;
  std::string unknown;  // the path of the key; "" for none
};

std::string with_message(const std::string& message) {
  return R"({"max_tokens":5,"messages":[{"role":"user","content":"hi"},)" + message + "]}";
}

// Bodies that are good but for one key.
const std::vector<Case> kUnknown = {
    {kChat, chat_body("hi", R"("temprature":0.5)"), "temprature"},
    {kChat, chat_body("hi", R"("colour":null)"), "colour"},
    {kChat, chat_body("hi", R"("stream":true,"stream_options":{"include_cost":true})"),
     "stream_options.include_cost"},
    {kChat, chat_body("hi", R"("response_format":{"type":"text","strict":true})"),
     "response_format.strict"},
    {kChat, chat_body("hi", R"("response_format":{"type":"json_schema","json_schema":
                              {"name":"a","schema":{"type":"object"},"title":"b"}})"),
     "response_format.json_schema.title"},
    {kChat, chat_body("hi", R"("reasoning":{"efort":"low"})"), "reasoning.efort"},
    {kChat, chat_body("hi", R"("thinking":{"type":"enabled","tokens":5})"), "thinking.tokens"},
    {kChat, chat_body("hi", R"("heavy":{"n":2,"m":3})"), "heavy.m"},
    {kChat, chat_body("hi", R"("repetition_detection":{"size":2})"), "repetition_detection.size"},
    {kChat, chat_body("hi", R"("nvext":{"guided_toml":"a"})"), "nvext.guided_toml"},
    {kChat, chat_body("hi", R"("structured_outputs":{"toml":"a"})"), "structured_outputs.toml"},
    {kChat, chat_body("hi", R"("tools":[{"type":"function","function":{"name":"f"},"id":"x"}])"),
     "tools[0].id"},
    {kChat, chat_body("hi", R"("tools":[{"type":"function","function":{"name":"f","args":{}}}])"),
     "tools[0].function.args"},
    {kChat, with_message(R"({"role":"user","content":"x","colour":"red"})"), "messages[1].colour"},
    {kChat, with_message(R"({"role":"user","content":[{"type":"text","text":"x","size":1}]})"),
     "messages[1].content[0].size"},
    {kChat, with_message(R"({"role":"assistant","tool_calls":[
         {"id":"a","type":"function","function":{"name":"f","arguments":"{}","result":1}}]})"),
     "messages[1].tool_calls[0].function.result"},
    {kText, R"({"prompt":"hi","temprature":0.5})", "temprature"},
    {kText, R"({"prompt":"hi","stream":true,"stream_options":{"usage":true}})",
     "stream_options.usage"},
    {kMessages, with_message(R"({"role":"user","content":"x","colour":"red"})"),
     "messages[1].colour"},
    {kMessages, with_message(R"({"role":"user","content":[{"type":"text","text":"x","size":1}]})"),
     "messages[1].content[0].size"},
    {kMessages, R"({"max_tokens":5,"messages":[{"role":"user","content":"x"}],"top_a":1})",
     "top_a"},
    {kMessages, R"({"max_tokens":5,"messages":[{"role":"user","content":"x"}],
                    "tools":[{"name":"f","input_schema":{"type":"object"},"args":1}]})",
     "tools[0].args"},
    {kResponses, R"({"input":"hi","instruction":"x"})", "instruction"},
    {kResponses, R"({"input":[{"role":"user","content":"hi","colour":1}]})", "input[0].colour"},
    {kResponses, R"({"input":"hi","text":{"form":"x"}})", "text.form"},
    {kResponses, R"({"input":"hi","tools":[{"type":"function","name":"f","args":{}}]})",
     "tools[0].args"},
    {"/v1/messages/count_tokens", with_message(R"({"role":"user","content":"x","colour":1})"),
     "messages[1].colour"},
    {"/tokenize", R"({"prompt":"hi","text":"x"})", "text"},
    {"/tokenize", chat_body("hi", R"("return_strs":true)"), "return_strs"},
    {"/detokenize", R"({"tokens":[65],"text":"x"})", "text"},
    {"/apply-template", chat_body("hi", R"("tool":[])"), "tool"},
    {"/v1/chat/completions/render", chat_body("hi", R"("tool":[])"), "tool"},
    {"/v1/completions/render", R"({"prompt":"hi","tool":[]})", "tool"},
    {"/abort_request", R"({"request_ids":[],"reason":"x"})", "reason"},
    {"/wake_up", R"({"tag":["weights"]})", "tag"},
    {"/sleep", R"({"tags":["cuda_graph"],"levels":2})", "levels"},
};

TEST_CASE("an unknown key is named by a strict server, and ignored by another",
          "[server][strict]") {
  ServerFixture strict_server(strict());
  ServerFixture usual;
  for (const Case& each : kUnknown) {
    INFO(each.path << " " << each.body);
    const Response refused = Client(strict_server).post(each.path, each.body);
    INFO(refused.body);
    CHECK(refused.status == 400);
    const json::value error = refused.json().at("error");
    const std::string message(error.at("message").as_string());
    CHECK(message.starts_with("Unknown parameter: '" + each.unknown + "'."));
    if (!each.path.starts_with(kMessages)) {
      CHECK(error.at("code").as_string() == "unknown_parameter");
      CHECK(std::string(error.at("param").as_string()) == each.unknown);
    }
    CHECK(Client(usual).post(each.path, each.body).status == 200);
  }
}

TEST_CASE("what clients send with good reason is known, if ignored", "[server][strict]") {
  ServerFixture fixture(strict());
  Client client(fixture);
  const std::vector<Case> known = {
      {kChat,
       chat_body("hi", R"("user":"u","metadata":{"a":"b"},"store":false,"service_tier":"auto",
          "safety_identifier":"s","prompt_cache_key":"k","verbosity":"low","session_id":"s",
          "chat_template_kwargs":{"thinking":true,"anything":[1]},"logit_bias":{"5":1},
          "stream_options":null,"stream":false,"tools":[{"type":"function","cache_control":{},
          "function":{"name":"f","parameters":{"type":"object","x-mine":1}}}])"),
       ""},
      {kChat, with_message(R"({"role":"assistant","content":"x","refusal":null,"annotations":[],
          "audio":null,"reasoning":"r","tool_calls":[{"index":0,"id":"a","type":"function",
          "function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a",
          "content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]})"),
       ""},
      {kText, R"({"prompt":"hi","user":"u","metadata":{}})", ""},
      {kMessages, R"({"max_tokens":5,"metadata":{"user_id":"x","more":1},"service_tier":"auto",
          "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
          "messages":[{"role":"user","content":[{"type":"image","source":{"type":"url"}}]}],
          "tools":[{"type":"web_search_20250305","name":"web_search","max_uses":3}]})",
       ""},
      {kResponses, R"({"input":[{"type":"message","id":"m","status":"completed","role":"assistant",
          "content":[{"type":"output_text","text":"x","annotations":[],"logprobs":[]}]},
          {"type":"web_search_call","action":{"query":"x"}}],"include":[],"store":false,
          "truncation":"auto","tools":[{"type":"web_search","filters":{}}]})",
       ""},
      {"/tokenize", chat_body("hi", R"("return_token_strs":true,"add_special_tokens":false)"), ""},
      {"/tokenize", R"({"model":"tiny","prompt":"x"})", ""},
      {"/detokenize", R"({"model":"tiny","tokens":[65]})", ""},
  };
  for (const Case& each : known) {
    INFO(each.path << " " << each.body);
    const Response response = client.post(each.path, each.body);
    INFO(response.body);
    CHECK(response.status == 200);
  }
}

TEST_CASE("what the server has said itself is known when it comes back", "[server][strict]") {
  ServerSetup setup = strict();
  setup.scripts = {{"call",
                    "<think>t</think>Look:<|tool_calls_section_begin|><|tool_call_begin|>"
                    "functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
                    "<|tool_calls_section_end|>"},
                   {"", "Done"}};
  ServerFixture fixture(setup);
  Client client(fixture);
  json::object body = {{"messages", {{{"role", "user"}, {"content", "call"}}}},
                       {"tools", {{{"type", "function"}, {"function", {{"name", "f"}}}}}}};
  const json::value chat = client.post(kChat, json::serialize(body)).json();
  json::array& messages = body["messages"].as_array();
  messages.push_back(chat.at("choices").at(0).at("message"));
  messages.push_back({{"role", "tool"}, {"tool_call_id", "functions.f:0"}, {"content", "5"}});
  CHECK(client.post(kChat, json::serialize(body)).status == 200);

  json::object request = {{"input", json::array{{{"role", "user"}, {"content", "call"}}}},
                          {"tools", {{{"type", "function"}, {"name", "f"}}}}};
  const json::value response = client.post(kResponses, json::serialize(request)).json();
  json::array& input = request["input"].as_array();
  for (const json::value& item : response.at("output").as_array()) input.push_back(item);
  CHECK(client.post(kResponses, json::serialize(request)).status == 200);

  json::object message = {{"messages", json::array{{{"role", "user"}, {"content", "call"}}}},
                          {"max_tokens", 500},
                          {"thinking", {{"type", "enabled"}, {"budget_tokens", 100}}},
                          {"tools", {{{"name", "f"}, {"input_schema", json::object()}}}}};
  const json::value answer = client.post(kMessages, json::serialize(message)).json();
  json::array& turns = message["messages"].as_array();
  turns.push_back({{"role", "assistant"}, {"content", answer.at("content")}});
  turns.push_back({{"role", "user"}, {"content", "go on"}});
  CHECK(client.post(kMessages, json::serialize(message)).status == 200);
}

TEST_CASE("a wrong value is named before an unknown key", "[server][strict]") {
  ServerFixture fixture(strict());
  const Response response =
      Client(fixture).post(kChat, chat_body("hi", R"("colour":1,"temperature":"hot")"));
  CHECK(response.json().at("error").at("param").as_string() == "temperature");
}

TEST_CASE("a strict server aborts nothing for a body that it refuses", "[server][strict]") {
  ServerSetup setup = strict();
  setup.scripts = {{"", "0123456789", true}};
  ServerFixture fixture(setup);
  Client busy(fixture);
  busy.send_request("POST", kChat, chat_body("hi", R"("max_tokens":2000000)"),
                    {"X-Request-Id: mine"});
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  Client client(fixture);
  CHECK(client.post("/abort_request", R"({"rid":"mine","why":"x"})").status == 400);
  CHECK(client.post("/abort_request", R"({"rid":"mine"})").json().at("num_aborted").as_int64() ==
        1);
}

TEST_CASE("a strict server's document says so", "[server][strict]") {
  ServerFixture fixture(strict());
  ServerFixture usual;
  const auto text = [](const ServerFixture& server) {
    const json::value document = Client(server).get("/openapi.json").json();
    return std::string(document.at("info").at("description").as_string());
  };
  CHECK(text(fixture).find("400 that names them") != std::string::npos);
  CHECK(text(usual).find("ignored") != std::string::npos);
}

}  // namespace
}  // namespace tandem::tests
