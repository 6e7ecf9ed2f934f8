#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <string>
#include <thread>

#include "runtime/base/errors.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

void check_error(const Response& response, int status, std::string_view code) {
  INFO(response.body);
  CHECK(response.status == status);
  const json::value body = response.json();
  const json::value& error = body.at("error");
  CHECK(error.at("object").as_string() == "error");
  CHECK_FALSE(error.at("message").as_string().empty());
  CHECK(error.at("type").is_string());
  CHECK(error.as_object().contains("param"));
  CHECK(error.at("code").as_string() == json::string_view(code.data(), code.size()));
}

TEST_CASE("health says loading with progress, then ok, then failed", "[server]") {
  ServerFixture fixture({.ready = false});
  Client client(fixture);
  fixture.server.set_loading_progress(0.25);
  const Response loading = client.get("/health");
  CHECK(loading.status == 503);
  CHECK(loading.json().at("status").as_string() == "loading");
  CHECK(loading.json().at("progress").as_double() == 0.25);
  check_error(client.get("/v1/models"), 503, "model_loading");
  const Response early = client.post("/v1/chat/completions", chat_body("hi"));
  check_error(early, 503, "model_loading");
  CHECK(early.headers.contains("retry-after"));

  fixture.set_ready();
  Client second(fixture);
  CHECK(second.get("/health").status == 200);
  CHECK(second.get("/health").json().at("status").as_string() == "ok");
  CHECK(second.get("/version").json().at("version").is_string());

  fixture.server.set_failed("out of memory");
  const Response failed = second.get("/health");
  CHECK(failed.status == 503);
  CHECK(failed.json().at("message").as_string() == "out of memory");
  check_error(second.get("/v1/models"), 503, "model_failed");
}

TEST_CASE("models are listed and found, also with a slash in the id", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value list = client.get("/v1/models").json();
  REQUIRE(list.at("data").as_array().size() == 2);
  CHECK(list.at("object").as_string() == "list");
  CHECK(list.at("data").at(0).at("id").as_string() == "tiny");
  CHECK(list.at("data").at(0).at("max_model_len").as_int64() == 8192);
  // What Anthropic's clients read of it.
  CHECK(list.at("data").at(0).at("type").as_string() == "model");
  CHECK(list.at("data").at(0).at("created_at").as_string() == "2023-11-14T22:13:20Z");
  CHECK(list.at("has_more").as_bool() == false);
  CHECK(client.get("/v1/models/tiny").json().at("object").as_string() == "model");
  CHECK(client.get("/v1/models/org/tiny-kimi").json().at("id").as_string() == "org/tiny-kimi");
  CHECK(client.get("/v1/models/org%2Ftiny-kimi").status == 200);
  check_error(client.get("/v1/models/gpt-4%22%ff"), 404, "model_not_found");
  const std::string body = chat_body("hi", R"("model":"gpt-4")");
  check_error(client.post("/v1/chat/completions", body), 404, "model_not_found");
}

TEST_CASE("unknown routes and methods are JSON errors on a living connection", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  check_error(client.get("/nope?x=1"), 404, "not_found");
  const Response wrong = client.get("/v1/chat/completions");
  check_error(wrong, 405, "method_not_allowed");
  CHECK(wrong.headers.at("allow") == "POST, OPTIONS");
  client.send_request("DELETE", "/v1/models/tiny");
  check_error(client.read_response(), 405, "method_not_allowed");
  client.send_request("HEAD", "/");
  CHECK(client.read_response(true).status == 200);
  client.send_request("HEAD", "/v1/models");
  const Response head = client.read_response(true);
  CHECK(head.status == 200);
  CHECK(head.headers.at("content-length") != "0");
  client.send_request("OPTIONS", "/v1/chat/completions");
  const Response options = client.read_response();
  CHECK(options.status == 204);
  CHECK(options.headers.at("allow") == "POST, OPTIONS");
  CHECK_FALSE(options.headers.contains("access-control-allow-origin"));
  CHECK(client.get("/health").status == 200);
  CHECK(client.get("/").json().at("name").as_string() == "tandem");
}

TEST_CASE("browsers are let in from the origins named, and no others", "[server]") {
  ServerSetup setup;
  setup.options.cors.origins = {"http://localhost:3000"};
  ServerFixture fixture(setup);
  Client client(fixture);
  client.send_request("OPTIONS", "/v1/chat/completions", "", {"Origin: http://localhost:3000"});
  const Response allowed = client.read_response();
  CHECK(allowed.headers.at("access-control-allow-origin") == "http://localhost:3000");
  CHECK(allowed.headers.contains("access-control-allow-headers"));
  const Response other = client.get("/v1/models", {"Origin: http://evil.example"});
  CHECK_FALSE(other.headers.contains("access-control-allow-origin"));
}

// fetch(url, {method: "POST"}) and bodies without a type are sent before anybody is asked.
TEST_CASE("a page of another origin cannot put the model to sleep or make it answer", "[server]") {
  ServerSetup setup;
  setup.options.cors.origins = {"http://localhost:3000"};
  ServerFixture fixture(setup);
  const auto post = [&](const std::string& path, const std::string& origin,
                        const std::string& body) {
    Client client(fixture);
    client.send("POST " + path + " HTTP/1.1\r\nHost: x\r\n" +
                (origin.empty() ? "" : "Origin: " + origin + "\r\n") +
                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.read_response();
  };
  for (const char* path : {"/sleep", "/wake_up", "/reset_prefix_cache"}) {
    INFO(path);
    check_error(post(path, "https://elsewhere.example", ""), 403, "forbidden_origin");
    CHECK(post(path, "http://localhost:3000", "").status == 200);
    CHECK(post(path, "", "").status == 200);
  }
  check_error(post("/v1/chat/completions", "https://elsewhere.example", chat_body("hi")), 403,
              "forbidden_origin");
  CHECK(post("/v1/chat/completions", "", chat_body("hi")).status == 200);
}

TEST_CASE("with keys set, only /health goes without", "[server]") {
  ServerSetup setup;
  setup.options.api_keys = {"sk-a", "sk-b"};
  ServerFixture fixture(setup);
  Client client(fixture);
  CHECK(client.get("/health").status == 200);
  const Response refused = client.get("/v1/models");
  check_error(refused, 401, "invalid_api_key");
  CHECK(refused.headers.at("www-authenticate").starts_with("Bearer"));
  CHECK(client.get("/v1/models", {"Authorization: Bearer sk-b"}).status == 200);
  CHECK(client.get("/v1/models", {"X-Api-Key: sk-a"}).status == 200);
  check_error(client.get("/nope"), 401, "invalid_api_key");

  // The body of a request without key is not waited for.
  client.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 1000000\r\n\r\n{");
  check_error(client.read_response(), 401, "invalid_api_key");
  CHECK(client.closed_by_server());
}

TEST_CASE("a wrong content type is a 415, a wrong body a 400 with its field", "[server]") {
  ServerFixture fixture;
  {
    Client client(fixture);
    check_error(client.post("/v1/chat/completions", chat_body("hi"), {"Content-Type: text/plain"}),
                415, "unsupported_media_type");
  }
  Client client(fixture);
  const Response bad = client.post("/v1/chat/completions", chat_body("hi", R"("temperature":3)"));
  check_error(bad, 400, "invalid_value");
  CHECK(bad.json().at("error").at("param").as_string() == "temperature");
  // opencode asks again for ever when a 400 says server_error.
  CHECK(bad.json().at("error").at("type").as_string() == "invalid_request_error");
  CHECK(bad.json().at("error").at("message").as_string() ==
        "temperature: expected a number from 0 to 2, got 3");
  check_error(client.post("/v1/chat/completions", "{\"a\":"), 400, "invalid_json");
  check_error(client.post("/v1/chat/completions", ""), 400, "invalid_json");
}

TEST_CASE("a prompt that is too long is named as its endpoint calls it", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const std::string text(9000, 'a');
  const auto check = [&](const char* path, const std::string& body, std::string_view param) {
    const Response refused = client.post(path, body);
    check_error(refused, 400, "context_length_exceeded");
    const json::value error = refused.json().at("error");
    CHECK(error.at("param").as_string() == json::string_view(param));
    const std::string message(error.at("message").as_string());
    CHECK(message.starts_with("This model's maximum context length is 8192 tokens"));
    CHECK(message.find("your " + std::string(param) + " resulted in") != std::string::npos);
  };
  check("/v1/chat/completions", chat_body(text), "messages");
  check("/v1/completions", R"({"prompt":")" + text + "\"}", "prompt");
  check("/v1/responses", R"({"input":")" + text + "\"}", "input");
}

TEST_CASE("text goes to tokens and back", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value tokens =
      client.post("/tokenize", R"({"prompt":"A<|im_end|>\u00e9","return_token_strs":true})").json();
  CHECK(tokens.at("count").as_int64() == 4);
  CHECK(tokens.at("tokens") == json::value{65, 258, 0xc3, 0xa9});
  CHECK(tokens.at("max_model_len").as_int64() == 8192);
  CHECK(tokens.at("token_strs").at(1).as_string() == "<|im_end|>");
  CHECK(client.post("/v1/detokenize", R"({"tokens":[65,258,195,169]})").json().at("prompt") ==
        "A<|im_end|>\u00e9");
  check_error(client.post("/detokenize", R"({"tokens":[512]})"), 400, "invalid_value");
  check_error(client.post("/detokenize", R"({"tokens":"x"})"), 400, "invalid_value");
  check_error(client.post("/detokenize", "{}"), 400, "invalid_value");
  check_error(client.post("/tokenize", R"({"prompt":1})"), 400, "invalid_value");
  check_error(client.post("/tokenize", "{}"), 400, "invalid_value");
  CHECK(client.get("/tokenizer_info").json().at("eos_token").as_string() == "[EOS]");

  const json::value rendered = client.post("/apply-template", chat_body("<|im_end|>")).json();
  const std::string prompt(rendered.at("prompt").as_string());
  CHECK(
      prompt.ends_with("<|im_user|>user<|im_middle|><|im_end|><|im_end|>"
                       "<|im_assistant|>assistant<|im_middle|>"));
  const auto count = static_cast<size_t>(rendered.at("count").as_int64());
  CHECK(rendered.at("tokens").as_array().size() == count);
  // The marker that the user typed is text: ten tokens more than the one it looks like.
  const json::value same = client.post("/tokenize", chat_body("<|im_end|>")).json();
  CHECK(same.at("tokens") == rendered.at("tokens"));
  CHECK(count > byte_tokenizer().encode(prompt, Tokenizer::Specials::kAsTokens).size());
  check_error(client.post("/apply-template", R"({"messages":[{}]})"), 400, "invalid_value");
}

TEST_CASE("a large body is prepared beside other requests", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const std::string text(300'000, 'a');
  const json::value tokens = client.post("/tokenize", R"({"prompt":")" + text + "\"}").json();
  CHECK(tokens.at("count").as_int64() == 300'000);
}

TEST_CASE("an address that cannot be bound is a ConfigError that names it", "[server]") {
  ServerFixture fixture;
  server::ServerOptions options;
  options.port = fixture.server.port();
  CHECK_THROWS_AS(server::Server(options), ConfigError);
  options.host = "203.0.113.7";  // TEST-NET-3: nobody's address
  options.port = 0;
  CHECK_THROWS_AS(server::Server(options), ConfigError);
}

}  // namespace
}  // namespace tandem::tests
