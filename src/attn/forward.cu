/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over segments on tensor cores, forward: bf16 products, f32 sums, the softmax over tiles of 64 keys that come.
 *
 * A thread block has the rows of one item and one head. Rows of q, k and v are gathered into shared memory by asynchronous
 * copies through the term's order: V of a tile while its scores are computed, K of the next one while V is used. The
 * softmax over what was seen so far is corrected when its maximum rises (FlashAttention-2, arXiv 2307.08691). */
#include "attn/forward.cuh"

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

template <int D, int MT>
__device__ __forceinline__ void soften(seg_softmax<D, MT> &r, float s[MT][SEG_COLUMNS / 8][4],
                                       const float *bias, float scale)
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            seg_lower<D>(r.o[m], h, seg_soften<SEG_COLUMNS>(r.max[m][h], r.sum[m][h], s[m], h, bias, scale));
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
    seg_softmax<D, MT> r;
    seg_clear(r);
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
            soften(r, s, col->bias[which], scale);
        }
        t3v_copy_wait<0>();
        __syncthreads(); /* V has come, and the rows of the next tile; nobody reads K any more */
        seg_copy_columns<D>(tile_k, col->row[which ^ 1], k, f.in.k_stride, f.in.dim);
        if (busy) seg_add_product<D, MT>(r.o, s, tile_v);
    }
    if (busy) seg_finish(f, r, it, first, head);
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
