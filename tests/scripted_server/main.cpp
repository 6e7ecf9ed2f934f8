// The real server and engine over a model that plays given answers: any client can be tried on any
// answer. See README.md.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/server.h"
#include "server/serving_model.h"
#include "tests/scripted_server/script.h"

namespace tandem::tests {
namespace {

struct Options {
  std::string script_path;
  std::string model_dir = TANDEM_SOURCE_DIR "/server/demo/model";
  server::ServerOptions server;
  EngineOptions engine;
  DialogueLimits limits = {.num_kv_pages = 8192, .max_context_tokens = 262'144};
  int64_t step_us = 0;
  double sse_keep_alive_s = 10.0;
  double header_timeout_s = 20.0;
  int64_t vanished_timeout_s = 120;
  bool verbose = false;
};

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream) throw ConfigError("cannot read it");
  return text.str();
}

std::vector<ScriptedAnswer> load_script(const std::string& path, const Tokenizer& tokenizer) {
  try {
    return parse_script(read_file(path), tokenizer);
  } catch (const ConfigError& error) {
    throw ConfigError("--script " + path + ": " + error.what());
  }
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--script", options.script_path, "JSON file of answers, see README.md")
      ->required();
  app.add_option("--host", options.server.host, "Address to listen on (default: 127.0.0.1)");
  app.add_option("--port", options.server.port, "Port (default: any free one)");
  app.add_option("--model", options.model_dir,
                 "Folder with config.json and tiktoken.model (default: the demo model)");
  app.add_option("--served-model-name", options.server.served_model_names, "Name(s) in the API");
  app.add_option("--api-key", options.server.api_keys, "Key clients must send");
  app.add_option("--step-us", options.step_us, "Microseconds of one step (default: 0)");
  app.add_option("--max-sequences", options.engine.max_sequences, "Answers running at once");
  app.add_option("--max-queue", options.engine.max_queued_requests, "Requests waiting");
  app.add_option("--kv-pages", options.limits.num_kv_pages, "Pages of 64 tokens (default: 8192)");
  app.add_option("--max-context", options.limits.max_context_tokens, "Tokens of one sequence");
  app.add_option("--sse-keep-alive", options.sse_keep_alive_s,
                 "Seconds of silence before a comment (default: 10)");
  app.add_option("--header-timeout", options.header_timeout_s,
                 "Seconds for the head of a request (default: 20)");
  app.add_option("--vanished-timeout", options.vanished_timeout_s,
                 "Seconds for a sign of life from a client's kernel (default: 120)");
  app.add_flag("--verbose", options.verbose, "One line a request on stderr");
}

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000.0));
}

int run(Options options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread exists
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("scripted_server"));
  spdlog::flush_on(spdlog::level::info);
  spdlog::set_level(options.verbose ? spdlog::level::info : spdlog::level::warn);

  const ModelConfig config = ModelConfig::load(options.model_dir);
  const Tokenizer tokenizer = Tokenizer::load(options.model_dir, config.vocab_size);
  options.limits.max_logit_rows = options.engine.max_sequences;
  options.limits.max_batch_tokens =
      options.engine.max_sequences + options.engine.prefill_chunk_tokens;
  DialogueModel model(tokenizer, load_script(options.script_path, tokenizer), options.limits);
  model.set_step_time(std::chrono::microseconds(options.step_us));
  if (options.server.served_model_names.empty()) options.server.served_model_names = {"scripted"};
  options.server.sse_keep_alive_interval = milliseconds_of(options.sse_keep_alive_s);
  options.server.header_timeout = milliseconds_of(options.header_timeout_s);
  options.server.vanished_timeout = std::chrono::seconds(options.vanished_timeout_s);

  Engine engine(model, options.engine);
  server::Server server(options.server);
  server.start();
  server.set_ready(server::make_serving_model(engine, tokenizer, config));
  std::printf("http://%s:%d\n", options.server.host.c_str(), int{server.port()});
  std::fflush(stdout);

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  server.stop();
  return 0;
}

}  // namespace
}  // namespace tandem::tests

int main(int argc, char** argv) {
  tandem::tests::Options options;
  options.server.port = 0;
  CLI::App app("The real server with a model that plays the answers of a script.");
  tandem::tests::add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    return tandem::tests::run(std::move(options));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scripted_server: error: %s\n", error.what());
    return 1;
  }
}
