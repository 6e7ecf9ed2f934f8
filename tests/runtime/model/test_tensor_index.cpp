#include "runtime/model/tensor_index.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <thread>

#include "runtime/base/errors.h"
#include "tests/runtime/model/safetensors_builder.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

using Catch::Matchers::ContainsSubstring;
using test::SafetensorsBuilder;
using test::TempDir;
using test::write_file;

constexpr const char* kIndexFile = "model.safetensors.index.json";

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string one_shard(const std::string& name, const std::string& bytes = "abcd") {
  SafetensorsBuilder builder;
  builder.add(name, "U8", std::to_string(bytes.size()), bytes);
  return builder.file();
}

std::string error_of(const std::filesystem::path& dir) {
  try {
    TensorIndex::open(dir);
  } catch (const LoadError& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("tensors of several shards are found with their bytes", "[tensor_index]") {
  const TempDir dir;
  write_file(dir.path() / "b.safetensors", one_shard("second", "5678"));
  write_file(dir.path() / "a.safetensors", one_shard("first", "1234"));
  write_file(dir.path() / "other.txt", "not a shard");
  for (const bool has_index : {false, true}) {
    if (has_index) {
      write_file(
          dir.path() / kIndexFile,
          R"({"metadata":{},"weight_map":{"first":"a.safetensors","second":"b.safetensors"}})");
    }
    const TensorIndex index = TensorIndex::open(dir.path());
    REQUIRE(index.tensors().size() == 2);
    REQUIRE(index.shards().size() == 2);
    const TensorInfo* const info = index.find("second");
    REQUIRE(info != nullptr);
    CHECK(index.shards()[info->shard_idx].filename() == "b.safetensors");
    CHECK(std::memcmp(index.bytes(*info).data(), "5678", 4) == 0);
    CHECK(index.find("third") == nullptr);
    index.touch(*info);
    index.release(*info);
    CHECK(std::memcmp(index.bytes(*info).data(), "5678", 4) == 0);
  }
}

TEST_CASE("files beside the index that it does not name are left alone", "[tensor_index]") {
  const TempDir dir;
  write_file(dir.path() / "a.safetensors", one_shard("first"));
  write_file(dir.path() / "junk.safetensors", "garbage");
  write_file(dir.path() / kIndexFile, R"({"weight_map":{"first":"a.safetensors"}})");
  CHECK(TensorIndex::open(dir.path()).tensors().size() == 1);
}

TEST_CASE("a folder that is no checkpoint is refused with a reason", "[tensor_index]") {
  const TempDir dir;
  CHECK_THAT(error_of(dir.path() / "absent"), ContainsSubstring("no such folder"));
  CHECK_THAT(error_of(dir.path()), ContainsSubstring("neither"));
  for (const std::string text : {"", "[]", "{", R"({"weight_map":[]})", R"({"weight_map":{}})"}) {
    write_file(dir.path() / kIndexFile, text);
    CHECK_THAT(error_of(dir.path()), ContainsSubstring(kIndexFile));
  }
}

TEST_CASE("an index that names absent shards or tensors is refused", "[tensor_index]") {
  const TempDir dir;
  write_file(dir.path() / "a.safetensors", one_shard("first"));
  write_file(dir.path() / "b.safetensors", one_shard("second"));
  write_file(dir.path() / kIndexFile, R"({"weight_map":{"first":"absent.safetensors"}})");
  CHECK_THAT(error_of(dir.path()), ContainsSubstring("absent.safetensors: cannot open"));
  write_file(dir.path() / kIndexFile, R"({"weight_map":{"third":"a.safetensors"}})");
  CHECK_THAT(error_of(dir.path()), ContainsSubstring("a.safetensors: tensor 'third' is not in it"));
  // In the folder, but not where the index says.
  write_file(dir.path() / kIndexFile,
             R"({"weight_map":{"first":"b.safetensors","second":"a.safetensors"}})");
  CHECK_THAT(error_of(dir.path()), ContainsSubstring("is not in it"));
}

TEST_CASE("a weight_map that leaves the folder is refused", "[tensor_index]") {
  const TempDir dir;
  std::filesystem::create_directories(dir.path() / "model");
  write_file(dir.path() / "outside.safetensors", one_shard("first"));
  for (const std::string name :
       {R"("../outside.safetensors")", R"("/etc/passwd")", R"("model/../../outside.safetensors")",
        R"("..")", R"(".")", R"("")", R"("a\\b")", R"("a\u0000b")", "3", "null"}) {
    write_file(dir.path() / "model" / kIndexFile, R"({"weight_map":{"first":)" + name + "}}");
    CHECK_THAT(error_of(dir.path() / "model"),
               ContainsSubstring("weight_map['first']") &&
                   ContainsSubstring("expected the name of a file beside it"));
  }
  // A folder in place of the shard, and one that is not a regular file.
  std::filesystem::create_directories(dir.path() / "model" / "sub");
  write_file(dir.path() / "model" / kIndexFile, R"({"weight_map":{"first":"sub"}})");
  CHECK_THAT(error_of(dir.path() / "model"), ContainsSubstring("not a regular file"));
}

TEST_CASE("one name in two shards is refused", "[tensor_index]") {
  const TempDir dir;
  write_file(dir.path() / "a.safetensors", one_shard("same"));
  write_file(dir.path() / "b.safetensors", one_shard("same"));
  CHECK_THAT(error_of(dir.path()),
             ContainsSubstring("b.safetensors: tensor 'same' is also in a.safetensors"));
}

TEST_CASE("all problems are collected when asked for", "[tensor_index]") {
  const TempDir dir;
  write_file(dir.path() / "a.safetensors", one_shard("first"));
  write_file(dir.path() / "b.safetensors", "garbage in place of a shard");
  write_file(dir.path() / kIndexFile,
             R"({"weight_map":{"first":"a.safetensors","second":"b.safetensors",)"
             R"("third":"c.safetensors","fourth":"a.safetensors","fifth":"../x"}})");
  IndexProblems problems;
  const TensorIndex index = TensorIndex::open(dir.path(), problems);
  CHECK(index.tensors().size() == 1);
  CHECK(problems.messages.size() == 4);
  CHECK(problems.lost_names == std::set<std::string, std::less<>>{"fifth", "second", "third"});
}

TEST_CASE("typed access checks dtype and shape", "[tensor_index]") {
  const TempDir dir;
  SafetensorsBuilder builder;
  builder.add("m", "BF16", "2, 3", bytes_of<uint16_t>({0, 0x3f80, 0x4000, 0x4040, 0x4080, 0}));
  builder.add("v", "F32", "2", bytes_of<float>({1.5f, -2.0f}));
  builder.add("i", "I32", "1, 2", bytes_of<int32_t>({-7, 9}));
  write_file(dir.path() / "x.safetensors", builder.file());
  const TensorIndex index = TensorIndex::open(dir.path());
  const MatrixView<const bf16> matrix = index.bf16_matrix("m", 2, 3);
  CHECK(matrix(0, 1).to_float() == 1.0f);
  CHECK(matrix(1, 1).to_float() == 4.0f);
  CHECK(index.f32_vector("v", 2)[1] == -2.0f);
  CHECK(index.i32_matrix("i", 1, 2)(0, 0) == -7);
  CHECK_THROWS_WITH(index.bf16_matrix("m", 3, 2),
                    ContainsSubstring("tensor 'm' is BF16 [2, 3], expected BF16 [3, 2]"));
  CHECK_THROWS_WITH(index.bf16_vector("m", 6), ContainsSubstring("expected BF16 [6]"));
  CHECK_THROWS_WITH(index.bf16_vector("v", 2),
                    ContainsSubstring("tensor 'v' is F32 [2], expected BF16 [2]"));
  CHECK_THROWS_WITH(index.f32_vector("absent", 2),
                    ContainsSubstring("tensor 'absent' is missing, expected F32 [2]"));
}

TEST_CASE("data that lies unaligned in the file is read right, from many threads at once",
          "[tensor_index]") {
  const TempDir dir;
  const std::vector<float> values = {1.0f, 2.0f, 3.0f};
  for (const size_t shift_bytes : {0, 1, 2, 3}) {
    SafetensorsBuilder builder;
    builder.add("m", "BF16", "1, 2", bytes_of<uint16_t>({0x3f80, 0x4000}));
    builder.add("v", "F32", "3", bytes_of<float>(values));
    write_file(dir.path() / "x.safetensors", builder.file(shift_bytes));
    const TensorIndex index = TensorIndex::open(dir.path());
    std::vector<std::jthread> threads;
    std::vector<const float*> places(4);
    for (const float*& place : places) {
      threads.emplace_back([&] { place = index.f32_vector("v", 3).data(); });
    }
    threads.clear();
    for (const float* place : places) {
      CHECK(place == places[0]);  // one copy
      CHECK(reinterpret_cast<uintptr_t>(place) % alignof(float) == 0);
      CHECK(std::equal(values.begin(), values.end(), place));
    }
    const MatrixView<const bf16> matrix = index.bf16_matrix("m", 1, 2);
    CHECK(reinterpret_cast<uintptr_t>(matrix.data) % alignof(bf16) == 0);
    CHECK(matrix(0, 1).to_float() == 2.0f);
  }
}

}  // namespace
}  // namespace tandem
