// A server with its model: what `serve` runs in the foreground and `chat --model` beside itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "server/cli/commands.h"

namespace tandem::cli {

// Whether an address to listen on is for this machine alone.
bool is_loopback(const std::string& host);

class Serving {
 public:
  // Finds the model folder, takes the folder of KV pages and binds the port; from here on /health
  // answers 503. Throws ConfigError.
  explicit Serving(const ServeOptions& options);
  ~Serving();
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  // Loads the model and begins to answer. Throws LoadError, ConfigError; /health then names the
  // error for as long as the object lives. `on_plan`: see ModelLimits.
  void load(const ModelFactory& factory,
            const ProgressFn& progress,
            const std::function<void(const std::string&)>& on_plan);

  void drain();  // lets running answers finish, then stops
  void stop();   // at once

  [[nodiscard]] bool failed() const;   // a step failed; the engine stays failed
  [[nodiscard]] bool is_demo() const;  // no model was named
  // What a client connects to: "http://127.0.0.1:8000"; behind a Unix socket "http://localhost".
  [[nodiscard]] std::string url() const;
  [[nodiscard]] std::string model_name() const;
  [[nodiscard]] std::filesystem::path model_dir() const;
  [[nodiscard]] std::string description() const;  // of the loaded model

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::cli
