// Writes one safetensors file whose data is made on the fly, by several threads in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/progress.h"
#include "runtime/model/tensor_index.h"

namespace tandem {

struct ShardTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  // Writes the tensor's bytes from `offset_bytes` (a multiple of 8) on. Called from any thread.
  std::function<void(std::span<std::byte> out, int64_t offset_bytes)> fill;
  [[nodiscard]] int64_t size_bytes() const;
};

// Progress over several shards.
struct ShardProgress {
  const ProgressFn& progress;
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};

// Throws LoadError when the file cannot be written. The file has its name only when it is whole.
void write_shard(const std::filesystem::path& path,
                 std::vector<ShardTensor> tensors,
                 ShardProgress& progress);

}  // namespace tandem
