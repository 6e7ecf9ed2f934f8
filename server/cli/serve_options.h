// The options of `tandem serve`.
#pragma once

#include <string>

#include "server/cli/commands.h"

namespace CLI {
class App;
}

namespace tandem::cli {

// The command with its options; what is given on the command line goes to `options` and
// `log_level`, which outlive parsing.
CLI::App* add_serve_command(CLI::App& app, ServeOptions& options, std::string& log_level);

}  // namespace tandem::cli
