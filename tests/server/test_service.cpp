// What a request says of how it is served (salt, priority, id), and the endpoints that act on
// requests under way.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kAbort = "/abort_request";

ServerSetup endless() {
  return {.scripts = {{"endless", "0123456789", true},
                      {"muse", "<think>on and on ", true},
                      {"", "Hello!"}}};
}

// One question in the form of the endpoint's dialect; `extra` begins with a comma.
std::string body_for(const std::string& path, const std::string& text, const std::string& extra) {
  std::string question = R"("messages":[{"role":"user","content":")" + text + R"("}])";
  if (path == "/v1/completions") question = R"("prompt":")" + text + '"';
  if (path == "/v1/responses") question = R"("input":")" + text + '"';
  return "{" + question + R"(,"max_tokens":4000)" + extra + "}";
}

int64_t num_cached(const json::value& answer) {
  const json::object& usage = answer.at("usage").as_object();
  if (const json::value* tokens = usage.if_contains("cache_read_input_tokens"))
    return tokens->as_int64();
  const bool is_response = usage.contains("input_tokens_details");
  return usage.at(is_response ? "input_tokens_details" : "prompt_tokens_details")
      .at("cached_tokens")
      .as_int64();
}

TEST_CASE("pages are found again under the same salt only, in every dialect", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const std::string text(200, 'a');
  for (const std::string path :
       {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}) {
    INFO(path);
    CHECK(client.post("/reset_prefix_cache", "").status == 200);
    const auto ask = [&](const std::string& extra) {
      const Response response = client.post(path, body_for(path, text, extra));
      INFO(response.body);
      REQUIRE(response.status == 200);
      return num_cached(response.json());
    };
    for (const char* salt : {R"(,"cache_salt":"a")", R"(,"cache_salt":"b")", ""})
      CHECK(ask(salt) == 0);
    CHECK(ask(R"(,"extra_key":"a")") >= 128);  // SGLang's name for it
    for (const char* salt : {R"(,"cache_salt":"a")", R"(,"cache_salt":"b")", ""})
      CHECK(ask(salt) >= 128);
    for (const char* bad : {R"(,"cache_salt":"")", R"(,"cache_salt":7)", R"(,"priority":0.5)",
                            R"(,"request_id":"a b")", R"(,"rid":"\"")"}) {
      const Response refused = client.post(path, body_for(path, text, bad));
      INFO(refused.body);
      CHECK(refused.status == 400);
    }
  }
}

TEST_CASE("behind a reset nothing of before is found", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const std::string body = chat_body(std::string(200, 'a'));
  for (const char* path : {"/reset_prefix_cache", "/flush_cache"}) {
    client.post(kChat, body);
    CHECK(num_cached(client.post(kChat, body).json()) >= 128);
    CHECK(client.post(path, "").json().at("success").as_bool());
    CHECK(num_cached(client.post(kChat, body).json()) == 0);
  }
  CHECK(client.get("/reset_prefix_cache").status == 405);
}

TEST_CASE("an answer is aborted by its id, the client's id or its header", "[server]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(std::chrono::milliseconds(1));  // 4,000 tokens outlast the order
  Client admin(fixture);
  const auto abort = [&](const std::string& body) {
    const Response response = admin.post(kAbort, body);
    INFO(response.body);
    REQUIRE(response.status == 200);
    return response.json().at("num_aborted").as_int64();
  };
  struct Dialect {
    std::string path, id_prefix, ending;
  };
  for (const auto& [path, prefix, ending] : std::vector<Dialect>{
           {kChat, "chatcmpl-", R"("finish_reason":"abort")"},
           {"/v1/completions", "cmpl-", R"("finish_reason":"abort")"},
           {"/v1/responses", "resp_", R"("incomplete_details":{"reason":"abort"})"},
           {"/v1/messages", "msg_", R"("stop_reason":"abort")"}}) {
    const std::string id = prefix + "my-own.1";
    for (const std::string& by :
         {R"({"request_ids":[")" + id + R"("]})", std::string(R"({"rid":"my-own.1"})"),
          std::string(R"({"request_ids":["none","header"]})"),
          std::string(R"({"abort_all":true})")}) {
      INFO(path << " by " << by);
      Client client(fixture);
      client.send_request("POST", path,
                          body_for(path, "endless", R"(,"stream":true,"request_id":"my-own.1")"),
                          {"X-Request-Id: header"});
      std::string stream = read_until(client, "\"3\"");
      CHECK(stream.find("\"" + id + "\"") != std::string::npos);
      CHECK(abort(by) == 1);
      stream += read_until(client, "0\r\n\r\n");
      CHECK(stream.find(ending) != std::string::npos);
      CHECK(stream.find("\"error\":{") == std::string::npos);
    }
  }
  CHECK(abort(R"({"rid":"gone"})") == 0);
  CHECK(abort(R"({"abort_all":true})") == 0);
  CHECK(eventually([&] { return fixture.engine.stats().kv_pages_used == 0; }));
  for (const char* bad : {"{}", R"({"rid":7})", R"({"request_ids":[7]})", "["})
    CHECK(admin.post(kAbort, bad).status == 400);
}

TEST_CASE("an aborted answer that is not streamed holds what there was", "[server]") {
  ServerFixture fixture(endless());
  Client admin(fixture);
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("endless"), {"X-Request-Id: plain"});
  CHECK(eventually([&] { return fixture.engine.stats().generated_tokens > 5; }));
  CHECK(admin.post(kAbort, R"({"rid":"plain"})").json().at("num_aborted").as_int64() == 1);
  const Response response = client.read_response();
  CHECK(response.status == 200);
  const json::value choice = response.json().at("choices").at(0);
  CHECK(choice.at("finish_reason").as_string() == "abort");
  CHECK(choice.at("message").at("content").as_string().starts_with("01234"));
}

TEST_CASE("an aborted Heavy Mode answer does not begin its final pass", "[server]") {
  ServerFixture fixture(endless());
  Client admin(fixture);
  Client client(fixture);
  const std::string heavy = R"("heavy":{"n":2,"return_trajectories":true})";
  for (const bool streams : {false, true}) {
    client.send_request("POST", kChat,
                        chat_body("endless", heavy + (streams ? R"(,"stream":true)" : "")),
                        {"X-Request-Id: heavy"});
    CHECK(eventually([&] { return fixture.engine.stats().num_running == 2; }));
    CHECK(admin.post(kAbort, R"({"rid":"heavy"})").json().at("num_aborted").as_int64() == 1);
    const Response response = client.read_response();
    CHECK(response.status == 200);
    CHECK(eventually([&] { return fixture.engine.stats().num_running == 0; }));
    // What there is: the trajectories so far, and nothing made of them.
    json::array trajectories;
    if (streams) {
      const auto events = sse_events(response.body);
      const auto choices = add_up(events);
      REQUIRE(choices.size() == 1);
      CHECK(choices[0].content.empty());
      CHECK(choices[0].finish_reason == "abort");
      trajectories = events.back().at("trajectories").as_array();
    } else {
      const json::value answer = response.json();
      CHECK(answer.at("choices").at(0).at("message").at("content").as_string().empty());
      CHECK(answer.at("choices").at(0).at("finish_reason").as_string() == "abort");
      trajectories = answer.at("trajectories").as_array();
    }
    REQUIRE(trajectories.size() == 2);
    for (const json::value& trajectory : trajectories)
      CHECK(trajectory.at("finish_reason").as_string() == "abort");
  }
  CHECK(fixture.engine.stats().num_aborted == 4);  // the final passes were not begun
}

TEST_CASE("what acts on all clients has keys of its own where there are some", "[server]") {
  ServerSetup setup;
  setup.options.api_keys = {"user"};
  setup.options.admin_api_keys = {"admin"};
  {
    ServerFixture fixture(setup);
    Client client(fixture);
    for (const char* path : {"/abort_request", "/reset_prefix_cache", "/flush_cache"}) {
      INFO(path);
      const std::string body = R"({"request_ids":[]})";
      CHECK(client.post(path, body, {"x-api-key: admin"}).status == 200);
      CHECK(Client(fixture).post(path, body, {"x-api-key: user"}).status == 401);
      CHECK(Client(fixture).post(path, body).status == 401);
    }
    CHECK(client.get("/v1/models", {"x-api-key: admin"}).status == 200);
    CHECK(client.get("/v1/models", {"x-api-key: user"}).status == 200);
    CHECK(client.get("/v1/models").status == 401);
  }
  // An admin's key alone closes nothing else.
  setup.options.api_keys.clear();
  ServerFixture fixture(setup);
  Client client(fixture);
  CHECK(client.get("/v1/models").status == 200);
  CHECK(client.post("/reset_prefix_cache", "").status == 401);
}

TEST_CASE("health_generate makes a token, whoever else is there", "[server]") {
  ServerSetup setup = endless();
  setup.engine.max_sequences = 1;
  ServerFixture fixture(setup);
  Client busy(fixture);
  busy.send_request("POST", kChat, chat_body("endless", R"("stream":true)"));
  read_until(busy, "0");
  Client client(fixture);
  const Response good = client.get("/health_generate");
  CHECK(good.status == 200);
  CHECK(good.json().at("status").as_string() == "ok");
  CHECK(fixture.engine.stats().num_running + fixture.engine.stats().num_waiting == 1);
  read_until(busy, "9");  // goes on
  fixture.model.fail_next_step();
  CHECK(eventually([&] { return fixture.engine.stats().failed; }));
  const Response bad = client.get("/health_generate");
  CHECK(bad.status == 503);
  CHECK(bad.json().at("error").at("code").as_string() == "engine_failed");
  ServerSetup loading;
  loading.ready = false;
  CHECK(Client(ServerFixture(loading)).get("/health_generate").status == 503);
}

TEST_CASE("a better priority is answered while a worse one runs and others wait", "[server]") {
  ServerSetup setup = endless();
  setup.engine.max_sequences = 1;
  ServerFixture fixture(setup);
  Client batch(fixture);
  batch.send_request("POST", kChat, chat_body("endless", R"("priority":1)"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  Client waits(fixture);
  waits.send_request("POST", kChat, chat_body("hi", R"("priority":1)"));
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  Client urgent(fixture);
  CHECK(urgent.post(kChat, chat_body("hi")).status == 200);
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  batch.close();
  CHECK(waits.read_response().status == 200);
}

TEST_CASE("a chat's prompt has logprobs for who asks", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const Response response =
      client.post(kChat, chat_body("hi", R"("prompt_logprobs":2,"logprobs":true,"n":2)"));
  INFO(response.body);
  REQUIRE(response.status == 200);
  const json::value answer = response.json();
  const json::array& tokens = answer.at("prompt_logprobs").as_array();
  REQUIRE(static_cast<int64_t>(tokens.size()) == answer.at("usage").at("prompt_tokens").as_int64());
  CHECK(tokens[0].is_null());
  const json::value prompt = client.post("/apply-template", chat_body("hi")).json();
  for (size_t idx = 1; idx < tokens.size(); ++idx) {
    const json::object& entry = tokens[idx].as_object();
    CHECK(entry.size() >= 2);
    CHECK(entry.size() <= 3);
    const auto id = prompt.at("tokens").at(idx).as_int64();
    const json::value& own = entry.at(std::to_string(id));
    CHECK(own.at("logprob").to_number<double>() <= 0);
    CHECK(own.at("rank").as_int64() >= 1);
    bool has_best = false;
    for (const auto& other : entry) has_best |= other.value().at("rank").as_int64() == 1;
    CHECK(has_best);
  }
  // The answer's own alternatives are as many as it asked for.
  for (const json::value& choice : answer.at("choices").as_array()) {
    for (const json::value& token : choice.at("logprobs").at("content").as_array())
      CHECK(token.at("top_logprobs").as_array().empty());
  }
  CHECK_FALSE(client.post(kChat, chat_body("hi")).json().as_object().contains("prompt_logprobs"));
  for (const char* bad : {R"("prompt_logprobs":2,"stream":true)", R"("prompt_logprobs":-2)",
                          R"("prompt_logprobs":21)", R"("prompt_logprobs":2,"heavy":true)"})
    CHECK(client.post(kChat, chat_body("hi", bad)).status == 400);
}

TEST_CASE("an answer that goes round in circles ends, thinking or not", "[server]") {
  ServerFixture fixture(endless());
  Client client(fixture);
  const std::string limit = R"("repetition_detection":{"max_pattern_size":20,"min_count":3})";
  for (const char* text : {"endless", "muse"}) {
    const json::value answer = client.post(kChat, chat_body(text, limit)).json();
    const json::value& choice = answer.at("choices").at(0);
    CHECK(choice.at("finish_reason").as_string() == "repetition");
    CHECK(answer.at("usage").at("completion_tokens").as_int64() < 100);
  }
  const json::value plain =
      client.post("/v1/completions", R"({"prompt":"endless","max_tokens":500,)" + limit + "}")
          .json();
  CHECK(plain.at("choices").at(0).at("text").as_string() == "012345678901234567890123456789");
  CHECK(plain.at("choices").at(0).at("finish_reason").as_string() == "repetition");
  CHECK(client.get("/metrics")
            .body.find(
                R"(request_success_total{finished_reason="repetition",model_name="tiny"} 3)") !=
        std::string::npos);
  for (const char* bad :
       {R"({"max_pattern_size":-1})", R"({"max_pattern_size":2000})",
        R"({"max_pattern_size":2,"min_pattern_size":3})", R"({"min_count":1})", "7"}) {
    const Response refused =
        client.post(kChat, chat_body("hi", R"("repetition_detection":)" + std::string(bad)));
    INFO(bad);
    CHECK(refused.status == 400);
    CHECK(refused.body.find("repetition_detection") != std::string::npos);
  }
}

}  // namespace
}  // namespace tandem::tests
