// Writes synthetic checkpoints of any depth and width in Kimi-K2-Thinking's format, streamed to
// disk in bounded memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/base/progress.h"
#include "runtime/model/model_config.h"

namespace tandem {

struct SyntheticOptions {
  ModelConfig config;  // dimensions; see k2_thinking_config()
  uint64_t seed = 1;
  std::filesystem::path
      tiktoken_model;  // "": a small vocabulary of its own (256 bytes and common merges)
  bool overwrite = false;
};

ModelConfig k2_thinking_config();  // the real dimensions, 61 layers
// Every kind of layer and norm of it in 3 layers, small enough to write and load in a blink.
ModelConfig tiny_k2_config();
// The dimensions that are written: the vocabulary has rows for every token, its special ids are
// settled. Throws ConfigError (a dimension that fits no model), LoadError (tiktoken_model).
ModelConfig synthetic_config(const SyntheticOptions& options);
// Throws LoadError (no space, exists already), ConfigError. Values are random with the scale that
// keeps activations near 1.
void write_synthetic_checkpoint(const std::filesystem::path& dir,
                                const SyntheticOptions& options,
                                const ProgressFn& progress);
int64_t synthetic_checkpoint_size_bytes(const ModelConfig& config);

}  // namespace tandem
