/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions that only sm_90a has: products of a warpgroup (128 threads), the proxy fence before them, barriers in shared
 * memory, registers that change hands. Where T3V_HOPPER is 0 they must not be used. */
#ifndef T3V_CUDA_HOPPER_CUH
#define T3V_CUDA_HOPPER_CUH

#include "cuda/intrinsics.cuh"

#ifndef __CUDACC__
#include "cuda/emulate_hopper.h"
#else

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define T3V_HOPPER 1
#else
#define T3V_HOPPER 0
#endif

__device__ __forceinline__ uint32_t t3v_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* A matrix of bf16 in shared memory: lines of 64 numbers (128 bytes), whose 16-byte parts are exchanged by the line's number
 * modulo 8, eight lines after another; the first of them at a multiple of 1024 bytes. Columns from 64 on are `lead` bytes on
 * where the matrix is a right operand by rows, else unused. Behind the address (bits 0-13) all counts are 16 bytes too. */
__device__ __forceinline__ uint64_t t3v_descriptor(const void *shared, uint32_t lead)
{
    const uint64_t stride = 1024;
    return (uint64_t)(t3v_shared_address(shared) >> 4) | (uint64_t)(lead >> 4) << 16 | (stride >> 4) << 32 |
           (uint64_t)1 << 62;
}

#define T3V_SUM4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define T3V_SUM16(d, i) T3V_SUM4(d, i), T3V_SUM4(d, i + 1), T3V_SUM4(d, i + 2), T3V_SUM4(d, i + 3)
#define T3V_SUM32(d, i) T3V_SUM16(d, i), T3V_SUM16(d, i + 4)
#define T3V_SUM64(d) T3V_SUM32(d, 0), T3V_SUM32(d, 8)
#define T3V_NAMES32                                                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define T3V_NAMES64                                                                                \
    T3V_NAMES32                                                                                    \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
    "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* d [64][N] = a [64][16] b^T (+ d, with `add`), b [N][16], both in shared memory by rows. A lane of warp w has in d[j] the
 * columns 8 j + 2 (lane % 4) and the next of row 16 w + lane / 4, then of that row + 8. */
template <int N> __device__ void t3v_wgmma(float (*d)[4], uint64_t a, uint64_t b, bool add);
template <> __device__ __forceinline__ void t3v_wgmma<128>(float (*d)[4], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" T3V_NAMES64
                 "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
                 : T3V_SUM64(d)
                 : "l"(a), "l"(b), "r"((int)add));
}

/* d [64][N] += a [64][16] b, b [16][N] in shared memory by rows, a in registers: its 16 rows of a warp as of t3v_mma. */
template <int N> __device__ void t3v_wgmma(float (*d)[4], const uint32_t a[4], uint64_t b);
template <> __device__ __forceinline__ void t3v_wgmma<64>(float (*d)[4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" T3V_NAMES32
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
                 : T3V_SUM32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> __device__ __forceinline__ void t3v_wgmma<128>(float (*d)[4], const uint32_t a[4], uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" T3V_NAMES64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
                 : T3V_SUM64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* Numbers [N / 8][4] that the compiler computes before this and uses behind it. It sees no waits and fences, and no reads of a
 * product that is under way. */
template <int N> __device__ __forceinline__ void t3v_hold(float (*d)[4])
{
#pragma unroll
    for (int i = 0; i < N / 8; i++) asm volatile("" : T3V_SUM4(d, i)::"memory");
}
template <int N> __device__ __forceinline__ void t3v_hold(uint32_t (*a)[4])
{
#pragma unroll
    for (int i = 0; i < N / 8; i++)
        asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

/* Before products that get registers which were written since the last wait; those are held. */
__device__ __forceinline__ void t3v_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/* Ends a group of products. */
__device__ __forceinline__ void t3v_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Waits for all products but those of the last GROUPS groups. d [64][N]: sums of which the last product is then over. */
template <int GROUPS, int N> __device__ __forceinline__ void t3v_wgmma_wait(float (*d)[4])
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
    t3v_hold<N>(d);
}

/* Between what threads have written to shared memory, cp.async too, and products that read it. */
__device__ __forceinline__ void t3v_proxy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A barrier of `count` arrivals; every thread must know that it was made before it is used. */
__device__ __forceinline__ void t3v_mbarrier_make(uint64_t *b, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(t3v_shared_address(b)), "r"(count)
                 : "memory");
}
/* What this thread did before is seen by whoever has waited. */
__device__ __forceinline__ void t3v_mbarrier_arrive(uint64_t *b)
{
    asm volatile(
        "{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}\n" ::"r"(t3v_shared_address(b))
        : "memory");
}
/* An arrival, later, when this thread's copies (t3v_copy16) so far are over. */
__device__ __forceinline__ void t3v_mbarrier_arrive_copies(uint64_t *b)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(t3v_shared_address(b))
                 : "memory");
}
/* Waits until the phase of this parity is over: the first has 0, the one before it, 1, always is. */
__device__ __forceinline__ void t3v_mbarrier_wait(uint64_t *b, uint32_t parity)
{
    uint32_t over;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}\n"
                     : "=r"(over)
                     : "r"(t3v_shared_address(b)), "r"(parity)
                     : "memory");
    } while (!over);
}

/* A warpgroup's threads have N registers from here on, more (which others must give) or fewer than before. */
template <int N> __device__ __forceinline__ void t3v_registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void t3v_registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
#endif

#endif
