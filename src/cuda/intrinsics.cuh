/* SPDX-License-Identifier: Apache-2.0 */
/* The machine instructions that our kernels use, for sm_80 and later; where nvcc is not at work, their model.
 *
 * Kernel sources include this and nothing of CUDA's, launch by t3v_launch, have static shared memory by T3V_SHARED and
 * dynamic by t3v_shared(), so that tests/cuda/emulate.h can run them on a CPU. */
#ifndef T3V_CUDA_INTRINSICS_CUH
#define T3V_CUDA_INTRINSICS_CUH

#include <stddef.h>
#include <stdint.h>

#ifndef __CUDACC__
#include "cuda/emulate.h"
#else

#define T3V_SHARED(type, name, count) __shared__ type name[count]

/* Launches `kernel`; 0, or the cudaError_t of the launch. `shared`: bytes of dynamic shared memory of a block. */
template <class... P, class... A>
int t3v_launch(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, void *stream, A... args)
{
    if (shared > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute((const void *)kernel,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (e != cudaSuccess) return (int)e;
    }
    kernel<<<blocks, threads, shared, (cudaStream_t)stream>>>(P(args)...);
    return (int)cudaGetLastError();
}

__device__ __forceinline__ unsigned char *t3v_shared()
{
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}

/* 16 bytes from global to shared memory, later; both aligned. Not valid: zeros, nothing is read. */
__device__ __forceinline__ void t3v_copy16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

/* Ends a group of copies of this thread. */
__device__ __forceinline__ void t3v_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Waits for this thread's copies but for the last GROUPS groups. */
template <int GROUPS> __device__ __forceinline__ void t3v_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

/* 16 bytes of global or shared memory, aligned. */
__device__ __forceinline__ uint4 t3v_load16(const void *p) { return *(const uint4 *)p; }
__device__ __forceinline__ void t3v_store16(void *p, uint4 v) { *(uint4 *)p = v; }

/* Four 8x8 matrices of 16-bit numbers from shared memory: lane 8 i + r gives the address of row r of matrix i, 16 bytes,
 * aligned. r[i]: of matrix i, row lane / 4, columns 2 (lane % 4) and the next. */
__device__ __forceinline__ void t3v_ldmatrix4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* The same of the transposed matrices. */
__device__ __forceinline__ void t3v_ldmatrix4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* d [16][8] += a [16][16] b [16][8], bf16 with f32 sums. With g = lane / 4, t = lane % 4: a[0] (row g, columns 2t, 2t+1),
 * a[1] (row g+8), a[2], a[3] (columns + 8); b[0] (rows 2t, 2t+1, column g), b[1] (rows + 8); d[0], d[1] (row g, columns
 * 2t, 2t+1), d[2], d[3] (row g+8). */
__device__ __forceinline__ void t3v_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 2^x and log2(x) to about 2^-22; subnormal numbers are 0. */
__device__ __forceinline__ float t3v_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float t3v_log2(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Rounded to the nearest, ties to even. */
__device__ __forceinline__ uint32_t t3v_pack_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
__device__ __forceinline__ uint16_t t3v_float_bf16(float x) { return (uint16_t)t3v_pack_bf16(x, 0); }
#endif

/* The bits of a float, and back. */
__device__ __forceinline__ float t3v_bits_float(uint32_t bits)
{
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
#endif
}

__device__ __forceinline__ uint32_t t3v_float_bits(float x)
{
#ifdef __CUDACC__
    return __float_as_uint(x);
#else
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}

__device__ __forceinline__ float t3v_bf16_float(uint16_t x) { return t3v_bits_float((uint32_t)x << 16); }
/* |v| as E4M3, nearest, ties to even, 448 where it is above, and v's sign; NaN stays. */
__device__ __forceinline__ uint32_t t3v_float_e4m3(float v)
{
    const uint32_t u = t3v_float_bits(v), a = u & 0x7fffffffu;
    uint32_t q = ((a + 0x7ffffu + (a >> 20 & 1)) >> 20) - 120 * 8;
    /* 2^14, whose last bit is 2^-9, the step below 2^-6 */
    if (a < 0x3c800000u) q = t3v_float_bits(t3v_bits_float(a) + 16384.0f) - 0x46800000u;
    if (q > 0x7e) q = 0x7e;
    return (u >> 24 & 0x80) | (a > 0x7f800000u ? 0x7f : q);
}

/* Two of them, the first in the low byte. */
__device__ __forceinline__ uint32_t t3v_pack_e4m3(float low, float high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return t3v_float_e4m3(low) | t3v_float_e4m3(high) << 8;
#endif
}

__device__ __forceinline__ float t3v_e4m3_float(uint32_t q)
{
    /* 2^120 makes good the exponents' biases; exact for the smallest numbers too */
    const float f = t3v_bits_float((q & 0x7f) << 20) * 1.329227995784916e36f;
    return t3v_bits_float(t3v_float_bits(f) | ((q & 0x7f) == 0x7f ? 0x7f800000u : 0) | (q & 0x80) << 24);
}
/* The halves of a pair. */
__device__ __forceinline__ float t3v_low(uint32_t pair) { return t3v_bits_float(pair << 16); }
__device__ __forceinline__ float t3v_high(uint32_t pair) { return t3v_bits_float(pair & 0xffff0000u); }

#endif
