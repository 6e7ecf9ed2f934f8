// The tensors of a checkpoint folder: safetensors headers parsed and checked, shards mapped,
// nothing copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem {

enum class DType {
  kBF16,
  kF16,
  kF32,
  kF64,
  kI8,
  kU8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0
};
std::string_view dtype_name(DType dtype);  // as in the header: "BF16"
int64_t dtype_size_bytes(DType dtype);

struct TensorInfo {
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  int32_t shard_idx = 0;
  int64_t file_offset_bytes = 0;  // of its first byte, from the start of the shard
  int64_t size_bytes = 0;
};
std::string describe(const TensorInfo& info);  // "BF16 [512, 7168]"

class MappedFile;  // runtime/memory/mapped_file.h

// What is wrong with a folder, collected instead of thrown.
struct IndexProblems {
  std::vector<std::string> messages;
  std::set<std::string, std::less<>> lost_names;  // tensors of shards that could not be read
};

class TensorIndex {
 public:
  // Reads model.safetensors.index.json, or every *.safetensors of the folder when there is none.
  // Throws LoadError naming file, tensor and what was expected.
  static TensorIndex open(const std::filesystem::path& model_dir);
  // The same, going on behind every problem: for `tandem check`.
  static TensorIndex open(const std::filesystem::path& model_dir, IndexProblems& problems);
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

  // Typed access; throws LoadError with expected and actual dtype and shape. Data that the file
  // holds unaligned is copied once, into memory of the index; all else is a view of the file.
  // Thread-safe.
  [[nodiscard]] MatrixView<const bf16> bf16_matrix(std::string_view name,
                                                   int64_t rows,
                                                   int64_t cols) const;
  [[nodiscard]] std::span<const bf16> bf16_vector(std::string_view name, int64_t size) const;
  [[nodiscard]] std::span<const float> f32_vector(std::string_view name, int64_t size) const;
  [[nodiscard]] MatrixView<const int32_t> i32_matrix(std::string_view name,
                                                     int64_t rows,
                                                     int64_t cols) const;
  // Throws LoadError unless the tensor is there with this dtype and shape.
  const TensorInfo& require(std::string_view name,
                            DType dtype,
                            std::span<const int64_t> shape) const;

  // Its pages are mapped, before it is read as a whole, and let go once it has been.
  void touch(const TensorInfo& info) const noexcept;
  void release(const TensorInfo& info) const noexcept;

 private:
  struct AlignedCopies;
  class Builder;
  TensorIndex();
  const std::byte* aligned_data(const TensorInfo& info) const;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::vector<std::filesystem::path> shard_paths_;
  std::vector<std::unique_ptr<MappedFile>> shards_;
  std::unique_ptr<AlignedCopies> aligned_copies_;
};

}  // namespace tandem
