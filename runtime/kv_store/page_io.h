// Threads that read pages from a folder and write them to it, behind the engine's back.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kv_store/host_pages.h"
#include "runtime/kv_store/page_folder.h"

namespace tandem {

class PageIo {
 public:
  // `on_done` is called by these threads whenever take_done() has something new.
  PageIo(std::shared_ptr<PageFolder> folder, std::function<void()> on_done);
  // Writes what was given, reads nothing more.
  ~PageIo();
  PageIo(const PageIo&) = delete;
  PageIo& operator=(const PageIo&) = delete;

  // The pages' bytes are these threads' until take_done() names them. Reads go first.
  void read(HostPage& page);
  void write(HostPage& page);
  void mark_used(std::span<const PageHash> hashes);
  void remove_forgotten();

  struct Done {
    HostPage* page = nullptr;
    bool is_write = false;
    PageRead read = PageRead::kDone;
    std::string failure;  // of a write; "": it is there
  };
  std::vector<Done> take_done();
  [[nodiscard]] int64_t num_queued_writes() const;
  // Whether one of the threads has been at the page for longer than `patience`.
  [[nodiscard]] bool is_stuck_at(const HostPage& page, std::chrono::milliseconds patience) const;

 private:
  using Clock = std::chrono::steady_clock;
  // One alone waits for the disk between two pages and adds up checksums meanwhile.
  static constexpr size_t kNumThreads = 4;
  struct Job {
    HostPage* page = nullptr;         // null: one of the other two
    uint64_t secret = 0;              // that the page's hash is keyed with
    std::vector<PageHash> used = {};  // pages to mark
    bool removes_forgotten = false;
  };
  struct Work {
    const HostPage* page = nullptr;
    Clock::time_point begin;
  };
  void run(Work& work);
  [[nodiscard]] Done do_job(const Job& job, bool is_write);
  void add(std::deque<Job>& queue, Job job);

  const std::shared_ptr<PageFolder> folder_;
  const std::function<void()> on_done_;

  mutable std::mutex mutex_;
  std::condition_variable has_jobs_;
  std::deque<Job> reads_, writes_;
  std::vector<Done> done_;
  bool stopping_ = false;
  std::array<Work, kNumThreads> work_;  // of each thread; no page: none
  std::vector<std::thread> threads_;
};

}  // namespace tandem
