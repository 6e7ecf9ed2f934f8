// The JSON header of a safetensors file: parsed from bytes, every claim checked against the file's
// size. Pure: no file is opened here, so that it can be fuzzed.
//
//   bytes 0..7          little-endian u64 L
//   bytes 8..8+L        {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]},
//   ..} bytes 8+L..end      data; offsets count from here
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/tensor_index.h"

namespace tandem {

inline constexpr int64_t kMaxHeaderSizeBytes = 100'000'000;  // the format's own limit
inline constexpr size_t kMaxTensorRank = 32;

struct HeaderTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  int64_t file_offset_bytes = 0;  // from the start of the file
  int64_t size_bytes = 0;         // = product of shape * dtype_size_bytes, inside the file
};

// `file` is the whole file. Throws LoadError naming `file_name`, the tensor, expected and actual.
// The result is in the order of file_offset_bytes; no two tensors share a byte or a name.
std::vector<HeaderTensor> parse_safetensors_header(std::span<const std::byte> file,
                                                   std::string_view file_name);

}  // namespace tandem
