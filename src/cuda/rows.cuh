/* SPDX-License-Identifier: Apache-2.0 */
/* For kernels over rows: numbers of either type, one by one or eight at a time, and sums over a block. */
#ifndef T3V_CUDA_ROWS_CUH
#define T3V_CUDA_ROWS_CUH

#include <math.h>

#include "cuda/intrinsics.cuh"
#include "t3v/dtype.h"

enum { ROWS_THREADS = 128, ROWS_WARPS = ROWS_THREADS / 32 };

/* A matrix of F32 or BF16 by element index. */
struct rows_in {
    const void *data;
    t3v_dtype type;
};
struct rows_out {
    void *data;
    t3v_dtype type;
    bool accumulate; /* add to what is there */
};

__device__ __forceinline__ float rows_get(const rows_in &x, int64_t i)
{
    return x.type == T3V_F32 ? ((const float *)x.data)[i] : t3v_bf16_float(((const uint16_t *)x.data)[i]);
}

__device__ __forceinline__ void rows_put(const rows_out &y, int64_t i, float v)
{
    if (y.accumulate) v += rows_get(rows_in{y.data, y.type}, i);
    if (y.type == T3V_F32) ((float *)y.data)[i] = v;
    else ((uint16_t *)y.data)[i] = t3v_float_bf16(v);
}

__device__ __forceinline__ float rows_f(uint32_t bits) { return t3v_bits_float(bits); }

/* W = 8: elements i .. i + 7 by 16-byte accesses, i a multiple of 8 and the data aligned; W = 1: element i. */
template <int W> __device__ __forceinline__ void rows_load(const rows_in &x, int64_t i, float v[W])
{
    if (W == 1) {
        v[0] = rows_get(x, i);
    } else if (x.type == T3V_F32) {
        for (int h = 0; h < 2; h++) {
            uint4 u = t3v_load16((const float *)x.data + i + 4 * h);
            v[4 * h] = rows_f(u.x), v[4 * h + 1] = rows_f(u.y), v[4 * h + 2] = rows_f(u.z),
                  v[4 * h + 3] = rows_f(u.w);
        }
    } else {
        uint4 u = t3v_load16((const uint16_t *)x.data + i);
        v[0] = t3v_low(u.x), v[1] = t3v_high(u.x), v[2] = t3v_low(u.y), v[3] = t3v_high(u.y);
        v[4] = t3v_low(u.z), v[5] = t3v_high(u.z), v[6] = t3v_low(u.w), v[7] = t3v_high(u.w);
    }
}

/* The same of `floats`, all of which are `other` where there are none. */
template <int W>
__device__ __forceinline__ void rows_load_or(const float *floats, int64_t i, float other, float v[W])
{
    if (floats) rows_load<W>(rows_in{floats, T3V_F32}, i, v);
    else
        for (int e = 0; e < W; e++) v[e] = other;
}

template <int W> __device__ __forceinline__ void rows_store(const rows_out &y, int64_t i, float v[W])
{
    if (W == 1) {
        rows_put(y, i, v[0]);
        return;
    }
    if (y.accumulate) {
        float old[W];
        rows_load<W>(rows_in{y.data, y.type}, i, old);
        for (int e = 0; e < W; e++) v[e] += old[e];
    }
    if (y.type == T3V_F32) {
        for (int h = 0; h < 2; h++)
            t3v_store16((float *)y.data + i + 4 * h,
                        make_uint4(t3v_float_bits(v[4 * h]), t3v_float_bits(v[4 * h + 1]),
                                   t3v_float_bits(v[4 * h + 2]), t3v_float_bits(v[4 * h + 3])));
    } else {
        t3v_store16((uint16_t *)y.data + i, make_uint4(t3v_pack_bf16(v[0], v[1]), t3v_pack_bf16(v[2], v[3]),
                                                       t3v_pack_bf16(v[4], v[5]), t3v_pack_bf16(v[6], v[7])));
    }
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
__device__ __forceinline__ float rows_gelu(float x)
{
    return x * (1 / (1 + expf(-2 * 0.79788456080286535588f * (x + 0.044715f * x * x * x))));
}

/* Sums (or the largest) over the block's ROWS_THREADS threads, the same for all; in a fixed order. */
__device__ __forceinline__ float rows_sum(float v)
{
    T3V_SHARED(float, part, ROWS_WARPS);
    for (int o = 16; o; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < ROWS_WARPS; w++) v += part[w];
    __syncthreads();
    return v;
}

__device__ __forceinline__ float rows_most(float v)
{
    T3V_SHARED(float, part, ROWS_WARPS);
    for (int o = 16; o; o /= 2) {
        float u = __shfl_xor_sync(0xffffffffu, v, o);
        v = u > v || u != u ? u : v; /* NaN stays */
    }
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    for (int w = 1; w < ROWS_WARPS; w++) v = part[w] > v || part[w] != part[w] ? part[w] : v;
    __syncthreads();
    return v;
}

/* ---- the host's side ---- */

static inline bool rows_aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }
static inline unsigned rows_blocks(int64_t n, int64_t each) { return (unsigned)((n + each - 1) / each); }

#endif
