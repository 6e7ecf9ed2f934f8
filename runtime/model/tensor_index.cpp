#include "runtime/model/tensor_index.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstring>
#include <mutex>

#include "runtime/base/errors.h"
#include "runtime/memory/mapped_file.h"
#include "runtime/model/safetensors_header.h"

namespace tandem {

namespace fs = std::filesystem;

namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexSizeBytes = 512'000'000;  // K2-Thinking's has about 20 MB

// A shard's name must be a file of the folder itself: "../x", "/x" or "" would read elsewhere.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

// Copies of tensors that lie unaligned in their file, by shard and offset.
struct TensorIndex::AlignedCopies {
  std::mutex mutex;
  std::map<std::pair<int32_t, int64_t>, std::unique_ptr<std::byte[]>> data;
};

// Reads a folder; every problem goes through `report`, which throws or collects.
class TensorIndex::Builder {
 public:
  Builder(const fs::path& model_dir, IndexProblems* problems)
      : model_dir_(model_dir), problems_(problems) {}

  TensorIndex build() {
    std::error_code ec;
    if (!fs::is_directory(model_dir_, ec)) {
      report(fmt::format("{}: no such folder", model_dir_.string()));
      return std::move(index_);
    }
    if (fs::exists(model_dir_ / kIndexFile, ec)) {
      read_index_file();
    } else {
      read_folder();
    }
    return std::move(index_);
  }

 private:
  void report(std::string message) {
    if (problems_ == nullptr) throw LoadError(message);
    problems_->messages.push_back(std::move(message));
  }

  void read_folder() {
    std::vector<fs::path> paths;
    std::error_code ec;
    for (fs::directory_iterator entry(model_dir_, ec), end; !ec && entry != end;
         entry.increment(ec)) {
      if (entry->path().extension() == ".safetensors") paths.push_back(entry->path());
    }
    if (ec) report(fmt::format("{}: cannot list: {}", model_dir_.string(), ec.message()));
    std::ranges::sort(paths);
    if (paths.empty()) {
      report(fmt::format("{}: neither {} nor any *.safetensors", model_dir_.string(), kIndexFile));
    }
    for (const fs::path& path : paths) read_shard(path);
  }

  // tensor names by shard, as weight_map claims.
  using WeightMap = std::map<std::string, std::vector<std::string>>;

  void read_index_file() {
    const WeightMap weight_map = parse_index_file(model_dir_ / kIndexFile);
    for (const auto& [shard, names] : weight_map) {
      const fs::path path = model_dir_ / shard;
      const auto shard_idx = static_cast<int32_t>(index_.shards_.size());
      if (!read_shard(path)) {
        problems_->lost_names.insert(names.begin(), names.end());
        continue;
      }
      for (const std::string& name : names) {
        const TensorInfo* const info = index_.find(name);
        if (info == nullptr || info->shard_idx != shard_idx) {
          report(fmt::format("{}: tensor '{}' is not in it, though {} says so", path.string(), name,
                             kIndexFile));
        }
      }
    }
  }

  WeightMap parse_index_file(const fs::path& path) {
    WeightMap result;
    try {
      const MappedFile file(path);
      if (file.size_bytes() > kMaxIndexSizeBytes) {
        throw LoadError(fmt::format("{}: {} bytes, expected at most {}", path.string(),
                                    file.size_bytes(), kMaxIndexSizeBytes));
      }
      boost::json::error_code ec;
      const boost::json::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                                          file.bytes().size());
      const boost::json::value root = boost::json::parse(text, ec);
      if (ec) throw LoadError(fmt::format("{}: not JSON: {}", path.string(), ec.message()));
      const boost::json::value* const map =
          root.is_object() ? root.get_object().if_contains("weight_map") : nullptr;
      if (map == nullptr || !map->is_object()) {
        throw LoadError(
            fmt::format("{}: weight_map is missing, expected an object", path.string()));
      }
      for (const auto& item : map->get_object()) {
        const std::string name(item.key());
        if (!item.value().is_string() || !is_plain_file_name(item.value().get_string())) {
          report(fmt::format("{}: weight_map['{}'] is {}, expected the name of a file beside it",
                             path.string(), name, boost::json::serialize(item.value())));
          if (problems_ != nullptr) problems_->lost_names.insert(name);
          continue;
        }
        result[std::string(item.value().get_string())].push_back(name);
      }
      if (map->get_object().empty()) {
        throw LoadError(fmt::format("{}: weight_map is empty", path.string()));
      }
    } catch (const LoadError& error) {
      if (problems_ == nullptr) throw;
      report(error.what());
    }
    return result;
  }

  // False, with the problem collected, when the shard cannot be read.
  bool read_shard(const fs::path& path) {
    try {
      auto file = std::make_unique<MappedFile>(path);
      std::vector<HeaderTensor> tensors = parse_safetensors_header(file->bytes(), path.string());
      const auto shard_idx = static_cast<int32_t>(index_.shards_.size());
      index_.shards_.push_back(std::move(file));
      index_.shard_paths_.push_back(path);
      for (HeaderTensor& tensor : tensors) {
        TensorInfo info{tensor.dtype, std::move(tensor.shape), shard_idx, tensor.file_offset_bytes,
                        tensor.size_bytes};
        const auto [place, inserted] = index_.tensors_.try_emplace(tensor.name, std::move(info));
        if (!inserted) {
          report(fmt::format("{}: tensor '{}' is also in {}", path.string(), tensor.name,
                             index_.shard_paths_[place->second.shard_idx].filename().string()));
        }
      }
      return true;
    } catch (const LoadError& error) {
      if (problems_ == nullptr) throw;
      report(error.what());
      return false;
    }
  }

  const fs::path& model_dir_;
  IndexProblems* problems_;
  TensorIndex index_;
};

TensorIndex::TensorIndex() : aligned_copies_(std::make_unique<AlignedCopies>()) {}
TensorIndex::TensorIndex(TensorIndex&&) noexcept = default;
TensorIndex& TensorIndex::operator=(TensorIndex&&) noexcept = default;
TensorIndex::~TensorIndex() = default;

TensorIndex TensorIndex::open(const fs::path& model_dir) {
  return Builder(model_dir, nullptr).build();
}

TensorIndex TensorIndex::open(const fs::path& model_dir, IndexProblems& problems) {
  return Builder(model_dir, &problems).build();
}

std::string describe(const TensorInfo& info) {
  return fmt::format("{} [{}]", dtype_name(info.dtype), fmt::join(info.shape, ", "));
}

const TensorInfo* TensorIndex::find(std::string_view name) const {
  const auto place = tensors_.find(name);
  return place == tensors_.end() ? nullptr : &place->second;
}

std::span<const std::byte> TensorIndex::bytes(const TensorInfo& info) const {
  return shards_[info.shard_idx]->bytes().subspan(info.file_offset_bytes, info.size_bytes);
}

const TensorInfo& TensorIndex::require(std::string_view name,
                                       DType dtype,
                                       std::span<const int64_t> shape) const {
  const std::string expected =
      fmt::format("{} [{}]", dtype_name(dtype), fmt::join(shape.begin(), shape.end(), ", "));
  const TensorInfo* const info = find(name);
  if (info == nullptr) {
    throw LoadError(fmt::format("tensor '{}' is missing, expected {}", name, expected));
  }
  if (info->dtype != dtype || !std::ranges::equal(info->shape, shape)) {
    throw LoadError(fmt::format("{}: tensor '{}' is {}, expected {}",
                                shard_paths_[info->shard_idx].string(), name, describe(*info),
                                expected));
  }
  return *info;
}

const std::byte* TensorIndex::aligned_data(const TensorInfo& info) const {
  const std::span<const std::byte> data = bytes(info);
  const auto alignment = static_cast<uintptr_t>(dtype_size_bytes(info.dtype));
  if (reinterpret_cast<uintptr_t>(data.data()) % alignment == 0) return data.data();
  const std::lock_guard lock(aligned_copies_->mutex);
  std::unique_ptr<std::byte[]>& copy =
      aligned_copies_->data[{info.shard_idx, info.file_offset_bytes}];
  if (copy == nullptr) {
    copy = std::make_unique_for_overwrite<std::byte[]>(data.size());
    std::memcpy(copy.get(), data.data(), data.size());
  }
  return copy.get();
}

MatrixView<const bf16> TensorIndex::bf16_matrix(std::string_view name,
                                                int64_t rows,
                                                int64_t cols) const {
  const TensorInfo& info = require(name, DType::kBF16, std::array{rows, cols});
  return {reinterpret_cast<const bf16*>(aligned_data(info)), rows, cols};
}

std::span<const bf16> TensorIndex::bf16_vector(std::string_view name, int64_t size) const {
  const TensorInfo& info = require(name, DType::kBF16, std::array{size});
  return {reinterpret_cast<const bf16*>(aligned_data(info)), static_cast<size_t>(size)};
}

std::span<const float> TensorIndex::f32_vector(std::string_view name, int64_t size) const {
  const TensorInfo& info = require(name, DType::kF32, std::array{size});
  return {reinterpret_cast<const float*>(aligned_data(info)), static_cast<size_t>(size)};
}

MatrixView<const int32_t> TensorIndex::i32_matrix(std::string_view name,
                                                  int64_t rows,
                                                  int64_t cols) const {
  const TensorInfo& info = require(name, DType::kI32, std::array{rows, cols});
  return {reinterpret_cast<const int32_t*>(aligned_data(info)), rows, cols};
}

void TensorIndex::touch(const TensorInfo& info) const noexcept {
  shards_[info.shard_idx]->touch(info.file_offset_bytes, info.size_bytes);
}

void TensorIndex::release(const TensorInfo& info) const noexcept {
  shards_[info.shard_idx]->release(info.file_offset_bytes, info.size_bytes);
}

}  // namespace tandem
