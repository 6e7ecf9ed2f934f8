// Loads a checkpoint as KimiK2 and runs token sequences through it in any cutting, for the tests of
// this folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "offload/kimi_k2.h"
#include "runtime/model/checkpoint.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::tests {

// tests/data/goldens/NAME
std::string golden_dir(const std::string& name);
const std::vector<std::string>& golden_names();

// A copy of a golden checkpoint in which every token is routed to every expert: no choice, so that
// the logits are a smooth function of the activations. The weights are links; the folder is removed
// with the object.
class AllExpertsCopy {
 public:
  explicit AllExpertsCopy(const std::string& name);
  ~AllExpertsCopy();
  AllExpertsCopy(const AllExpertsCopy&) = delete;
  AllExpertsCopy& operator=(const AllExpertsCopy&) = delete;
  [[nodiscard]] std::string dir() const { return dir_.string(); }

 private:
  std::filesystem::path dir_;
};

// What --gpu-expert-layers would say for all of them.
int32_t num_moe_layers(const std::string& dir);

// The same tokens on every machine, for a vocabulary of any size.
std::vector<int32_t> random_tokens(int32_t num_tokens, int32_t vocab_size, uint64_t seed);

struct LoadedModel {
  Checkpoint checkpoint;
  WorkerPool pool;
  std::unique_ptr<offload::KimiK2> model;

  LoadedModel(const std::string& dir, int num_threads, gpu::MlaForm form = gpu::MlaForm::kAuto);
  // With the limits of the tests in place of those in `options`.
  LoadedModel(const std::string& dir, int num_threads, offload::KimiK2Options options);
};

// One sequence of a mixed batch: which pages it lives in, how far it has come.
struct SequenceState {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> page_ids;
  int32_t done_tokens = 0;
  std::vector<float> logits;  // [done_tokens, vocab_size]
};

// The next `num_new[i]` tokens of every sequence (0: not in this step), which count as done.
struct StepTokens {
  std::vector<int32_t> token_ids;
  std::vector<BatchItem> items;
};
StepTokens take_next(std::span<SequenceState> sequences, std::span<const int32_t> num_new);

// Computes them in one step and keeps all logits.
void run_step(ForwardModel& model,
              std::span<SequenceState> sequences,
              std::span<const int32_t> num_new);

// `num_new` greedy tokens behind the prompt, one step each.
std::vector<int32_t> continue_greedily(ForwardModel& model,
                                       const std::vector<int32_t>& prompt,
                                       int32_t num_new);

// Prompts for the demo model, as the server would make them.
std::vector<std::vector<int32_t>> demo_prompts();
std::string demo_dir();

// All logits [T, vocab_size] of one sequence on scattered pages, cut into chunks of `chunk_tokens`.
std::vector<float> run_chunked(ForwardModel& model,
                               std::span<const int32_t> token_ids,
                               int32_t chunk_tokens);

}  // namespace tandem::tests
