/* SPDX-License-Identifier: Apache-2.0 */
/* What the forward kernels on tensor cores share: the softmax over tiles that come, and what becomes of its sums.
 *
 * A warp has 16 MT rows; of each 16 a thread has rows lane / 4 and that + 8, and of a tile of scores or outputs [.. / 8][4] the
 * columns 8 j + 2 (lane % 4) and the next, of the first row, then of the second. */
#ifndef T3V_ATTN_FORWARD_CUH
#define T3V_ATTN_FORWARD_CUH

#include "attn/segments.cuh"

template <int D, int MT> struct seg_softmax {
    float o[MT][D / 8][4], max[MT][2], sum[MT][2]; /* sum: of this thread's columns */
};

template <int D, int MT> __device__ __forceinline__ void seg_clear(seg_softmax<D, MT> &r)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        r.max[m][0] = r.max[m][1] = -INFINITY;
        r.sum[m][0] = r.sum[m][1] = 0;
#pragma unroll
        for (int n = 0; n < D / 8; n++) r.o[m][n][0] = r.o[m][n][1] = r.o[m][n][2] = r.o[m][n][3] = 0;
    }
}

/* Row h of s becomes exp2(scale s + bias - max), its sum is brought to the new maximum; returns the factor that its outputs
 * need then. bias [COLUMNS] in powers of 2. */
template <int COLUMNS>
__device__ __forceinline__ float seg_soften(float &row_max, float &row_sum, float s[COLUMNS / 8][4], int h,
                                            const float *bias, float scale)
{
    int t = (int)threadIdx.x % 4;
    float max = row_max;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[n][e] = fmaf(s[n][e], scale, bias[8 * n + 2 * t + e % 2]);
            max = fmaxf(max, s[n][e]);
        }
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    /* No maximum yet: nothing was added. An infinite one: the row's sum becomes inf, see seg_finish. */
    float lower = t3v_exp2(row_max == max ? 0 : row_max - max);
    float base = fabsf(max) == INFINITY ? 0 : max, sum = row_sum * lower;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[n][e] = t3v_exp2(s[n][e] - base);
            sum += s[n][e];
        }
    row_max = max, row_sum = sum;
    return lower;
}

template <int D> __device__ __forceinline__ void seg_lower(float o[D / 8][4], int h, float lower)
{
#pragma unroll
    for (int n = 0; n < D / 8; n++) o[n][2 * h] *= lower, o[n][2 * h + 1] *= lower;
}

__device__ __forceinline__ void seg_write_pair(const t3v_seg_forward &f, int64_t row, int head, int column,
                                               float x, float y)
{
    if (f.sum) {
        const float *s = f.sum + row * f.sum_stride + (head - f.sum_first) * f.in.dim + column;
        x += s[0], y += s[1];
    }
    int64_t at = row * f.out_stride + (head - f.out_first) * f.in.dim + column;
    if (f.out_type == T3V_BF16) *(uint32_t *)((uint16_t *)f.out + at) = t3v_pack_bf16(x, y);
    else *(float2 *)((float *)f.out + at) = make_float2(x, y);
}

/* Writes what the warp's rows, of the item from `first` on, came to. A sum that is 0 (no score above -inf), inf (a score of
 * inf) or NaN has no softmax. */
template <int D, int MT>
__device__ __forceinline__ void seg_finish(const t3v_seg_forward &f, seg_softmax<D, MT> &r, t3v_seg_item it,
                                           int first, int head)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = r.sum[m][h];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            int mine = first + 16 * m + 8 * h + lane / 4;
            if (mine >= it.count) continue;
            int64_t row = seg_row(f.lists.row_order, it.first + mine);
            float factor = sum > 0 && sum < INFINITY ? f.weight / sum : NAN;
            if (f.lse && lane % 4 == 0)
                f.lse[head * f.in.n_q + row] = (r.max[m][h] + t3v_log2(sum)) * SEG_LN2;
            if (f.top && lane % 4 == 0) f.top[head * f.in.n_q + row] = r.max[m][h] * SEG_LN2;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                int column = 8 * n + 2 * (lane % 4);
                if (column < f.in.dim)
                    seg_write_pair(f, row, head, column, r.o[m][n][2 * h] * factor,
                                   r.o[m][n][2 * h + 1] * factor);
            }
        }
}

#endif
