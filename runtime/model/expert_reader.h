// Routed experts for packing, read in the way that suits where they lie: views of mapped pages when
// the page cache holds them, large direct reads ahead of the workers when they come from disk.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/model/checkpoint.h"

namespace tandem {

enum class ExpertReading {
  kAuto,    // decided expert by expert
  kMapped,  // views of the mapped file, whose pages are mapped in one go and let go of behind
  kDirect,  // pread with O_DIRECT, buffered where the file system has no direct reads
};

struct ExpertReaderOptions {
  int num_workers = 1;                // threads that call expert()
  int num_users = 1;                  // calls that every expert will get: one of every NUMA node
  int32_t num_single_use_layers = 0;  // but one alone in so many MoE layers, the first
  ExpertReading reading = ExpertReading::kAuto;
};

class ExpertReader {
 public:
  // Reading begins at once, with the first expert of the first MoE layer.
  ExpertReader(const Checkpoint& checkpoint, const ExpertReaderOptions& options);
  ~ExpertReader();
  ExpertReader(const ExpertReader&) = delete;
  ExpertReader& operator=(const ExpertReader&) = delete;

  // The tensors of an expert, valid until the next call with the same worker_idx. Called on the
  // workers, by each of them in the order of layers and experts; for every expert as
  // often as the options say. Throws LoadError: a file that ends early or cannot be read, weights
  // that are not finite.
  ExpertTensors expert(int32_t layer_idx, int32_t expert_idx, int32_t worker_idx);

  // Bytes that came through direct reads so far.
  [[nodiscard]] int64_t direct_read_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
