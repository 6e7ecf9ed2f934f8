#include "offload/copy_bandwidth.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>

namespace tandem::offload {
namespace {

constexpr int kCopiesARun = 8;  // beside which a launch and a wait are short
constexpr int64_t kRowValues = 1024;

}  // namespace

double measure_copy_gb_per_s(gpu::Ops& ops, size_t size_bytes) {
  const int64_t num_rows =
      std::max<int64_t>(static_cast<int64_t>(size_bytes / sizeof(float)) / kRowValues, 1);
  const auto bytes = static_cast<size_t>(num_rows * kRowValues) * sizeof(float);
  const auto from = ops.allocate(bytes);
  const auto to = ops.allocate(bytes);
  const auto rows_of = [&](const gpu::DeviceBuffer& buffer) {
    return MatrixView<float>(reinterpret_cast<float*>(buffer.data()), num_rows, kRowValues);
  };
  std::array<double, 7> seconds{};
  for (int run_idx = -1; run_idx < static_cast<int>(seconds.size()); ++run_idx) {
    ops.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int copy = 0; copy < kCopiesARun; ++copy) ops.receive(ops, rows_of(*from), rows_of(*to));
    ops.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    if (run_idx >= 0) seconds[static_cast<size_t>(run_idx)] = elapsed.count() / kCopiesARun;
  }
  std::sort(seconds.begin(), seconds.end());
  return 2.0 * static_cast<double>(bytes) / seconds[seconds.size() / 2] * 1e-9;
}

}  // namespace tandem::offload
