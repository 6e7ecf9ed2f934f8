// safetensors files for tests, honest ones and lying ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::test {

// A file of this header text and data; the length in front may lie.
inline std::string raw_safetensors(std::string_view header,
                                   std::string_view data,
                                   uint64_t header_size_bytes) {
  std::string file(sizeof(uint64_t), '\0');
  std::memcpy(file.data(), &header_size_bytes, sizeof(uint64_t));
  return file + std::string(header) + std::string(data);
}
inline std::string raw_safetensors(std::string_view header, std::string_view data) {
  return raw_safetensors(header, data, header.size());
}

// Tensors one after the other, in the order of add().
class SafetensorsBuilder {
 public:
  // `shape` as it stands in the header: "2, 3".
  void add(const std::string& name,
           const std::string& dtype,
           const std::string& shape,
           std::string_view bytes) {
    if (!header_.empty()) header_ += ",";
    header_ += "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
               "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
               std::to_string(data_.size() + bytes.size()) + "]}";
    data_ += bytes;
  }
  // `alignment` 8 pads the header as writers do; `shift` adds spaces that break the alignment.
  [[nodiscard]] std::string file(size_t shift_bytes = 0) const {
    std::string header = "{" + header_ + "}";
    header.resize((header.size() + 7) / 8 * 8 + shift_bytes, ' ');
    return raw_safetensors(header, data_);
  }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace tandem::test
