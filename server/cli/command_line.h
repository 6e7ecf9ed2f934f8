// The command line: parses, runs one command, returns the exit status (0 good, 1 it failed, 2 it
// was asked wrongly).
#pragma once

#include "server/cli/model_factory.h"

namespace tandem::cli {

int run_command_line(int argc,
                     char** argv,
                     const ModelFactory& factory,
                     const GpuDescription& describe_gpus);

}  // namespace tandem::cli
