// Pages as files, and the folder that holds them.
#include "runtime/kv_store/page_folder.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "tests/runtime/kv_store/page_files.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using test::page_files;

constexpr size_t kPageBytes = 1000;  // no multiple of what a checksum takes at once
constexpr int64_t kFileBytes = kPageBytes + kPageFileHeaderBytes;

PageHash hash_of(uint64_t content) { return {.low = content * 3, .high = content * 1000003}; }

std::vector<std::byte> page_of(uint64_t content, size_t size_bytes = kPageBytes) {
  std::vector<std::byte> bytes(size_bytes);
  for (size_t idx = 0; idx < size_bytes; ++idx)
    bytes[idx] = static_cast<std::byte>((content * 31 + idx * idx) & 0xff);
  return bytes;
}

std::shared_ptr<PageFolder> open_folder(const fs::path& dir,
                                        int64_t max_size_bytes = 1 << 20,
                                        const std::string& identity = "model") {
  auto folder = PageFolder::open({.dir = dir, .max_size_bytes = max_size_bytes});
  folder->select_model(identity);
  return folder;
}

bool is_there(PageFolder& folder, uint64_t content) {
  std::vector<std::byte> bytes(kPageBytes);
  if (folder.read(hash_of(content), bytes) != PageRead::kDone) return false;
  CHECK(bytes == page_of(content));
  return true;
}

void write(PageFolder& folder, uint64_t content) {
  CHECK(folder.write(hash_of(content), page_of(content), folder.secret()).empty());
}

// The system's own clock of files may stand still between two of them.
void set_age(const fs::path& path, int hours) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
}

fs::path file_of(const fs::path& dir, uint64_t content) {
  for (const fs::path& path : page_files(dir)) {
    std::vector<std::byte> bytes(kPageBytes);
    if (read_page_file(path, hash_of(content), bytes) == PageRead::kDone) return path;
  }
  FAIL("no file of page " << content);
  return {};
}

// What the process may have of a resource, for a while.
class LimitedResource {
 public:
  LimitedResource(__rlimit_resource resource, rlim_t limit) : resource_(resource) {
    REQUIRE(::getrlimit(resource_, &before_) == 0);
    const rlimit limited{.rlim_cur = limit, .rlim_max = before_.rlim_max};
    REQUIRE(::setrlimit(resource_, &limited) == 0);
  }
  LimitedResource(const LimitedResource&) = delete;
  LimitedResource& operator=(const LimitedResource&) = delete;
  ~LimitedResource() { ::setrlimit(resource_, &before_); }

 private:
  __rlimit_resource resource_;
  rlimit before_ = {};
};

TEST_CASE("a page file gives back its page, and nothing that was changed", "[kv_store]") {
  const test::TempDir dir;
  const fs::path path = dir.path() / "page.kv";
  const std::vector<std::byte> page = page_of(1);
  std::vector<std::byte> bytes(kPageBytes);
  CHECK(read_page_file(path, hash_of(1), bytes) == PageRead::kMissing);
  REQUIRE(write_page_file(path, hash_of(1), page).empty());
  CHECK(fs::file_size(path) == kFileBytes);
  CHECK((fs::status(path).permissions() & fs::perms::all) ==
        (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(read_page_file(path, hash_of(1), bytes) == PageRead::kDone);
  CHECK(bytes == page);
  CHECK(read_page_file(path, hash_of(2), bytes) == PageRead::kDamaged);
  std::vector<std::byte> longer(kPageBytes + 1);
  CHECK(read_page_file(path, hash_of(1), longer) == PageRead::kDamaged);
  const std::string whole = test::read_file(path);
  for (size_t idx = 0; idx < whole.size(); idx += idx < kPageFileHeaderBytes ? 1 : 37) {
    std::string changed = whole;
    changed[idx] = static_cast<char>(changed[idx] ^ 4);
    test::write_file(path, changed);
    CHECK(read_page_file(path, hash_of(1), bytes) == PageRead::kDamaged);
    test::write_file(path, whole.substr(0, idx));
    CHECK(read_page_file(path, hash_of(1), bytes) == PageRead::kDamaged);
  }
}

TEST_CASE("checksums tell sizes, places and single bits apart", "[kv_store]") {
  std::set<uint64_t> sums;
  size_t num_pages = 0;
  const auto add = [&](const std::vector<std::byte>& bytes) {
    sums.insert(page_checksum(bytes));
    ++num_pages;
  };
  for (size_t size_bytes = 0; size_bytes < 200; ++size_bytes)
    add(std::vector<std::byte>(size_bytes));
  for (size_t bit = 0; bit < 8 * 130; ++bit) {
    std::vector<std::byte> bytes(130);
    bytes[bit / 8] = static_cast<std::byte>(1 << bit % 8);
    add(bytes);
  }
  CHECK(sums.size() == num_pages);
}

TEST_CASE("pages outlive the process, under the same secret", "[kv_store]") {
  const test::TempDir dir;
  const fs::path path = dir.path() / "not" / "yet";
  uint64_t secret = 0;
  {
    const auto folder = open_folder(path);
    secret = folder->secret();
    CHECK_FALSE(folder->contains(hash_of(1)));
    write(*folder, 1);
    write(*folder, 2);
    write(*folder, 2);  // no second one
    CHECK(folder->contains(hash_of(1)));
    CHECK(is_there(*folder, 2));
    CHECK(folder->use().num_pages == 2);
    CHECK(folder->use().size_bytes == 2 * kFileBytes);
  }
  CHECK((fs::status(path).permissions() & fs::perms::all) == fs::perms::owner_all);
  const auto folder = open_folder(path);
  CHECK(folder->secret() == secret);
  CHECK(folder->use().num_pages == 2);
  CHECK(folder->use().size_bytes == 2 * kFileBytes);
  CHECK(is_there(*folder, 1));
  CHECK(is_there(*folder, 2));
  CHECK_FALSE(is_there(*folder, 3));
}

TEST_CASE("a folder is the owner's alone and stays where it is, however it is named",
          "[kv_store]") {
  const test::TempDir dir;
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  const auto folder = open_folder("pages/");
  write(*folder, 1);
  fs::create_directory("elsewhere");
  fs::current_path("elsewhere");
  write(*folder, 2);
  for (uint64_t content = 1; content < 3; ++content) CHECK(is_there(*folder, content));
  fs::current_path(before);
  CHECK(page_files(dir.path() / "pages").size() == 2);
  CHECK((fs::status(dir.path() / "pages").permissions() & fs::perms::all) == fs::perms::owner_all);
}

TEST_CASE("models of another identity have other secrets and find nothing, but count",
          "[kv_store]") {
  const test::TempDir dir;
  uint64_t secret = 0;
  {
    const auto folder = open_folder(dir.path());
    secret = folder->secret();
    write(*folder, 1);
  }
  const auto other = open_folder(dir.path(), 2 * kFileBytes, "another model");
  CHECK(other->secret() != secret);
  CHECK_FALSE(other->contains(hash_of(1)));
  CHECK(other->use().num_pages == 0);
  CHECK(other->use().size_bytes == kFileBytes);
  for (uint64_t content = 2; content < 4; ++content) write(*other, content);
  CHECK(page_files(dir.path()).size() == 2);  // the other model's had to go
  CHECK(is_there(*other, 2));
  CHECK(is_there(*other, 3));
}

TEST_CASE("the pages unused for longest give way, also after a restart", "[kv_store]") {
  const test::TempDir dir;
  {
    const auto folder = open_folder(dir.path(), 3 * kFileBytes);
    for (uint64_t content = 0; content < 3; ++content) write(*folder, content);
    CHECK(is_there(*folder, 0));
    write(*folder, 3);
    CHECK_FALSE(is_there(*folder, 1));
    for (const uint64_t content : {0, 2, 3}) CHECK(is_there(*folder, content));
    CHECK(folder->use().size_bytes == 3 * kFileBytes);
    CHECK(page_files(dir.path()).size() == 3);
  }
  set_age(file_of(dir.path(), 2), 1);
  set_age(file_of(dir.path(), 0), 3);
  set_age(file_of(dir.path(), 3), 2);
  {
    const auto folder = open_folder(dir.path(), 3 * kFileBytes);
    CHECK(is_there(*folder, 0));  // now it is the last one used, on disk, too
  }
  const auto folder = open_folder(dir.path(), 2 * kFileBytes);
  CHECK_FALSE(is_there(*folder, 3));
  CHECK(is_there(*folder, 0));
  CHECK(is_there(*folder, 2));
  CHECK(page_files(dir.path()).size() == 2);
}

TEST_CASE("of a sequence the first pages stay for longest, also after a restart", "[kv_store]") {
  const test::TempDir dir;
  const std::vector<PageHash> sequence = {hash_of(0), hash_of(1), hash_of(2)};
  {
    const auto folder = open_folder(dir.path(), 4 * kFileBytes);
    for (uint64_t content = 0; content < 4; ++content) write(*folder, content);
    folder->mark_used(sequence);
    write(*folder, 4);
    CHECK_FALSE(folder->contains(hash_of(3)));
    for (const uint64_t content : {0, 1, 2, 4}) CHECK(folder->contains(hash_of(content)));
    folder->mark_used(std::vector<PageHash>{hash_of(4), hash_of(3)});  // 3 is gone
    write(*folder, 5);
    CHECK_FALSE(folder->contains(hash_of(2)));
    folder->mark_used(std::span(sequence).first(2));
  }
  const auto folder = open_folder(dir.path(), 2 * kFileBytes);
  for (const uint64_t content : {0, 1}) CHECK(folder->contains(hash_of(content)));
}

// A FIFO stands for a file that is written slowly: it holds less than this page.
TEST_CASE("pages that are written side by side stay below the limit, too", "[kv_store]") {
  const test::TempDir dir;
  const std::vector<std::byte> page = page_of(1, 1 << 17);
  const int64_t file_bytes = (1 << 17) + kPageFileHeaderBytes;
  const auto folder = open_folder(dir.path(), file_bytes);
  REQUIRE(folder->write(hash_of(1), page, folder->secret()).empty());
  const fs::path path = page_files(dir.path()).at(0);
  fs::remove(path);
  std::vector<std::byte> bytes(page.size());
  REQUIRE(folder->read(hash_of(1), bytes) == PageRead::kMissing);
  const std::string unfinished = path.string() + ".tmp";
  REQUIRE(::mkfifo(unfinished.c_str(), S_IRUSR | S_IWUSR) == 0);
  auto slow = std::async(std::launch::async,
                         [&] { return folder->write(hash_of(1), page, folder->secret()); });
  const FileDescriptor reader(::open(unfinished.c_str(), O_RDONLY));  // when it has begun
  CHECK(folder->write(hash_of(2), page, folder->secret()).empty());
  for (int64_t num_read = 0; num_read < file_bytes;) {
    const ssize_t more = ::read(reader.get(), bytes.data(), bytes.size());
    REQUIRE(more > 0);
    num_read += more;
  }
  CHECK(slow.get().empty());
  CHECK(folder->use().num_pages == 1);
  CHECK(folder->use().size_bytes == file_bytes);
  CHECK(page_files(dir.path()).size() == 1);
}

TEST_CASE("a page that is damaged or deleted is not found again, and can be written",
          "[kv_store]") {
  const test::TempDir dir;
  const auto folder = open_folder(dir.path());
  for (uint64_t content = 1; content < 3; ++content) write(*folder, content);
  const fs::path damaged = file_of(dir.path(), 1);
  std::string file = test::read_file(damaged);
  file[500] = static_cast<char>(~file[500]);
  test::write_file(damaged, file);
  fs::remove(file_of(dir.path(), 2));
  std::vector<std::byte> bytes(kPageBytes);
  CHECK(folder->read(hash_of(1), bytes) == PageRead::kDamaged);
  CHECK(folder->read(hash_of(2), bytes) == PageRead::kMissing);
  CHECK(folder->use().num_pages == 0);
  CHECK(folder->use().size_bytes == 0);
  CHECK_FALSE(fs::exists(damaged));
  fs::remove_all(damaged.parent_path().parent_path());  // with its key
  for (uint64_t content = 1; content < 3; ++content) write(*folder, content);
  for (uint64_t content = 1; content < 3; ++content) CHECK(is_there(*folder, content));
}

// As when clients hold all that the process may open.
TEST_CASE("a page that the system refuses to read stays for another time", "[kv_store]") {
  const test::TempDir dir;
  std::vector<std::byte> bytes(kPageBytes);
  {
    const auto folder = open_folder(dir.path());
    for (uint64_t content = 1; content < 3; ++content) write(*folder, content);
    for (uint64_t content = 1; content < 3; ++content) {
      const LimitedResource none(RLIMIT_NOFILE, 0);
      CHECK(folder->read(hash_of(content), bytes) == PageRead::kRefused);
    }
    CHECK_FALSE(folder->contains(hash_of(1)));
    CHECK(folder->use().size_bytes == 2 * kFileBytes);
    write(*folder, 1);  // it was computed again
    CHECK(is_there(*folder, 1));
    CHECK(folder->use().size_bytes == 2 * kFileBytes);
  }
  const auto folder = open_folder(dir.path());
  for (uint64_t content = 1; content < 3; ++content) CHECK(is_there(*folder, content));
}

// A file that may have 20 bytes gets no whole header, one of 500 no whole page.
TEST_CASE("a page that finds no room leaves nothing behind, and says why", "[kv_store]") {
  const test::TempDir dir;
  const auto folder = open_folder(dir.path());
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {0, 20, 500}) {
    std::string failure;
    {
      const LimitedResource small(RLIMIT_FSIZE, limit);
      failure = folder->write(hash_of(1), page_of(1), folder->secret());
    }
    CHECK(failure == "File too large");
  }
  std::signal(SIGXFSZ, handler);
  CHECK_FALSE(folder->contains(hash_of(1)));
  CHECK(folder->use().size_bytes == 0);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir.path()))
    CHECK(entry.path().extension() != ".tmp");
  write(*folder, 1);
  CHECK(is_there(*folder, 1));
}

TEST_CASE("what is forgotten is found by nobody, and its files go", "[kv_store]") {
  const test::TempDir dir;
  uint64_t secret = 0;
  {
    const auto folder = open_folder(dir.path());
    const uint64_t secret_before = folder->secret();
    write(*folder, 1);
    CHECK(folder->forget_all());
    secret = folder->secret();
    CHECK(secret != secret_before);
    CHECK_FALSE(is_there(*folder, 1));
    CHECK(folder->use().num_pages == 0);
    CHECK(folder->use().size_bytes == 0);
    // What was on its way when all was forgotten.
    CHECK(folder->write(hash_of(2), page_of(2), secret_before).empty());
    CHECK_FALSE(folder->contains(hash_of(2)));
    write(*folder, 3);
    CHECK(page_files(dir.path()).size() == 2);  // that of before is on its way out
    folder->remove_forgotten();
    CHECK(page_files(dir.path()).size() == 1);
    CHECK(is_there(*folder, 3));
  }
  const auto folder = open_folder(dir.path());
  CHECK(folder->secret() == secret);
  CHECK(folder->use().num_pages == 1);
}

TEST_CASE("pages whose key is lost count no more, and go", "[kv_store]") {
  const test::TempDir dir;
  uint64_t secret = 0;
  {
    const auto folder = open_folder(dir.path());
    secret = folder->secret();
    write(*folder, 1);
  }
  fs::remove(page_files(dir.path()).front().parent_path().parent_path() / "key");
  const auto folder = open_folder(dir.path());
  CHECK(folder->secret() != secret);
  CHECK(folder->use().num_pages == 0);
  CHECK(folder->use().size_bytes == 0);
  folder->remove_forgotten();
  CHECK(page_files(dir.path()).empty());
  write(*folder, 2);
  CHECK(is_there(*folder, 2));
}

TEST_CASE("a folder that is deleted while it is used begins anew, with its key", "[kv_store]") {
  const test::TempDir dir;
  const fs::path path = dir.path() / "pages";
  uint64_t secret = 0;
  {
    const auto folder = open_folder(path);
    secret = folder->secret();
    write(*folder, 1);
    fs::remove_all(path);
    CHECK_FALSE(is_there(*folder, 1));
    write(*folder, 2);
    CHECK(is_there(*folder, 2));
  }
  CHECK((fs::status(path).permissions() & fs::perms::all) == fs::perms::owner_all);
  const auto folder = open_folder(path);
  CHECK(folder->secret() == secret);
  CHECK(folder->use().num_pages == 1);
  CHECK(is_there(*folder, 2));
  fs::remove_all(path);
  CHECK(folder->forget_all());  // nothing is left that could be found
}

TEST_CASE("a folder is one process's, and what cannot be used is refused by its name",
          "[kv_store]") {
  using Catch::Matchers::ContainsSubstring;
  using Catch::Matchers::MessageMatches;
  const test::TempDir dir;
  const auto refused = [](const fs::path& path, const std::string& why) {
    CHECK_THROWS_MATCHES(
        PageFolder::open({.dir = path, .max_size_bytes = 1}), ConfigError,
        MessageMatches(ContainsSubstring(path.string()) && ContainsSubstring(why)));
  };
  auto folder = PageFolder::open({.dir = dir.path(), .max_size_bytes = 1});
  refused(dir.path(), "another process uses it");
  folder.reset();
  folder = PageFolder::open({.dir = dir.path(), .max_size_bytes = 1});
  const fs::path file = dir.path() / "file";
  test::write_file(file, "");
  refused(file, "Not a directory");
  refused(file / "below", "Not a directory");
  if (::geteuid() == 0) return;  // who may do anything
  const fs::path locked = dir.path() / "locked";
  fs::create_directory(locked);
  fs::permissions(locked, fs::perms::owner_read | fs::perms::owner_exec);
  refused(locked, "Permission denied");
}

TEST_CASE("only the folder's own files are touched", "[kv_store]") {
  const test::TempDir dir;
  const std::vector<fs::path> others = {dir.path() / "notes.kv",
                                        dir.path() / "photos" / "aa" / "1.kv"};
  for (const fs::path& path : others) {
    fs::create_directories(path.parent_path());
    test::write_file(path, std::string(3000, 'x'));
  }
  const auto folder = open_folder(dir.path(), kFileBytes);
  for (uint64_t content = 1; content < 4; ++content) write(*folder, content);
  CHECK(folder->forget_all());
  folder->remove_forgotten();
  for (const fs::path& path : others) CHECK(fs::exists(path));
}

TEST_CASE("a page larger than the folder may be is refused by both sizes", "[kv_store]") {
  const test::TempDir dir;
  const auto folder = open_folder(dir.path(), kFileBytes - 1);
  CHECK(folder->write(hash_of(1), page_of(1), folder->secret()) ==
        "a page has 1040 bytes, the folder may have 1039");
}

}  // namespace
}  // namespace tandem
