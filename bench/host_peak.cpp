#include "bench/host_peak.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include "runtime/topology/amx.h"

namespace tandem::bench {
namespace {

// The loops are inline assembly: a compiler would fold or drop chains whose sums nobody reads.
// Operands lie in the vector registers 12 and 13, ones of 16 bits in 14; twelve independent chains
// (0..11) hide the latency of every instruction measured here.
constexpr int64_t kChains = 12;
constexpr int64_t kRounds = int64_t{1} << 19;

struct alignas(64) Values {
  std::array<uint32_t, 16> left, right, ones;
};
constexpr Values values_of(uint32_t left, uint32_t right) {
  Values values{};
  for (int lane = 0; lane < 16; ++lane) {
    values.left[lane] = left;
    values.right[lane] = right;
    values.ones[lane] = 0x0001'0001;
  }
  return values;
}
// Sums stay finite: 2^19 times about 1e-6.
constexpr Values kFloats = values_of(0x3F80'1000, 0x3586'37BD);
constexpr Values kBf16Pairs = values_of(0x3F81'3F83, 0x3587'3585);
constexpr Values kBytes = values_of(0x35A7'1C4E, 0x52C7'A913);  // unsigned left, signed right

#define TANDEM_CHAINS(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define TANDEM_CLOBBERS                                                                    \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc"
#define TANDEM_LOOP(reg, values, op) \
  int64_t rounds_left = num_rounds;  \
  asm volatile("vzeroall\n"                                                                \
               "vmovups (%1), %%" reg                                                      \
               "12\n"                                                                      \
               "vmovups (%2), %%" reg                                                      \
               "13\n"                                                                      \
               "vmovups (%3), %%" reg                                                      \
               "14\n"                                                                      \
               "1:\n" TANDEM_CHAINS(op) "dec %0\n"                                         \
                                         "jnz 1b\n"                                        \
                                         "vzeroupper\n"                                    \
               : "+r"(rounds_left)                                                         \
               : "r"((values).left.data()), "r"((values).right.data()), "r"((values).ones.data()) \
               : TANDEM_CLOBBERS)

void avx2_fma(int64_t num_rounds) {
#define TANDEM_OP(chain) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #chain "\n"
  TANDEM_LOOP("ymm", kFloats, TANDEM_OP);
#undef TANDEM_OP
}
void avx512_fma(int64_t num_rounds) {
#define TANDEM_OP(chain) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #chain "\n"
  TANDEM_LOOP("zmm", kFloats, TANDEM_OP);
#undef TANDEM_OP
}
void avx512_bf16(int64_t num_rounds) {
#define TANDEM_OP(chain) "vdpbf16ps %%zmm12, %%zmm13, %%zmm" #chain "\n"
  TANDEM_LOOP("zmm", kBf16Pairs, TANDEM_OP);
#undef TANDEM_OP
}
void avx2_madd_int8(int64_t num_rounds) {
#define TANDEM_OP(chain)                   \
  "vpmaddubsw %%ymm13, %%ymm12, %%ymm15\n" \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm15\n"   \
  "vpaddd %%ymm15, %%ymm" #chain ", %%ymm" #chain "\n"
  TANDEM_LOOP("ymm", kBytes, TANDEM_OP);
#undef TANDEM_OP
}
void avx_vnni_int8(int64_t num_rounds) {
#define TANDEM_OP(chain) "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" #chain "\n"
  TANDEM_LOOP("ymm", kBytes, TANDEM_OP);
#undef TANDEM_OP
}
void avx512_vnni_int8(int64_t num_rounds) {
#define TANDEM_OP(chain) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #chain "\n"
  TANDEM_LOOP("zmm", kBytes, TANDEM_OP);
#undef TANDEM_OP
}

// LDTILECFG's 64 bytes: palette 1, eight tiles of 16 rows by 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  std::array<uint8_t, 15> reserved{};
  std::array<uint16_t, 16> row_size_bytes{64, 64, 64, 64, 64, 64, 64, 64};
  std::array<uint8_t, 16> rows{16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
struct alignas(64) Tile {
  std::array<uint32_t, 256> words;
};

// Four sums: four times 16 cycles are more than the 52 of one product's latency.
#define TANDEM_TILE_LOOP(op, values)                                                               \
  const TileConfig config;                                                                         \
  Tile left_tile, right_tile;                                                                      \
  left_tile.words.fill((values).left[0]);                                                          \
  right_tile.words.fill((values).right[0]);                                                        \
  int64_t rounds_left = num_rounds;                                                                \
  asm volatile(                                                                                    \
      "ldtilecfg (%1)\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n"                     \
      "tilezero %%tmm3\n tileloadd (%2,%4,1), %%tmm4\n tileloadd (%2,%4,1), %%tmm5\n"              \
      "tileloadd (%3,%4,1), %%tmm6\n tileloadd (%3,%4,1), %%tmm7\n 1:\n" op                        \
      " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op " %%tmm6, %%tmm5, %%tmm2\n" op \
      " %%tmm7, %%tmm5, %%tmm3\n dec %0\n jnz 1b\n tilerelease\n"                                  \
      : "+r"(rounds_left)                                                                          \
      : "r"(&config), "r"(&left_tile), "r"(&right_tile), "r"(int64_t{64})                          \
      : "memory", "cc")

void amx_bf16(int64_t num_rounds) { TANDEM_TILE_LOOP("tdpbf16ps", kBf16Pairs); }
void amx_int8(int64_t num_rounds) { TANDEM_TILE_LOOP("tdpbusd", kBytes); }

struct Loop {
  std::string_view name;
  bool supported = false;
  void (*run)(int64_t num_rounds) = nullptr;
  int64_t multiply_adds = 0;  // of one round
};

Loop loop_of(MultiplyAdd instruction) {
  switch (instruction) {
    case MultiplyAdd::kAvx2Fma:
      return {"AVX2 FMA FP32", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
              avx2_fma, kChains * 8};
    case MultiplyAdd::kAvx512Fma:
      return {"AVX-512 FMA FP32", __builtin_cpu_supports("avx512f") != 0, avx512_fma, kChains * 16};
    case MultiplyAdd::kAvx512Bf16:
      return {"AVX-512 BF16 dot product", __builtin_cpu_supports("avx512bf16") != 0, avx512_bf16,
              kChains * 32};
    case MultiplyAdd::kAvx2MaddInt8:
      return {"AVX2 multiply-add u8 x s8", __builtin_cpu_supports("avx2") != 0, avx2_madd_int8,
              kChains * 32};
    case MultiplyAdd::kAvxVnniInt8:
      return {"AVX-VNNI u8 x s8", __builtin_cpu_supports("avxvnni") != 0, avx_vnni_int8,
              kChains * 32};
    case MultiplyAdd::kAvx512VnniInt8:
      return {"AVX-512 VNNI u8 x s8", __builtin_cpu_supports("avx512vnni") != 0, avx512_vnni_int8,
              kChains * 64};
    case MultiplyAdd::kAmxBf16:
      return {"AMX BF16", __builtin_cpu_supports("amx-bf16") && amx_works(), amx_bf16,
              int64_t{4} * 16 * 16 * 32};
    case MultiplyAdd::kAmxInt8:
      return {"AMX INT8", __builtin_cpu_supports("amx-int8") && amx_works(), amx_int8,
              int64_t{4} * 16 * 16 * 64};
  }
  return {};
}

// The best of nine: a peak is what nothing disturbed.
double measure(WorkerPool& pool, const Loop& loop) {
  const WorkerPool::Step step(pool);
  double best = 0.0;
  for (int repeat = 0; repeat < 9; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](const WorkerPool::Worker&) { loop.run(kRounds); });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * static_cast<double>(kRounds * loop.multiply_adds) *
                              pool.num_workers() / elapsed.count());
  }
  return best;
}

}  // namespace

std::vector<InstructionPeak> measure_instruction_peaks(WorkerPool& pool) {
  std::vector<InstructionPeak> peaks;
  for (const MultiplyAdd instruction :
       {MultiplyAdd::kAvx2Fma, MultiplyAdd::kAvx512Fma, MultiplyAdd::kAvx512Bf16,
        MultiplyAdd::kAvx2MaddInt8, MultiplyAdd::kAvxVnniInt8, MultiplyAdd::kAvx512VnniInt8,
        MultiplyAdd::kAmxBf16, MultiplyAdd::kAmxInt8}) {
    const Loop loop = loop_of(instruction);
    if (!loop.supported) continue;
    peaks.push_back({instruction, loop.name, measure(pool, loop)});
  }
  return peaks;
}

double measure_peak_gflop_per_s(WorkerPool& pool, MultiplyAdd instruction) {
  const Loop loop = loop_of(instruction);
  return loop.supported ? measure(pool, loop) : 0.0;
}

}  // namespace tandem::bench
