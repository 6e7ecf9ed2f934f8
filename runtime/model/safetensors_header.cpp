#include "runtime/model/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/error.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem {

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

namespace {

struct DTypeEntry {
  DType dtype;
  std::string_view name;
  int64_t size_bytes;
};
constexpr std::array kDTypes = {
    DTypeEntry{DType::kBF16, "BF16", 2},      DTypeEntry{DType::kF16, "F16", 2},
    DTypeEntry{DType::kF32, "F32", 4},        DTypeEntry{DType::kF64, "F64", 8},
    DTypeEntry{DType::kI8, "I8", 1},          DTypeEntry{DType::kU8, "U8", 1},
    DTypeEntry{DType::kI16, "I16", 2},        DTypeEntry{DType::kU16, "U16", 2},
    DTypeEntry{DType::kI32, "I32", 4},        DTypeEntry{DType::kU32, "U32", 4},
    DTypeEntry{DType::kI64, "I64", 8},        DTypeEntry{DType::kU64, "U64", 8},
    DTypeEntry{DType::kBool, "BOOL", 1},      DTypeEntry{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeEntry{DType::kF8E5M2, "F8_E5M2", 1}, DTypeEntry{DType::kF8E8M0, "F8_E8M0", 1},
};

const DTypeEntry& dtype_entry(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry;
  }
  return kDTypes.front();
}

std::optional<DType> find_dtype(std::string_view name) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

// Names come from the file and end in messages: cut, and control characters made visible.
std::string shown(std::string_view text) {
  constexpr size_t kMaxShown = 200;
  std::string result = "'";
  for (const char letter : text.substr(0, kMaxShown)) {
    const auto code = static_cast<unsigned char>(letter);
    if (code < 0x20 || code == 0x7f) {
      result += fmt::format("\\x{:02x}", code);
    } else {
      result += letter;
    }
  }
  return result + (text.size() > kMaxShown ? "...'" : "'");
}

// Streams the JSON instead of building a document: a document keeps the last of two equal keys, and
// equal keys are what must be found.
class HeaderHandler {
 public:
  using error_code = boost::json::error_code;
  using string_view = boost::json::string_view;
  static constexpr size_t max_object_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_array_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_key_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_string_size = std::numeric_limits<size_t>::max();

  std::vector<HeaderTensor> tensors;  // file_offset_bytes still counts from the start of the data
  std::string problem;                // what ended the parse, when it was not the syntax

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

  bool on_object_begin(error_code& ec) {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kTop:
        if (name_ == "__metadata__") return begin_skip();
        tensor_ = HeaderTensor{};
        tensor_.name = name_;
        offsets_.clear();
        has_dtype_ = has_shape_ = has_offsets_ = false;
        state_ = State::kTensor;
        return true;
      default:
        return begin_nested(ec);
    }
  }
  bool on_object_end(size_t, error_code& ec) {
    if (state_ == State::kSkip) return end_skip();
    if (state_ == State::kTensor) return finish_tensor(ec);
    state_ = State::kDone;
    return true;
  }
  bool on_array_begin(error_code& ec) {
    if (state_ == State::kTensor && field_ == "shape") {
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kTensor && field_ == "data_offsets") {
      state_ = State::kOffsets;
      return true;
    }
    if (state_ == State::kTop && name_ == "__metadata__") return begin_skip();
    return begin_nested(ec);
  }
  bool on_array_end(size_t, error_code&) {
    if (state_ == State::kSkip) return end_skip();
    state_ = State::kTensor;
    return true;
  }

  bool on_key_part(string_view part, size_t, error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_key(string_view part, size_t, error_code& ec) {
    text_.append(part.data(), part.size());
    const std::string key = std::exchange(text_, {});
    if (state_ == State::kTop) {
      name_ = key;
      if (!names_.insert(key).second) return fail("the name occurs twice", ec);
    } else if (state_ == State::kTensor) {
      field_ = key;
      bool* const seen = field_flag();
      if (seen != nullptr && std::exchange(*seen, true)) {
        return fail(fmt::format("{} occurs twice", field_), ec);
      }
    }
    return true;
  }
  bool on_string_part(string_view part, size_t, error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(string_view part, size_t, error_code& ec) {
    text_.append(part.data(), part.size());
    const std::string value = std::exchange(text_, {});
    if (state_ != State::kTensor || field_ != "dtype") return scalar("a string", ec);
    const std::optional<DType> dtype = find_dtype(value);
    if (!dtype) return fail(fmt::format("unknown dtype {}", shown(value)), ec);
    tensor_.dtype = *dtype;
    return true;
  }

  bool on_number_part(string_view, error_code&) { return true; }
  bool on_int64(int64_t value, string_view, error_code& ec) {
    if (state_ == State::kShape) {
      if (value < 0) return fail(fmt::format("negative dimension {}", value), ec);
      if (tensor_.shape.size() >= kMaxTensorRank) {
        return fail(fmt::format("more than {} dimensions", kMaxTensorRank), ec);
      }
      tensor_.shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsets) {
      if (value < 0) return fail(fmt::format("negative data offset {}", value), ec);
      if (offsets_.size() >= 2) return fail("more than two data_offsets", ec);
      offsets_.push_back(value);
      return true;
    }
    return scalar("a number", ec);
  }
  bool on_uint64(uint64_t value, string_view, error_code& ec) {  // only above the int64 range
    if (state_ == State::kShape || state_ == State::kOffsets) {
      return fail(fmt::format("{} is beyond any file", value), ec);
    }
    return scalar("a number", ec);
  }
  bool on_double(double value, string_view, error_code& ec) {
    if (state_ == State::kShape || state_ == State::kOffsets) {
      return fail(fmt::format("{} where an integer is expected", value), ec);
    }
    return scalar("a number", ec);
  }
  bool on_bool(bool, error_code& ec) { return scalar("a boolean", ec); }
  bool on_null(error_code& ec) { return scalar("null", ec); }

 private:
  enum class State { kStart, kTop, kTensor, kShape, kOffsets, kSkip, kDone };

  bool fail(std::string_view what, error_code& ec) {
    problem = name_.empty() ? std::string(what) : fmt::format("tensor {}: {}", shown(name_), what);
    ec = boost::json::error::syntax;
    return false;
  }
  bool* field_flag() {
    if (field_ == "dtype") return &has_dtype_;
    if (field_ == "shape") return &has_shape_;
    if (field_ == "data_offsets") return &has_offsets_;
    return nullptr;
  }
  bool begin_skip() {
    resume_ = state_;
    state_ = State::kSkip;
    skip_depth_ = 1;
    return true;
  }
  bool end_skip() {
    if (--skip_depth_ == 0) state_ = resume_;
    return true;
  }
  // An object or array where the format has none: tolerated inside what is skipped anyway.
  bool begin_nested(error_code& ec) {
    if (state_ == State::kSkip) {
      ++skip_depth_;
      return true;
    }
    if (state_ == State::kTensor && field_flag() == nullptr) return begin_skip();
    return unexpected("an array or object", ec);
  }
  bool scalar(std::string_view what, error_code& ec) {
    if (state_ == State::kSkip) return true;
    if (state_ == State::kTop && name_ == "__metadata__") return true;
    if (state_ == State::kTensor && field_flag() == nullptr) return true;
    return unexpected(what, ec);
  }
  bool unexpected(std::string_view what, error_code& ec) {
    switch (state_) {
      case State::kStart:
        return fail(fmt::format("the header is {}, expected an object", what), ec);
      case State::kTop:
        return fail(fmt::format("the entry is {}, expected an object", what), ec);
      case State::kTensor:
        return fail(fmt::format("{} is {}, expected {}", field_, what,
                                field_ == "dtype" ? "a string" : "an array of integers"),
                    ec);
      default:
        return fail(fmt::format("{} holds {}, expected integers", field_, what), ec);
    }
  }
  bool finish_tensor(error_code& ec) {
    if (!has_dtype_) return fail("dtype is missing", ec);
    if (!has_shape_) return fail("shape is missing", ec);
    if (!has_offsets_) return fail("data_offsets is missing", ec);
    if (offsets_.size() != 2) {
      return fail(fmt::format("data_offsets has {} values, expected 2", offsets_.size()), ec);
    }
    if (offsets_[1] < offsets_[0]) {
      return fail(fmt::format("data_offsets [{}] end before they begin", fmt::join(offsets_, ", ")),
                  ec);
    }
    tensor_.file_offset_bytes = offsets_[0];
    tensor_.size_bytes = offsets_[1] - offsets_[0];
    tensors.push_back(std::move(tensor_));
    state_ = State::kTop;
    return true;
  }

  State state_ = State::kStart;
  State resume_ = State::kStart;
  int64_t skip_depth_ = 0;
  std::string text_;   // key or string collected so far
  std::string name_;   // of the entry
  std::string field_;  // inside the entry
  HeaderTensor tensor_;
  std::vector<int64_t> offsets_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::unordered_set<std::string> names_;
};

// Product of the shape and the element size; nothing when it does not fit 63 bits.
std::optional<int64_t> shape_size_bytes(const HeaderTensor& tensor) {
  const bool is_empty = std::ranges::find(tensor.shape, 0) != tensor.shape.end();
  if (is_empty) return 0;
  int64_t size_bytes = dtype_size_bytes(tensor.dtype);
  for (const int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(size_bytes, dimension, &size_bytes)) return std::nullopt;
  }
  return size_bytes;
}

int64_t read_header_size_bytes(std::span<const std::byte> file, std::string_view file_name) {
  constexpr size_t kPrefix = sizeof(uint64_t);
  if (file.size() < kPrefix) {
    throw LoadError(fmt::format("{}: {} bytes, expected a safetensors file of at least {}",
                                file_name, file.size(), kPrefix));
  }
  uint64_t header_size_bytes = 0;
  std::memcpy(&header_size_bytes, file.data(), kPrefix);
  if (header_size_bytes > static_cast<uint64_t>(kMaxHeaderSizeBytes)) {
    throw LoadError(fmt::format("{}: header length {} bytes, expected at most {}", file_name,
                                header_size_bytes, kMaxHeaderSizeBytes));
  }
  if (header_size_bytes > file.size() - kPrefix) {
    throw LoadError(fmt::format("{}: header length {} bytes, but only {} follow in the file",
                                file_name, header_size_bytes, file.size() - kPrefix));
  }
  return static_cast<int64_t>(header_size_bytes);
}

void check_placement(std::vector<HeaderTensor>& tensors,
                     int64_t data_size_bytes,
                     std::string_view file_name) {
  std::ranges::sort(tensors, [](const HeaderTensor& left, const HeaderTensor& right) {
    return std::tie(left.file_offset_bytes, left.size_bytes, left.name) <
           std::tie(right.file_offset_bytes, right.size_bytes, right.name);
  });
  const HeaderTensor* previous = nullptr;
  for (const HeaderTensor& tensor : tensors) {
    const int64_t end = tensor.file_offset_bytes + tensor.size_bytes;
    if (end > data_size_bytes) {
      throw LoadError(fmt::format(
          "{}: tensor {}: data_offsets [{}, {}] end outside the {} bytes of data "
          "(truncated file?)",
          file_name, shown(tensor.name), tensor.file_offset_bytes, end, data_size_bytes));
    }
    const std::optional<int64_t> expected = shape_size_bytes(tensor);
    if (expected != tensor.size_bytes) {
      throw LoadError(fmt::format("{}: tensor {}: {} bytes of data, but {} [{}] takes {}",
                                  file_name, shown(tensor.name), tensor.size_bytes,
                                  dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "),
                                  expected ? std::to_string(*expected) : "more than any file"));
    }
    if (previous != nullptr && tensor.size_bytes > 0 &&
        tensor.file_offset_bytes < previous->file_offset_bytes + previous->size_bytes) {
      throw LoadError(fmt::format("{}: tensor {}: data_offsets [{}, {}] overlap those of {}",
                                  file_name, shown(tensor.name), tensor.file_offset_bytes, end,
                                  shown(previous->name)));
    }
    if (tensor.size_bytes > 0) previous = &tensor;
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) { return dtype_entry(dtype).name; }
int64_t dtype_size_bytes(DType dtype) { return dtype_entry(dtype).size_bytes; }

std::vector<HeaderTensor> parse_safetensors_header(std::span<const std::byte> file,
                                                   std::string_view file_name) {
  const int64_t header_size_bytes = read_header_size_bytes(file, file_name);
  const int64_t data_begin = header_size_bytes + static_cast<int64_t>(sizeof(uint64_t));
  const std::span<const std::byte> json = file.subspan(sizeof(uint64_t), header_size_bytes);

  boost::json::basic_parser<HeaderHandler> parser{boost::json::parse_options{}};
  boost::json::error_code ec;
  const size_t num_read =
      parser.write_some(false, reinterpret_cast<const char*>(json.data()), json.size(), ec);
  HeaderHandler& handler = parser.handler();
  if (!handler.problem.empty()) {
    throw LoadError(fmt::format("{}: {}", file_name, handler.problem));
  }
  if (ec || num_read != json.size()) {
    throw LoadError(fmt::format("{}: the header is not JSON: {} at byte {} of {}", file_name,
                                ec ? ec.message() : "extra data", num_read, json.size()));
  }
  std::vector<HeaderTensor> tensors = std::move(handler.tensors);
  check_placement(tensors, static_cast<int64_t>(file.size()) - data_begin, file_name);
  for (HeaderTensor& tensor : tensors) tensor.file_offset_bytes += data_begin;
  return tensors;
}

}  // namespace tandem
