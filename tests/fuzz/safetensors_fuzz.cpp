// A whole safetensors file of any bytes: an error, or tensors that lie inside the file apart from
// one another.
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/model/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;
  try {
    const std::span<const uint8_t> input(data, size);
    int64_t end = 8;
    std::set<std::string> names;
    for (const HeaderTensor& tensor :
         parse_safetensors_header(std::as_bytes(input), "input.safetensors")) {
      TANDEM_CHECK(names.insert(tensor.name).second, "names differ");
      TANDEM_CHECK(tensor.shape.size() <= kMaxTensorRank, "rank");
      TANDEM_CHECK(tensor.size_bytes >= 0, "size");
      if (tensor.size_bytes == 0) continue;
      TANDEM_CHECK(tensor.file_offset_bytes >= end, "tensors in order, apart");
      end = tensor.file_offset_bytes + tensor.size_bytes;
      TANDEM_CHECK(end <= static_cast<int64_t>(size), "inside the file");
      int64_t num_bytes = dtype_size_bytes(tensor.dtype);
      for (const int64_t dimension : tensor.shape) num_bytes *= dimension;
      TANDEM_CHECK(num_bytes == tensor.size_bytes, "size of the shape");
    }
  } catch (const LoadError&) {  // the right answer to most inputs
  }
  return 0;
}
