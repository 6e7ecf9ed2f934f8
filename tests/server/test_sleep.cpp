// A model that is put to sleep and woken over HTTP: orders in vLLM's and SGLang's form, what
// clients see meanwhile, orders that cross.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr ModelMemory kWeights{.weights = true};
constexpr ModelMemory kKvCache{.kv_cache = true};
constexpr ModelMemory kOnDevices{.weights = true, .kv_cache = true};
constexpr ModelMemory kAll{.weights = true, .host_weights = true, .kv_cache = true};

ServerSetup talkative() {
  return {.scripts = {{"endless", "0123456789", true},
                      {"count", "one two three four five six seven"},
                      {"", "Hello there!"}}};
}

bool is_sleeping(Client& client) {
  const Response response = client.get("/is_sleeping");
  REQUIRE(response.status == 200);
  return response.json().at("is_sleeping").as_bool();
}

void check_done(const Response& response, bool sleeps) {
  INFO(response.body);
  CHECK(response.status == 200);
  CHECK(response.json().at("success").as_bool());
  CHECK(response.json().at("is_sleeping").as_bool() == sleeps);
}

std::string content_of(const Response& response) {
  INFO(response.body);
  REQUIRE(response.status == 200);
  return std::string(response.json().at("choices").at(0).at("message").at("content").as_string());
}

std::string sleep_state_of(Client& client) {
  return std::string(client.get("/health").json().at("sleep_state").as_string());
}

bool has_metric(Client& client, const std::string& state, int value) {
  return client.get("/metrics")
             .body.find(
                 "tandem:engine_sleep_state{model_name=\"tiny\",sleep_"
                 "state=\"" +
                 state + "\"} " + std::to_string(value) + "\n") != std::string::npos;
}

TEST_CASE("a model sleeps and wakes as vLLM's and SGLang's clients ask", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client client(fixture);
  struct Order {
    std::string path, body;
    ModelMemory released;
  };
  for (const Order& order : std::vector<Order>{
           {"/sleep", "", kOnDevices},
           {"/sleep?level=1&mode=abort", "", kOnDevices},
           {"/sleep?level=2&unknown=7", "", kAll},
           {"/sleep?tags=kv_cache", "", kKvCache},
           {"/sleep?tags=weights&tags=kv%5fcache&level=2", "", kOnDevices},
           {"/sleep", R"({"level":2,"mode":"wait"})", kAll},
           {"/sleep?level=1", R"({"level":2})", kOnDevices},
           {"/release_memory_occupation", "{}", kOnDevices},
           {"/release_memory_occupation", R"({"tags":["weights"]})", kWeights},
           {"/release_memory_occupation", R"({"tags":["kv_cache","cuda_graph"]})", kKvCache},
           {"/release_memory_occupation", R"({"tags":null})", kOnDevices}}) {
    INFO(order.path << " " << order.body);
    check_done(client.post(order.path, order.body), true);
    CHECK(fixture.model.released() == order.released);
    CHECK(is_sleeping(client));
    check_done(client.post(order.path, order.body), true);  // twice changes nothing
    const bool from_sglang = order.path.starts_with("/release");
    const std::string wake = from_sglang ? "/resume_memory_occupation" : "/wake_up";
    check_done(client.post(wake, from_sglang ? "{}" : ""), false);
    check_done(client.post(wake, ""), false);
    CHECK(!fixture.model.released().any());
    CHECK_FALSE(is_sleeping(client));
    CHECK(content_of(client.post(kChat, chat_body("count"))) ==
          "one two three four five six seven");
  }
  check_done(client.post("/sleep?tags=cuda_graph", ""), false);  // comes and goes by itself
}

TEST_CASE("a model wakes part by part", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client client(fixture);
  check_done(client.post("/sleep?level=2", ""), true);
  check_done(client.post("/wake_up?tags=weights", ""), true);
  CHECK(fixture.model.released() == kKvCache);
  CHECK(Client(fixture).post(kChat, chat_body("hi")).status == 503);
  check_done(client.post("/resume_memory_occupation", R"({"tags":["kv_cache","cuda_graph"]})"),
             false);
  CHECK(client.post(kChat, chat_body("hi")).status == 200);
}

TEST_CASE("while a model sleeps clients are told, and what needs no model goes on",
          "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client client(fixture);
  CHECK(has_metric(client, "awake", 1));
  check_done(client.post("/sleep", ""), true);
  const std::string message = "the model is asleep; POST /wake_up wakes it";
  for (const auto& [path, body] : std::vector<std::pair<std::string, std::string>>{
           {kChat, chat_body("hi")},
           {kChat, chat_body("hi", R"("stream":true)")},
           {"/v1/completions", R"({"prompt":"hi"})"},
           {"/v1/responses", R"({"input":"hi"})"},
           {"/v1/messages", R"({"max_tokens":9,"messages":[{"role":"user","content":"hi"}]})"}}) {
    INFO(path);
    const Response response = Client(fixture).post(path, body);  // it ends with the refusal
    CHECK(response.status == 503);
    CHECK(response.headers.contains("retry-after"));
    const json::value error = response.json().at("error");
    CHECK(error.at("message").as_string() == message);
    if (path != "/v1/messages") CHECK(error.at("code").as_string() == "model_sleeping");
  }
  CHECK(Client(fixture).get("/health_generate").status == 503);
  CHECK(client.post("/tokenize", R"({"prompt":"hi"})").status == 200);
  CHECK(client.post("/apply-template", chat_body("hi")).status == 200);
  CHECK(client.get("/v1/models").status == 200);
  CHECK(client.post("/reset_prefix_cache", "").status == 200);
  const Response health = client.get("/health");
  CHECK(health.status == 200);
  CHECK(health.json().at("status").as_string() == "sleeping");
  CHECK(health.json().at("sleep_state").as_string() == "asleep");
  CHECK(has_metric(client, "awake", 0));
  CHECK(has_metric(client, "weights_offloaded", 1));
  CHECK(has_metric(client, "discard_all", 0));
  check_done(client.post("/sleep?level=2", ""), true);
  CHECK(has_metric(client, "weights_offloaded", 0));
  CHECK(has_metric(client, "discard_all", 1));

  fixture.model.hold();
  Client waker(fixture);
  waker.send_request("POST", "/wake_up");
  CHECK(eventually([&] { return sleep_state_of(client) == "waking"; }));
  CHECK(eventually(
      [&] { return client.get("/health").json().at("progress").to_number<double>() == 0.25; }));
  CHECK(is_sleeping(client));
  CHECK(Client(fixture).post(kChat, chat_body("hi")).body.find("the model is waking up") !=
        std::string::npos);
  fixture.model.release();
  check_done(waker.read_response(), false);
  CHECK(client.get("/health").json().at("status").as_string() == "ok");
  CHECK(has_metric(client, "awake", 1));
}

TEST_CASE("a sleep that aborts ends answers with what there is, in every dialect",
          "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client admin(fixture);
  struct Case {
    std::string path, body, ending;
  };
  const std::string question = R"("messages":[{"role":"user","content":"endless"}])";
  for (const auto& [path, body, ending] : std::vector<Case>{
           {kChat, "{" + question, R"("finish_reason":"abort")"},
           {"/v1/completions", R"({"prompt":"endless")", R"("finish_reason":"abort")"},
           {"/v1/responses", R"({"input":"endless")", R"("incomplete_details":{"reason":"abort"})"},
           {"/v1/messages", "{" + question, R"("stop_reason":"abort")"}}) {
    INFO(path);
    Client client(fixture);
    client.send_request("POST", path, body + R"(,"stream":true,"max_tokens":4000})");
    std::string stream = read_until(client, "\"3\"");
    check_done(admin.post("/sleep", ""), true);
    stream += read_until(client, "0\r\n\r\n");
    CHECK(stream.find(ending) != std::string::npos);
    CHECK(stream.find("\"error\":{") == std::string::npos);
    check_done(admin.post("/wake_up", ""), false);
  }
}

TEST_CASE("a sleep that waits is answered behind the answers that run", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client running(fixture);
  Client sleeper(fixture);
  Client client(fixture);
  fixture.model.hold();
  running.send_request("POST", kChat, chat_body("count"));
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  sleeper.send_request("POST", "/sleep?mode=wait");
  CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  CHECK_FALSE(is_sleeping(client));  // whoever polls for it wants the memory
  CHECK(client.get("/health").json().at("status").as_string() == "sleeping");
  CHECK(Client(fixture).post(kChat, chat_body("hi")).body.find("the model is going to sleep") !=
        std::string::npos);
  fixture.model.release();
  CHECK(content_of(running.read_response()) == "one two three four five six seven");
  check_done(sleeper.read_response(), true);
  check_done(client.post("/wake_up", ""), false);
}

TEST_CASE("a sleep that keeps answers lets them go on behind it", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client running(fixture);
  Client sleeper(fixture);
  Client client(fixture);
  fixture.model.hold();
  running.send_request("POST", kChat, chat_body("count"));
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  sleeper.send_request("POST", "/sleep?mode=keep");
  CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  fixture.model.release();
  check_done(sleeper.read_response(), true);
  CHECK(fixture.engine.stats().num_waiting == 1);
  check_done(client.post("/wake_up", ""), false);
  CHECK(content_of(running.read_response()) == "one two three four five six seven");
}

TEST_CASE("an answer in several passes is waited for as a whole, and aborted as a whole",
          "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client running(fixture);
  Client sleeper(fixture);
  Client client(fixture);
  fixture.model.hold();
  running.send_request("POST", kChat, chat_body("count", R"("heavy":{"n":2})"));
  CHECK(eventually([&] {
    return fixture.engine.stats().num_waiting + fixture.engine.stats().num_running == 2;
  }));
  sleeper.send_request("POST", "/sleep?mode=wait");
  CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  fixture.model.release();
  CHECK(running.read_response().status == 200);
  check_done(sleeper.read_response(), true);
  check_done(client.post("/wake_up", ""), false);
  running.send_request("POST", kChat, chat_body("endless", R"("heavy":{"n":2})"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 2; }));
  check_done(client.post("/sleep", ""), true);
  const Response aborted = running.read_response();
  CHECK(aborted.status == 200);
  CHECK(aborted.json().at("choices").at(0).at("finish_reason").as_string() == "abort");
}

TEST_CASE("orders that cross: a second sleep hastens, a waking calls off", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client running(fixture);
  Client first(fixture);
  Client client(fixture);
  running.send_request("POST", kChat, chat_body("endless", R"("stream":true)"));
  read_until(running, "3");
  first.send_request("POST", "/sleep?mode=wait");
  CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  check_done(client.post("/wake_up", ""), false);
  const Response called_off = first.read_response();
  CHECK(called_off.status == 409);
  CHECK(called_off.json().at("error").at("code").as_string() == "woken");
  CHECK(content_of(client.post(kChat, chat_body("hi"))) == "Hello there!");
  first.send_request("POST", "/sleep?mode=wait");
  CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  check_done(client.post("/sleep?mode=abort", ""), true);
  check_done(first.read_response(), true);
  read_until(running, R"("finish_reason":"abort")");
}

TEST_CASE("a model that cannot wake says why with the memory map, and is told again",
          "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client client(fixture);
  check_done(client.post("/sleep", ""), true);
  fixture.model.fail_next_restore();
  const Response failed = client.post("/wake_up", "");
  CHECK(failed.status == 503);
  CHECK(failed.headers.contains("retry-after"));
  const json::value error = failed.json().at("error");
  CHECK(error.at("code").as_string() == "wake_failed");
  CHECK(error.at("message").as_string() ==
        "the model could not be woken and is asleep: GPU 0 is full\nmemory map");
  CHECK(is_sleeping(client));
  CHECK(client.get("/health").status == 200);
  check_done(client.post("/wake_up", ""), false);
  CHECK(content_of(client.post(kChat, chat_body("hi"))) == "Hello there!");
}

TEST_CASE("where requests wake the model they are answered, or told why not", "[server][sleep]") {
  ServerSetup setup = talkative();
  setup.engine.wake_on_request = true;
  ServerFixture fixture(setup);
  Client client(fixture);
  check_done(client.post("/sleep", ""), true);
  CHECK(content_of(client.post(kChat, chat_body("hi"))) == "Hello there!");
  CHECK_FALSE(is_sleeping(client));
  check_done(client.post("/sleep?level=2", ""), true);
  fixture.model.fail_next_restore();
  const Response failed = client.post(kChat, chat_body("hi"));
  CHECK(failed.status == 503);
  CHECK(failed.body.find("GPU 0 is full") != std::string::npos);
  CHECK(is_sleeping(client));
  CHECK(client.get("/health_generate").status == 200);
}

TEST_CASE("bad orders name field, value and what was expected", "[server][sleep]") {
  ServerFixture fixture(talkative());
  Client client(fixture);
  struct Bad {
    std::string path, body, field, value;
  };
  for (const auto& [path, body, field, value] :
       std::vector<Bad>{{"/sleep?level=3", "", "level", "3"},
                        {"/sleep?level=0", "", "level", "0"},
                        {"/sleep?level=one", "", "level", "one"},
                        {"/sleep?level=", "", "level", ""},
                        {"/sleep?mode=nap", "", "mode", "nap"},
                        {"/sleep?mode=7", "", "mode", "7"},
                        {"/sleep?tags=everything", "", "tags", "everything"},
                        {"/sleep?tags", "", "tags", ""},
                        {"/sleep", R"({"tags":"weights"})", "tags", "weights"},
                        {"/sleep", R"({"tags":[1]})", "tags", "1"},
                        {"/sleep", R"({"level":true})", "level", "true"},
                        {"/wake_up?tags=weight", "", "tags", "weight"},
                        {"/resume_memory_occupation", R"({"tags":{}})", "tags", "an object"}}) {
    const Response response = client.post(path, body);
    INFO(path << body << ": " << response.body);
    CHECK(response.status == 400);
    const json::value error = response.json().at("error");
    CHECK(error.at("param").as_string() == field);
    CHECK(error.at("message").as_string().find(value) != std::string::npos);
  }
  CHECK(client.post("/sleep", "[").status == 400);
  CHECK(client.get("/sleep").status == 405);
  CHECK(client.post("/is_sleeping", "").status == 405);
  CHECK_FALSE(is_sleeping(client));
  ServerSetup loading;
  loading.ready = false;
  const ServerFixture not_ready(loading);
  CHECK(Client(not_ready).post("/sleep", "").status == 503);
  CHECK(Client(not_ready).get("/is_sleeping").status == 503);
}

TEST_CASE("orders to sleep and to wake are behind the admin's key", "[server][sleep]") {
  ServerSetup setup = talkative();
  setup.options.api_keys = {"user"};
  setup.options.admin_api_keys = {"admin"};
  ServerFixture fixture(setup);
  for (const char* path :
       {"/sleep", "/release_memory_occupation", "/wake_up", "/resume_memory_occupation"}) {
    INFO(path);
    CHECK(Client(fixture).post(path, "", {"x-api-key: user"}).status == 401);
    CHECK(Client(fixture).post(path, "").status == 401);
    CHECK(Client(fixture).post(path, "", {"x-api-key: admin"}).status == 200);
  }
  CHECK(Client(fixture).get("/is_sleeping", {"x-api-key: user"}).status == 200);
  CHECK(Client(fixture).get("/is_sleeping").status == 401);
}

TEST_CASE("a server that ends does not wait for what its sleeping model was to go on with",
          "[server][sleep]") {
  ServerSetup setup = talkative();
  setup.options.drain_timeout = std::chrono::seconds(3600);
  ServerFixture fixture(setup);
  Client running(fixture);
  Client client(fixture);
  running.send_request("POST", kChat, chat_body("endless", R"("stream":true)"));
  read_until(running, "3");
  check_done(client.post("/sleep?mode=keep", ""), true);
  std::thread drain([&] { fixture.server.drain(); });
  read_until(running, R"("finish_reason":"abort")");
  drain.join();
}

TEST_CASE("a server may end while an order waits", "[server][sleep]") {
  const std::string path = GENERATE("/sleep?mode=wait", "/wake_up");
  ServerFixture fixture(talkative());
  Client client(fixture);
  Client running(fixture);
  Client waits(fixture);
  if (path == "/wake_up") {
    check_done(client.post("/sleep", ""), true);
    fixture.model.hold();
    waits.send_request("POST", path);
    CHECK(eventually([&] { return sleep_state_of(client) == "waking"; }));
  } else {
    running.send_request("POST", kChat, chat_body("endless", R"("stream":true)"));
    read_until(running, "3");
    waits.send_request("POST", path);
    CHECK(eventually([&] { return sleep_state_of(client) == "falling_asleep"; }));
  }
  fixture.server.stop();
  CHECK(waits.read_to_end().empty());
}

}  // namespace
}  // namespace tandem::tests
