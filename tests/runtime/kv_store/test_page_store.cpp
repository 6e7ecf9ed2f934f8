// What is kept of a model's pages, and comes back.
#include "runtime/kv_store/page_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/memory/file_descriptor.h"
#include "tests/runtime/kv_store/page_files.h"
#include "tests/runtime/model/temp_dir.h"
#include "tests/support/captured_log.h"

namespace tandem::tests {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPageBytes = 48;

PageHash hash_of(int32_t content) {
  return {.low = static_cast<uint64_t>(content), .high = 0x123456789abcdefu};
}

// Pages that say what they hold; it cannot compute.
class PlainPages final : public ForwardModel {
 public:
  PlainPages(int32_t num_pages, int64_t host_pages)
      : pages_(num_pages, std::vector<std::byte>(kPageBytes)), host_pages_(host_pages) {}

  void fill(int32_t page_id, int32_t content) {
    std::fill(pages_.at(page_id).begin(), pages_.at(page_id).end(),
              static_cast<std::byte>(content));
  }
  [[nodiscard]] bool holds(int32_t page_id, int32_t content) const {
    return std::all_of(pages_.at(page_id).begin(), pages_.at(page_id).end(),
                       [&](std::byte byte) { return byte == static_cast<std::byte>(content); });
  }

  void forward(const Batch&, MatrixView<float>) override { FAIL("no step is asked for"); }
  [[nodiscard]] int64_t kv_page_size_bytes() const override { return kPageBytes; }
  void read_kv_pages(std::span<const KvPageBytes> pages) override {
    for (const KvPageBytes& page : pages)
      std::copy(pages_.at(page.page_id).begin(), pages_.at(page.page_id).end(), page.bytes.begin());
    num_read += static_cast<int64_t>(pages.size());
  }
  void write_kv_pages(std::span<const KvPageBytes> pages) override {
    for (const KvPageBytes& page : pages)
      pages_.at(page.page_id).assign(page.bytes.begin(), page.bytes.end());
  }
  [[nodiscard]] std::string kv_identity() const override { return "plain"; }
  [[nodiscard]] int64_t kv_host_size_bytes() const override { return host_pages_ * kPageBytes; }
  [[nodiscard]] int32_t vocab_size() const override { return 10; }
  [[nodiscard]] int32_t num_kv_pages() const override {
    return static_cast<int32_t>(pages_.size());
  }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 1; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 1; }
  [[nodiscard]] int32_t max_context_tokens() const override { return 64; }

  int64_t num_read = 0;

 private:
  std::vector<std::vector<std::byte>> pages_;
  int64_t host_pages_;
};

// More than any address has room for.
class EndlessPages final : public ForwardModel {
 public:
  void forward(const Batch&, MatrixView<float>) override { FAIL("no step is asked for"); }
  [[nodiscard]] int64_t kv_page_size_bytes() const override { return int64_t{1} << 44; }
  [[nodiscard]] int64_t kv_host_size_bytes() const override { return int64_t{1} << 48; }
  [[nodiscard]] int32_t vocab_size() const override { return 10; }
  [[nodiscard]] int32_t num_kv_pages() const override { return 1; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 1; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 1; }
  [[nodiscard]] int32_t max_context_tokens() const override { return 64; }
};

// A store, and what a test waits for it with.
struct Fixture {
  Fixture(int64_t host_pages,
          const fs::path& dir,
          int64_t max_disk_pages = 1000,
          std::chrono::milliseconds patience = std::chrono::seconds(60))
      : model(8, host_pages) {
    std::shared_ptr<PageFolder> folder;
    if (!dir.empty()) {
      folder = PageFolder::open(
          {.dir = dir, .max_size_bytes = max_disk_pages * (kPageBytes + kPageFileHeaderBytes)});
    }
    store = PageStore::make(
        model, {.folder = std::move(folder), .patience = patience, .on_progress = [this] {
                  const std::lock_guard lock(mutex);
                  ++num_news;
                  has_news.notify_one();
                }});
  }

  // Contents first..first+n-1 stand in the model's pages 0..n-1, and are known.
  std::vector<KnownPage> fill(int32_t first, int32_t num_pages) {
    std::vector<KnownPage> known;
    for (int32_t page_id = 0; page_id < num_pages; ++page_id) {
      model.fill(page_id, first + page_id);
      known.push_back({hash_of(first + page_id), page_id});
    }
    return known;
  }
  // Until threads have done so many reads and writes since the last time.
  void wait(int64_t num_wanted) {
    std::unique_lock lock(mutex);
    REQUIRE(
        has_news.wait_for(lock, std::chrono::seconds(60), [&] { return num_news >= num_wanted; }));
    num_news -= num_wanted;
    lock.unlock();
    store->begin_plan();
  }
  // Whether `content` can be had, and is right.
  bool comes_back(int32_t content) {
    store->begin_plan();
    PagePresence presence = store->look_up(hash_of(content));
    if (presence == PagePresence::kComing) {
      wait(1);
      presence = store->look_up(hash_of(content));
    }
    if (presence != PagePresence::kThere) return false;
    model.fill(7, 99);
    store->restore(std::vector<KnownPage>{{hash_of(content), 7}});
    CHECK(model.holds(7, content));
    return true;
  }

  PlainPages model;
  std::mutex mutex;
  std::condition_variable has_news;
  int64_t num_news = 0;
  std::unique_ptr<PageStore> store;
};

fs::path only_page_file(const fs::path& dir) {
  const std::vector<fs::path> paths = test::page_files(dir);
  REQUIRE(paths.size() == 1);
  return paths[0];
}

TEST_CASE("there is a store where pages can be copied and there is a place for them",
          "[kv_store]") {
  const test::TempDir dir;
  CHECK(Fixture(0, "").store == nullptr);
  CHECK(Fixture(1, "").store != nullptr);
  CHECK(Fixture(0, dir.path()).store != nullptr);
  CHECK_FALSE(Fixture(1, "").store->secret());
  CHECK(Fixture(0, dir.path()).store->secret());
}

TEST_CASE("without host memory for them pages are not kept, and the log says so", "[kv_store]") {
  const CapturedLog log;
  EndlessPages model;
  CHECK(PageStore::make(model, {}) == nullptr);
  CHECK(log.has("not kept in host memory: no memory for 262144.000 GiB"));
}

TEST_CASE("pages that leave the model are kept in host memory, the last ones where room is short",
          "[kv_store]") {
  Fixture fixture(3, "");
  fixture.store->keep_leaving(fixture.fill(10, 5));
  CHECK(fixture.model.num_read == 3);  // for the others there is no room
  CHECK(fixture.store->stats().host_pages_used == 3);
  CHECK(fixture.store->stats().host_pages_total == 3);
  for (const int32_t content : {10, 11}) CHECK_FALSE(fixture.comes_back(content));
  for (const int32_t content : {12, 13, 14}) CHECK(fixture.comes_back(content));
  // What came back is in the model, too, and gives way first: the first of them.
  for (int plan = 0; plan < 2; ++plan) fixture.store->begin_plan();
  fixture.store->keep_new(fixture.fill(20, 3));  // stay where they are
  CHECK(fixture.store->stats().host_pages_used == 3);
  fixture.store->keep_leaving(fixture.fill(20, 1));
  for (int plan = 0; plan < 2; ++plan) fixture.store->begin_plan();
  CHECK(fixture.comes_back(20));
  CHECK(fixture.comes_back(12));
  CHECK_FALSE(fixture.comes_back(14));
}

TEST_CASE("a page that leaves again is not copied again", "[kv_store]") {
  Fixture fixture(3, "");
  fixture.store->keep_leaving(fixture.fill(10, 2));
  CHECK(fixture.comes_back(10));
  fixture.store->keep_leaving(fixture.fill(10, 2));
  CHECK(fixture.model.num_read == 2);
}

// In host memory, but not in the folder any more: it is written again, from where it is.
TEST_CASE("a page that is about to be written gives way to none of those beside it", "[kv_store]") {
  const test::TempDir dir;
  Fixture fixture(256, dir.path(), 1);
  for (int32_t first = 1000; first < 1256; first += 8) {
    fixture.store->keep_leaving(fixture.fill(first, 8));
    fixture.wait(8);
  }
  REQUIRE(fixture.store->stats().host_pages_used == 256);
  for (int plan = 0; plan < 2; ++plan) fixture.store->begin_plan();
  CHECK(fixture.comes_back(1000));  // and is the first to give way
  fixture.model.fill(7, 1000);
  std::vector<KnownPage> learned = fixture.fill(2000, 6);
  learned.insert(learned.begin(), {hash_of(1000), 7});
  fixture.store->keep_new(learned);
  fixture.wait(7);
  CHECK(fixture.comes_back(1000));
  CHECK(fixture.comes_back(2000));
  CHECK(fixture.store->stats().pages_written == 256 + 7);
}

TEST_CASE("what was found in a plan stays for its step", "[kv_store]") {
  Fixture fixture(2, "");
  fixture.store->keep_leaving(fixture.fill(10, 2));
  for (int plan = 0; plan < 2; ++plan) fixture.store->begin_plan();
  CHECK(fixture.store->look_up(hash_of(10)) == PagePresence::kThere);
  CHECK(fixture.store->look_up(hash_of(11)) == PagePresence::kThere);
  fixture.store->keep_leaving(fixture.fill(20, 2));  // find no room
  fixture.store->restore(std::vector<KnownPage>{{hash_of(10), 0}, {hash_of(11), 1}});
  CHECK(fixture.model.holds(0, 10));
  CHECK(fixture.model.holds(1, 11));
}

TEST_CASE("new pages are written to the folder and come back in another process", "[kv_store]") {
  const test::TempDir dir;
  const int64_t host_pages = GENERATE(0, 1, 4);
  std::optional<uint64_t> secret;
  {
    Fixture fixture(host_pages, dir.path());
    secret = fixture.store->secret();
    fixture.store->keep_new(fixture.fill(10, 6));
    fixture.store->keep_new(fixture.fill(10, 6));  // once is enough
    fixture.wait(6);
    CHECK(fixture.store->stats().pages_written == 6);
    CHECK(fixture.store->stats().disk.num_pages == 6);
    CHECK(fixture.model.num_read == 6);
    fixture.store->keep_new(fixture.fill(30, 2));  // are written when the store goes
  }
  Fixture fixture(host_pages, dir.path());
  CHECK(fixture.store->secret() == secret);
  CHECK(fixture.store->stats().disk.num_pages == 8);
  for (const int32_t content : {10, 11, 12, 13, 14, 15, 30, 31}) CHECK(fixture.comes_back(content));
  CHECK_FALSE(fixture.comes_back(16));
  CHECK(fixture.store->stats().pages_read == 8);
  CHECK(fixture.store->stats().failures == 0);
}

TEST_CASE("what is asked for ahead comes meanwhile", "[kv_store]") {
  const test::TempDir dir;
  {
    Fixture fixture(0, dir.path());
    fixture.store->keep_new(fixture.fill(10, 6));
  }
  Fixture fixture(0, dir.path());
  CHECK(fixture.store->read_ahead_pages() >= 5);
  fixture.store->begin_plan();
  for (int32_t content = 10; content < 16; ++content)
    CHECK(fixture.store->look_up(hash_of(content)) == PagePresence::kComing);
  fixture.wait(6);
  for (int32_t content = 10; content < 16; ++content)
    CHECK(fixture.store->look_up(hash_of(content)) == PagePresence::kThere);
}

// A FIFO in a page's place stands for a file that the disk does not get on with: who reads it waits
// for somebody to write.
TEST_CASE("a page that does not come is done without, though others come", "[kv_store]") {
  const test::TempDir dir;
  {
    Fixture fixture(0, dir.path());
    fixture.store->keep_new(fixture.fill(10, 1));
  }
  Fixture fixture(0, dir.path(), 10, std::chrono::milliseconds(20));
  const fs::path fifo = only_page_file(dir.path());
  fs::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), S_IRUSR | S_IWUSR) == 0);
  const FileDescriptor writer(::open(fifo.c_str(), O_RDWR));
  fixture.store->begin_plan();
  PagePresence presence = fixture.store->look_up(hash_of(10));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (int32_t content = 100; presence == PagePresence::kComing; ++content) {
    if (std::chrono::steady_clock::now() > deadline) break;
    fixture.store->keep_new(fixture.fill(content, 1));
    fixture.wait(1);
    presence = fixture.store->look_up(hash_of(10));
  }
  CHECK(presence == PagePresence::kAbsent);
  // Lets go of the thread, with what is no page.
  const std::string rubbish(4096, 'x');
  CHECK(::write(writer.get(), rubbish.data(), rubbish.size()) == 4096);
  fixture.wait(1);
}

TEST_CASE("a damaged page is computed again, told of and counted", "[kv_store]") {
  const test::TempDir dir;
  {
    Fixture fixture(0, dir.path());
    fixture.store->keep_new(fixture.fill(10, 1));
  }
  fs::resize_file(only_page_file(dir.path()), 50);
  const CapturedLog log;
  Fixture fixture(0, dir.path());
  CHECK_FALSE(fixture.comes_back(10));
  CHECK(fixture.store->stats().failures == 1);
  CHECK(fixture.store->stats().disk.num_pages == 0);
  CHECK(fixture.store->stats().host_pages_used == 0);
  CHECK(log.has("a KV page is damaged"));
  fixture.store->keep_new(fixture.fill(10, 1));
  fixture.wait(1);
  CHECK(fixture.comes_back(10));
}

TEST_CASE("a page that somebody has deleted is computed again, which is no failure", "[kv_store]") {
  const test::TempDir dir;
  {
    Fixture fixture(0, dir.path());
    fixture.store->keep_new(fixture.fill(10, 1));
  }
  Fixture fixture(0, dir.path());
  fs::remove(only_page_file(dir.path()));
  CHECK_FALSE(fixture.comes_back(10));
  CHECK(fixture.store->stats().failures == 0);
}

TEST_CASE("a disk that takes no page is told of once and left alone for a while", "[kv_store]") {
  const test::TempDir dir;
  const CapturedLog log;
  Fixture fixture(0, dir.path(), 0);
  fixture.store->keep_new(fixture.fill(10, 3));
  fixture.wait(3);
  CHECK(fixture.store->stats().failures == 3);
  fixture.store->keep_new(fixture.fill(20, 3));
  CHECK(fixture.model.num_read == 3);
  const std::string text = log.text();
  const size_t first = text.find("cannot write a KV page");
  REQUIRE(first != std::string::npos);
  CHECK(text.find("cannot write a KV page", first + 1) == std::string::npos);
}

TEST_CASE("what was forgotten is nowhere", "[kv_store]") {
  const test::TempDir dir;
  {
    Fixture fixture(4, dir.path());
    const std::optional<uint64_t> secret = fixture.store->secret();
    fixture.store->keep_new(fixture.fill(10, 4));  // some are still on their way
    fixture.store->forget_all();
    CHECK(fixture.store->secret() != secret);
    for (int32_t content = 10; content < 14; ++content) CHECK_FALSE(fixture.comes_back(content));
    fixture.wait(4);
    CHECK(fixture.store->stats().host_pages_used == 0);
    CHECK(fixture.store->stats().disk.num_pages == 0);
    fixture.store->keep_new(fixture.fill(20, 1));
    fixture.wait(1);
    CHECK(fixture.comes_back(20));
  }
  CHECK(test::page_files(dir.path()).size() == 1);
}

}  // namespace
}  // namespace tandem::tests
