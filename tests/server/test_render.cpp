// The render endpoints: what the engine would be asked, and nothing is run.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions/render";
constexpr const char* kText = "/v1/completions/render";

TEST_CASE("a rendered chat holds the prompt and all that was decided", "[server][render]") {
  ServerSetup setup;
  setup.max_context_tokens = 1024;
  ServerFixture fixture(setup);
  Client client(fixture);
  const std::string members =
      R"("model":"org/tiny-kimi","temperature":0.5,"top_p":0.9,"top_k":7,"seed":3,"n":2,
         "max_tokens":999999,"stop":["a","b"],"stop_token_ids":[65],"cache_salt":"s","priority":4,
         "request_id":"mine","logprobs":true,"top_logprobs":2,"prompt_logprobs":1)";
  const json::value prompt = client.post("/apply-template", chat_body("\u4e2d")).json();
  const json::value whole = client.post(kChat, chat_body("\u4e2d", members)).json();
  CHECK(whole.at("request_id").as_string() == "chatcmpl-mine");
  CHECK(whole.at("model").as_string() == "org/tiny-kimi");
  CHECK(whole.at("token_ids") == prompt.at("tokens"));
  CHECK(whole.at("prompt_text") == prompt.at("prompt"));
  CHECK(whole.at("features").is_null());
  CHECK(whole.at("cache_salt").as_string() == "s");
  CHECK(whole.at("priority").as_int64() == 4);
  CHECK_FALSE(whole.at("stream").as_bool());
  CHECK(whole.at("stream_options").is_null());
  const json::value& sampling = whole.at("sampling_params");
  CHECK(sampling.at("n").as_int64() == 2);
  CHECK(sampling.at("temperature").as_double() == 0.5);
  CHECK(sampling.at("top_k").as_int64() == 7);
  CHECK(sampling.at("seed").as_int64() == 3);
  CHECK(sampling.at("stop") == json::value{"a", "b"});
  CHECK(sampling.at("logprobs").as_int64() == 2);
  CHECK(sampling.at("prompt_logprobs").as_int64() == 2);
  // Clamped to what the context leaves; the model's own stop tokens come first.
  CHECK(sampling.at("max_tokens").as_int64() == 1024 - prompt.at("count").as_int64());
  const json::array& stops = sampling.at("stop_token_ids").as_array();
  CHECK(stops.front().as_int64() == byte_tokenizer().specials().im_end);
  CHECK(stops.back().as_int64() == 65);
  // Without tools the markers of a call are forbidden.
  const auto marker = std::to_string(byte_tokenizer().specials().tool_calls_section_begin);
  CHECK(sampling.at("logit_bias").at(marker).to_number<double>() < -1e8);

  const json::value streamed =
      client
          .post(kChat, chat_body("hi", R"("stream":true,"stream_options":{"include_usage":true})"))
          .json();
  CHECK(streamed.at("stream").as_bool());
  CHECK(streamed.at("stream_options").at("include_usage").as_bool());
  CHECK(streamed.at("sampling_params").at("seed").is_null());
  CHECK(streamed.at("sampling_params").at("logprobs").is_null());
  CHECK(streamed.at("model").as_string() == "tiny");
  CHECK(fixture.engine.stats().num_steps == 0);
}

TEST_CASE("rendered completions are a list, prompt by prompt", "[server][render]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value rendered =
      client.post(kText, R"({"prompt":["<|im_end|>a",[98,99]],"n":3,"max_tokens":7})").json();
  REQUIRE(rendered.as_array().size() == 2);
  CHECK(rendered.at(0).at("token_ids") == json::value{258, 97});
  CHECK(rendered.at(0).at("prompt_text").as_string() == "<|im_end|>a");
  CHECK(rendered.at(1).at("token_ids") == json::value{98, 99});
  for (const json::value& request : rendered.as_array()) {
    CHECK(request.at("request_id").as_string().starts_with("cmpl-"));
    CHECK(request.at("sampling_params").at("n").as_int64() == 3);
    CHECK(request.at("sampling_params").at("max_tokens").as_int64() == 7);
  }
  CHECK(fixture.engine.stats().num_steps == 0);
}

TEST_CASE("what a request would be refused for, its rendering is", "[server][render]") {
  ServerFixture fixture;
  Client client(fixture);
  for (const auto& [path, body] : std::vector<std::pair<std::string, std::string>>{
           {"/v1/chat/completions", chat_body("hi", R"("temperature":3)")},
           {"/v1/chat/completions", chat_body("hi", R"("model":"gpt-4")")},
           {"/v1/chat/completions", chat_body(std::string(9000, 'a'))},
           {"/v1/chat/completions", "{"},
           {"/v1/completions", R"({"prompt":[]})"},
           {"/v1/completions", R"({"prompt":"a","suffix":"b"})"}}) {
    const Response run = client.post(path, body);
    const Response rendered = client.post(path + "/render", body);
    INFO(run.body);
    CHECK(run.status >= 400);
    CHECK(rendered.status == run.status);
    CHECK(rendered.body == run.body);
  }
}

}  // namespace
}  // namespace tandem::tests
