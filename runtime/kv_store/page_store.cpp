#include "runtime/kv_store/page_store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kMaxReadAheadPages = 256;
// More than a disk writes in a step; what comes beyond is written when it leaves the model.
constexpr int64_t kMaxQueuedWrites = 128;
constexpr auto kPauseAfterFailure = std::chrono::minutes(1);

int32_t num_host_pages(const ForwardModel& model, bool has_folder) {
  const int64_t num_planned = model.kv_host_size_bytes() / model.kv_page_size_bytes();
  return static_cast<int32_t>(std::clamp<int64_t>(
      num_planned, has_folder ? PageStore::kMinPagesWithFolder : 1, int64_t{1} << 30));
}

}  // namespace

std::unique_ptr<PageStore> PageStore::make(ForwardModel& model, Options options) {
  const int64_t page_size_bytes = model.kv_page_size_bytes();
  const bool has_folder = options.folder != nullptr;
  const bool has_place = has_folder || model.kv_host_size_bytes() >= page_size_bytes;
  if (page_size_bytes == 0 || !has_place) return nullptr;
  if (has_folder) options.folder->select_model(model.kv_identity());
  try {
    return std::unique_ptr<PageStore>(new PageStore(model, std::move(options)));
  } catch (const LoadError& error) {
    if (has_folder) throw;
    // Where the system promises no more than it has, say: the model itself has found its place.
    spdlog::warn("KV pages that leave the KV cache are not kept in host memory: {}", error.what());
    return nullptr;
  }
}

PageStore::PageStore(ForwardModel& model, Options options)
    : model_(model),
      keeps_leaving_(model.kv_host_size_bytes() >= model.kv_page_size_bytes()),
      host_(model.kv_page_size_bytes(), num_host_pages(model, options.folder != nullptr)),
      folder_(std::move(options.folder)),
      patience_(options.patience),
      last_progress_(Clock::now()),
      last_write_failure_(Clock::now() - kPauseAfterFailure),
      last_damage_told_(Clock::now() - kPauseAfterFailure) {
  if (folder_ == nullptr) return;
  const PageFolderUse use = folder_->use();
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  spdlog::info("{}: {} KV pages of this model, {:.1f} of {:.1f} GiB used", folder_->dir().string(),
               use.num_pages, gib(use.size_bytes), gib(use.max_size_bytes));
  io_.emplace(folder_, std::move(options.on_progress));
  io_->remove_forgotten();  // an earlier process may not have come to it
}

PageStore::~PageStore() {
  const int64_t num_left = io_ ? io_->num_queued_writes() : 0;
  if (num_left >= kMaxQueuedWrites / 4)  // else it is over before it is read
    spdlog::info("{}: the last {} KV pages are being written", folder_->dir().string(), num_left);
}

std::optional<uint64_t> PageStore::secret() const {
  if (folder_ == nullptr) return std::nullopt;
  return folder_->secret();
}

int32_t PageStore::read_ahead_pages() const {
  return folder_ == nullptr ? 0 : std::min(kMaxReadAheadPages, host_.num_pages() / 2);
}

void PageStore::begin_plan() {
  ++plan_idx_;
  if (!io_) return;
  for (const PageIo::Done& done : io_->take_done()) {
    last_progress_ = Clock::now();
    --num_busy_;
    HostPage& page = *done.page;
    page.is_busy = false;
    if (done.is_write) {
      note_write(done);
    } else {
      note_read(done);
    }
    if (page.is_forgotten || !page.is_filled) host_.drop(page);
  }
}

// A page that was there and is missing was forgotten meanwhile, or deleted by somebody.
void PageStore::note_read(const PageIo::Done& done) {
  done.page->is_filled = done.read == PageRead::kDone;
  if (done.page->is_filled) ++counters_.pages_read;
  if (done.read != PageRead::kDamaged && done.read != PageRead::kRefused) return;
  ++counters_.failures;
  // Of a disk that fails not every page.
  if (Clock::now() - last_damage_told_ < kPauseAfterFailure) return;
  last_damage_told_ = Clock::now();
  spdlog::warn("{}: a KV page {}, it is computed again", folder_->dir().string(),
               done.read == PageRead::kDamaged ? "is damaged" : "cannot be read");
}

void PageStore::note_write(const PageIo::Done& done) {
  if (done.failure.empty()) {
    ++counters_.pages_written;
    return;
  }
  ++counters_.failures;
  if (takes_writes())
    spdlog::warn("{}: cannot write a KV page: {}; no other is tried for a minute",
                 folder_->dir().string(), done.failure);
  last_write_failure_ = Clock::now();
}

bool PageStore::takes_writes() const {
  return io_ && Clock::now() - last_write_failure_ >= kPauseAfterFailure;
}

bool PageStore::is_stuck() const {
  return num_busy_ > 0 && Clock::now() - last_progress_ > patience_;
}

PagePresence PageStore::look_up(PageHash hash) {
  HostPage* page = host_.find(hash);
  if (page == nullptr) {
    if (folder_ == nullptr || is_stuck() || !folder_->contains(hash)) return PagePresence::kAbsent;
    page = host_.take(hash, plan_idx_ - 1);
    if (page == nullptr) return PagePresence::kNoRoom;
    lend(*page);
    io_->read(*page);
  }
  if (page->is_forgotten) return PagePresence::kAbsent;
  page->wanted_at = plan_idx_;
  if (page->is_filled) return PagePresence::kThere;
  // Others may come while this one does not.
  const bool is_given_up = is_stuck() || io_->is_stuck_at(*page, patience_);
  return is_given_up ? PagePresence::kAbsent : PagePresence::kComing;
}

void PageStore::keep_leaving(std::span<const KnownPage> pages) {
  // Of more than there is room for, those that were used last.
  const size_t num_kept = std::min(pages.size(), static_cast<size_t>(host_.num_pages()));
  keep(pages.last(num_kept), true);
}

void PageStore::keep_new(std::span<const KnownPage> pages) {
  if (io_) keep(pages, false);
}

void PageStore::keep(std::span<const KnownPage> pages, bool is_leaving) {
  copies_.clear();
  kept_.clear();
  const bool takes_writes_now = takes_writes();
  for (const KnownPage& known : pages) {
    const bool is_written = takes_writes_now && !folder_->contains(known.hash);
    HostPage* page = host_.find(known.hash);
    if (page != nullptr && is_leaving) host_.mark_used(*page);
    if (page != nullptr && page->is_busy) continue;
    if (page == nullptr) {
      if (!is_written && !(is_leaving && keeps_leaving_)) continue;
      page = host_.take(known.hash, plan_idx_ - 1);
      if (page == nullptr) continue;  // all are wanted: it is computed again
      copies_.push_back({.page_id = known.page_id, .bytes = page->bytes});
    }
    page->wanted_at = plan_idx_;  // not to be taken for one of its neighbours
    if (is_written) kept_.push_back(page);
    if (!is_leaving) host_.mark_spare(*page);
    page->is_filled = true;
  }
  if (!copies_.empty()) model_.read_kv_pages(copies_);
  for (HostPage* page : kept_) write(*page);
}

void PageStore::write(HostPage& page) {
  if (io_->num_queued_writes() >= kMaxQueuedWrites) return;
  lend(page);
  io_->write(page);
}

void PageStore::lend(HostPage& page) {
  if (num_busy_++ == 0) last_progress_ = Clock::now();
  page.is_busy = true;
}

void PageStore::restore(std::span<const KnownPage> pages) {
  if (pages.empty()) return;
  copies_.clear();
  for (const KnownPage& known : pages) {
    HostPage* page = host_.find(known.hash);
    TANDEM_CHECK(page != nullptr && page->is_filled, "a page that was there is gone");
    copies_.push_back({.page_id = known.page_id, .bytes = page->bytes});
    page->wanted_at = 0;
    host_.mark_spare(*page);
  }
  model_.write_kv_pages(copies_);
}

void PageStore::mark_used(std::span<const PageHash> hashes) {
  if (io_ && !hashes.empty()) io_->mark_used(hashes);
}

void PageStore::forget_all() {
  host_.forget_all();
  if (folder_ == nullptr) return;
  if (!folder_->forget_all()) {
    spdlog::error("{}: KV pages cannot be removed, later processes may find them",
                  folder_->dir().string());
  }
  io_->remove_forgotten();
}

PageStoreStats PageStore::stats() const {
  PageStoreStats stats = counters_;
  stats.host_pages_used = host_.num_used();
  stats.host_pages_total = host_.num_pages();
  if (folder_ != nullptr) stats.disk = folder_->use();
  return stats;
}

}  // namespace tandem
