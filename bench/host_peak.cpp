#include "bench/host_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace tandem::bench {
namespace {

// Twelve independent chains hide the latency of every instruction measured here. Inline assembly:
// the compiler would fold or drop the chains.
constexpr int kChains = 12;
constexpr int64_t kRounds = 1 << 20;

#define TANDEM_CHAINS(op, reg)                                                                 \
  op " %%" reg "12, %%" reg "13, %%" reg "0\n" op " %%" reg "12, %%" reg "13, %%" reg "1\n" op \
     " %%" reg "12, %%" reg "13, %%" reg "2\n" op " %%" reg "12, %%" reg "13, %%" reg "3\n" op \
     " %%" reg "12, %%" reg "13, %%" reg "4\n" op " %%" reg "12, %%" reg "13, %%" reg "5\n" op \
     " %%" reg "12, %%" reg "13, %%" reg "6\n" op " %%" reg "12, %%" reg "13, %%" reg "7\n" op \
     " %%" reg "12, %%" reg "13, %%" reg "8\n" op " %%" reg "12, %%" reg "13, %%" reg "9\n" op \
     " %%" reg "12, %%" reg "13, %%" reg "10\n" op " %%" reg "12, %%" reg "13, %%" reg "11\n"
#define TANDEM_CLOBBERS                                                                    \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13"

void avx2_fma(int64_t num_rounds) {
  asm volatile("vzeroall" ::: TANDEM_CLOBBERS);
  for (int64_t round = 0; round < num_rounds; ++round) {
    asm volatile(TANDEM_CHAINS("vfmadd231ps", "ymm")::: TANDEM_CLOBBERS);
  }
}
void avx512_fma(int64_t num_rounds) {
  asm volatile("vzeroall" ::: TANDEM_CLOBBERS);
  for (int64_t round = 0; round < num_rounds; ++round) {
    asm volatile(TANDEM_CHAINS("vfmadd231ps", "zmm")::: TANDEM_CLOBBERS);
  }
}
void avx512_bf16(int64_t num_rounds) {
  asm volatile("vzeroall" ::: TANDEM_CLOBBERS);
  for (int64_t round = 0; round < num_rounds; ++round) {
    asm volatile(TANDEM_CHAINS("vdpbf16ps", "zmm")::: TANDEM_CLOBBERS);
  }
}

struct Loop {
  bool supported;
  void (*run)(int64_t num_rounds);
  int multiply_adds;  // of one instruction
};

Loop loop_of(MultiplyAdd instruction) {
  switch (instruction) {
    case MultiplyAdd::kAvx2Fma:
      return {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2_fma, 8};
    case MultiplyAdd::kAvx512Fma:
      return {__builtin_cpu_supports("avx512f") != 0, avx512_fma, 16};
    case MultiplyAdd::kAvx512Bf16:
      return {__builtin_cpu_supports("avx512bf16") != 0, avx512_bf16, 32};
  }
  return {};
}

}  // namespace

double measure_peak_gflop_per_s(WorkerPool& pool, MultiplyAdd instruction) {
  const Loop loop = loop_of(instruction);
  if (!loop.supported) return 0.0;
  std::vector<double> gflop_per_s;
  for (int repeat = 0; repeat < 9; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](const WorkerPool::Worker&) { loop.run(kRounds); });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    gflop_per_s.push_back(2e-9 * static_cast<double>(kRounds * kChains * loop.multiply_adds) *
                          pool.num_workers() / elapsed.count());
  }
  // The best of nine: a peak is what nothing disturbed.
  return *std::max_element(gflop_per_s.begin(), gflop_per_s.end());
}

}  // namespace tandem::bench
