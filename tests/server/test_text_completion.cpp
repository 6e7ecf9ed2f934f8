#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/openai/text_completion.h"
#include "server/openai/text_request.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr std::string_view kPath = "/v1/completions";

ServerSetup setup() {
  return {.scripts = {
              {"count", "0123456789", true}, {"think", "<think>Hm.</think>Yes"}, {"", "\u00e9!"}}};
}

TEST_CASE("plain text is continued, markers and all", "[server][text]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value answer = client.post(kPath, R"({"prompt":"count"})").json();
  CHECK(answer.at("object").as_string() == "text_completion");
  CHECK(answer.at("id").as_string().starts_with("cmpl-"));
  const json::value& choice = answer.at("choices").at(0);
  CHECK(choice.at("text").as_string() == "0123456789012345");  // 16 tokens unless asked for more
  CHECK(choice.at("finish_reason").as_string() == "length");
  CHECK(choice.at("logprobs").is_null());
  CHECK(answer.at("usage").at("prompt_tokens").as_int64() == 5);
  CHECK(answer.at("usage").at("completion_tokens").as_int64() == 16);

  const json::value thought =
      client.post(kPath, R"({"prompt":"think","max_tokens":50})").json().at("choices").at(0);
  CHECK(thought.at("text").as_string() == "<think>Hm.</think>Yes");
  CHECK(thought.at("finish_reason").as_string() == "stop");

  const json::value stopped =
      client.post(kPath, R"({"prompt":"count","stop":["45"]})").json().at("choices").at(0);
  CHECK(stopped.at("text").as_string() == "0123");
  CHECK(stopped.at("finish_reason").as_string() == "stop");
  CHECK(stopped.at("stop_reason").as_string() == "45");
  const json::value by_token =
      client.post(kPath, R"({"prompt":"count","stop_token_ids":[50]})").json();
  CHECK(by_token.at("choices").at(0).at("text").as_string() == "01");
  CHECK(by_token.at("choices").at(0).at("stop_reason").as_int64() == 50);
  CHECK(thought.at("stop_reason").is_null());

  // A marker in the prompt is the token, as in /tokenize.
  const json::value marked = client.post(kPath, R"({"prompt":"<|im_user|>x"})").json();
  CHECK(marked.at("usage").at("prompt_tokens").as_int64() == 2);
}

TEST_CASE("echo with logprobs scores the prompt as lm-eval reads it", "[server][text]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value answer =
      client
          .post(kPath,
                R"({"prompt":[[97,195,169,98],[99]],"max_tokens":1,"temperature":0,"logprobs":1,
                    "echo":true,"seed":1234})")
          .json();
  const json::array& choices = answer.at("choices").as_array();
  REQUIRE(choices.size() == 2);
  CHECK(choices[0].at("index").as_int64() == 0);
  CHECK(choices[1].at("index").as_int64() == 1);
  const json::value& logprobs = choices[0].at("logprobs");
  // Four tokens of the prompt and the generated one, whose absence would shift every score.
  REQUIRE(logprobs.at("token_logprobs").as_array().size() == 5);
  REQUIRE(logprobs.at("top_logprobs").as_array().size() == 5);
  CHECK(logprobs.at("token_logprobs").at(0).is_null());
  CHECK(logprobs.at("top_logprobs").at(0).is_null());
  for (size_t idx = 1; idx < 5; ++idx) {
    const json::object& top = logprobs.at("top_logprobs").as_array()[idx].as_object();
    const double logprob = logprobs.at("token_logprobs").as_array()[idx].to_number<double>();
    REQUIRE_FALSE(top.empty());
    CHECK(logprob <= 0.0);
    bool has_token = false;
    for (const auto& [text, value] : top) has_token |= value.to_number<double>() == logprob;
    CHECK(has_token);
  }
  CHECK(logprobs.at("tokens").at(0).as_string() == "a");
  CHECK(logprobs.at("tokens").at(1).as_string() == "bytes:\\xc3");
  CHECK(logprobs.at("text_offset") == json::value{0, 1, 2, 2, 3});
  CHECK(choices[0].at("text").as_string().starts_with("a\u00e9b"));
  CHECK(choices[1].at("logprobs").at("token_logprobs").as_array().size() == 2);
  CHECK(answer.at("usage").at("prompt_tokens").as_int64() == 5);
  CHECK(answer.at("usage").at("completion_tokens").as_int64() == 2);
}

TEST_CASE("text_offset leaves out the special tokens that the text leaves out", "[server][text]") {
  const auto offsets = [](const json::object& members) {
    json::object body = {{"logprobs", 0}, {"ignore_eos", true}};
    for (const auto& member : members) body.insert(member);
    const Playback playback =
        play_exchange(server::open_text_completion, body, "a<think>b<|im_end|>cd");
    json::array streamed;
    for (const NamedEvent& event : playback.events) {
      for (const json::value& offset :
           event.data.at("choices").at(0).at("logprobs").at("text_offset").as_array())
        streamed.push_back(offset);
    }
    const json::value& choice = playback.whole.at("choices").at(0);
    CHECK(choice.at("logprobs").at("text_offset") == streamed);
    return json::serialize(streamed);
  };
  CHECK(offsets({{"prompt", "hi"}}) == "[0,1,8,9,9,10]");
  // Those of an echoed prompt are part of the text; its logprobs were not played.
  CHECK(offsets({{"prompt", "<|im_end|>"}, {"echo", true}}) == "[0,10,11,18,19,19,20]");
}

TEST_CASE("an echo alone generates nothing", "[server][text]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value answer =
      client.post(kPath, R"({"prompt":"count","max_tokens":0,"echo":true,"logprobs":0})").json();
  CHECK(answer.at("choices").at(0).at("text").as_string() == "count");
  CHECK(answer.at("choices").at(0).at("logprobs").at("tokens").as_array().size() == 5);
  CHECK(answer.at("choices").at(0).at("finish_reason").as_string() == "length");
  CHECK(answer.at("usage").at("completion_tokens").as_int64() == 0);
}

TEST_CASE("text streams add up to the whole answer", "[server][text]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  for (const std::string extra :
       {R"("max_tokens":8)", R"("max_tokens":8,"echo":true)",
        R"("max_tokens":3,"logprobs":2,"echo":true)", R"("max_tokens":5,"n":2,"logprobs":1)"}) {
    const std::string body = R"({"prompt":["count","other"],)" + extra;
    const json::value whole = client.post(kPath, body + "}").json();
    const Response response =
        client.post(kPath, body + R"(,"stream":true,"stream_options":{"include_usage":true,
                          "continuous_usage_stats":true}})");
    CHECK(response.body.ends_with("data: [DONE]\n\n"));
    std::vector<json::object> choices(whole.at("choices").as_array().size());
    json::value usage;
    for (const NamedEvent& event : named_events(response.body)) {
      CHECK(event.data.at("object").as_string() == "text_completion");
      if (event.data.at("choices").as_array().empty()) usage = event.data.at("usage");
      CHECK(event.data.at("usage").at("prompt_tokens").as_int64() > 0);  // in every chunk
      for (const json::value& chunk : event.data.at("choices").as_array()) {
        json::object& choice = choices.at(static_cast<size_t>(chunk.at("index").as_int64()));
        if (choice.empty()) {
          choice = chunk.as_object();
          continue;
        }
        CHECK(choice["finish_reason"].is_null());
        choice["text"].as_string() += chunk.at("text").as_string();
        choice["finish_reason"] = chunk.at("finish_reason");
        if (chunk.as_object().contains("stop_reason"))
          choice["stop_reason"] = chunk.at("stop_reason");
        if (chunk.at("logprobs").is_null()) continue;
        for (const auto& [key, list] : chunk.at("logprobs").as_object()) {
          for (const json::value& item : list.as_array()) {
            choice["logprobs"].as_object()[key].as_array().push_back(item);
          }
        }
      }
    }
    INFO(extra);
    for (size_t idx = 0; idx < choices.size(); ++idx) {
      CHECK(json::value(choices[idx]) == whole.at("choices").as_array()[idx]);
    }
    CHECK(usage.at("completion_tokens") == whole.at("usage").at("completion_tokens"));
  }
}

TEST_CASE("ignore_eos is honoured for the length asked for", "[server][text]") {
  ServerFixture fixture(setup());
  const json::value usage =
      Client(fixture).post(kPath, R"({"prompt":"x","max_tokens":40,"ignore_eos":true})").json();
  CHECK(usage.at("usage").at("completion_tokens").as_int64() == 40);
}

TEST_CASE("a text completion keeps to a format from its first token on", "[server][text]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const auto text = [&](const std::string& extra) {
    const Response response =
        client.post(kPath, R"({"prompt":"think","temperature":0,"max_tokens":40,)" + extra + "}");
    INFO(response.body);
    REQUIRE(response.status == 200);
    return std::string(response.json().at("choices").at(0).at("text").as_string());
  };
  CHECK(text(R"("guided_choice":["yes"])") == "yes");
  CHECK(text(R"("guided_regex":"a{3}")") == "aaa");
  CHECK(text(R"("guided_grammar":"root ::= \"x\"")") == "x");
  CHECK(text(R"("guided_json":{"enum":[7]})") == "7");
  CHECK(text(R"("structured_outputs":{"choice":["no"]})") == "no");
  CHECK(text(R"("response_format":{"type":"json_schema","json_schema":{"schema":{"const":1}}})") ==
        "1");
  const Response refused = client.post(kPath, R"s({"prompt":"a","guided_regex":"(?=a)"})s");
  CHECK(refused.status == 400);
  CHECK(refused.json().at("error").at("param").as_string() == "guided_regex");
}

struct Bad {
  std::string_view body;
  std::string_view named;
};

TEST_CASE("a wrong field of a text completion is named", "[server][text]") {
  const std::vector<Bad> bad = {
      {R"({})", "prompt"},
      {R"({"prompt":7})", "prompt"},
      {R"({"prompt":""})", "prompt"},
      {R"({"prompt":[]})", "prompt"},
      {R"({"prompt":[512]})", "prompt"},
      {R"({"prompt":[1,"a"]})", "prompt"},
      {R"({"prompt":[[]]})", "prompt[0]"},
      {R"({"prompt":["a",7]})", "prompt[1]"},
      {R"({"prompt":[[1],[-1]]})", "prompt[1]"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":-1})", "max_tokens"},
      {R"({"prompt":"a","logprobs":true})", "logprobs"},
      {R"({"prompt":"a","logprobs":21})", "logprobs"},
      {R"({"prompt":"a","echo":1})", "echo"},
      {R"({"prompt":"a","best_of":2})", "best_of"},
      {R"({"prompt":"a","guided_json":7})", "guided_json"},
      {R"({"prompt":"a","guided_regex":"a","ebnf":"x"})", "ebnf"},
      {R"({"prompt":"a","suffix":"b"})", "suffix"},
      {R"({"prompt":"a","use_beam_search":true})", "use_beam_search"},
      {R"({"prompt":"a","temperature":"b"})", "temperature"},
      {R"({"prompt":"a","stop":7})", "stop"},
      {R"({"prompt":"a","n":0})", "n"},
      {R"({"prompt":"a","stream_options":{}})", "stream_options"},
  };
  const server::ServedModel model = byte_model();
  for (const Bad& each : bad) {
    INFO(each.body);
    auto refused = server::parse_text_request(each.body, model);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().status == 400);
    CHECK(refused.error().param == each.named);
    CHECK(refused.error().message.starts_with(each.named));
  }
}

}  // namespace
}  // namespace tandem::tests
