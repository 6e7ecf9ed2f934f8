#include "runtime/kv_store/page_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/base/random_seed.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kForgotten = ".forgotten.";

[[noreturn]] void refuse(const fs::path& path, std::string_view why) {
  throw ConfigError(fmt::format("{}: cannot keep KV pages: {}", path.string(), why));
}

std::optional<uint64_t> parse_hex(std::string_view digits) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value, 16);
  if (digits.size() != 16 || error != std::errc() || end != digits.end()) return std::nullopt;
  return value;
}

// "0123456789abcdef0123456789abcdef.kv", or nothing.
std::optional<PageHash> parse_page_name(std::string_view name) {
  if (name.size() != 35 || !name.ends_with(".kv")) return std::nullopt;
  const std::optional<uint64_t> high = parse_hex(name.substr(0, 16));
  const std::optional<uint64_t> low = parse_hex(name.substr(16, 16));
  if (!high || !low) return std::nullopt;
  return PageHash{.low = *low, .high = *high};
}

bool is_forgotten(const std::string& name) {
  return name.find(kForgotten) == 16 && parse_hex(std::string_view(name).substr(0, 16));
}

std::vector<fs::path> list_folder(const fs::path& dir) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(dir, error), end; !error && entry != end;
       entry.increment(error)) {
    paths.push_back(entry->path());
  }
  return paths;
}

}  // namespace

std::shared_ptr<PageFolder> PageFolder::open(const Options& options) {
  std::error_code error;
  // The process may go elsewhere.
  fs::path dir = fs::absolute(options.dir, error);
  if (error) refuse(options.dir, error.message());
  if (!dir.has_filename()) dir = dir.parent_path();  // "pages/" is no other folder than "pages"
  fs::create_directories(dir.parent_path(), error);
  if (!error && ::mkdir(dir.c_str(), S_IRWXU) != 0 && errno != EEXIST)
    error = std::error_code(errno, std::generic_category());
  if (error) refuse(dir, error.message());
  const fs::path lock_path = dir / "lock";
  FileDescriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!lock.is_open()) refuse(dir, std::strerror(errno));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    refuse(dir, errno == EWOULDBLOCK ? "another process uses it" : std::strerror(errno));
  const Options absolute{.dir = dir, .max_size_bytes = options.max_size_bytes};
  return std::shared_ptr<PageFolder>(new PageFolder(absolute, std::move(lock)));
}

PageFolder::PageFolder(const Options& options, FileDescriptor lock)
    : options_(options), lock_(std::move(lock)) {}

void PageFolder::select_model(const std::string& identity) {
  TANDEM_CHECK(model_dir_.empty(), "a folder is opened for one model");
  identity_ = identity;
  const uint64_t model = page_checksum(std::as_bytes(std::span(identity)));
  model_dir_ = options_.dir / fmt::format("{:016x}", model);
  if (!read_key()) {
    // Pages of a key that is lost would count and never be found.
    set_aside();
    if (!write_key()) refuse(model_dir_, "its key cannot be written");
  }
  find_pages();
}

// A key of another text, of the same 16 digits by chance, opens nothing here.
bool PageFolder::read_key() {
  std::ifstream stream(model_dir_ / "key");
  std::string secret;
  std::getline(stream, secret);
  const std::string rest{std::istreambuf_iterator<char>(stream), {}};
  const std::optional<uint64_t> known = parse_hex(secret);
  if (!known || rest != identity_) return false;
  secret_ = *known;
  return true;
}

bool PageFolder::write_key() const {
  const fs::path path = model_dir_ / "key";
  const fs::path unfinished = path.string() + ".tmp";
  std::error_code error;
  std::ofstream stream(unfinished, std::ios::trunc);
  fs::permissions(unfinished, fs::perms::owner_read | fs::perms::owner_write, error);
  stream << fmt::format("{:016x}\n", secret_) << identity_;
  stream.close();
  if (!stream) return false;
  fs::rename(unfinished, path, error);
  return !error;
}

// All that the limit counts, in the order of last use.
void PageFolder::find_pages() {
  struct Found {
    Page page;
    timespec used;
  };
  std::vector<Found> found;
  for (const fs::path& model_dir : list_folder(options_.dir)) {
    if (!parse_hex(model_dir.filename().string())) continue;
    for (const fs::path& pages_dir : list_folder(model_dir)) {
      for (const fs::path& path : list_folder(pages_dir)) {
        const std::string name = path.filename().string();
        const std::optional<PageHash> hash = parse_page_name(name);
        if (path.extension() == ".tmp" && parse_page_name(path.stem().string()))
          ::unlink(path.c_str());  // a process was ended while it wrote
        struct stat status = {};
        if (!hash || ::stat(path.c_str(), &status) != 0) continue;
        found.push_back({.page = {.path = path,
                                  .size_bytes = int64_t{status.st_size},
                                  .hash = *hash,
                                  .is_own = model_dir == model_dir_},
                         .used = status.st_mtim});
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const Found& left, const Found& right) {
    return std::pair(left.used.tv_sec, left.used.tv_nsec) <
           std::pair(right.used.tv_sec, right.used.tv_nsec);
  });
  Pages removed;
  {
    const std::lock_guard lock(mutex_);
    for (Found& one : found) add(std::move(one.page));
    make_room(0, removed);  // the limit may be lower than it was
  }
  delete_files(removed);
}

fs::path PageFolder::path_of(PageHash hash) const {
  const std::string name = fmt::format("{:016x}{:016x}", hash.high, hash.low);
  return model_dir_ / name.substr(0, 2) / (name + ".kv");
}

uint64_t PageFolder::secret() const {
  const std::lock_guard lock(mutex_);
  return secret_;
}

bool PageFolder::contains(PageHash hash) const {
  const std::lock_guard lock(mutex_);
  return is_found(hash);
}

PageRead PageFolder::read(PageHash hash, std::span<std::byte> bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = page_of_.find(hash);
    if (found == page_of_.end()) return PageRead::kMissing;
    pages_.splice(pages_.end(), pages_, found->second);
  }
  const PageRead outcome = read_page_file(path_of(hash), hash, bytes);
  if (outcome == PageRead::kDone) return outcome;
  Pages removed;
  {
    const std::lock_guard lock(mutex_);
    const auto found = page_of_.find(hash);
    if (found == page_of_.end()) return outcome;
    if (outcome == PageRead::kRefused) {
      found->second->is_refused = true;
    } else {
      remove(found->second, removed);
    }
  }
  delete_files(removed);
  return outcome;
}

std::string PageFolder::write(PageHash hash, std::span<const std::byte> bytes, uint64_t secret) {
  const int64_t size_bytes = static_cast<int64_t>(bytes.size()) + kPageFileHeaderBytes;
  if (size_bytes > options_.max_size_bytes) {
    return fmt::format("a page has {} bytes, the folder may have {}", size_bytes,
                       options_.max_size_bytes);
  }
  Pages removed;
  {
    const std::lock_guard lock(mutex_);
    if (secret != secret_ || is_found(hash)) return "";
    make_room(size_bytes, removed);
    writing_bytes_ += size_bytes;
  }
  delete_files(removed);
  const fs::path path = path_of(hash);
  make_dir_of(path);
  std::string failure = write_page_file(path, hash, bytes);
  removed.clear();
  {
    const std::lock_guard lock(mutex_);
    writing_bytes_ -= size_bytes;
    Page page{.path = path, .size_bytes = size_bytes, .hash = hash, .is_own = true};
    if (secret != secret_) {  // it may have been written behind what was forgotten
      failure.clear();
      removed.push_back(std::move(page));
    } else if (failure.empty()) {
      add(std::move(page));
      make_room(0, removed);  // others may have found none to remove
    }
  }
  delete_files(removed);
  return failure;
}

// The system's own times of files may stand still for milliseconds, hence times of our own.
void PageFolder::mark_used(std::span<const PageHash> hashes) {
  timespec used = {};
  ::clock_gettime(CLOCK_REALTIME, &used);
  for (size_t idx = hashes.size(); idx-- > 0;) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = page_of_.find(hashes[idx]);
      if (found == page_of_.end()) continue;
      pages_.splice(pages_.end(), pages_, found->second);
    }
    if (++used.tv_nsec == 1'000'000'000) used = {.tv_sec = used.tv_sec + 1, .tv_nsec = 0};
    const std::array<timespec, 2> times = {used, used};
    static_cast<void>(::utimensat(AT_FDCWD, path_of(hashes[idx]).c_str(), times.data(), 0));
  }
}

// What cannot be made shows when the file is opened.
void PageFolder::make_dir_of(const fs::path& page_path) {
  const fs::path dir = page_path.parent_path();
  if (::mkdir(dir.c_str(), S_IRWXU) == 0 || errno != ENOENT) return;
  // Somebody has deleted the folder: it begins anew, with the key, or the next process could do
  // nothing with its pages.
  const std::lock_guard lock(mutex_);
  ::mkdir(options_.dir.c_str(), S_IRWXU);
  if (::mkdir(model_dir_.c_str(), S_IRWXU) == 0) static_cast<void>(write_key());
  ::mkdir(dir.c_str(), S_IRWXU);
}

std::error_code PageFolder::set_aside() {
  secret_ = random_seed();
  const fs::path forgotten = fmt::format("{}{}{:016x}", model_dir_.string(), kForgotten, secret_);
  std::error_code error;
  fs::rename(model_dir_, forgotten, error);
  ::mkdir(model_dir_.c_str(), S_IRWXU);
  return error == std::errc::no_such_file_or_directory ? std::error_code() : error;
}

// Without its key a page is of no use, so where one cannot be moved the other goes.
bool PageFolder::forget_all() {
  const std::lock_guard lock(mutex_);
  for (const auto& [hash, page] : page_of_) {
    size_bytes_ -= page->size_bytes;
    pages_.erase(page);
  }
  page_of_.clear();
  const std::error_code error = set_aside();
  std::error_code ignored;
  const bool has_new_key = write_key();
  return !error || has_new_key || fs::remove(model_dir_ / "key", ignored);
}

void PageFolder::remove_forgotten() {
  for (const fs::path& path : list_folder(options_.dir)) {
    std::error_code ignored;  // what cannot be removed now may be at the next start
    if (is_forgotten(path.filename().string())) fs::remove_all(path, ignored);
  }
}

PageFolderUse PageFolder::use() const {
  const std::lock_guard lock(mutex_);
  return {.num_pages = static_cast<int64_t>(page_of_.size()),
          .size_bytes = size_bytes_,
          .max_size_bytes = options_.max_size_bytes};
}

bool PageFolder::is_found(PageHash hash) const {
  const auto found = page_of_.find(hash);
  return found != page_of_.end() && !found->second->is_refused;
}

void PageFolder::add(Page page) {
  const auto found = page.is_own ? page_of_.find(page.hash) : page_of_.end();
  if (found != page_of_.end()) {
    found->second->is_refused = false;
    return;
  }
  size_bytes_ += page.size_bytes;
  const auto place = pages_.insert(pages_.end(), std::move(page));
  if (place->is_own) page_of_[place->hash] = place;
}

void PageFolder::remove(Pages::iterator page, Pages& removed) {
  size_bytes_ -= page->size_bytes;
  if (page->is_own) page_of_.erase(page->hash);
  removed.splice(removed.end(), pages_, page);
}

void PageFolder::make_room(int64_t size_bytes, Pages& removed) {
  while (!pages_.empty() && size_bytes_ + writing_bytes_ + size_bytes > options_.max_size_bytes) {
    remove(pages_.begin(), removed);
  }
}

void PageFolder::delete_files(const Pages& pages) {
  for (const Page& page : pages) ::unlink(page.path.c_str());
}

}  // namespace tandem
