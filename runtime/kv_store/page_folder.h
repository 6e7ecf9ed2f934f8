// A folder on disk that keeps KV pages beyond the process.
//
//   lock                       held by the process that uses the folder
//   <model>/key                the secret that page hashes are keyed with, what the pages depend on
//   <model>/<2>/<32>.kv        a page (page_file.h) by the hex digits of its hash
//   <model>.forgotten.<n>      pages on their way out
//
// <model> are 16 hex digits of a hash of ForwardModel::kv_identity(). Whatever is deleted is
// computed again; other files are left alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <unordered_map>

#include "runtime/kv/page_hash.h"
#include "runtime/kv_store/page_file.h"
#include "runtime/memory/file_descriptor.h"

namespace tandem {

struct PageFolderUse {
  int64_t num_pages = 0;   // of the selected model
  int64_t size_bytes = 0;  // of all pages in the folder, other models' too
  int64_t max_size_bytes = 0;
};

class PageFolder {
 public:
  struct Options {
    std::filesystem::path dir;
    int64_t max_size_bytes = 0;  // of all pages in it; those unused for longest go first
  };
  // Makes the folder, readable by its owner alone, where it is not there yet, and holds it: no
  // other process can open it meanwhile. Throws ConfigError that names it and says why it cannot be
  // used.
  static std::shared_ptr<PageFolder> open(const Options& options);

  // Once, before all of the below: from here on the folder's pages are those of models of this
  // identity. Throws ConfigError.
  void select_model(const std::string& identity);
  // What the hashes of the pages are keyed with, until forget_all().
  [[nodiscard]] uint64_t secret() const;

  // From any thread.
  [[nodiscard]] bool contains(PageHash hash) const;
  // A page that cannot be read is not found again, and deleted but where the system refused to
  // read.
  PageRead read(PageHash hash, std::span<std::byte> bytes);
  // Makes room first. Returns why it failed; "" where it did not, and where the page's hash is
  // keyed with another secret than is right by now.
  std::string write(PageHash hash, std::span<const std::byte> bytes, uint64_t secret);
  // Pages of one sequence, in order, that was just at work: all count as used, the first last,
  // since without it those behind it are of no use. On disk too, so takes its time.
  void mark_used(std::span<const PageHash> hashes);
  // No page of the model is found any more, nor what is just being written; the secret is another.
  // False where the disk does not let go of them, so that they may come back at the next start.
  bool forget_all();
  // Gives back the disk's room of what was forgotten, which takes its time.
  void remove_forgotten();
  [[nodiscard]] PageFolderUse use() const;
  [[nodiscard]] const std::filesystem::path& dir() const { return options_.dir; }

 private:
  struct Page {
    std::filesystem::path path;
    int64_t size_bytes = 0;
    PageHash hash;
    bool is_own = false;      // of the selected model
    bool is_refused = false;  // by the system: it counts, but is not found
  };
  using Pages = std::list<Page>;
  static void delete_files(const Pages& pages);

  PageFolder(const Options& options, FileDescriptor lock);
  [[nodiscard]] bool read_key();  // false: it is not there, or not this model's
  [[nodiscard]] bool write_key() const;
  void find_pages();
  [[nodiscard]] std::filesystem::path path_of(PageHash hash) const;
  void make_dir_of(const std::filesystem::path& page_path);
  // The model's pages are on their way out, its folder is empty, the secret another.
  std::error_code set_aside();
  // With the mutex held.
  [[nodiscard]] bool is_found(PageHash hash) const;
  void add(Page page);
  // Goes over to `removed`, whose files are deleted without the mutex: that takes the disk's time,
  // and the engine asks for pages meanwhile.
  void remove(Pages::iterator page, Pages& removed);
  void make_room(int64_t size_bytes, Pages& removed);

  const Options options_;
  const FileDescriptor lock_;
  std::string identity_;
  std::filesystem::path model_dir_;

  mutable std::mutex mutex_;
  uint64_t secret_ = 0;
  Pages pages_;  // the one unused for longest first
  std::unordered_map<PageHash, Pages::iterator, HashOfPageHash> page_of_;  // of the selected model
  int64_t size_bytes_ = 0;                                                 // of pages_
  int64_t writing_bytes_ = 0;  // of pages on their way in
};

}  // namespace tandem
