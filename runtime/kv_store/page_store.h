// Copies of KV pages beside the model's memory: in host memory, and in a folder on disk behind it.
//
//   known to the prefix cache ──keep_new──► host page ──write──► folder     every full page, once
//            │ evicted, asleep                  ▲  │                │
//            └────────────keep_leaving──────────┘  │◄──────read─────┘      when it is asked for
//                                                  └──restore──► a page of the model
//
// Host memory is what the model planned for it, at least room for pages on their way to and from
// the folder. The engine thread's alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/kv/prefix_cache.h"
#include "runtime/kv_store/host_pages.h"
#include "runtime/kv_store/page_folder.h"
#include "runtime/kv_store/page_io.h"
#include "runtime/kv_store/page_source.h"
#include "runtime/model/forward_model.h"

namespace tandem {

struct PageStoreStats {
  int64_t host_pages_used = 0, host_pages_total = 0;
  PageFolderUse disk;
  int64_t pages_read = 0, pages_written = 0;  // of the folder
  int64_t failures = 0;                       // of these; damaged pages too
};

class PageStore final : public PageSource {
 public:
  // Of host memory with a folder, at least: they are on their way from it and to it.
  static constexpr int32_t kMinPagesWithFolder = 256;

  struct Options {
    std::shared_ptr<PageFolder> folder = nullptr;  // null: none
    // A disk that has done nothing for so long is done without until it does, and so is a page that
    // it has been at for so long.
    std::chrono::milliseconds patience{10'000};
    // Called by other threads when a page has come or gone.
    std::function<void()> on_progress = [] {};
  };
  // Null where there is nothing to keep pages in, the model's cannot be copied, or the system has
  // no host memory for them. Throws, with a folder, ConfigError and LoadError.
  static std::unique_ptr<PageStore> make(ForwardModel& model, Options options);
  ~PageStore() override;  // when all is written that was on its way to the folder
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  // What hashes are to be keyed with, so that pages of an earlier process are found; nothing: no
  // matter.
  [[nodiscard]] std::optional<uint64_t> secret() const;

  // Before every plan, and now and then without one: takes in what has been read and written
  // meanwhile.
  void begin_plan();
  PagePresence look_up(PageHash hash) override;
  [[nodiscard]] int32_t read_ahead_pages() const override;

  // Behind a plan and before its step: pages of the model that are about to hold something else;
  // then those that get what look_up() found in this plan.
  void keep_leaving(std::span<const KnownPage> pages);
  void restore(std::span<const KnownPage> pages);
  // Behind a step: pages that have become full.
  void keep_new(std::span<const KnownPage> pages);

  // Pages of a sequence, in order, that begins or ends: in the folder they go later than others.
  void mark_used(std::span<const PageHash> hashes);
  void forget_all();
  [[nodiscard]] PageStoreStats stats() const;

 private:
  PageStore(ForwardModel& model, Options options);
  void keep(std::span<const KnownPage> pages, bool is_leaving);
  void write(HostPage& page);
  void lend(HostPage& page);  // to the threads that read and write, until begin_plan()
  void note_read(const PageIo::Done& done);
  void note_write(const PageIo::Done& done);
  [[nodiscard]] bool takes_writes() const;
  [[nodiscard]] bool is_stuck() const;

  ForwardModel& model_;
  const bool keeps_leaving_;  // in host memory; else they come from the folder again
  HostPages host_;
  const std::shared_ptr<PageFolder> folder_;  // null: none
  const std::chrono::milliseconds patience_;
  uint64_t plan_idx_ = 1;
  int64_t num_busy_ = 0;  // pages being read and written
  std::chrono::steady_clock::time_point last_progress_, last_write_failure_, last_damage_told_;
  PageStoreStats counters_;
  std::vector<KvPageBytes> copies_;  // of one call
  std::vector<HostPage*> kept_;
  std::optional<PageIo> io_;  // last: its threads use the above
};

}  // namespace tandem
