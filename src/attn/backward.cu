/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients of attention over segments on tensor cores, without atomic sums: one kernel for the rows of queries, which
 * goes through the keys they meet, and one for those of keys, which goes through the queries that meet them. Both compute
 * the scores again: seven products instead of five, for sums in a fixed order.
 *
 * With rows X and columns Y (queries and keys, or the other way round) both are the same: S = X0 Y0^T and dP = X1 Y1^T,
 * where 0 are q and k and 1 are dout and v, then dS = factor P (dP - delta), which times Y0 gives the gradient of X0; of
 * keys also dv = (factor P)^T dout, which is P times Y1. */
#include "attn/segments.cuh"

namespace
{
enum { ROWS = 16 * SEG_WARPS };

/* Of columns: their rows in the matrices, and of keys the log-weight, of queries lse (both in powers of 2), delta, factor. */
struct columns {
    int32_t row[2][SEG_COLUMNS];
    float bias[2][SEG_COLUMNS], delta[2][SEG_COLUMNS], factor[2][SEG_COLUMNS];
    seg_cursor cursor[SEG_COLUMNS];
};

struct side {
    float bias, delta, factor;
};

/* What a key or a query (row < 0: none) brings to its scores. */
template <bool KEY> __device__ __forceinline__ side side_of(const t3v_seg_backward &b, int head, int64_t row)
{
    side s = {KEY ? -INFINITY : 0, 0, 0};
    if (row < 0) return s;
    if (KEY) {
        s.bias = b.in.log_weight ? b.in.log_weight[row] * SEG_LOG2E : 0;
        return s;
    }
    int64_t at = head * b.in.n_q + row;
    s.bias = b.lse[at] * -SEG_LOG2E;
    s.delta = b.delta[at];
    s.factor = b.factor[at];
    return s;
}

template <bool KEYS>
__device__ __forceinline__ void next_columns(columns *to, int which, const t3v_seg_backward &b, int head)
{
    if (threadIdx.x >= SEG_COLUMNS) return;
    int32_t slot = seg_take(b.lists, to->cursor[threadIdx.x], SEG_COLUMNS);
    int64_t row = slot < 0 ? -1 : seg_row(b.lists.column_order, slot);
    side s = side_of<!KEYS>(b, head, row);
    to->row[which][threadIdx.x] = (int32_t)row;
    to->bias[which][threadIdx.x] = s.bias;
    to->delta[which][threadIdx.x] = s.delta;
    to->factor[which][threadIdx.x] = s.factor;
}

template <int D>
__device__ __forceinline__ void add_rows(float *to, int64_t stride, int dim, const float o[D / 8][4],
                                         const int64_t row[2], float factor)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row[h] < 0) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = 8 * n + 2 * ((int)threadIdx.x % 4) + e;
                if (column < dim) to[row[h] * stride + column] += o[n][2 * h + e] * factor;
            }
    }
}

template <int D> __device__ __forceinline__ void clear(float o[1][D / 8][4])
{
#pragma unroll
    for (int n = 0; n < D / 8; n++) o[0][n][0] = o[0][n][1] = o[0][n][2] = o[0][n][3] = 0;
}

/* KEYS: the rows are keys. */
template <int D, bool KEYS>
__global__ void __launch_bounds__(SEG_THREADS, 2) backward(const t3v_seg_backward b)
{
    const t3v_seg_item it = seg_item<ROWS>(b.lists);
    if (it.count <= 0) return;
    const int head = b.in.head_first + (int)blockIdx.y, dim = b.in.dim, lane = (int)threadIdx.x % 32;
    const int first = (int)threadIdx.x / 32 * 16;
    const uint16_t *q = (const uint16_t *)b.in.q + head * dim, *dout = (const uint16_t *)b.dout + head * dim,
                   *k = (const uint16_t *)b.in.k + head * dim, *v = (const uint16_t *)b.in.v + head * dim;
    uint16_t *x0 = (uint16_t *)t3v_shared(), *x1 = x0 + ROWS * D, *y0 = x1 + ROWS * D,
             *y1 = y0 + SEG_COLUMNS * D;
    columns *col = (columns *)(y1 + SEG_COLUMNS * D);
    const bool busy = first < it.count;
    float scale = b.in.scale * SEG_LOG2E;
    int64_t row[2]; /* of this thread's results */
    side mine[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int r = first + 8 * h + lane / 4;
        row[h] = r < it.count ? seg_row(b.lists.row_order, it.first + r) : -1;
        mine[h] = side_of<KEYS>(b, head, row[h]);
    }
    float g0[1][D / 8][4], g1[1][KEYS ? D / 8 : 1][4];
    clear<D>(g0);
    if (KEYS) clear<KEYS ? D : 8>(g1);
    if (threadIdx.x < SEG_COLUMNS)
        col->cursor[threadIdx.x] = seg_begin(b.lists, it.list, head, (int32_t)threadIdx.x);
    next_columns<KEYS>(col, 0, b, head);
    seg_copy_rows<D, ROWS>(x0, b.lists, it, KEYS ? k : q, KEYS ? b.in.k_stride : b.in.q_stride, dim);
    seg_copy_rows<D, ROWS>(x1, b.lists, it, KEYS ? v : dout, KEYS ? b.in.v_stride : b.dout_stride, dim);
    __syncthreads();
    for (int which = 0, tile = 0; col->row[which][0] >= 0; which ^= 1, tile++) {
        if (!tile)
            seg_copy_columns<D>(y1, col->row[which], KEYS ? dout : v, KEYS ? b.dout_stride : b.in.v_stride,
                                dim);
        seg_copy_columns<D>(y0, col->row[which], KEYS ? q : k, KEYS ? b.in.q_stride : b.in.k_stride, dim);
        next_columns<KEYS>(col, which ^ 1, b, head);
        t3v_copy_wait<0>();
        __syncthreads();
        float s[1][SEG_COLUMNS / 8][4], d[1][SEG_COLUMNS / 8][4];
        if (busy) {
            clear<SEG_COLUMNS>(s);
            clear<SEG_COLUMNS>(d);
            seg_scores<D, 1>(s, x0, first, y0);
            seg_scores<D, 1>(d, x1, first, y1);
#pragma unroll
            for (int n = 0; n < SEG_COLUMNS / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int c = 8 * n + 2 * (lane % 4) + e % 2;
                    float bias = col->bias[which][c] + mine[e / 2].bias,
                          factor = KEYS ? col->factor[which][c] : mine[e / 2].factor,
                          delta = KEYS ? col->delta[which][c] : mine[e / 2].delta;
                    s[0][n][e] = factor * t3v_exp2(fmaf(s[0][n][e], scale, bias));
                    d[0][n][e] = s[0][n][e] * (d[0][n][e] - delta);
                }
            if (KEYS) seg_add_product<KEYS ? D : 8, 1>(g1, s, y1);
        }
        __syncthreads(); /* nobody reads y1 any more */
        if (col->row[which ^ 1][0] >= 0)
            seg_copy_columns<D>(y1, col->row[which ^ 1], KEYS ? dout : v,
                                KEYS ? b.dout_stride : b.in.v_stride, dim);
        if (busy) seg_add_product<D, 1>(g0, d, y0);
        __syncthreads(); /* nor y0 */
    }
    t3v_copy_commit(); /* of a list without columns: the rows */
    t3v_copy_wait<0>();
    if (!busy) return;
    if (KEYS) add_rows<KEYS ? D : 8>(b.dv + head * dim, b.dv_stride, dim, g1[0], row, 1);
    float *to = KEYS ? b.dk : b.dq;
    add_rows<D>(to + head * dim, KEYS ? b.dk_stride : b.dq_stride, dim, g0[0], row, b.in.scale);
}

template <int D, bool KEYS> int launch(const t3v_seg_backward *b, void *stream)
{
    size_t shared = (size_t)(2 * ROWS + 2 * SEG_COLUMNS) * D * sizeof(uint16_t) + sizeof(columns);
    return t3v_launch(backward<D, KEYS>, seg_blocks<ROWS>(b->lists, b->in.heads), dim3(SEG_THREADS), shared,
                      stream, *b);
}
} // namespace

extern "C" int t3v_seg_backward_queries(const t3v_seg_backward *b, void *stream)
{
    return b->in.dim <= 64 ? launch<64, false>(b, stream) : launch<128, false>(b, stream);
}

extern "C" int t3v_seg_backward_keys(const t3v_seg_backward *b, void *stream)
{
    return b->in.dim <= 64 ? launch<64, true>(b, stream) : launch<128, true>(b, stream);
}
