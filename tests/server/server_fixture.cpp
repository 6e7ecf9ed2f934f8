#include "tests/server/server_fixture.h"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <thread>

namespace tandem::tests {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;

namespace {

server::ServerOptions on_loopback(server::ServerOptions options) {
  options.host = "127.0.0.1";
  options.port = 0;
  if (options.served_model_names.empty()) options.served_model_names = {"tiny", "org/tiny-kimi"};
  return options;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return result;
}

constexpr int kReadTimeoutMs = 120'000;

// A socket whose reads end in an error after a while. (Asio's own blocking reads ignore
// SO_RCVTIMEO.)
struct TimedReads {
  asio::ip::tcp::socket& socket;

  template <typename Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& code) {
    pollfd descriptor{socket.native_handle(), POLLIN, 0};
    if (::poll(&descriptor, 1, kReadTimeoutMs) <= 0) {
      code = asio::error::timed_out;
      return 0;
    }
    return socket.read_some(buffers, code);
  }
  template <typename Buffers>
  size_t read_some(const Buffers& buffers) {
    boost::system::error_code code;
    const size_t num_read = read_some(buffers, code);
    if (code) throw boost::system::system_error(code);
    return num_read;
  }
};

}  // namespace

ServerFixture::ServerFixture(ServerSetup setup)
    : model(std::move(setup.scripts), setup.num_kv_pages, setup.max_context_tokens),
      engine(model, setup.engine),
      server(on_loopback(std::move(setup.options))) {
  spdlog::set_level(spdlog::level::err);  // one line a request is too much here
  server.start();
  if (setup.ready) set_ready();
}

ServerFixture::~ServerFixture() { model.release(); }

void ServerFixture::set_ready() {
  server::ServingModel serving;
  serving.engine = &engine;
  serving.tokenizer = &byte_tokenizer();
  const SpecialTokens& specials = byte_tokenizer().specials();
  serving.stop_token_ids = {specials.im_end, specials.eos, specials.eot};
  serving.created_unix_s = 1'700'000'000;
  serving.model_type = "kimi_k2";
  server.set_ready(serving);
}

json::value Response::json() const {
  boost::system::error_code code;
  json::value value = json::parse(body, code);
  INFO("body: " << body);
  REQUIRE_FALSE(code);
  return value;
}

Client::Client(const ServerFixture& fixture, int receive_buffer_size_bytes) : socket_(io_) {
  socket_.open(asio::ip::tcp::v4());
  if (receive_buffer_size_bytes > 0) {
    socket_.set_option(asio::socket_base::receive_buffer_size(receive_buffer_size_bytes));
  }
  socket_.connect({asio::ip::make_address("127.0.0.1"), fixture.server.port()});
}

void Client::send(std::string_view bytes) {
  boost::system::error_code ignored;  // a server that has closed is seen on reading
  asio::write(socket_, asio::buffer(bytes.data(), bytes.size()), ignored);
}

void Client::send_request(std::string_view method,
                          std::string_view target,
                          std::string_view body,
                          const std::vector<std::string>& headers) {
  std::string text = std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: x\r\n";
  for (const std::string& header : headers) text += header + "\r\n";
  const bool has_type = std::any_of(headers.begin(), headers.end(), [](const std::string& header) {
    return lower(header).starts_with("content-type:");
  });
  if (!body.empty() || method == "POST") {
    if (!has_type) text += "Content-Type: application/json\r\n";
    text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  }
  text += "\r\n";
  text += body;
  send(text);
}

Response Client::read_response(bool is_head) {
  http::response_parser<http::string_body> parser;
  parser.body_limit(1ull << 30);
  parser.skip(is_head);
  boost::system::error_code code;
  TimedReads reads{socket_};
  http::read(reads, buffer_, parser, code);
  INFO("reading a response: " << code.message());
  REQUIRE_FALSE(code);
  Response response;
  response.status = static_cast<int>(parser.get().result_int());
  for (const auto& field : parser.get()) {
    response.headers[lower({field.name_string().data(), field.name_string().size()})] =
        std::string(field.value());
  }
  response.body = parser.get().body();
  return response;
}

Response Client::get(std::string_view target, const std::vector<std::string>& headers) {
  send_request("GET", target, "", headers);
  return read_response();
}

Response Client::post(std::string_view target,
                      std::string_view body,
                      const std::vector<std::string>& headers) {
  send_request("POST", target, body, headers);
  return read_response();
}

std::string Client::read_some() {
  std::string bytes(64 << 10, '\0');
  boost::system::error_code code;
  TimedReads reads{socket_};
  const size_t num_read = reads.read_some(asio::buffer(bytes.data(), bytes.size()), code);
  bytes.resize(num_read);
  return bytes;
}

std::string Client::read_to_end() {
  std::string all;
  for (std::string piece = read_some(); !piece.empty(); piece = read_some()) all += piece;
  return all;
}

bool Client::closed_by_server() {
  char byte = 0;
  boost::system::error_code code;
  TimedReads reads{socket_};
  const size_t num_read = reads.read_some(asio::buffer(&byte, 1), code);
  return num_read == 0 && (code == asio::error::eof || code == asio::error::connection_reset);
}

void Client::shutdown_send() {
  boost::system::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void Client::close() {
  boost::system::error_code ignored;
  socket_.close(ignored);
}

std::string read_until(Client& client, const std::string& text) {
  std::string all;
  while (all.find(text) == std::string::npos) {
    const std::string more = client.read_some();
    REQUIRE_FALSE(more.empty());
    all += more;
  }
  return all;
}

std::vector<json::value> sse_events(std::string_view body) {
  std::vector<json::value> events;
  while (!body.empty()) {
    const size_t end = body.find("\n\n");
    REQUIRE(end != std::string_view::npos);
    const std::string_view event = body.substr(0, end);
    body.remove_prefix(end + 2);
    if (event.starts_with(':')) continue;
    REQUIRE(event.starts_with("data: "));
    REQUIRE(event.find('\n') == std::string_view::npos);
    const std::string_view data = event.substr(6);
    if (data == "[DONE]") {
      CHECK(body.empty());
      continue;
    }
    boost::system::error_code code;
    events.push_back(json::parse(json::string_view(data.data(), data.size()), code));
    INFO(data);
    REQUIRE_FALSE(code);
  }
  return events;
}

namespace {

void add_tool_call(const json::object& delta, StreamedChoice& choice) {
  const auto call_idx = static_cast<size_t>(delta.at("index").as_int64());
  const json::object& function = delta.at("function").as_object();
  if (call_idx == choice.tool_calls.size()) {  // the first delta of a call names it
    CHECK(delta.at("type").as_string() == "function");
    choice.tool_calls.push_back({{"id", std::string(delta.at("id").as_string())},
                                 {"name", std::string(function.at("name").as_string())},
                                 {"arguments", ""}});
    CHECK(function.at("arguments").as_string() == "");
    return;
  }
  REQUIRE(call_idx + 1 == choice.tool_calls.size());
  CHECK_FALSE(delta.contains("id"));
  CHECK_FALSE(delta.contains("type"));
  CHECK_FALSE(function.contains("name"));
  choice.tool_calls[call_idx]["arguments"] += std::string(function.at("arguments").as_string());
}

void add_chunk(const json::object& chunk, StreamedChoice& choice) {
  const json::object& delta = chunk.at("delta").as_object();
  if (choice.num_chunks++ == 0) {
    choice.role_first = delta.contains("role") && delta.at("role").as_string() == "assistant";
  } else {
    CHECK_FALSE(delta.contains("role"));
  }
  CHECK(choice.finish_reason.empty());  // nothing comes behind the end
  if (delta.contains("reasoning_content")) {
    CHECK(delta.at("reasoning") == delta.at("reasoning_content"));
    choice.reasoning += std::string(delta.at("reasoning_content").as_string());
  }
  if (delta.contains("content")) choice.content += std::string(delta.at("content").as_string());
  if (delta.contains("tool_calls")) {
    for (const json::value& call : delta.at("tool_calls").as_array()) {
      add_tool_call(call.as_object(), choice);
    }
  }
  if (!chunk.at("logprobs").is_null()) {
    for (const json::value& entry : chunk.at("logprobs").at("content").as_array()) {
      choice.logprobs.push_back(entry);
    }
  }
  if (!chunk.at("finish_reason").is_null()) {
    choice.finish_reason = std::string(chunk.at("finish_reason").as_string());
    CHECK(chunk.at("usage").at("completion_tokens").is_int64());
  }
}

}  // namespace

std::vector<StreamedChoice> add_up(const std::vector<json::value>& events) {
  std::vector<StreamedChoice> choices;
  for (const json::value& event : events) {
    REQUIRE(event.as_object().contains("choices"));
    CHECK(event.at("object").as_string() == "chat.completion.chunk");
    CHECK(event.at("id") == events.front().at("id"));
    CHECK(event.at("created") == events.front().at("created"));
    for (const json::value& chunk : event.at("choices").as_array()) {
      const auto choice_idx = static_cast<size_t>(chunk.at("index").as_int64());
      if (choice_idx >= choices.size()) choices.resize(choice_idx + 1);
      add_chunk(chunk.as_object(), choices[choice_idx]);
    }
  }
  return choices;
}

std::string chat_body(std::string_view user_text, std::string_view extra) {
  const json::string text(user_text.data(), user_text.size());
  std::string body =
      R"({"messages":[{"role":"user","content":)" + json::serialize(json::value(text)) + "}]";
  if (!extra.empty()) {
    body += ",";
    body += extra;
  }
  return body + "}";
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

}  // namespace tandem::tests
