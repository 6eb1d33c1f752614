/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over segments in f32 on any rows, and its gradients, a warp for each row: for f32 runs and shapes that the
 * tensor-core kernels decline. Not fast. */
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
        if (f.top && lane == 0) f.top[head * in.n_q + row] = max;
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

__global__ void __launch_bounds__(SEG_THREADS) peak(const t3v_seg_peak f)
{
    const t3v_seg_item it = seg_item<T3V_SEG_ROWS>(f.lists);
    const t3v_seg_inputs &in = f.in;
    const int head = in.head_first + (int)blockIdx.y;
    const int64_t column = (int64_t)head * in.dim;
    for (int i = (int)threadIdx.x / 32; i < it.count; i += SEG_WARPS) {
        int64_t row = seg_row(f.lists.row_order, it.first + i), which = -1;
        float q[PARTS], top = -INFINITY;
        load_row(q, in.q, in.type, row * in.q_stride + column, in.dim);
        seg_cursor c = seg_begin(f.lists, it.list, head, 0);
        for (int32_t slot; (slot = seg_take(f.lists, c, 1)) >= 0;) {
            int64_t key = seg_row(f.lists.column_order, slot);
            float k[PARTS];
            load_row(k, in.k, in.type, key * in.k_stride + column, in.dim);
            float s = dot(q, k) * in.scale + (in.log_weight ? in.log_weight[key] : 0);
            if (s > top) top = s, which = key;
        }
        if (threadIdx.x % 32 == 0)
            f.top[head * in.n_q + row] = top, f.key[head * in.n_q + row] = (int32_t)which;
    }
}

/* The gradients of a query (KEYS false) or a key, as in attn/backward.cu. */
template <bool KEYS> __global__ void __launch_bounds__(SEG_THREADS) backward_plain(const t3v_seg_backward b)
{
    const t3v_seg_item it = seg_item<T3V_SEG_ROWS>(b.lists);
    const t3v_seg_inputs &in = b.in;
    const int head = in.head_first + (int)blockIdx.y, lane = (int)threadIdx.x % 32, dim = in.dim;
    const int64_t column = (int64_t)head * dim;
    for (int i = (int)threadIdx.x / 32; i < it.count; i += SEG_WARPS) {
        int64_t row = seg_row(b.lists.row_order, it.first + i);
        float x0[PARTS], x1[PARTS], g0[PARTS], g1[PARTS];
        load_row(x0, KEYS ? in.k : in.q, in.type, row * (KEYS ? in.k_stride : in.q_stride) + column, dim);
        load_row(x1, KEYS ? in.v : b.dout, KEYS ? in.type : b.dout_type,
                 row * (KEYS ? in.v_stride : b.dout_stride) + column, dim);
#pragma unroll
        for (int p = 0; p < PARTS; p++) g0[p] = g1[p] = 0;
        seg_cursor c = seg_begin(b.lists, it.list, head, 0);
        for (int32_t slot; (slot = seg_take(b.lists, c, 1)) >= 0;) {
            int64_t other = seg_row(b.lists.column_order, slot), query = KEYS ? other : row,
                    key = KEYS ? row : other;
            float y0[PARTS], y1[PARTS];
            load_row(y0, KEYS ? in.q : in.k, in.type, other * (KEYS ? in.q_stride : in.k_stride) + column,
                     dim);
            load_row(y1, KEYS ? b.dout : in.v, KEYS ? b.dout_type : in.type,
                     other * (KEYS ? b.dout_stride : in.v_stride) + column, dim);
            int64_t at = head * in.n_q + query;
            float s = dot(x0, y0) * in.scale + (in.log_weight ? in.log_weight[key] : 0);
            float weight = b.factor[at] * expf(s - b.lse[at]), ds = weight * (dot(x1, y1) - b.delta[at]);
#pragma unroll
            for (int p = 0; p < PARTS; p++)
                g0[p] = fmaf(ds, y0[p], g0[p]), g1[p] = fmaf(weight, y1[p], g1[p]);
        }
        for (int p = 0; p < PARTS; p++) {
            int d = 32 * p + lane;
            if (d >= dim) break;
            if (KEYS) {
                b.dk[row * b.dk_stride + column + d] += g0[p] * in.scale;
                b.dv[row * b.dv_stride + column + d] += g1[p];
            } else {
                b.dq[row * b.dq_stride + column + d] += g0[p] * in.scale;
            }
        }
    }
}

template <bool KEYS> int launch(const t3v_seg_backward *b, void *stream)
{
    return t3v_launch(backward_plain<KEYS>, seg_blocks<T3V_SEG_ROWS>(b->lists, b->in.heads),
                      dim3(SEG_THREADS), (size_t)0, stream, *b);
}
} // namespace

extern "C" int t3v_seg_backward_queries_plain(const t3v_seg_backward *b, void *stream)
{
    return launch<false>(b, stream);
}
extern "C" int t3v_seg_backward_keys_plain(const t3v_seg_backward *b, void *stream)
{
    return launch<true>(b, stream);
}

extern "C" int t3v_seg_peak_plain(const t3v_seg_peak *p, void *stream)
{
    return t3v_launch(peak, seg_blocks<T3V_SEG_ROWS>(p->lists, p->in.heads), dim3(SEG_THREADS), (size_t)0,
                      stream, *p);
}

extern "C" int t3v_seg_forward_plain(const t3v_seg_forward *f, void *stream)
{
    return t3v_launch(forward_plain, seg_blocks<T3V_SEG_ROWS>(f->lists, f->in.heads), dim3(SEG_THREADS),
                      (size_t)0, stream, *f);
}
