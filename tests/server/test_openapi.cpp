// The document says what the server does: checked against the server itself.
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <set>
#include <string>

#include "server/http/router.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

json::object request_schema(const json::value& document, const std::string& path) {
  return document.at("paths")
      .at(path)
      .at("post")
      .at("requestBody")
      .at("content")
      .at("application/json")
      .at("schema")
      .as_object();
}

// A body with all that is required, or with one key where any will do.
json::object smallest_body(const json::object& schema) {
  const json::object known = {{"messages", {{{"role", "user"}, {"content", "hello"}}}},
                              {"prompt", "hello"},
                              {"input", "hello"},
                              {"tokens", {1}},
                              {"model", "tiny"},
                              {"max_tokens", 1}};
  json::object body;
  if (schema.contains("minProperties")) return {{"request_ids", json::array()}};
  for (const json::value& key : schema.at("required").as_array()) {
    body[key.as_string()] = known.at(key.as_string());
  }
  return body;
}

bool takes_body(const json::value& document, const server::Route& route) {
  return route.method == server::Method::kPost && document.at("paths")
                                                      .at(std::string(route.path))
                                                      .at("post")
                                                      .as_object()
                                                      .contains("requestBody");
}

// A value of another type than the schema's.
json::value wrong_value(const json::string& type) {
  if (type == "string" || type == "boolean") return json::array{7};
  return "a string";
}

TEST_CASE("the OpenAPI document lists the routes that there are", "[server][openapi]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value document = client.get("/openapi.json").json();
  CHECK(document.at("openapi").as_string() == "3.1.0");
  std::set<std::string> routed;
  for (const server::Route& route : server::routes()) {
    const bool has_parameter = route.path.size() > 1 && route.path.ends_with('/');
    routed.insert((route.method == server::Method::kGet ? "get " : "post ") +
                  std::string(route.path) + (has_parameter ? "{model}" : ""));
  }
  std::set<std::string> documented;
  for (const auto& path : document.at("paths").as_object()) {
    for (const auto& operation : path.value().as_object()) {
      documented.insert(std::string(operation.key()) + " " + std::string(path.key()));
      CHECK_FALSE(operation.value().at("summary").as_string().empty());
      const bool has_body = operation.value().as_object().contains("requestBody");
      CHECK((!has_body || operation.key() == "post"));
    }
  }
  CHECK(documented == routed);
}

TEST_CASE("every key that the document types is checked for that type", "[server][openapi]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value document = client.get("/openapi.json").json();
  int num_checked = 0;
  for (const server::Route& route : server::routes()) {
    const std::string path(route.path);
    if (!takes_body(document, route)) continue;
    const json::object schema = request_schema(document, path);
    CHECK(client.post(path, json::serialize(smallest_body(schema))).status == 200);
    for (const auto& property : schema.at("properties").as_object()) {
      const json::value* type = property.value().as_object().if_contains("type");
      if (type == nullptr) continue;
      json::object body = smallest_body(schema);
      body[property.key()] = wrong_value(type->as_string());
      const Response response = client.post(path, json::serialize(body));
      INFO(path << " " << property.key() << ": " << response.body);
      CHECK(response.status == 400);
      CHECK(response.body.find(std::string(property.key())) != std::string::npos);
      ++num_checked;
    }
  }
  CHECK(num_checked > 50);
}

TEST_CASE("what the document requires is required", "[server][openapi]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value document = client.get("/openapi.json").json();
  for (const server::Route& route : server::routes()) {
    const std::string path(route.path);
    if (!takes_body(document, route)) continue;
    const json::object schema = request_schema(document, path);
    for (const auto& entry : smallest_body(schema)) {
      json::object body = smallest_body(schema);
      body.erase(entry.key());
      INFO(path << " without " << entry.key());
      CHECK(client.post(path, json::serialize(body)).status == 400);
    }
  }
}

TEST_CASE("the document knows the keys that clients send", "[server][openapi]") {
  ServerFixture fixture;
  Client client(fixture);
  const json::value document = client.get("/openapi.json").json();
  const json::object chat = request_schema(document, "/v1/chat/completions");
  const json::object& keys = chat.at("properties").as_object();
  for (const char* key : {"messages", "model", "tools", "tool_choice", "stream", "stream_options",
                          "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop",
                          "n", "seed", "logprobs", "response_format", "ignore_eos"}) {
    INFO(key);
    CHECK(keys.contains(key));
  }
  CHECK(keys.at("temperature").at("maximum").to_number<double>() == 2.0);
  CHECK(keys.at("n").at("type").as_string() == "integer");
}

}  // namespace
}  // namespace tandem::tests
