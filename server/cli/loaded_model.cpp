#include "server/cli/loaded_model.h"

namespace tandem::cli {

std::unique_ptr<LoadedModel> load_model(const std::filesystem::path& model_dir,
                                        int num_threads,
                                        const ModelLimits& limits,
                                        const ModelFactory& factory,
                                        const ProgressFn& progress) {
  auto loaded = std::make_unique<LoadedModel>();
  loaded->checkpoint.emplace(Checkpoint::open(model_dir));
  loaded->topology = Topology::detect();
  WorkerPoolOptions pool_options;
  pool_options.num_threads = num_threads;
  loaded->pool = std::make_unique<WorkerPool>(loaded->topology, pool_options);
  loaded->model = factory(*loaded->checkpoint, *loaded->pool, limits, progress);
  return loaded;
}

}  // namespace tandem::cli
