// The cooperative thread array on the device: an empty type over the builtins. The tests have the
// other implementation of the same interface (tests/gpu/simt/emulated_cta.h), which says what each
// operation requires. Collectives of a warp are of all 32 lanes.
#pragma once

#include <cstddef>

#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::simt {

// A typed range of the CTA's shared memory.
template <typename T>
class DeviceShared {
 public:
  __device__ explicit DeviceShared(T* data) : data_(data) {}
  __device__ T load(int64_t idx) const { return data_[idx]; }
  __device__ void store(int64_t idx, T value) const { data_[idx] = value; }
  // 16 bytes from element `idx` on.
  __device__ Words4 load16(int64_t idx) const {
    return *reinterpret_cast<const Words4*>(data_ + idx);
  }
  __device__ void store16(int64_t idx, Words4 value) const {
    *reinterpret_cast<Words4*>(data_ + idx) = value;
  }
  __device__ uint32_t load_pair(int64_t idx) const {
    return *reinterpret_cast<const uint32_t*>(data_ + idx);
  }
  __device__ void store_pair(int64_t idx, uint32_t value) const {
    *reinterpret_cast<uint32_t*>(data_ + idx) = value;
  }
  __device__ T atomic_add(int64_t idx, T value) const {
    if constexpr (sizeof(T) == sizeof(unsigned long long)) {
      return static_cast<T>(atomicAdd(reinterpret_cast<unsigned long long*>(data_ + idx),
                                      static_cast<unsigned long long>(value)));
    } else {
      return atomicAdd(data_ + idx, value);
    }
  }
  __device__ uint32_t address(int64_t idx) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(data_ + idx));
  }

 private:
  T* data_;
};

extern __shared__ Words4 dynamic_shared_memory[];

struct DeviceCta {
  __device__ int thread_idx() const { return static_cast<int>(threadIdx.x); }
  __device__ int num_threads() const { return static_cast<int>(blockDim.x); }
  __device__ int lane_idx() const { return thread_idx() % kWarpSize; }
  __device__ int warp_idx() const { return thread_idx() / kWarpSize; }
  __device__ int64_t block_x() const { return blockIdx.x; }
  __device__ int block_y() const { return static_cast<int>(blockIdx.y); }
  __device__ int block_z() const { return static_cast<int>(blockIdx.z); }
  __device__ int64_t grid_x() const { return gridDim.x; }

  // `num` elements from byte `offset_bytes` of the dynamic shared memory on.
  template <typename T>
  __device__ DeviceShared<T> shared(int64_t offset_bytes, int64_t) const {
    return DeviceShared<T>(
        reinterpret_cast<T*>(reinterpret_cast<std::byte*>(dynamic_shared_memory) + offset_bytes));
  }

  // Dependent launches (launch.cuh). The kernels before this one are done, and what they wrote is
  // there. In front of it only what no kernel of a step writes may be read: weights. Every thread
  // comes here once.
  __device__ void wait_for_previous() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
  // The next kernel's CTAs may take what room is left once every CTA of this one has come here.
  __device__ void let_next_begin() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
  }

  __device__ void sync() const { __syncthreads(); }
  __device__ void sync_warp() const { __syncwarp(); }
  template <typename T>
  __device__ T shuffle_xor(T value, int lane_mask) const {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
  }
  template <typename T>
  __device__ T shuffle(T value, int source_lane) const {
    return __shfl_sync(0xffffffffu, value, source_lane);
  }

  // Global memory. Streamed: read once by the whole grid, so that it need not stay in L1, and
  // written by no kernel of a step, so that it may be read in front of wait_for_previous().
  __device__ Words4 load16_streamed(const void* source) const {
    Words4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.w[0]), "=r"(value.w[1]), "=r"(value.w[2]), "=r"(value.w[3])
                 : "l"(source));
    return value;
  }
  __device__ Words2 load8_streamed(const void* source) const {
    Words2 value;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                 : "=r"(value.w[0]), "=r"(value.w[1])
                 : "l"(source));
    return value;
  }
  __device__ uint32_t load4_streamed(const void* source) const {
    uint32_t value;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(value) : "l"(source));
    return value;
  }
  // To L2, for a load behind wait_for_previous(); nothing where that does not wait. Delivers no
  // value, so it may stand in front of the wait.
  __device__ void prefetch([[maybe_unused]] const void* source) const {
#if __CUDA_ARCH__ >= 900
    asm volatile("prefetch.global.L2 [%0];" ::"l"(source));
#endif
  }
  __device__ Words4 load16(const void* source) const { return *static_cast<const Words4*>(source); }
  __device__ void store16(void* target, Words4 value) const {
    *static_cast<Words4*>(target) = value;
  }
  __device__ void store8(void* target, Words2 value) const {
    *static_cast<Words2*>(target) = value;
  }
  __device__ int32_t atomic_add(int32_t* target, int32_t value) const {
    return atomicAdd(target, value);
  }

  // 16 bytes of global memory to shared memory, behind the thread's back: the first
  // `num_valid_bytes` of them, zeros for the rest. There after wait_copies, for other threads after
  // a barrier behind it.
  template <typename T>
  __device__ void copy16_async(DeviceShared<T> target,
                               int64_t idx,
                               const void* source,
                               int num_valid_bytes) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target.address(idx)),
                 "l"(source), "r"(num_valid_bytes)
                 : "memory");
  }
  __device__ void commit_copies() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  // All but the last `kNumPending` committed groups have arrived.
  template <int kNumPending>
  __device__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kNumPending) : "memory");
  }

  // Four 8x8 BF16 matrices: lane l names row l % 8 of matrix l / 8 (element `idx` of `source`, 16
  // bytes); register m of a lane gets elements (lane / 4, 2 * (lane % 4) + 0..1) of matrix m, or of
  // its transpose.
  template <bool kTransposed>
  __device__ void load_matrices(DeviceShared<bf16> source, int64_t idx, uint32_t (&r)[4]) const {
    if constexpr (kTransposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(source.address(idx))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(source.address(idx))
                   : "memory");
    }
  }

  // C [16, 8] += A [16, 16] B [16, 8], BF16 with FP32 sums (mma.m16n8k16). With g = lane / 4 and
  // t = lane % 4 a lane holds
  //   a[0] A(g, 2t..2t+1)   a[1] A(g + 8, 2t..)   a[2] A(g, 2t + 8..)   a[3] A(g + 8, 2t + 8..)
  //   b[0] B(2t..2t+1, g)   b[1] B(2t + 8.., g)
  //   c[0..1] C(g, 2t..2t+1)   c[2..3] C(g + 8, 2t..2t+1)
  __device__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

}  // namespace tandem::gpu::simt
