#include "server/cli/safetensors_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"

namespace tandem::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

LoadError write_error(const std::filesystem::path& path) {
  return LoadError(path.string() + ": cannot write: " + std::strerror(errno));
}

}  // namespace

MatrixFileWriter::MatrixFileWriter(const std::filesystem::path& path,
                                   const std::string& tensor_name,
                                   int64_t rows,
                                   int64_t cols)
    : path_(path),
      partial_path_(path.string() + fmt::format(".partial-{}", getpid())),
      num_expected_(rows * cols) {
  file_ = std::fopen(partial_path_.c_str(), "wb");
  if (file_ == nullptr) throw write_error(path_);
  std::string header =
      fmt::format(R"({{"{}":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})",
                  tensor_name, rows, cols, num_expected_ * 4);
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of eight
  const uint64_t header_size_bytes = header.size();
  std::array<char, 8> size_field{};
  std::memcpy(size_field.data(), &header_size_bytes, size_field.size());
  std::fwrite(size_field.data(), 1, size_field.size(), file_);
  std::fwrite(header.data(), 1, header.size(), file_);
}

MatrixFileWriter::~MatrixFileWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::error_code ec;
  std::filesystem::remove(partial_path_, ec);
}

void MatrixFileWriter::append(std::span<const float> values) {
  num_written_ += static_cast<int64_t>(values.size());
  if (std::fwrite(values.data(), sizeof(float), values.size(), file_) != values.size())
    throw write_error(path_);
}

void MatrixFileWriter::finish() {
  TANDEM_CHECK(num_written_ == num_expected_, "as many values as the header says");
  if (std::fflush(file_) != 0 || std::ferror(file_) != 0) throw write_error(path_);
  std::fclose(file_);
  file_ = nullptr;
  std::error_code ec;
  std::filesystem::rename(partial_path_, path_, ec);
  if (ec) {
    std::error_code ignored;
    std::filesystem::remove(partial_path_, ignored);
    throw LoadError(path_.string() + ": cannot write: " + ec.message());
  }
}

}  // namespace tandem::cli
