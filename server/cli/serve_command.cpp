#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>

#include "server/cli/commands.h"
#include "server/cli/demo_model.h"
#include "server/cli/serving.h"
#include "server/cli/signals.h"
#include "server/cli/terminal.h"

namespace tandem::cli {
namespace {

void print_how_to_ask(const Serving& serving, const ServeOptions& options, bool needs_key) {
  const std::string& uds_path = options.server.uds_path;
  const std::string socket = uds_path.empty() ? "" : " --unix-socket " + uds_path;
  const std::string auth =
      needs_key ? " \\\n    -H \"Authorization: Bearer $TANDEM_API_KEY\"" : std::string();
  fmt::print(
      "\nReady at {}, model \"{}\". Try:\n\n"
      "  curl -N{} {}/v1/chat/completions -H 'Content-Type: application/json'{} \\\n"
      "    -d '{{\"model\": \"{}\", \"stream\": true, \"messages\": [{{\"role\": \"user\", "
      "\"content\": \"Hello!\"}}]}}'\n",
      serving.url(), serving.model_name(), socket, serving.url(), auth, serving.model_name());
  const bool plain_tcp = uds_path.empty() && options.server.tls_certificate_path.empty();
  if (plain_tcp) fmt::print("\nor: tandem chat --url {}\n", serving.url());  // it speaks no other
  std::fflush(stdout);
}

}  // namespace

int run_serve(const ServeOptions& options, const ModelFactory& factory) {
  StopSignals signals;
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of its writer alone
  Serving serving(options);
  if (serving.is_demo()) fmt::print("No --model given: serving {}.\n", kDemoModelNote);
  const server::ServerOptions& network = options.server;
  const bool needs_key = !network.api_keys.empty() || !options.api_key_path.empty();
  fmt::print("Listening on {} (while it loads, /health says 503)\n",
             network.uds_path.empty() ? serving.url() : network.uds_path);
  fmt::print("Loading {}\n", serving.model_dir().string());
  if (network.uds_path.empty() && !is_loopback(network.host) && !needs_key)
    fmt::print("Note: {} is open to others and no --api-key is asked for.\n", network.host);
  std::fflush(stdout);

  {
    ProgressBar bar(stderr, "loading");
    serving.load(
        factory, [&](const Progress& progress) { bar.update(progress); },
        [](const std::string& plan) {
          fmt::print("{}", plan);
          std::fflush(stdout);
        });
    bar.finish();
  }
  signals.loading_is_done();
  std::string description = serving.description();
  while (description.ends_with('\n')) description.pop_back();
  if (!description.empty()) fmt::print("{}\n", description);
  print_how_to_ask(serving, options, needs_key);

  while (!signals.wait(std::chrono::milliseconds(500))) {
    if (!serving.failed()) continue;
    fmt::print(stderr, "tandem: error: a step failed, the engine cannot go on; stopping\n");
    serving.stop();
    return 1;
  }
  fmt::print("Stopping: running answers finish first (at most {} s; again to stop at once)\n",
             network.drain_timeout.count());
  std::fflush(stdout);
  serving.drain();
  fmt::print("Stopped.\n");
  return 0;
}

}  // namespace tandem::cli
