// A plain HTTP client for `chat`: one connection a request, body pieces as they come.
#pragma once

#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tandem::cli {

// The server cannot be reached, or went away in the middle of an answer.
struct HttpError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ServerUrl {
  std::string host;
  std::string port;
  std::string base_path;  // "" or "/prefix", without /v1 and without a slash at its end
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string authority() const;  // "host:port", what the Host header says
};
// "http://host:port", "host:port", ".../v1": throws ConfigError for anything else.
ServerUrl parse_server_url(const std::string& text);

struct HttpReply {
  int status = 0;
  std::string body;  // of post_stream: only when the status is not 200
  bool cancelled = false;
};

class HttpClient {
 public:
  HttpClient(ServerUrl url, std::string api_key);

  HttpReply get(const std::string& path);
  // Body pieces of a 200 go to `on_piece` as they arrive.
  HttpReply post_stream(const std::string& path,
                        const std::string& json,
                        const std::function<void(std::string_view)>& on_piece);

  // Cuts the request that is running; safe in a signal handler and from any thread.
  void cancel() noexcept;

  [[nodiscard]] const ServerUrl& url() const { return url_; }

 private:
  HttpReply send(const std::string& method,
                 const std::string& path,
                 const std::string& json,
                 const std::function<void(std::string_view)>& on_piece);

  ServerUrl url_;
  std::string api_key_;
  std::atomic<int> socket_fd_{-1};
  std::atomic<bool> cancelled_{false};
};

}  // namespace tandem::cli
