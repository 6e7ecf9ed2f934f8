// A server on a free port of the loopback over a scripted model, and a plain client for it.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/engine.h"
#include "server/server.h"
#include "tests/server/scripted_model.h"

namespace tandem::tests {

struct ServerSetup {
  std::vector<Script> scripts = {{"", "Hello there!"}};
  server::ServerOptions options = {};
  EngineOptions engine = {};
  int32_t num_kv_pages = 2048;
  int32_t max_context_tokens = 8192;
  bool ready = true;
};

class ServerFixture {
 public:
  explicit ServerFixture(ServerSetup setup = {});
  ~ServerFixture();

  void set_ready();

  ScriptedModel model;
  Engine engine;
  server::Server server;
};

struct Response {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  [[nodiscard]] boost::json::value json() const;
};

// One connection. Reads fail the test after some seconds instead of hanging.
class Client {
 public:
  explicit Client(const ServerFixture& fixture, int receive_buffer_size_bytes = 0);

  void send(std::string_view bytes);  // as they are
  void send_request(std::string_view method,
                    std::string_view target,
                    std::string_view body = "",
                    const std::vector<std::string>& headers = {});
  Response read_response(bool is_head = false);
  Response get(std::string_view target, const std::vector<std::string>& headers = {});
  Response post(std::string_view target,
                std::string_view body,
                const std::vector<std::string>& headers = {});

  std::string read_some();  // raw bytes; "" at the end
  std::string read_to_end();
  bool closed_by_server();  // waits for the end; false when something else comes
  void shutdown_send();
  void close();

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
};

// Reads a stream until it shows `text`; all that came.
std::string read_until(Client& client, const std::string& text);

// The JSON of each event, "[DONE]" left out; comments are skipped.
std::vector<boost::json::value> sse_events(std::string_view body);

// What a client library adds up from a stream.
struct StreamedChoice {
  std::string reasoning;
  std::string content;
  std::vector<std::map<std::string, std::string>> tool_calls;  // id, name, arguments
  std::string finish_reason;
  int num_chunks = 0;
  bool role_first = false;
  boost::json::array logprobs;
};
std::vector<StreamedChoice> add_up(const std::vector<boost::json::value>& events);

// {"messages": [user message], ...extra}: `extra` is JSON members without braces.
std::string chat_body(std::string_view user_text, std::string_view extra = "");

// True as soon as `condition` holds, false after 10 s.
bool eventually(const std::function<bool()>& condition);

}  // namespace tandem::tests
