// One F32 matrix as a safetensors file, written row by row beside the target and renamed at the
// end; straight into a target that is no regular file (a FIFO).
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>

namespace tandem::cli {

class MatrixFileWriter {
 public:
  // Throws LoadError when the file cannot be created.
  MatrixFileWriter(const std::filesystem::path& path,
                   const std::string& tensor_name,
                   int64_t rows,
                   int64_t cols);
  ~MatrixFileWriter();  // without finish(): nothing is left behind
  MatrixFileWriter(const MatrixFileWriter&) = delete;
  MatrixFileWriter& operator=(const MatrixFileWriter&) = delete;

  void append(std::span<const float> values);  // row-major
  void finish();                               // throws LoadError (disk full, ...)

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_path_;  // "": written straight into path_
  std::FILE* file_ = nullptr;
  int64_t num_expected_ = 0;
  int64_t num_written_ = 0;
};

}  // namespace tandem::cli
