#include "runtime/model/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem {

namespace {

constexpr int64_t kBlockSizeBytes = 4 << 20;  // of one write, and the memory of a thread
constexpr size_t kMaxThreads = 8;

// Part of a tensor inside a block.
struct Piece {
  const ShardTensor* tensor = nullptr;
  int64_t tensor_offset_bytes = 0;
  int64_t size_bytes = 0;
};
// One write: neighbouring pieces.
struct Block {
  int64_t file_offset_bytes = 0;
  int64_t size_bytes = 0;
  std::vector<Piece> pieces;
};

[[noreturn]] void throw_system_error(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  throw LoadError(fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(error)));
}

class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path)
      : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw_system_error(path_, "create");
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  void write_at(int64_t offset_bytes, std::span<const std::byte> data) const {
    while (!data.empty()) {
      const ssize_t num_written = ::pwrite(fd_, data.data(), data.size(), offset_bytes);
      if (num_written < 0) {
        if (errno == EINTR) continue;
        throw_system_error(path_, "write");
      }
      offset_bytes += num_written;
      data = data.subspan(static_cast<size_t>(num_written));
    }
  }
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0) throw_system_error(path_, "close");
  }

 private:
  std::filesystem::path path_;
  int fd_;
};

// The format's own order: widest dtype first, then by name, so that all data is aligned.
void sort_tensors(std::vector<ShardTensor>& tensors) {
  const auto rank = [](const ShardTensor& tensor) {
    return std::make_tuple(-dtype_size_bytes(tensor.dtype), dtype_name(tensor.dtype),
                           std::string_view(tensor.name));
  };
  std::ranges::sort(tensors, [&](const ShardTensor& left, const ShardTensor& right) {
    return rank(left) < rank(right);
  });
}

std::string header_bytes(const std::vector<ShardTensor>& tensors) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  int64_t offset_bytes = 0;
  for (const ShardTensor& tensor : tensors) {
    const int64_t end = offset_bytes + tensor.size_bytes();
    json +=
        fmt::format(R"(,"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", tensor.name,
                    dtype_name(tensor.dtype), fmt::join(tensor.shape, ","), offset_bytes, end);
    offset_bytes = end;
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const uint64_t size = json.size();
  std::string result(sizeof(size), '\0');
  std::memcpy(result.data(), &size, sizeof(size));
  return result + json;
}

std::vector<Block> plan_blocks(const std::vector<ShardTensor>& tensors, int64_t data_begin) {
  std::vector<Block> blocks;
  int64_t file_offset_bytes = data_begin;
  for (const ShardTensor& tensor : tensors) {
    const int64_t tensor_size_bytes = tensor.size_bytes();
    for (int64_t begin = 0; begin < tensor_size_bytes;) {
      if (blocks.empty() || kBlockSizeBytes - blocks.back().size_bytes < 8) {
        blocks.push_back({file_offset_bytes, 0, {}});
      }
      Block& block = blocks.back();
      const int64_t room = (kBlockSizeBytes - block.size_bytes) / 8 * 8;
      const int64_t size_bytes = std::min(room, tensor_size_bytes - begin);
      block.pieces.push_back({&tensor, begin, size_bytes});
      block.size_bytes += size_bytes;
      begin += size_bytes;
      file_offset_bytes += size_bytes;
    }
  }
  return blocks;
}

void write_blocks(const OutputFile& file,
                  const std::vector<Block>& blocks,
                  ShardProgress& progress) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // of progress and failure
  std::exception_ptr failure;
  const auto work = [&]() noexcept {
    try {
      // Tensors need not lie at multiples of 8 inside a block: pieces are made in a place of their
      // own, which is aligned.
      std::vector<uint64_t> piece_words(kBlockSizeBytes / sizeof(uint64_t));
      std::vector<std::byte> buffer(kBlockSizeBytes);
      const std::span<std::byte> piece_bytes = std::as_writable_bytes(std::span(piece_words));
      for (size_t idx = next++; idx < blocks.size(); idx = next++) {
        const Block& block = blocks[idx];
        std::byte* place = buffer.data();
        for (const Piece& piece : block.pieces) {
          const auto out = piece_bytes.first(static_cast<size_t>(piece.size_bytes));
          piece.tensor->fill(out, piece.tensor_offset_bytes);
          place = std::ranges::copy(out, place).out;
        }
        file.write_at(block.file_offset_bytes,
                      std::span(buffer).first(static_cast<size_t>(block.size_bytes)));
        const std::lock_guard lock(mutex);
        progress.done_bytes += block.size_bytes;
        if (progress.progress) {
          progress.progress({"checkpoint", progress.done_bytes, progress.total_bytes});
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = blocks.size();
    }
  };
  const size_t num_threads = std::min<size_t>(
      {kMaxThreads, std::max(1u, std::thread::hardware_concurrency()), blocks.size()});
  {
    std::vector<std::jthread> threads;
    for (size_t thread_idx = 1; thread_idx < num_threads; ++thread_idx) threads.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

int64_t ShardTensor::size_bytes() const {
  int64_t result = dtype_size_bytes(dtype);
  for (const int64_t dimension : shape) result *= dimension;
  return result;
}

void write_shard(const std::filesystem::path& path,
                 std::vector<ShardTensor> tensors,
                 ShardProgress& progress) {
  sort_tensors(tensors);
  std::filesystem::path partial_path = path;
  partial_path += ".partial";
  std::error_code ec;
  try {
    OutputFile file(partial_path);
    const std::string header = header_bytes(tensors);
    file.write_at(0, std::as_bytes(std::span(header)));
    write_blocks(file, plan_blocks(tensors, static_cast<int64_t>(header.size())), progress);
    file.close();
    std::filesystem::rename(partial_path, path, ec);
    if (ec) throw LoadError(fmt::format("{}: cannot rename: {}", path.string(), ec.message()));
  } catch (...) {
    std::filesystem::remove(partial_path, ec);
    throw;
  }
}

}  // namespace tandem
