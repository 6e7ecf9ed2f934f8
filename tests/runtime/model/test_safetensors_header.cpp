#include "runtime/model/safetensors_header.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <memory>

#include "runtime/base/errors.h"
#include "tests/runtime/model/safetensors_builder.h"

namespace tandem {
namespace {

using Catch::Matchers::ContainsSubstring;
using test::raw_safetensors;

// From an allocation of exactly the file's size, so that a sanitizer sees a read behind its end.
std::vector<HeaderTensor> parse(const std::string& file) {
  const auto exact = std::make_unique<std::byte[]>(file.size());
  std::memcpy(exact.get(), file.data(), file.size());
  return parse_safetensors_header({exact.get(), file.size()}, "x.safetensors");
}

std::string error_of(const std::string& file) {
  try {
    parse(file);
  } catch (const LoadError& error) {
    return error.what();
  }
  return "no error";
}

// The header of one tensor "t" beside 16 bytes of data.
std::string one_tensor(const std::string& fields) {
  return raw_safetensors("{\"t\":{" + fields + "}}", std::string(16, 'x'));
}

TEST_CASE("an honest header gives names, dtypes, shapes and places in file order",
          "[safetensors]") {
  const std::string header =
      R"({"__metadata__":{"format":"pt","nested":{"a":[1,{}]}},)"
      R"("b":{"dtype":"I32","shape":[2,1],"data_offsets":[4,12]},)"
      R"("a":{"shape":[],"data_offsets":[0,4],"dtype":"F32","extra":[{"x":null},2.5,"y"]},)"
      R"("none":{"dtype":"BF16","shape":[3,0],"data_offsets":[12,12]}}   )";
  const std::vector<HeaderTensor> tensors = parse(raw_safetensors(header, std::string(12, 'x')));
  const auto data_begin = static_cast<int64_t>(8 + header.size());
  REQUIRE(tensors.size() == 3);
  CHECK(tensors[0].name == "a");
  CHECK(tensors[0].dtype == DType::kF32);
  CHECK(tensors[0].shape.empty());
  CHECK(tensors[0].file_offset_bytes == data_begin);
  CHECK(tensors[1].name == "b");
  CHECK(tensors[1].shape == std::vector<int64_t>{2, 1});
  CHECK(tensors[1].file_offset_bytes == data_begin + 4);
  CHECK(tensors[1].size_bytes == 8);
  CHECK(tensors[2].shape == std::vector<int64_t>{3, 0});
  CHECK(tensors[2].size_bytes == 0);
}

TEST_CASE("an empty header is a file without tensors", "[safetensors]") {
  CHECK(parse(raw_safetensors("{}", "")).empty());
}

TEST_CASE("every dtype has the size of its elements", "[safetensors]") {
  const std::vector<std::pair<std::string, int64_t>> sizes = {
      {"BF16", 2}, {"F16", 2},     {"F32", 4},     {"F64", 8},    {"I8", 1},  {"U8", 1},
      {"I16", 2},  {"U16", 2},     {"I32", 4},     {"U32", 4},    {"I64", 8}, {"U64", 8},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};
  for (const auto& [name, size] : sizes) {
    test::SafetensorsBuilder builder;
    builder.add("t", name, "3", std::string(static_cast<size_t>(3 * size), 'x'));
    const auto tensors = parse(builder.file());
    REQUIRE(tensors.size() == 1);
    CHECK(dtype_name(tensors[0].dtype) == name);
    CHECK(dtype_size_bytes(tensors[0].dtype) == size);
  }
}

TEST_CASE("every cut of an honest file is an error, never a crash", "[safetensors]") {
  test::SafetensorsBuilder builder;
  builder.add("first", "BF16", "2, 2", std::string(8, 'x'));
  builder.add("second", "F32", "1", std::string(4, 'x'));
  const std::string file = builder.file();
  REQUIRE(parse(file).size() == 2);
  for (size_t size = 0; size < file.size(); ++size) {
    INFO("cut to " << size);
    CHECK_THROWS_AS(parse(file.substr(0, size)), LoadError);
  }
}

TEST_CASE("every changed byte of a header is an error or another header, never a crash",
          "[safetensors]") {
  test::SafetensorsBuilder builder;
  builder.add("first", "BF16", "2, 2", std::string(8, 'x'));
  builder.add("second", "F32", "1", std::string(4, 'x'));
  const std::string honest = builder.file();
  int num_accepted = 0;
  for (size_t byte_idx = 0; byte_idx < honest.size() - 12; ++byte_idx) {
    for (const int value : {0x00, 0x20, 0x22, 0x2c, 0x2d, 0x30, 0x39, 0x5b, 0x7b, 0x7d, 0xff}) {
      std::string file = honest;
      file[byte_idx] = static_cast<char>(value);
      try {
        for (const HeaderTensor& tensor : parse(file)) {
          REQUIRE(tensor.file_offset_bytes >= 8);
          REQUIRE(tensor.size_bytes >= 0);
          REQUIRE(tensor.file_offset_bytes + tensor.size_bytes <=
                  static_cast<int64_t>(file.size()));
        }
        ++num_accepted;
      } catch (const LoadError&) {  // fine
      }
    }
  }
  CHECK(num_accepted > 0);  // a renamed tensor, for one
}

TEST_CASE("a lying length of the header is named", "[safetensors]") {
  CHECK_THAT(error_of("short"), ContainsSubstring("5 bytes"));
  CHECK_THAT(error_of(raw_safetensors("{}", "", 3)), ContainsSubstring("only 2 follow"));
  CHECK_THAT(error_of(raw_safetensors("{}", "", 100'000'001)),
             ContainsSubstring("expected at most 100000000"));
  CHECK_THAT(error_of(raw_safetensors("{}", "", ~uint64_t{0})),
             ContainsSubstring("header length 18446744073709551615"));
  CHECK_THAT(error_of(raw_safetensors("{}", "", ~uint64_t{0} - 7)), ContainsSubstring("at most"));
  CHECK_THAT(error_of(raw_safetensors("", "", 0)), ContainsSubstring("not JSON"));
}

TEST_CASE("a hostile header is an error that says what is wrong", "[safetensors]") {
  struct Case {
    std::string fields;
    std::string message;
  };
  const Case hostile = GENERATE(values<Case>({
      {R"("dtype":"BF17","shape":[8],"data_offsets":[0,16])", "unknown dtype 'BF17'"},
      {R"("dtype":"BF16","shape":[7],"data_offsets":[0,16])", "16 bytes of data, but BF16 [7]"},
      {R"("dtype":"F32","shape":[8],"data_offsets":[0,16])", "F32 [8] takes 32"},
      {R"("dtype":"U8","shape":[-1],"data_offsets":[0,16])", "negative dimension -1"},
      {R"("dtype":"U8","shape":[1.5],"data_offsets":[0,16])", "1.5 where an integer is expected"},
      {R"("dtype":"U8","shape":[1e1],"data_offsets":[0,10])", "where an integer is expected"},
      {R"("dtype":"U8","shape":["8"],"data_offsets":[0,16])", "shape holds a string"},
      {R"("dtype":"U8","shape":[[8]],"data_offsets":[0,16])", "shape holds an array or object"},
      {R"("dtype":"U8","shape":8,"data_offsets":[0,8])", "shape is a number"},
      {R"("dtype":"U8","shape":[17],"data_offsets":[0,17])", "outside the 16 bytes of data"},
      {R"("dtype":"U8","shape":[1],"data_offsets":[16,17])", "outside the 16 bytes of data"},
      {R"("dtype":"U8","shape":[0],"data_offsets":[17,17])", "outside the 16 bytes of data"},
      {R"("dtype":"U8","shape":[4],"data_offsets":[8,4])", "end before they begin"},
      {R"("dtype":"U8","shape":[4],"data_offsets":[-4,0])", "negative data offset -4"},
      {R"("dtype":"U8","shape":[4],"data_offsets":[0])", "has 1 values, expected 2"},
      {R"("dtype":"U8","shape":[4],"data_offsets":[0,2,4])", "more than two data_offsets"},
      {R"("dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615])", "beyond any file"},
      {R"("dtype":"U8","shape":[1],"data_offsets":[0,9223372036854775807])", "outside the 16"},
      {R"("dtype":"U8","shape":[1],"data_offsets":[0,99999999999999999999])", "an integer"},
      // 2^32 * 2^32 bytes wrap to 0, (2^62 + 4) * 4 to 16.
      {R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", "more than any"},
      {R"("dtype":"F32","shape":[4611686018427387908],"data_offsets":[0,16])", "more than any"},
      {R"("dtype":3,"shape":[8],"data_offsets":[0,8])", "dtype is a number, expected a string"},
      {R"("dtype":["U8"],"shape":[8],"data_offsets":[0,8])", "dtype is an array or object"},
      {R"("shape":[8],"data_offsets":[0,8])", "dtype is missing"},
      {R"("dtype":"U8","data_offsets":[0,8])", "shape is missing"},
      {R"("dtype":"U8","shape":[8])", "data_offsets is missing"},
      {R"("dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8])", "dtype occurs twice"},
      {R"("dtype":"U8","shape":[8],"shape":[8],"data_offsets":[0,8])", "shape occurs twice"},
  }));
  const std::string error = error_of(one_tensor(hostile.fields));
  INFO(hostile.fields);
  CHECK_THAT(error, ContainsSubstring(hostile.message));
  CHECK_THAT(error, ContainsSubstring("x.safetensors"));
  CHECK_THAT(error, ContainsSubstring("'t'"));
}

TEST_CASE("a header that is not an object of objects is refused", "[safetensors]") {
  for (const std::string header :
       {"[]", "3", "null", "\"x\"", R"({"t":3})", R"({"t":null})", R"({"t":[]})", "{", "{}}",
        "{} x", "{}\xff", R"({"t":)", "\xff", "// c\n{}"}) {
    INFO(header);
    CHECK_THROWS_AS(parse(raw_safetensors(header, "")), LoadError);
  }
  // Deep nesting ends at the parser's limit instead of the stack's.
  CHECK_THROWS_AS(parse(raw_safetensors(R"({"__metadata__":)" + std::string(100000, '['), "")),
                  LoadError);
}

TEST_CASE("duplicate names are refused, also when they are escaped differently", "[safetensors]") {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK_THAT(error_of(raw_safetensors(R"({"t":)" + entry + R"(,"t":)" + entry + "}", "")),
             ContainsSubstring("tensor 't': the name occurs twice"));
  CHECK_THAT(error_of(raw_safetensors(R"({"t":)" + entry + R"(,"\u0074":)" + entry + "}", "")),
             ContainsSubstring("tensor 't': the name occurs twice"));
}

TEST_CASE("overlapping tensors are refused, whatever their order in the header", "[safetensors]") {
  const std::string a = R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[8],"data_offsets":[7,15]})";
  const std::string c = R"("c":{"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
  const std::string empty = R"("e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]})";
  const std::string data(16, 'x');
  CHECK_THAT(error_of(raw_safetensors("{" + a + "," + b + "}", data)),
             ContainsSubstring("'b': data_offsets [7, 15] overlap those of 'a'"));
  CHECK_THAT(error_of(raw_safetensors("{" + b + "," + a + "}", data)),
             ContainsSubstring("overlap"));
  CHECK_THAT(error_of(raw_safetensors("{" + a + "," + c + "}", data)),
             ContainsSubstring("overlap"));
  // An empty tensor between does not hide the overlap, and overlaps nothing itself.
  CHECK_THAT(error_of(raw_safetensors("{" + a + "," + empty + "," + b + "}", data)),
             ContainsSubstring("overlap"));
  CHECK(parse(raw_safetensors("{" + a + "," + empty + "}", data)).size() == 2);
}

TEST_CASE("names from the file are cut and made printable in messages", "[safetensors]") {
  const std::string long_name(5000, 'n');
  const std::string error = error_of(raw_safetensors("{\"\\u0007\\n" + long_name + "\":3}", ""));
  CHECK_THAT(error, ContainsSubstring("'\\x07\\x0an"));
  CHECK(error.size() < 400);
  CHECK(error.find('\n') == std::string::npos);
}

}  // namespace
}  // namespace tandem
