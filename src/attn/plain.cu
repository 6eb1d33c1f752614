/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over segments in f32 on any rows, a warp for each query: for f32 runs and shapes that the tensor-core kernel
 * declines. Not fast. */
#include "attn/segments.cuh"

namespace
{
enum { PARTS = 256 / 32 }; /* numbers of a row that a lane has, 32 apart */

__device__ __forceinline__ float load(const void *base, t3v_dtype type, int64_t at)
{
    return type == T3V_F32 ? ((const float *)base)[at] : t3v_bf16_float(((const uint16_t *)base)[at]);
}

__device__ __forceinline__ void load_row(float x[PARTS], const void *base, t3v_dtype type, int64_t at,
                                         int dim)
{
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int d = 32 * i + (int)threadIdx.x % 32;
        x[i] = d < dim ? load(base, type, at + d) : 0;
    }
}

__device__ __forceinline__ float dot(const float a[PARTS], const float b[PARTS])
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS; i++) sum = fmaf(a[i], b[i], sum);
#pragma unroll
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    return sum;
}

__global__ void __launch_bounds__(SEG_THREADS) forward_plain(const t3v_seg_forward f)
{
    const t3v_seg_item it = seg_item<T3V_SEG_ROWS>(f.lists);
    const t3v_seg_inputs &in = f.in;
    const int head = in.head_first + (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    const int64_t column = (int64_t)head * in.dim;
    for (int i = (int)threadIdx.x / 32; i < it.count; i += SEG_WARPS) {
        int64_t row = seg_row(f.lists.row_order, it.first + i);
        float q[PARTS], o[PARTS], max = -INFINITY, sum = 0;
        load_row(q, in.q, in.type, row * in.q_stride + column, in.dim);
#pragma unroll
        for (int p = 0; p < PARTS; p++) o[p] = 0;
        seg_cursor c = seg_begin(f.lists, it.list, head, 0);
        for (int32_t slot; (slot = seg_take(f.lists, c, 1)) >= 0;) {
            int64_t key = seg_row(f.lists.column_order, slot);
            float x[PARTS];
            load_row(x, in.k, in.type, key * in.k_stride + column, in.dim);
            float s = dot(q, x) * in.scale + (in.log_weight ? in.log_weight[key] : 0);
            float next = fmaxf(max, s);
            /* as in the tensor-core kernel: sums of inf and NaN stay */
            float lower = next == max ? 1 : next == INFINITY ? 0 : expf(max - next);
            float weight = expf(s - (fabsf(next) == INFINITY ? 0 : next));
            load_row(x, in.v, in.type, key * in.v_stride + column, in.dim);
            sum = sum * lower + weight;
#pragma unroll
            for (int p = 0; p < PARTS; p++) o[p] = o[p] * lower + weight * x[p];
            max = next;
        }
        float factor = sum > 0 && sum < INFINITY ? f.weight / sum : NAN;
        if (f.lse && lane == 0) f.lse[head * in.n_q + row] = max + logf(sum);
        for (int p = 0; p < PARTS; p++) {
            int d = 32 * p + lane;
            if (d >= in.dim) break;
            float y = o[p] * factor;
            if (f.sum) y += f.sum[row * f.sum_stride + (head - f.sum_first) * in.dim + d];
            int64_t at = row * f.out_stride + (head - f.out_first) * in.dim + d;
            if (f.out_type == T3V_BF16) ((uint16_t *)f.out)[at] = t3v_float_bf16(y);
            else ((float *)f.out)[at] = y;
        }
    }
}
} // namespace

extern "C" int t3v_seg_forward_plain(const t3v_seg_forward *f, void *stream)
{
    return t3v_launch(forward_plain, seg_blocks<T3V_SEG_ROWS>(f->lists, f->in.heads), dim3(SEG_THREADS),
                      (size_t)0, stream, *f);
}
