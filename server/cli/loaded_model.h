// A checkpoint with everything that computes it, in the order in which it must be destroyed.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "runtime/model/checkpoint.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"
#include "server/cli/model_factory.h"

namespace tandem::cli {

struct LoadedModel {
  Topology topology;
  std::unique_ptr<WorkerPool> pool;
  std::optional<Checkpoint> checkpoint;
  std::unique_ptr<ForwardModel> model;
};

// Throws LoadError, ConfigError.
std::unique_ptr<LoadedModel> load_model(const std::filesystem::path& model_dir,
                                        int num_threads,
                                        const ModelLimits& limits,
                                        const ModelFactory& factory,
                                        const ProgressFn& progress);

}  // namespace tandem::cli
