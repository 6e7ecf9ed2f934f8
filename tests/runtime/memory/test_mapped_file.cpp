#include "runtime/memory/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "runtime/base/errors.h"
#include "tests/support/process_memory.h"

namespace tandem {
namespace {

using Catch::Matchers::ContainsSubstring;

class TempFile {
 public:
  explicit TempFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              ("tandem_mapped_" + std::to_string(::getpid()))) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_CASE("a mapped file has the bytes of the file, for every size around a page", "[memory]") {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  for (const size_t size : {size_t{1}, page - 1, page, page + 1, 3 * page}) {
    std::string content(size, 'x');
    for (size_t idx = 0; idx < size; ++idx) content[idx] = static_cast<char>(idx * 7 + idx / 251);
    const TempFile temp(content);
    const MappedFile file(temp.path());
    CHECK(file.size_bytes() == static_cast<int64_t>(size));
    CHECK(text_of(file) == content);
  }
}

TEST_CASE("an empty file maps to nothing", "[memory]") {
  const TempFile temp("");
  const MappedFile file(temp.path());
  CHECK(file.bytes().empty());
  file.touch(0, 100);
  file.release(0, 100);
}

TEST_CASE("what cannot be mapped is an error that names path and reason", "[memory]") {
  const auto dir = std::filesystem::temp_directory_path();
  CHECK_THROWS_WITH(MappedFile(dir / "tandem_absent"),
                    ContainsSubstring("tandem_absent: cannot open: No such file"));
  CHECK_THROWS_WITH(MappedFile(dir), ContainsSubstring("not a regular file"));
  const auto fifo = dir / ("tandem_fifo_" + std::to_string(::getpid()));
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_AS(MappedFile(fifo), LoadError);  // and does not wait for a writer
  std::filesystem::remove(fifo);
}

TEST_CASE("moving hands the mapping on", "[memory]") {
  const TempFile temp("content");
  MappedFile first(temp.path());
  const std::byte* const address = first.bytes().data();
  MappedFile second(std::move(first));
  CHECK(second.bytes().data() == address);
  CHECK(first.bytes().empty());  // NOLINT(bugprone-use-after-move): the state is defined
  MappedFile third;
  third = std::move(second);
  third = MappedFile(std::move(third));
  CHECK(text_of(third) == "content");
}

TEST_CASE("touching and letting go never change the content, whatever the range", "[memory]") {
  const auto page = static_cast<int64_t>(::sysconf(_SC_PAGESIZE));
  const std::string content(static_cast<size_t>(5 * page + 17), 'q');
  const TempFile temp(content);
  const MappedFile file(temp.path());
  for (const int64_t begin : {int64_t{-1}, int64_t{0}, page - 1, page, 5 * page, 9 * page}) {
    for (const int64_t size :
         {int64_t{-1}, int64_t{0}, int64_t{1}, 2 * page, std::numeric_limits<int64_t>::max()}) {
      file.touch(begin, size);
      file.release(begin, size);
      CHECK(text_of(file) == content);
    }
  }
}

TEST_CASE("what was touched is mapped until it is let go", "[memory]") {
  constexpr int64_t kSizeBytes = 16 << 20;
  const TempFile temp(std::string(size_t{kSizeBytes}, 'q'));
  const MappedFile file(temp.path());
  const auto mapped_bytes = [] { return tests::process_memory_bytes("RssFile:"); };
  const int64_t before_bytes = mapped_bytes();
  REQUIRE(before_bytes >= 0);
  file.touch(0, file.size_bytes());
  // A page in 16 at least; all where the kernel maps the neighbours too.
  CHECK(mapped_bytes() - before_bytes >= kSizeBytes / 16);
  file.release(0, file.size_bytes());
  CHECK(mapped_bytes() - before_bytes < kSizeBytes / 16);
}

}  // namespace
}  // namespace tandem
