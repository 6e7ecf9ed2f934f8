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

// What a chain of links ends at, so that the links stay.
std::filesystem::path behind_links(const std::filesystem::path& path) {
  std::error_code absent;
  const std::filesystem::path target = std::filesystem::canonical(path, absent);
  return absent ? path : target;
}

// A FIFO or a device would be replaced by a file, and so would a link to what is not there yet.
bool can_be_replaced(const std::filesystem::path& path) {
  std::error_code ec;
  const std::filesystem::file_status status = std::filesystem::symlink_status(path, ec);
  return !std::filesystem::exists(status) || std::filesystem::is_regular_file(status);
}

}  // namespace

MatrixFileWriter::MatrixFileWriter(const std::filesystem::path& path,
                                   const std::string& tensor_name,
                                   int64_t rows,
                                   int64_t cols)
    : path_(behind_links(path)), num_expected_(rows * cols) {
  if (can_be_replaced(path_)) {
    partial_path_ = path_.string() + fmt::format(".partial-{}", getpid());
  }
  file_ = std::fopen((partial_path_.empty() ? path_ : partial_path_).c_str(), "wb");
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
  if (partial_path_.empty()) return;
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
  if (partial_path_.empty()) return;
  std::error_code ec;
  std::filesystem::rename(partial_path_, path_, ec);
  if (ec) {
    std::error_code ignored;
    std::filesystem::remove(partial_path_, ignored);
    throw LoadError(path_.string() + ": cannot write: " + ec.message());
  }
}

}  // namespace tandem::cli
