// The tensors of a checkpoint folder: safetensors headers parsed and checked, shards mapped,
// nothing copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem {

enum class DType { kBF16, kF16, kF32, kF64, kI8, kU8, kI16, kI32, kI64, kBool, kF8E4M3, kF8E5M2 };
std::string_view dtype_name(DType dtype);  // as in the header: "BF16"
int64_t dtype_size_bytes(DType dtype);

struct TensorInfo {
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  int32_t shard_idx = 0;
  int64_t file_offset_bytes = 0;  // of its first byte, from the start of the shard
  int64_t size_bytes = 0;
};

class MappedFile;  // runtime/memory/mapped_file.h

class TensorIndex {
 public:
  // Reads model.safetensors.index.json, or every *.safetensors of the folder when there is none.
  // Throws LoadError naming file, tensor and what was expected.
  static TensorIndex open(const std::filesystem::path& model_dir);
  TensorIndex(TensorIndex&&) noexcept;
  TensorIndex& operator=(TensorIndex&&) noexcept;
  ~TensorIndex();

  [[nodiscard]] const std::map<std::string, TensorInfo, std::less<>>& tensors() const {
    return tensors_;
  }
  [[nodiscard]] const std::vector<std::filesystem::path>& shards() const { return shard_paths_; }
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;  // nullptr when absent

  // The mapped bytes, valid while the index lives. Data may be unaligned for its dtype only if the
  // file is odd.
  [[nodiscard]] std::span<const std::byte> bytes(const TensorInfo& info) const;

  // Typed access; throws LoadError with expected and actual dtype and shape.
  [[nodiscard]] MatrixView<const bf16> bf16_matrix(std::string_view name,
                                                   int64_t rows,
                                                   int64_t cols) const;
  [[nodiscard]] std::span<const bf16> bf16_vector(std::string_view name, int64_t size) const;
  [[nodiscard]] std::span<const float> f32_vector(std::string_view name, int64_t size) const;
  [[nodiscard]] MatrixView<const int32_t> i32_matrix(std::string_view name,
                                                     int64_t rows,
                                                     int64_t cols) const;

 private:
  TensorIndex();
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::vector<std::filesystem::path> shard_paths_;
  std::vector<std::unique_ptr<MappedFile>> shards_;
};

}  // namespace tandem
