// What it costs to keep KV pages and to have them back: by the copies of a model on the host, host
// memory and a folder. Beside the same bytes copied, written and read with nothing else to do.
//   bench_kept_pages [--pages N] [--dir DIR] [--json]
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/support/report.h"
#include "bench/support/timing.h"
#include "offload/kv_cache.h"
#include "runtime/kv_store/page_file.h"
#include "runtime/kv_store/page_store.h"
#include "runtime/memory/file_descriptor.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

namespace fs = std::filesystem;

constexpr TimingLimits kLimits{.min_runs = 5, .min_total_s = 1.0};

// Kimi-K2's KV in the host's memory, and nothing that computes.
class PagesAlone final : public ForwardModel {
 public:
  PagesAlone(gpu::Ops& ops, int32_t num_pages)
      : cache_(ops, {.num_layers = 61, .num_pages = num_pages, .kv_dim = 576}) {
    for (int32_t idx = 0; idx < cache_.shape().num_layers; ++idx) {
      uint32_t state = static_cast<uint32_t>(idx) + 1;
      bf16* values = cache_.layer(idx).data;
      const int64_t num_values = num_pages * cache_.shape().layer_page_size_bytes() / 2;
      for (int64_t value_idx = 0; value_idx < num_values; ++value_idx) {
        state = state * 1664525u + 1013904223u;
        values[value_idx].bits = static_cast<uint16_t>(state >> 16);
      }
    }
  }
  void forward(const Batch&, MatrixView<float>) override {
    throw std::logic_error("pages alone do not compute");
  }
  [[nodiscard]] int64_t kv_page_size_bytes() const override {
    return cache_.shape().page_size_bytes();
  }
  void read_kv_pages(std::span<const KvPageBytes> pages) override { cache_.read_pages(pages, 0); }
  void write_kv_pages(std::span<const KvPageBytes> pages) override { cache_.write_pages(pages, 0); }
  [[nodiscard]] std::string kv_identity() const override { return "bench_kept_pages"; }
  [[nodiscard]] int64_t kv_host_size_bytes() const override {
    return num_kv_pages() * kv_page_size_bytes();
  }
  [[nodiscard]] int32_t vocab_size() const override { return 1; }
  [[nodiscard]] int32_t num_kv_pages() const override { return cache_.shape().num_pages; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 1; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 1; }
  [[nodiscard]] int32_t max_context_tokens() const override { return 64; }

 private:
  offload::KvCache cache_;
};

struct Bench {
  PagesAlone& model;
  Report& report;
  std::vector<KnownPage> pages;
  fs::path dir;

  [[nodiscard]] double size_gb() const {
    return static_cast<double>(model.kv_page_size_bytes()) * static_cast<double>(pages.size()) *
           1e-9;
  }
  void add_row(const std::string& what,
               const Timing& timing,
               const std::string& limit,
               double limit_gb_per_s) {
    const double gb_per_s = size_gb() / timing.median_s;
    const double tokens = static_cast<double>(pages.size()) * kPageSizeTokens;
    report.add_row(
        "KV pages",
        {{"what", what},
         {"ms a page", Number{timing.median_s * 1e3 / static_cast<double>(pages.size()), 3}},
         {"GB/s", Number{gb_per_s, 2}},
         {"tokens/s", Number{tokens / timing.median_s, 0}},
         {"limit", limit},
         {"GB/s of it", Number{limit_gb_per_s, 2}},
         {"share %", Number{100.0 * gb_per_s / limit_gb_per_s, 1}},
         {"runs", timing.num_runs}});
  }
  // All pages found in a plan, as soon as they are there.
  void restore_all(PageStore& store) {
    size_t begin = 0;
    while (begin < pages.size()) {
      store.begin_plan();
      size_t end = begin;
      while (end < pages.size() && store.look_up(pages[end].hash) == PagePresence::kThere) ++end;
      const size_t ahead =
          std::min(pages.size(), end + static_cast<size_t>(store.read_ahead_pages()));
      for (size_t idx = end; idx < ahead; ++idx) {
        const PagePresence presence = store.look_up(pages[idx].hash);
        if (presence == PagePresence::kAbsent) throw std::runtime_error("a page was lost");
        if (presence == PagePresence::kNoRoom) break;
      }
      store.restore(std::span(pages).subspan(begin, end - begin));
      if (end == begin) std::this_thread::sleep_for(std::chrono::microseconds(200));
      begin = end;
    }
  }
};

// One core's copy to memory that has been touched, and the checksum of the same bytes.
double copy_gb_per_s(Bench& bench) {
  const auto size = static_cast<size_t>(bench.size_gb() * 1e9);
  std::vector<std::byte> from(size, std::byte{1}), to(size, std::byte{2});
  const Timing copy = time_runs(
      kLimits, [](int64_t) {}, [&] { std::memcpy(to.data(), from.data(), size); });
  const double gb_per_s = bench.size_gb() / copy.median_s;
  uint64_t sum = 0;
  const Timing checksum = time_runs(
      kLimits, [](int64_t) {}, [&] { sum += page_checksum(from); });
  bench.report.add_fact("checksums end with", static_cast<int64_t>(sum & 0xff));
  bench.add_row("checksum", checksum, "memcpy, one core", gb_per_s);
  return gb_per_s;
}

void bench_host_memory(Bench& bench, double copy_limit) {
  const auto store = PageStore::make(bench.model, {});
  const auto forget = [&](int64_t) { store->forget_all(); };
  store->keep_leaving(bench.pages);  // takes the memory
  bench.add_row("to host memory",
                time_runs(kLimits, forget, [&] { store->keep_leaving(bench.pages); }),
                "memcpy, one core", copy_limit);
  bench.add_row("from host memory",
                time_runs(
                    kLimits, [](int64_t) {}, [&] { bench.restore_all(*store); }),
                "memcpy, one core", copy_limit);
}

std::vector<fs::path> page_paths(const fs::path& dir) {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir)) {
    if (entry.path().extension() == ".kv") paths.push_back(entry.path());
  }
  return paths;
}

// As many threads as the store has read and write these files with, and nothing else to do.
double files_gb_per_s(Bench& bench, bool is_write, const std::function<void(int64_t)>& prepare) {
  const std::vector<fs::path> paths = page_paths(bench.dir);
  const auto size = static_cast<size_t>(bench.model.kv_page_size_bytes());
  const Timing timing = time_runs(kLimits, prepare, [&] {
    std::atomic<size_t> next = 0;
    std::vector<std::thread> threads;
    for (int thread_idx = 0; thread_idx < 4; ++thread_idx) {
      threads.emplace_back([&] {
        std::vector<std::byte> bytes(size);
        for (size_t idx = next++; idx < paths.size(); idx = next++) {
          const std::string path = paths[idx].string() + (is_write ? ".plain" : "");
          const FileDescriptor file(
              ::open(path.c_str(), is_write ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0600));
          const ssize_t done = is_write ? ::write(file.get(), bytes.data(), size)
                                        : ::read(file.get(), bytes.data(), size);
          if (done != static_cast<ssize_t>(size)) std::abort();
          if (is_write) ::unlink(path.c_str());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  return bench.size_gb() / timing.median_s;
}

// What the page cache holds of the files goes back to the disk.
void let_go_of_cached(const fs::path& dir) {
  for (const fs::path& path : page_paths(dir)) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY));
    ::fdatasync(file.get());
    ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

void bench_folder(Bench& bench) {
  const auto make_store = [&] {
    return PageStore::make(
        bench.model, {.folder = PageFolder::open({.dir = bench.dir, .max_size_bytes = 1ll << 40})});
  };
  std::unique_ptr<PageStore> store = make_store();
  const auto write_all = [&] {
    for (size_t begin = 0; begin < bench.pages.size(); begin += 8) {  // a chunk of 512 tokens
      store->begin_plan();
      store->keep_new(std::span(bench.pages).subspan(begin, 8));
    }
    store.reset();  // when all is written
  };
  const Timing written = time_runs(
      kLimits,
      [&](int64_t) {
        if (store == nullptr) store = make_store();
        store->forget_all();
        store.reset();
        store = make_store();
      },
      write_all);
  bench.add_row("to the folder, all of it", written, "write, four threads",
                files_gb_per_s(bench, true, [](int64_t) {}));
  struct Way {
    const char* name;
    const char* limit;
    bool is_cached;
  };
  for (const Way& way : {Way{"from the folder, cached", "read, four threads, cached", true},
                         Way{"from the folder, disk", "read, four threads, disk", false}}) {
    const auto prepare = [&](int64_t) {
      if (!way.is_cached) let_go_of_cached(bench.dir);
    };
    const Timing restored = time_runs(
        kLimits,
        [&](int64_t run_idx) {
          store.reset();
          prepare(run_idx);
          store = make_store();  // which knows nothing of them in host memory
        },
        [&] { bench.restore_all(*store); });
    bench.add_row(way.name, restored, way.limit, files_gb_per_s(bench, false, prepare));
  }
}

void run(int32_t num_pages, const fs::path& dir, bool as_json) {
  Report report("bench_kept_pages", as_json);
  const Topology topology = Topology::detect();
  report.add_machine(topology, 1, isa_name(active_isa()));
  WorkerPool pool(topology, {.num_threads = 1});
  const std::unique_ptr<gpu::Ops> ops = gpu::make_host_ops(pool);
  PagesAlone model(*ops, num_pages);
  report.add_fact("bytes a page", model.kv_page_size_bytes());
  Bench bench{.model = model, .report = report, .pages = {}, .dir = dir / "bench_kept_pages"};
  for (int32_t page_id = 0; page_id < num_pages; ++page_id)
    bench.pages.push_back({{.low = static_cast<uint64_t>(page_id), .high = 1}, page_id});
  const double copy_limit = copy_gb_per_s(bench);
  bench_host_memory(bench, copy_limit);
  bench_folder(bench);
  fs::remove_all(bench.dir);
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  int32_t num_pages = 128;
  std::string dir = ".";
  bool as_json = false;
  CLI::App app("Measures how fast KV pages are kept and come back", "bench_kept_pages");
  app.add_option("--pages", num_pages, "of 64 tokens, 4.5 MB each; a multiple of 8")
      ->check(CLI::Range(8, 1 << 14));
  app.add_option("--dir", dir, "where its files are, for as long as it runs")
      ->check(CLI::ExistingDirectory);
  app.add_flag("--json", as_json, "one JSON object instead of tables");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::bench::run(num_pages / 8 * 8, dir, as_json);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_kept_pages: {}\n", error.what());
    return 1;
  }
  return 0;
}
