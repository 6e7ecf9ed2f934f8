// The most multiply-adds a second that this machine's cores do, by instruction; measured.
#pragma once

#include <string_view>
#include <vector>

#include "runtime/topology/worker_pool.h"

namespace tandem::bench {

enum class MultiplyAdd {
  kAvx2Fma,         // vfmadd231ps ymm, FP32
  kAvx512Fma,       // vfmadd231ps zmm, FP32
  kAvx512Bf16,      // vdpbf16ps zmm, BF16 pairs to FP32
  kAvx2MaddInt8,    // vpmaddubsw, vpmaddwd with ones, vpaddd: u8 x s8 quads to s32
  kAvxVnniInt8,     // vpdpbusd ymm, VEX: u8 x s8 quads to s32
  kAvx512VnniInt8,  // vpdpbusd zmm: u8 x s8 quads to s32
  kAmxBf16,         // tdpbf16ps, 16 x 16 x 32
  kAmxInt8,         // tdpbusd, 16 x 16 x 64
};

struct InstructionPeak {
  MultiplyAdd instruction = MultiplyAdd::kAvx2Fma;
  std::string_view name;        // "AVX2 FMA FP32"
  double giga_ops_per_s = 0.0;  // a multiply-add is two; GFLOP/s, GOP/s for integers
};

// Every instruction of this CPU (AMX: if the system grants the tiles), all workers at once, from
// registers. Operands are not zero: a multiplier that has nothing to switch runs at a better clock.
std::vector<InstructionPeak> measure_instruction_peaks(WorkerPool& pool);

// One of them; 0 where the CPU has no such instruction.
double measure_peak_gflop_per_s(WorkerPool& pool, MultiplyAdd instruction);

}  // namespace tandem::bench
