// The HTTP server: Asio coroutines and Beast over an Engine. Listens before the model is loaded
// (/health says 503).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/http/cors.h"

namespace tandem::server {

// What /server_info says beside what server and engine know themselves. Any part may be empty.
struct ServerFacts {
  std::string model_path;            // folder of the checkpoint
  std::vector<std::string> cpu_isa;  // instruction sets of this CPU that kernels may use
  std::string gpu;                   // what build and machine have of GPUs, in one line
  // Options given on the command line, "max-queue" = "8"; no secret among the values.
  std::vector<std::pair<std::string, std::string>> flags;
};

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;                         // 0: any free port, see Server::port()
  std::string uds_path;                         // a Unix socket in place of host and port
  std::string tls_certificate_path;             // PEM, with its chain; "": plain HTTP
  std::string tls_private_key_path;             // PEM
  std::vector<std::string> api_keys;            // empty: no key is asked for
  std::vector<std::string> admin_api_keys;      // for what acts on all clients; empty: api_keys
  std::vector<std::string> served_model_names;  // the first is the one reported
  int num_io_threads = 1;
  int64_t max_body_size_bytes = 64 << 20;
  int64_t max_total_body_size_bytes = 1 << 30;  // of all requests under way; beyond: 503
  int max_connections = 4096;
  std::chrono::seconds keep_alive_timeout{75};
  std::chrono::seconds drain_timeout{30};
  int32_t max_n = 8;                        // choices of one request
  int32_t max_logprobs = 20;                // of a token; -1: no limit
  bool preserve_thinking = false;           // prompts keep all reasoning, unless told otherwise
  bool strict_params = false;               // unknown keys of a request are a 400, not ignored
  bool force_include_usage = false;         // every stream ends with its usage, asked for or not
  int32_t stream_interval = 1;              // tokens of a chunk of a stream, at least
  std::vector<std::string> unlogged_paths;  // "/health": requests that the access log leaves out

  // Limits on clients that dribble or do not read.
  std::chrono::milliseconds header_timeout{
      20'000};                                     // from a request's first byte to its last header
  std::chrono::milliseconds body_timeout{30'000};  // between two pieces of a body
  std::chrono::milliseconds write_timeout{60'000};  // for one batch of frames to be taken
  std::chrono::seconds vanished_timeout{120};       // for a sign of life from a client's kernel
  int32_t max_header_size_bytes = 32 << 10;
  int32_t max_buffered_events = 16384;  // tokens that wait for one client; beyond, it is cut off
  std::chrono::milliseconds sse_keep_alive_interval{10'000};  // silence before an SSE comment
  CorsPolicy cors;
  std::string request_log_path;  // a JSON line of every answered request; "": none
  bool log_content = false;      // with what was asked and said
  std::string otlp_traces_url;   // of a collector that gets a span of every answered request; ""
  ServerFacts facts;
};

// What answers requests once loading is done; all outlive the server.
struct ServingModel {
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  std::vector<int32_t> stop_token_ids;  // eos of the checkpoint, <|im_end|>, [EOS], [EOT]
  bool generation_prompt_opens_think = false;
  int64_t created_unix_s = 0;
  std::string model_type;  // of config.json
};

class Server {
 public:
  explicit Server(const ServerOptions& options);  // binds; throws ConfigError (address in use, ...)
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] uint16_t port() const;  // 0 for a Unix socket

  void start();                                  // io threads run from here on
  void set_loading_progress(double share_done);  // 0..1, shown by /health while loading
  void set_ready(const ServingModel& model);     // thread-safe, once
  void set_failed(
      const std::string& message);  // loading or the engine failed: /health 503 with the message

  // Two-step shutdown: stop accepting, let running answers finish (drain_timeout), then cut. Blocks
  // until done.
  void drain();
  // At once, but for a grammar that is being compiled (up to a minute, clients are gone by then).
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
