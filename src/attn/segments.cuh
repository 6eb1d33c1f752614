/* SPDX-License-Identifier: Apache-2.0 */
/* What the segment kernels share: walking a list of columns, tiles in shared memory, fragments of the tensor cores. */
#ifndef T3V_ATTN_SEGMENTS_CUH
#define T3V_ATTN_SEGMENTS_CUH

#include <math.h>

#include "attn/segments.h"
#include "cuda/intrinsics.cuh"

/* A thread block is four warps; columns come in tiles of 64. */
enum { SEG_WARPS = 4, SEG_THREADS = 32 * SEG_WARPS, SEG_COLUMNS = 64 };
static const float SEG_LOG2E = 1.4426950408889634f, SEG_LN2 = 0.6931471805599453f;

/* ---- lists ---- */

/* The item of a thread block whose tile has ROWS rows: a part of it where items have more. */
template <int ROWS> __device__ __forceinline__ t3v_seg_item seg_item(const t3v_seg_lists &l)
{
    const int parts = T3V_SEG_ROWS / ROWS;
    int64_t index = blockIdx.x / parts;
    t3v_seg_item it;
    if (l.item) {
        it = l.item[index];
    } else {
        it.list = 0;
        it.first = (int32_t)(index * T3V_SEG_ROWS);
        it.count = (int32_t)(l.rows - it.first);
        if (it.count > T3V_SEG_ROWS) it.count = T3V_SEG_ROWS;
    }
    int skip = (int)(blockIdx.x % parts) * ROWS;
    it.first += skip;
    it.count = it.count - skip < ROWS ? it.count - skip : ROWS;
    return it;
}

__device__ __forceinline__ int64_t seg_row(const int32_t *order, int64_t slot)
{
    return order ? order[slot] : slot;
}

__device__ __forceinline__ int seg_lowest_bit(uint64_t x)
{
    uint32_t low = (uint32_t)x;
    return low ? __ffs((int)low) - 1 : __ffs((int)(uint32_t)(x >> 32)) + 31;
}

/* A place in the concatenation of a list's ranges; small, because it is kept in shared memory. */
struct seg_cursor {
    const void *next;               /* range, or word of bits */
    uint64_t left;                  /* ranges to come; blocks of the present word that are */
    int32_t first, size, at, words; /* words of bits to come */
};

/* Goes to the next range; false: there is none, and `size` is 0. */
__device__ __forceinline__ bool seg_next_range(const t3v_seg_lists &l, seg_cursor &c)
{
    c.size = 0;
    if (l.bits) {
        const uint64_t *word = (const uint64_t *)c.next;
        while (!c.left && c.words) c.left = *word++, c.words--;
        c.next = word;
        if (!c.left) return false;
        const int32_t *block = l.block_first + (l.words - c.words - 1) * 64 + seg_lowest_bit(c.left);
        c.left &= c.left - 1;
        c.first = block[0];
        c.size = block[1] - block[0];
        return true;
    }
    if (!c.left) return false;
    c.left--;
    const t3v_range *range = (const t3v_range *)c.next;
    c.first = range->first;
    c.size = range->last - c.first;
    c.next = range + 1;
    return true;
}

/* The list of an item, `at` columns behind its beginning. */
__device__ __forceinline__ seg_cursor seg_begin(const t3v_seg_lists &l, int32_t list, int head, int32_t at)
{
    seg_cursor c;
    int64_t number = list + head * l.per_head;
    c.next = nullptr;
    c.left = 0;
    c.first = 0, c.size = 0, c.at = at;
    c.words = (int32_t)l.words;
    if (l.bits) {
        c.next = l.bits + number * l.words;
    } else if (l.begin) {
        c.next = l.ranges + l.begin[number];
        c.left = (uint64_t)(l.begin[number + 1] - l.begin[number]);
    } else {
        c.size = (int32_t)l.columns;
    }
    return c;
}

/* The slot at the cursor, -1 behind the end; the cursor then moves on by `step`. */
__device__ __forceinline__ int32_t seg_take(const t3v_seg_lists &l, seg_cursor &c, int32_t step)
{
    while (c.at >= c.size) {
        c.at -= c.size;
        if (!seg_next_range(l, c)) return -1;
    }
    int32_t slot = c.first + c.at;
    c.at += step;
    return slot;
}

/* ---- tiles: rows of D bf16 in shared memory, their 16-byte parts exchanged so that eight rows use all banks ---- */

template <int D> __device__ __forceinline__ uint16_t *seg_at(uint16_t *tile, int row, int part)
{
    return tile + row * D + ((part ^ (row & 7)) * 8);
}

/* One row's 16-byte part `part` of `dim` numbers; row < 0 or behind dim: zeros. */
template <int D>
__device__ __forceinline__ void seg_copy_part(uint16_t *tile, int r, int part, const void *base, int64_t row,
                                              int64_t stride, int dim)
{
    bool valid = row >= 0 && part * 8 < dim;
    const uint16_t *from = (const uint16_t *)base;
    t3v_copy16(seg_at<D>(tile, r, part), valid ? from + row * stride + part * 8 : from, valid);
}

/* Rows `rows` [64], and ends the group of copies. */
template <int D>
__device__ __forceinline__ void seg_copy_columns(uint16_t *tile, const int32_t *rows, const void *base,
                                                 int64_t stride, int dim)
{
#pragma unroll 2
    for (int i = 0; i < SEG_COLUMNS * D / 8 / SEG_THREADS; i++) {
        int e = i * SEG_THREADS + (int)threadIdx.x, r = e / (D / 8);
        seg_copy_part<D>(tile, r, e % (D / 8), base, rows[r], stride, dim);
    }
    t3v_copy_commit();
}

/* The rows of an item, zeros behind them. */
template <int D, int ROWS>
__device__ __forceinline__ void seg_copy_rows(uint16_t *tile, const t3v_seg_lists &l, t3v_seg_item it,
                                              const void *base, int64_t stride, int dim)
{
    for (int e = (int)threadIdx.x; e < ROWS * (D / 8); e += SEG_THREADS) {
        int r = e / (D / 8);
        seg_copy_part<D>(tile, r, e % (D / 8), base, r < it.count ? seg_row(l.row_order, it.first + r) : -1,
                         stride, dim);
    }
}

/* 16 rows and 16 columns of a row tile as the left operand: lanes 0-15 name the rows, lanes 16-31 the same 8 columns on. */
template <int D> __device__ __forceinline__ void seg_left(uint32_t a[4], uint16_t *tile, int row, int step)
{
    int lane = (int)threadIdx.x % 32;
    t3v_ldmatrix4(a, seg_at<D>(tile, row + lane % 16, 2 * step + lane / 16));
}

/* The right operand of X Y^T: 16 rows of Y, which are 2 x 8 columns of the product; b[0..2) and b[2..4). */
template <int D>
__device__ __forceinline__ void seg_right_rows(uint32_t b[4], uint16_t *tile, int row, int step)
{
    int lane = (int)threadIdx.x % 32;
    t3v_ldmatrix4(b, seg_at<D>(tile, row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
}

/* The right operand of P Y: 16 rows of Y, which are summed over, and columns of parts `part` and `part` + 1. */
template <int D>
__device__ __forceinline__ void seg_right_columns(uint32_t b[4], uint16_t *tile, int row, int part)
{
    int lane = (int)threadIdx.x % 32;
    t3v_ldmatrix4_trans(b, seg_at<D>(tile, row + lane % 16, part + lane / 16));
}

/* s [MT][8 column groups][4] += rows [row, row + 16 MT) of X times Y^T, Y a tile of 64 rows. */
template <int D, int MT>
__device__ __forceinline__ void seg_scores(float s[MT][SEG_COLUMNS / 8][4], uint16_t *x, int row, uint16_t *y)
{
#pragma unroll 2 /* unrolled more, its addresses take the registers of the sums */
    for (int step = 0; step < D / 16; step++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) seg_left<D>(a[m], x, row + 16 * m, step);
#pragma unroll
        for (int n = 0; n < SEG_COLUMNS / 8; n += 2) {
            uint32_t b[4];
            seg_right_rows<D>(b, y, 8 * n, step);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                t3v_mma(s[m][n], a[m], b);
                t3v_mma(s[m][n + 1], a[m], b + 2);
            }
        }
    }
}

/* o [MT][D / 8][4] += P Y, with P [16 MT][64] in the form that seg_scores gives, rounded to bf16. */
template <int D, int MT>
__device__ __forceinline__ void seg_add_product(float o[MT][D / 8][4], const float p[MT][SEG_COLUMNS / 8][4],
                                                uint16_t *y)
{
#pragma unroll
    for (int step = 0; step < SEG_COLUMNS / 16; step++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = t3v_pack_bf16(p[m][2 * step + i / 2][i % 2 * 2],
                                        p[m][2 * step + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int part = 0; part < D / 8; part += 2) {
            uint32_t b[4];
            seg_right_columns<D>(b, y, 16 * step, part);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                t3v_mma(o[m][part], a[m], b);
                t3v_mma(o[m][part + 1], a[m], b + 2);
            }
        }
    }
}

/* Blocks of a launch over `l` with tiles of ROWS rows. */
template <int ROWS> static inline dim3 seg_blocks(const t3v_seg_lists &l, int heads)
{
    int64_t items = l.item ? l.items : (l.rows + T3V_SEG_ROWS - 1) / T3V_SEG_ROWS;
    return dim3((unsigned)(items * (T3V_SEG_ROWS / ROWS)), (unsigned)heads);
}

#endif
