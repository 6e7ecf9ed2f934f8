#include "runtime/kv_store/page_io.h"

#include <algorithm>
#include <utility>

namespace tandem {

PageIo::PageIo(std::shared_ptr<PageFolder> folder, std::function<void()> on_done)
    : folder_(std::move(folder)), on_done_(std::move(on_done)) {
  for (Work& work : work_) threads_.emplace_back([this, &work] { run(work); });
}

PageIo::~PageIo() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    reads_.clear();
  }
  has_jobs_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void PageIo::read(HostPage& page) { add(reads_, {.page = &page}); }
void PageIo::write(HostPage& page) { add(writes_, {.page = &page, .secret = folder_->secret()}); }
void PageIo::remove_forgotten() { add(writes_, {.removes_forgotten = true}); }
// Behind what is being written, so that it is there to be marked.
void PageIo::mark_used(std::span<const PageHash> hashes) {
  add(writes_, {.used = {hashes.begin(), hashes.end()}});
}

void PageIo::add(std::deque<Job>& queue, Job job) {
  {
    const std::lock_guard lock(mutex_);
    queue.push_back(std::move(job));
  }
  has_jobs_.notify_one();
}

std::vector<PageIo::Done> PageIo::take_done() {
  const std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

int64_t PageIo::num_queued_writes() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(writes_.size());
}

bool PageIo::is_stuck_at(const HostPage& page, std::chrono::milliseconds patience) const {
  const Clock::time_point latest_begin = Clock::now() - patience;
  const std::lock_guard lock(mutex_);
  return std::any_of(work_.begin(), work_.end(), [&](const Work& work) {
    return work.page == &page && work.begin < latest_begin;
  });
}

void PageIo::run(Work& work) {
  std::unique_lock lock(mutex_);
  while (true) {
    has_jobs_.wait(lock, [this] { return stopping_ || !reads_.empty() || !writes_.empty(); });
    const bool is_write = reads_.empty();
    std::deque<Job>& queue = is_write ? writes_ : reads_;
    if (queue.empty()) return;
    const Job job = std::move(queue.front());
    queue.pop_front();
    work = {.page = job.page, .begin = Clock::now()};
    lock.unlock();
    Done done = do_job(job, is_write);
    lock.lock();
    work = {};
    if (done.page == nullptr) continue;
    done_.push_back(std::move(done));
    lock.unlock();
    on_done_();
    lock.lock();
  }
}

PageIo::Done PageIo::do_job(const Job& job, bool is_write) {
  Done done{.page = job.page, .is_write = is_write, .failure = ""};
  if (job.page == nullptr) {
    folder_->mark_used(job.used);
    if (job.removes_forgotten) folder_->remove_forgotten();
  } else if (is_write) {
    done.failure = folder_->write(job.page->hash, job.page->bytes, job.secret);
  } else {
    done.read = folder_->read(job.page->hash, job.page->bytes);
  }
  return done;
}

}  // namespace tandem
