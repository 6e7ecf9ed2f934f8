// The request log: what stands in a line, however a request ends, and that the file never matters
// to the answers.
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "server/request_log/request_log.h"
#include "tests/runtime/model/temp_dir.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

std::vector<json::value> lines_of(const std::filesystem::path& path) {
  std::vector<json::value> lines;
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

// As soon as there are so many.
std::vector<json::value> wait_for_lines(const std::filesystem::path& path, size_t num_lines) {
  REQUIRE(eventually([&] { return lines_of(path).size() >= num_lines; }));
  return lines_of(path);
}

struct LoggedServer {
  test::TempDir dir;
  std::filesystem::path path = dir.path() / "requests.jsonl";
  ServerFixture fixture;

  explicit LoggedServer(bool with_content) : fixture(setup(path, with_content)) {}

  static ServerSetup setup(const std::filesystem::path& path, bool with_content) {
    ServerSetup setup;
    setup.scripts = {{"endless", "0123456789", true},
                     {"counts", "<think>Hm.</think>0123456789", true},
                     {"", "<think>Hm.</think>Hello there!"}};
    setup.options.api_keys = {"sesame"};
    setup.options.request_log_path = path.string();
    setup.options.log_content = with_content;
    return setup;
  }
};

const std::vector<std::string> kKey = {"Authorization: Bearer sesame", "X-Request-Id: mine-1"};

TEST_CASE("a line says how a request of any dialect went", "[server]") {
  LoggedServer logged(false);
  Client client(logged.fixture);
  const std::string messages = R"("max_tokens":50,"messages":[{"role":"user","content":"secret"}])";
  CHECK(client.post("/v1/chat/completions", "{" + messages + R"(,"temperature":0.25})", kKey)
            .status == 200);
  CHECK(client.post("/v1/messages", "{" + messages + "}", kKey).status == 200);
  CHECK(client.post("/v1/responses", R"({"input":"secret","max_output_tokens":50})", kKey).status ==
        200);
  CHECK(client.post("/v1/completions", R"({"prompt":"secret","max_tokens":3})", kKey).status ==
        200);
  CHECK(client.post("/v1/chat/completions", "{" + messages + R"(,"n":2,"stream":true})", kKey)
            .status == 200);
  const std::vector<json::value> lines = wait_for_lines(logged.path, 5);
  REQUIRE(lines.size() == 5);
  const std::vector<std::string> endpoints = {"/v1/chat/completions", "/v1/messages",
                                              "/v1/responses", "/v1/completions",
                                              "/v1/chat/completions"};
  for (size_t idx = 0; idx < lines.size(); ++idx) {
    const json::object& line = lines[idx].as_object();
    INFO(json::serialize(line));
    CHECK(line.at("endpoint").as_string() == endpoints[idx]);
    CHECK(line.at("outcome") == "done");
    CHECK(line.at("request_id") == "mine-1");
    CHECK(line.at("stream").as_bool() == (idx == 4));
    CHECK(line.at("time").as_string().size() == std::string("2026-01-01T00:00:00.000Z").size());
    CHECK(line.at("usage").at("prompt_tokens").as_int64() > 0);
    const int64_t num_tokens = line.at("usage").at("completion_tokens").as_int64();
    CHECK(num_tokens > 0);
    int64_t of_choices = 0;
    for (const json::value& choice : line.at("choices").as_array()) {
      of_choices += choice.at("completion_tokens").as_int64();
      CHECK(choice.at("finish_reason") == (idx == 3 ? "length" : "stop"));
      CHECK_FALSE(choice.as_object().contains("text"));
    }
    CHECK(of_choices == num_tokens);
    CHECK(line.at("choices").as_array().size() == (idx == 4 ? 2U : 1U));
    const auto ms = [&](const char* name) {
      return line.at("milliseconds").at(name).to_number<double>();
    };
    CHECK(ms("queue") <= ms("first_token"));
    CHECK(ms("first_token") <= ms("total"));
    CHECK_FALSE(line.contains("error"));
    CHECK_FALSE(line.contains("body"));
    CHECK(json::serialize(line).find("secret") == std::string::npos);
    CHECK(json::serialize(line).find("sesame") == std::string::npos);
  }
  CHECK(lines[0].at("sampling").at("temperature").to_number<double>() == 0.25);
  CHECK(lines[0].at("sampling").at("max_tokens").as_int64() == 50);
  CHECK(lines[0].at("usage").at("reasoning_tokens").as_int64() > 0);
}

TEST_CASE("with content a line holds what was asked and said, without keys", "[server]") {
  LoggedServer logged(true);
  Client client(logged.fixture);
  const std::string body =
      "{\n  \"max_tokens\": 50,\n  \"messages\": [{\"role\": \"user\", \"content\": \"a "
      "\\\"b\\\"\\n\"}]}";
  CHECK(client.post("/v1/chat/completions", body, kKey).status == 200);
  CHECK(client.post("/v1/chat/completions", "{no json", kKey).status == 400);
  const std::vector<json::value> lines = wait_for_lines(logged.path, 2);
  CHECK(lines[0].at("body") == json::parse(body));
  const json::value& text = lines[0].at("choices").at(0).at("text");
  CHECK(text.as_string().find("Hello there!") != json::string::npos);
  CHECK(text.as_string().find("</think>") != json::string::npos);
  CHECK(lines[1].at("body") == "{no json");
  for (const json::value& line : lines) {
    CHECK(json::serialize(line).find("sesame") == std::string::npos);
  }
  struct stat about {};
  REQUIRE(stat(logged.path.c_str(), &about) == 0);
  CHECK((about.st_mode & 0777) == 0600);
}

TEST_CASE("a body is logged as the object it was served as", "[server]") {
  LoggedServer logged(true);
  Client client(logged.fixture);
  std::string deep = "7";
  for (int idx = 0; idx < 80; ++idx) deep = R"({"a":)" + deep + "}";
  const std::string metadata = R"("metadata":)" + deep;
  CHECK(client.post("/v1/chat/completions", chat_body("hi", metadata), kKey).status == 200);
  const std::string half = R"({"messages":[{"role":"user","content":"\ud83d"}]})";
  CHECK(client.post("/v1/chat/completions", half, kKey).status == 200);
  CHECK(client.post("/v1/chat/completions", std::string(200, '['), kKey).status == 400);
  std::string text;
  CHECK(eventually([&] {
    std::ifstream stream(logged.path);
    text.assign(std::istreambuf_iterator<char>(stream), {});
    return std::count(text.begin(), text.end(), '\n') == 3;
  }));
  CHECK(text.find(metadata + "}}\n") != std::string::npos);
  CHECK(text.find("\"content\":\"\ufffd\"") != std::string::npos);
  CHECK(text.find("\"body\":\"[[") != std::string::npos);
}

TEST_CASE("an answer that the server ends is a stop, one that is aborted is none", "[server]") {
  LoggedServer logged(false);
  Client client(logged.fixture);
  const std::string counting = chat_body("counts", R"("max_tokens":4000,"stop":"3")");
  CHECK(client.post("/v1/chat/completions", counting, kKey).status == 200);
  Client aborted(logged.fixture);
  aborted.send_request("POST", "/v1/chat/completions",
                       chat_body("endless", R"("stream":true,"max_tokens":4000)"), kKey);
  read_until(aborted, "0");
  CHECK(client.post("/abort_request", R"({"abort_all":true})", kKey).status == 200);
  read_until(aborted, "[DONE]");
  const std::vector<json::value> lines = wait_for_lines(logged.path, 2);
  CHECK(lines[0].at("choices").at(0).at("finish_reason") == "stop");
  CHECK(lines[1].at("choices").at(0).at("finish_reason") == "abort");
}

TEST_CASE("refused requests and clients that leave have their line, too", "[server]") {
  LoggedServer logged(false);
  Client client(logged.fixture);
  CHECK(client.post("/v1/chat/completions", chat_body("hi", R"("temperature":7)"), kKey).status ==
        400);
  const std::string prompts = R"({"prompt":["endless","endless"],"stream":true,"max_tokens":4000})";
  for (const auto& [path, body] :
       {std::pair("/v1/chat/completions",
                  chat_body("endless", R"("stream":true,"max_tokens":4000)")),
        std::pair("/v1/completions", prompts)}) {
    Client leaving(logged.fixture);
    leaving.send_request("POST", path, body, kKey);
    REQUIRE_FALSE(leaving.read_some().empty());
    leaving.close();
  }
  const std::vector<json::value> lines = wait_for_lines(logged.path, 3);
  CHECK(lines[0].at("outcome") == "refused");
  CHECK(lines[0].at("error").at("status").as_int64() == 400);
  CHECK(lines[0].at("error").at("param") == "temperature");
  CHECK(lines[0].at("choices").as_array().empty());
  for (size_t idx = 1; idx < 3; ++idx) {
    INFO(json::serialize(lines[idx]));
    CHECK(lines[idx].at("outcome") == "client_gone");
    CHECK(lines[idx].at("choices").at(0).at("finish_reason").is_null());
    CHECK(lines[idx].at("usage").at("prompt_tokens").as_int64() > 0);
  }
}

TEST_CASE("a file that was rotated away is opened anew", "[server]") {
  LoggedServer logged(false);
  Client client(logged.fixture);
  const std::filesystem::path rotated = logged.dir.path() / "requests.1";
  CHECK(client.post("/v1/chat/completions", chat_body("hi"), kKey).status == 200);
  wait_for_lines(logged.path, 1);
  std::filesystem::rename(logged.path, rotated);
  CHECK(client.post("/v1/chat/completions", chat_body("hi"), kKey).status == 200);
  wait_for_lines(logged.path, 1);
  CHECK(lines_of(rotated).size() == 1);
}

TEST_CASE("what waits for the disk is bounded, what was taken is written", "[server]") {
  const test::TempDir dir;
  const std::filesystem::path path = dir.path() / "log";
  size_t num_taken = 0;
  {
    const std::string line = '"' + std::string(server::RequestLog::kMaxWaitingBytes / 8, 'x') + '"';
    server::RequestLog log(path.string());
    while (log.write(line.size(), [&] { return line; })) {
      ++num_taken;  // far faster than it can be written
    }
    CHECK(num_taken >= 7);
  }
  CHECK(std::filesystem::file_size(path) ==
        num_taken * (server::RequestLog::kMaxWaitingBytes / 8 + 3));
}

TEST_CASE("a line that a full disk cuts short spoils no other, and is counted", "[server]") {
  const test::TempDir dir;
  const std::filesystem::path path = dir.path() / "log";
  signal(SIGXFSZ, SIG_IGN);
  rlimit usual{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &usual) == 0);
  const auto limit_files_to = [&](rlim_t size_bytes) {
    const rlimit limit{size_bytes, usual.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  };
  {
    std::atomic<int> num_dropped = 0;
    server::RequestLog log(path.string(), [&] { ++num_dropped; });
    const auto write = [&](const std::string& line) {
      log.write(line.size(), [line] { return line; });
    };
    limit_files_to(16);
    write("the first");
    write("the second");
    write("the third");
    const bool were_dropped = eventually([&] { return num_dropped == 2; });
    limit_files_to(usual.rlim_cur);
    CHECK(were_dropped);
    write("the last");
  }
  std::ifstream stream(path);
  const std::string text(std::istreambuf_iterator<char>(stream), {});
  CHECK(text == "the first\nthe se\nthe last\n");
}

TEST_CASE("a log that cannot be written is an error at the start", "[server]") {
  CHECK_THROWS_AS(server::RequestLog("/nowhere/at/all/log"), ConfigError);
}

}  // namespace
}  // namespace tandem::tests
