// A folder of tests/data/goldens: the checkpoint and what Hugging Face computes from it.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/memory/mapped_file.h"
#include "runtime/model/safetensors_header.h"

namespace tandem::test {

inline const std::vector<std::string> kGoldenNames = {"k2_thinking", "k2_5_nested", "moonlight",
                                                      "grouped_router", "real_head"};

inline std::filesystem::path golden_dir(const std::string& name) {
  return std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/data/goldens" / name;
}

class Golden {
 public:
  explicit Golden(const std::string& name) : file_(golden_dir(name) / "golden.safetensors") {
    for (HeaderTensor& tensor : parse_safetensors_header(file_.bytes(), "golden.safetensors")) {
      tensors_[tensor.name] = tensor;
    }
  }
  [[nodiscard]] std::vector<int32_t> ints(const std::string& name) const {
    return read<int32_t>(name, DType::kI32);
  }
  [[nodiscard]] std::vector<float> floats(const std::string& name) const {
    return read<float>(name, DType::kF32);
  }
  [[nodiscard]] bool has(const std::string& name) const { return tensors_.contains(name); }

 private:
  template <typename T>
  std::vector<T> read(const std::string& name, DType dtype) const {
    const HeaderTensor& tensor = tensors_.at(name);
    if (tensor.dtype != dtype) throw std::runtime_error(name + ": unexpected dtype");
    std::vector<T> result(static_cast<size_t>(tensor.size_bytes) / sizeof(T));
    std::memcpy(result.data(), file_.bytes().data() + tensor.file_offset_bytes,
                static_cast<size_t>(tensor.size_bytes));
    return result;
  }
  MappedFile file_;
  std::map<std::string, HeaderTensor> tensors_;
};

}  // namespace tandem::test
