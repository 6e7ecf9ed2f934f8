// What only a card has, kernels of gpu/cuda launched by themselves: in builds with CUDA.
#pragma once

#include "bench/gpu/device_bench.h"
#include "bench/support/report.h"

namespace tandem::bench {

// W_UK and W_UV of few rows, a matrix a head.
void bench_head_products(DeviceBench& bench, Report& report);
// INT4 experts: few tokens beside the copy bandwidth, many beside the BF16 product.
void bench_experts(DeviceBench& bench, Report& report);

}  // namespace tandem::bench
