/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over segments on tensor cores, forward: bf16 products, f32 sums, the softmax over tiles of 64 keys that come.
 *
 * A thread block has the rows of one item and one head. Rows of q, k and v are gathered into shared memory by asynchronous
 * copies through the term's order: V of a tile while its scores are computed, K of the next one while V is used. The
 * softmax over what was seen so far is corrected when its maximum rises (FlashAttention-2, arXiv 2307.08691). */
#include "attn/segments.cuh"

namespace
{
/* Key rows and log-weights (in powers of 2; -inf: no key) of the tiles that are used and that come. */
struct columns {
    int32_t row[2][SEG_COLUMNS];
    float bias[2][SEG_COLUMNS];
    seg_cursor cursor[SEG_COLUMNS]; /* of the threads that fill the above; kept here for want of registers */
};

template <int D, int MT> constexpr size_t shared_bytes()
{
    return (size_t)(16 * MT * SEG_WARPS + 2 * SEG_COLUMNS) * D * sizeof(uint16_t) + sizeof(columns);
}

__device__ __forceinline__ void next_columns(columns *to, int which, const t3v_seg_forward &f)
{
    if (threadIdx.x >= SEG_COLUMNS) return;
    int32_t slot = seg_take(f.lists, to->cursor[threadIdx.x], SEG_COLUMNS);
    int64_t row = slot < 0 ? -1 : seg_row(f.lists.column_order, slot);
    to->row[which][threadIdx.x] = (int32_t)row;
    to->bias[which][threadIdx.x] = row < 0           ? -INFINITY
                                   : f.in.log_weight ? f.in.log_weight[row] * SEG_LOG2E
                                                     : 0;
}

/* The rows of a warp: 16 MT of them, of which a thread has rows lane / 4 and that + 8 of each 16. */
template <int D, int MT> struct rows {
    float o[MT][D / 8][4], max[MT][2], sum[MT][2]; /* sum: of this thread's columns */
};

/* s becomes exp2(scale s + bias - max), the rows' outputs and sums are brought to the new maximum. */
template <int D, int MT>
__device__ __forceinline__ void soften(rows<D, MT> &r, float s[MT][SEG_COLUMNS / 8][4], const float *bias,
                                       float scale)
{
    int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float max = r.max[m][h];
#pragma unroll
            for (int n = 0; n < SEG_COLUMNS / 8; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[m][n][e] = fmaf(s[m][n][e], scale, bias[8 * n + 2 * t + e % 2]);
                    max = fmaxf(max, s[m][n][e]);
                }
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
            /* No maximum yet: nothing was added. An infinite one: the row's sum becomes inf, see `finish`. */
            float lower = r.max[m][h] == max ? 1 : max == INFINITY ? 0 : t3v_exp2(r.max[m][h] - max);
            float base = fabsf(max) == INFINITY ? 0 : max, sum = r.sum[m][h] * lower;
#pragma unroll
            for (int n = 0; n < SEG_COLUMNS / 8; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[m][n][e] = t3v_exp2(s[m][n][e] - base);
                    sum += s[m][n][e];
                }
            r.max[m][h] = max, r.sum[m][h] = sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) r.o[m][n][2 * h] *= lower, r.o[m][n][2 * h + 1] *= lower;
        }
}

__device__ __forceinline__ void write_pair(const t3v_seg_forward &f, int64_t row, int head, int column,
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

/* A sum that is 0 (no score above -inf), inf (a score of inf) or NaN has no softmax. */
template <int D, int MT>
__device__ __forceinline__ void finish(const t3v_seg_forward &f, rows<D, MT> &r, t3v_seg_item it, int first,
                                       int head)
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
                    write_pair(f, row, head, column, r.o[m][n][2 * h] * factor,
                               r.o[m][n][2 * h + 1] * factor);
            }
        }
}

template <int D, int MT>
__global__ void __launch_bounds__(SEG_THREADS, D == 256  ? 1
                                               : MT == 2 ? 2
                                                         : 3) forward(const t3v_seg_forward f)
{
    const int ROWS = 16 * MT * SEG_WARPS;
    const t3v_seg_item it = seg_item<ROWS>(f.lists);
    if (it.count <= 0) return;
    const int head = f.in.head_first + (int)blockIdx.y, first = (int)threadIdx.x / 32 * 16 * MT;
    const uint16_t *q = (const uint16_t *)f.in.q + head * f.in.dim,
                   *k = (const uint16_t *)f.in.k + head * f.in.dim,
                   *v = (const uint16_t *)f.in.v + head * f.in.dim;
    uint16_t *tile_q = (uint16_t *)t3v_shared(), *tile_k = tile_q + ROWS * D,
             *tile_v = tile_k + SEG_COLUMNS * D;
    columns *col = (columns *)(tile_v + SEG_COLUMNS * D);
    const float scale = f.in.scale * SEG_LOG2E;
    const bool busy = first < it.count; /* else this warp only copies */
    rows<D, MT> r;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        r.max[m][0] = r.max[m][1] = -INFINITY;
        r.sum[m][0] = r.sum[m][1] = 0;
#pragma unroll
        for (int n = 0; n < D / 8; n++) r.o[m][n][0] = r.o[m][n][1] = r.o[m][n][2] = r.o[m][n][3] = 0;
    }
    if (threadIdx.x < SEG_COLUMNS)
        col->cursor[threadIdx.x] = seg_begin(f.lists, it.list, head, (int32_t)threadIdx.x);
    next_columns(col, 0, f);
    __syncthreads();
    seg_copy_rows<D, ROWS>(tile_q, f.lists, it, q, f.in.q_stride, f.in.dim);
    seg_copy_columns<D>(tile_k, col->row[0], k, f.in.k_stride, f.in.dim);
    for (int which = 0;; which ^= 1) {
        t3v_copy_wait<0>();
        __syncthreads(); /* K has come; nobody reads V of the tile before */
        if (col->row[which][0] < 0) break;
        seg_copy_columns<D>(tile_v, col->row[which], v, f.in.v_stride, f.in.dim);
        next_columns(col, which ^ 1, f);
        float s[MT][SEG_COLUMNS / 8][4];
        if (busy) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < SEG_COLUMNS / 8; n++)
                    s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
            seg_scores<D, MT>(s, tile_q, first, tile_k);
            soften<D, MT>(r, s, col->bias[which], scale);
        }
        t3v_copy_wait<0>();
        __syncthreads(); /* V has come, and the rows of the next tile; nobody reads K any more */
        seg_copy_columns<D>(tile_k, col->row[which ^ 1], k, f.in.k_stride, f.in.dim);
        if (busy) seg_add_product<D, MT>(r.o, s, tile_v);
    }
    if (busy) finish<D, MT>(f, r, it, first, head);
}

template <int D, int MT> int launch(const t3v_seg_forward *f, void *stream)
{
    return t3v_launch(forward<D, MT>, seg_blocks<16 * MT * SEG_WARPS>(f->lists, f->in.heads),
                      dim3(SEG_THREADS), shared_bytes<D, MT>(), stream, *f);
}
} // namespace

/* Head dimensions between these are filled with zeros; items of few rows get tiles of 64. */
extern "C" int t3v_seg_forward_tensor(const t3v_seg_forward *f, void *stream)
{
    const bool few = f->lists.item && f->lists.most <= 64;
    if (f->in.dim <= 64) return few ? launch<64, 1>(f, stream) : launch<64, 2>(f, stream);
    if (f->in.dim <= 128) return few ? launch<128, 1>(f, stream) : launch<128, 2>(f, stream);
    return launch<256, 1>(f, stream);
}
