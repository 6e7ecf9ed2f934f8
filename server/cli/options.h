// What the options of several commands have in common. This, serve_options and command_line alone
// know CLI11.
#pragma once

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/cli/commands.h"

namespace tandem::cli {

inline constexpr int32_t kMaxTokens = 1 << 24;
inline constexpr int64_t kMaxSeed = int64_t{1} << 62;  // CLI11 reads larger ones as others

CLI::App* add_command(CLI::App& app,
                      const std::string& name,
                      const std::string& description,
                      const std::string& examples);

void add_model_option(CLI::App* command, std::string& model_dir, const std::string& description);
void add_threads_option(CLI::App* command, int& num_threads);
void add_gpu_options(CLI::App* command, ModelOptions& model);
void add_attention_option(CLI::App* command, Attention& attention);
void add_expert_activations_option(CLI::App* command, ExpertActivations& activations);

CLI::Option* add_text(CLI::App* command,
                      const std::string& name,
                      std::string& value,
                      const std::string& type_name,
                      const std::string& description,
                      const std::string& group);

// The options that were given, by their long names without dashes, with what was given; flags are
// "true". Without secrets: "***" for those that take a KEY, a URL without user, password and query.
std::vector<std::pair<std::string, std::string>> given_options(const CLI::App& command);

// A whole number with its limits; the message of a wrong one names them.
template <typename T>
CLI::Option* add_number(CLI::App* command,
                        const std::string& name,
                        T& value,
                        T smallest,
                        T largest,
                        const std::string& description,
                        const std::string& group) {
  return command->add_option(name, value, description)
      ->check(CLI::Range(smallest, largest).description(""))
      ->type_name("N")
      ->group(group);
}

// A whole number of seconds.
template <typename Duration>
void add_seconds(CLI::App* command,
                 const std::string& name,
                 Duration& value,
                 int64_t smallest,
                 int64_t largest,
                 const std::string& description,
                 const std::string& group) {
  command
      ->add_option_function<int64_t>(
          name, [&value](int64_t seconds) { value = std::chrono::seconds(seconds); }, description)
      ->check(CLI::Range(smallest, largest).description(""))
      ->type_name("SECONDS")
      ->group(group);
}

}  // namespace tandem::cli
