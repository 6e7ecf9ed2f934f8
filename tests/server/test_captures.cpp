// Requests that real clients were seen to send, each answered in both forms with success in the
// client's dialect, or with the error that this client understands. The captures are other people's
// data and stay where they are: $TANDEM_SHARED_DIR, by default ../shared beside the checkout.
#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

fs::path captures_dir() {
  const char* named = std::getenv("TANDEM_SHARED_DIR");
  const fs::path shared =
      named != nullptr ? fs::path(named) : fs::path(TANDEM_SOURCE_DIR).parent_path() / "shared";
  return shared / "serving" / "captures";
}

std::vector<std::string> headers_of(const json::value& request) {
  constexpr std::array<std::string_view, 6> kOfTheConnection = {
      "host", "connection", "content-length", "accept-encoding", "transfer-encoding", "expect"};
  std::vector<std::string> headers;
  for (const auto& [name, value] : request.at("headers").as_object()) {
    std::string lower(name);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const bool is_ours = std::find(kOfTheConnection.begin(), kOfTheConnection.end(), lower) !=
                         kOfTheConnection.end();
    if (!is_ours && value.is_string()) {
      headers.push_back(std::string(name) + ": " + std::string(value.as_string()));
    }
  }
  return headers;
}

// What the server has to refuse, by the field that it must name. Everything else succeeds.
std::string expected_refusal(std::string_view path, const json::object& body) {
  if (path == "/v1/responses" && body.contains("previous_response_id")) {
    return "previous_response_id";
  }
  if (path == "/v1/messages" && body.contains("thread")) return "thread";
  return "";
}

// Each SDK finds in the error what it acts on.
void check_refusal(const Response& response, std::string_view field) {
  CHECK(response.status == 400);
  const json::value error = response.json().at("error");
  if (field == "thread") {
    CHECK(error.at("details").at("error_code").as_string() == "thread_unsupported_request");
  } else {
    CHECK(error.at("param").as_string() == json::string_view(field.data(), field.size()));
  }
}

void check_whole(std::string_view path, const json::value& answer) {
  if (path.ends_with("/chat/completions")) {
    const json::value& choice = answer.at("choices").at(0);
    CHECK(choice.at("message").at("role").as_string() == "assistant");
    CHECK(choice.at("finish_reason").is_string());
    CHECK(answer.at("usage").at("total_tokens").as_int64() > 0);
  } else if (path == "/v1/completions") {
    CHECK(answer.at("choices").at(0).at("text").is_string());
  } else if (path == "/v1/responses") {
    CHECK(answer.at("object").as_string() == "response");
    CHECK(answer.at("status").as_string() != "failed");
    CHECK(answer.at("usage").at("total_tokens").as_int64() > 0);
  } else if (path == "/v1/messages") {
    CHECK(answer.at("type").as_string() == "message");
    CHECK(answer.at("stop_reason").is_string());
    CHECK(answer.at("content").is_array());
  } else if (path.ends_with("/count_tokens")) {
    CHECK(answer.at("input_tokens").as_int64() > 0);
  }
}

void check_stream(std::string_view path, std::string_view frames) {
  const std::vector<NamedEvent> events = named_events(frames);
  REQUIRE_FALSE(events.empty());
  if (path.ends_with("/completions")) {
    CHECK(frames.ends_with("data: [DONE]\n\n"));
    CHECK(std::any_of(events.begin(), events.end(), [](const NamedEvent& event) {
      const json::array& choices = event.data.at("choices").as_array();
      return !choices.empty() && choices.at(0).at("finish_reason").is_string();
    }));
  } else if (path == "/v1/responses") {
    CHECK(events.front().name == "response.created");
    const bool ended =
        events.back().name == "response.completed" || events.back().name == "response.incomplete";
    CHECK(ended);
  } else if (path == "/v1/messages") {
    CHECK(events.front().name == "message_start");
    CHECK(events.back().name == "message_stop");
  }
}

void post_both_forms(Client& client,
                     std::string_view target,
                     const std::vector<std::string>& headers,
                     json::object body) {
  const std::string_view path = target.substr(0, target.find('?'));
  const bool has_stream =
      path.ends_with("/completions") || path == "/v1/responses" || path == "/v1/messages";
  const std::string refusal = expected_refusal(path, body);
  // A grammar may let the scripted model go on without end: bounded where the client sets no bound.
  const bool is_bounded = body.contains("max_tokens") || body.contains("max_completion_tokens");
  if (path == "/v1/responses" && !body.contains("max_output_tokens")) {
    body["max_output_tokens"] = 300;
  } else if (has_stream && path != "/v1/responses" && !is_bounded) {
    body["max_tokens"] = 300;
  }
  for (const bool stream : {false, true}) {
    if (stream && !has_stream) continue;
    if (has_stream) body["stream"] = stream;
    json::object sent = body;
    if (!stream) sent.erase("stream_options");
    const Response response = client.post(target, json::serialize(sent), headers);
    INFO(response.body.substr(0, 1000));
    if (!refusal.empty()) {
      check_refusal(response, refusal);
      continue;
    }
    REQUIRE(response.status == 200);
    stream ? check_stream(path, response.body) : check_whole(path, response.json());
  }
}

TEST_CASE("every captured request of a real client is answered, by a strict server, too",
          "[server][captures]") {
  const fs::path dir = captures_dir();
  if (!fs::is_directory(dir)) SKIP("no captures in " << dir);
  ServerSetup setup{.scripts = {{"<session>", "<think>ok</think>{\"title\": \"A title\"}"},
                                {"schema-question", "<think>ok</think>{\"city\": \"P\", \"n\": 1}"},
                                {"", "<think>ok</think>plain-answer-ok"}},
                    .num_kv_pages = 8192,
                    .max_context_tokens = 262144};
  setup.options.served_model_names = {"kimi-k2-thinking", "claude-sonnet-4-5", "gpt-5.5"};
  setup.engine.prefill_chunk_tokens = 4096;
  setup.options.strict_params = GENERATE(false, true);
  ServerFixture fixture(setup);
  int num_requests = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    const json::value requests = json::parse(text.str());
    for (size_t idx = 0; idx < requests.as_array().size(); ++idx) {
      const json::value& request = requests.as_array()[idx];
      const std::string method(request.at("method").as_string());
      const std::string target(request.at("path").as_string());
      INFO(entry.path().filename().string() << "[" << idx << "]: " << method << " " << target);
      Client client(fixture);
      const std::vector<std::string> headers = headers_of(request);
      ++num_requests;
      if (method == "POST") {
        post_both_forms(client, target, headers, request.at("body").as_object());
        continue;
      }
      client.send_request(method, target, "", headers);
      const Response response = client.read_response(method == "HEAD");
      CHECK(response.status == (target == "/v1/responses" ? 426 : 200));
    }
  }
  CHECK(num_requests > 0);
}

}  // namespace
}  // namespace tandem::tests
