// A folder whose disk takes its time: unlink() waits while a test says so.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <vector>

#include "runtime/kv_store/page_folder.h"
#include "tests/runtime/model/temp_dir.h"

namespace {

struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_closed = false;
  bool has_guest = false;

  void set_closed(bool closed) {
    const std::lock_guard lock(mutex);
    is_closed = closed;
    changed.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex);
    has_guest = is_closed;
    changed.notify_all();
    changed.wait(lock, [this] { return !is_closed; });
  }
  void wait_for_guest() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return has_guest; });
  }
};

Gate& unlinks() {
  static Gate gate;
  return gate;
}

}  // namespace

// In place of the system's, for the whole test binary.
extern "C" int unlink(const char* path) noexcept {
  unlinks().pass();
  return ::unlinkat(AT_FDCWD, path, 0);
}

namespace tandem {
namespace {

constexpr size_t kPageBytes = 100;

PageHash hash_of(uint64_t content) { return {.low = content, .high = 5}; }

// The engine asks on its own thread, for all sequences.
TEST_CASE("nobody who asks for a page waits while another is deleted", "[kv_store]") {
  const test::TempDir dir;
  const auto folder =
      PageFolder::open({.dir = dir.path(), .max_size_bytes = kPageBytes + kPageFileHeaderBytes});
  folder->select_model("model");
  const std::vector<std::byte> page(kPageBytes);
  const auto write = [&](uint64_t content) {
    return folder->write(hash_of(content), page, folder->secret());
  };
  REQUIRE(write(1).empty());
  unlinks().set_closed(true);
  auto second = std::async(std::launch::async, [&] { return write(2); });
  unlinks().wait_for_guest();
  auto question = std::async(std::launch::async, [&] { return folder->contains(hash_of(1)); });
  CHECK(question.wait_for(std::chrono::seconds(30)) == std::future_status::ready);
  unlinks().set_closed(false);
  CHECK_FALSE(question.get());
  CHECK(second.get().empty());
  CHECK(folder->contains(hash_of(2)));
}

}  // namespace
}  // namespace tandem
