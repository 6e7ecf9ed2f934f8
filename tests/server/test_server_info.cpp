// What the server says of itself, to tools that were written for SGLang's or vLLM's.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

ServerSetup setup() {
  ServerSetup setup{.scripts = {{"endless", "0123456789", true}, {"", "Hello!"}}};
  setup.engine.max_sequences = 3;
  setup.engine.max_queued_requests = 17;
  setup.engine.prefill_chunk_tokens = 128;
  setup.engine.prefill_alone_tokens = 1000;
  setup.num_kv_pages = 96;
  setup.max_context_tokens = 2048;
  setup.options.facts = {.model_path = "/models/tiny",
                         .cpu_isa = {"avx2", "fma"},
                         .gpu = "no GPU",
                         .flags = {{"max-queue", "17"}}};
  return setup;
}

TEST_CASE("server_info says what is served, with which limits", "[server][info]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value info = client.get("/server_info").json();
  CHECK(info.at("version") == client.get("/version").json().at("version"));
  CHECK(info.at("model_path").as_string() == "/models/tiny");
  CHECK(info.at("tokenizer_path").as_string() == "/models/tiny");
  CHECK(info.at("model_type").as_string() == "kimi_k2");
  CHECK(info.at("served_model_name").as_string() == "tiny");
  CHECK(info.at("served_model_names") == json::value{"tiny", "org/tiny-kimi"});
  CHECK(info.at("context_length") ==
        client.get("/v1/models").json().at("data").at(0).at("max_model_len"));
  CHECK(info.at("page_size").as_int64() == kPageSizeTokens);
  CHECK(info.at("num_kv_pages").as_int64() == 96);
  CHECK(info.at("max_total_num_tokens").as_int64() == 96 * kPageSizeTokens);
  CHECK(info.at("max_running_requests").as_int64() == 3);
  CHECK(info.at("max_queued_requests").as_int64() == 17);
  CHECK(info.at("chunked_prefill_size").as_int64() == 128);
  CHECK(info.at("max_prefill_tokens").as_int64() == 1000);
  CHECK(info.at("cpu_isa") == json::value{"avx2", "fma"});
  CHECK(info.at("gpu").as_string() == "no GPU");
  CHECK(info.at("flags") == json::value{{"max-queue", "17"}});
  CHECK(info.at("internal_states").at(0).at("num_finished").as_int64() == 0);
  REQUIRE(client.post("/v1/chat/completions", chat_body("hi")).status == 200);
  const json::value later = client.get("/get_server_info").json();
  CHECK(later.at("internal_states").at(0).at("num_finished").as_int64() == 1);
  CHECK(later.at("model_path") == info.at("model_path"));
}

TEST_CASE("server_info says what is kept beside the model's memory", "[server][info]") {
  ServerFixture fixture(setup());
  const json::value info = Client(fixture).get("/server_info").json();
  const EngineStats stats = fixture.engine.stats();
  CHECK(info.at("num_kv_host_pages") == stats.kv_host_pages_total);
  CHECK(info.at("kv_disk_limit_bytes") == stats.kv_disk_limit_bytes);
  const json::value& state = info.at("internal_states").at(0);
  CHECK(state.at("restored_tokens") == stats.restored_tokens);
  CHECK(state.at("kv_host_pages_used") == stats.kv_host_pages_used);
  CHECK(state.at("kv_disk_size_bytes") == stats.kv_disk_size_bytes);
  CHECK(state.at("kv_disk_pages_read") == stats.kv_disk_pages_read);
  CHECK(state.at("kv_disk_pages_written") == stats.kv_disk_pages_written);
  CHECK(state.at("kv_disk_failures") == stats.kv_disk_failures);
}

TEST_CASE("model_info says which checkpoint it is", "[server][info]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value info = client.get("/model_info").json();
  CHECK(info.at("model_path").as_string() == "/models/tiny");
  CHECK(info.at("is_generation").as_bool());
  CHECK_FALSE(info.at("has_image_understanding").as_bool());
  CHECK(client.get("/get_model_info").json() == info);
}

TEST_CASE("get_load counts requests that run and wait", "[server][info]") {
  ServerSetup with_one = setup();
  with_one.engine.max_sequences = 1;
  ServerFixture fixture(with_one);
  Client busy(fixture);
  Client waiting(fixture);
  Client client(fixture);
  fixture.model.set_step_time(std::chrono::milliseconds(5));
  busy.send_request("POST", "/v1/chat/completions", chat_body("endless"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  fixture.model.hold();  // else it might come to the end of its context
  waiting.send_request("POST", "/v1/chat/completions", chat_body("endless"));
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  const json::value load = client.get("/get_load").json().at(0);
  CHECK(load.at("num_reqs").as_int64() == 2);
  CHECK(load.at("num_waiting_reqs").as_int64() == 1);
  CHECK(load.at("num_tokens").as_int64() >= kPageSizeTokens);
  CHECK(load.at("dp_rank").as_int64() == 0);
  fixture.model.release();
}

TEST_CASE("before the model is there, only the load is known", "[server][info]") {
  ServerSetup loading = setup();
  loading.ready = false;
  ServerFixture fixture(loading);
  Client client(fixture);
  CHECK(client.get("/server_info").status == 503);
  CHECK(client.get("/model_info").status == 503);
  CHECK(client.get("/get_load").json().at(0).at("num_reqs").as_int64() == 0);
}

}  // namespace
}  // namespace tandem::tests
