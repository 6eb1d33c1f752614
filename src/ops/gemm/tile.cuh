/* SPDX-License-Identifier: Apache-2.0 */
/* Products on tensor cores: C [m, n] of rows that a source gives and rows of weights [n, k], bf16 with f32 sums.
 *
 * A block of 256 threads makes 128 x 96 of C, which divides the VAE's widths; four warps along the rows, two along the
 * columns, 32 x 48 each. Tiles of 32 columns of k come by asynchronous copies, TILE_STAGES in flight. A row of a tile is four
 * 16-byte chunks; chunk c of row r lies at place c ^ (r / 2 % 4), so that the eight rows of an ldmatrix are in eight
 * different banks. */
#ifndef T3V_GEMM_TILE_CUH
#define T3V_GEMM_TILE_CUH

#include <math.h>

#include "cuda/intrinsics.cuh"
#include "cuda/rows.cuh"
#include "ops/gemm/gemm.h"

enum {
    TILE_M = 128,
    TILE_N = 96,
    TILE_K = 32,
    TILE_THREADS = 256,
    TILE_STAGES = 3,
    TILE_BYTES = (TILE_M + TILE_N) * TILE_K * 2,
    TILE_SHARED = TILE_STAGES * TILE_BYTES,
};

__device__ __forceinline__ unsigned tile_place(int row, int chunk)
{
    return (unsigned)(row * (TILE_K * 2) + (chunk ^ (row / 2 % 4)) * 16);
}

/* Where a product's result goes. */
struct tile_out {
    void *c;
    t3v_dtype type;
    int64_t m, n, ldc;
    const float *bias; /* [n] or NULL */
    bool accumulate, gelu;
    void *before; /* NULL, or like c: what GELU is taken of */
};

__device__ __forceinline__ void tile_put(const tile_out &o, int64_t row, int64_t column, float v)
{
    if (row >= o.m || column >= o.n) return;
    if (o.bias) v += o.bias[column];
    if (o.before) rows_put(rows_out{o.before, o.type, false}, row * o.ldc + column, v);
    if (o.gelu) v = rows_gelu(v);
    rows_put(rows_out{o.c, o.type, o.accumulate}, row * o.ldc + column, v);
}

/* `S` walks chunks of eight numbers of a row of A: S::cursor at(row, chunk) begins, step() goes TILE_K on, get() is the
 * chunk's address, NULL where there are zeros. b: rows [n] of k numbers, ldb apart. k and ldb are multiples of 8. */
template <class S>
__global__ void __launch_bounds__(TILE_THREADS)
    tile_product(const S source, const uint16_t *b, int64_t ldb, int64_t k, const tile_out out)
{
    unsigned char *const memory = t3v_shared();
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32, chunk = thread % 4;
    const int64_t m0 = (int64_t)blockIdx.x * TILE_M, n0 = (int64_t)blockIdx.y * TILE_N;
    const int warp_m = warp / 2 * 32, warp_n = warp % 2 * 48;
    typename S::cursor from[2] = {source.at(m0 + thread / 4, chunk), source.at(m0 + 64 + thread / 4, chunk)};
    int64_t fetched = 8 * chunk; /* column of k that is copied next */
    const int64_t tiles = (k + TILE_K - 1) / TILE_K;

    auto fetch = [&](int64_t tile) {
        unsigned char *to = memory + tile % TILE_STAGES * TILE_BYTES;
        if (tile < tiles) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const void *p = fetched < k ? from[i].get() : nullptr;
                t3v_copy16(to + tile_place(thread / 4 + 64 * i, chunk), p ? p : b, p != nullptr);
                from[i].step();
            }
            to += TILE_M * TILE_K * 2;
            for (int r = thread / 4; r < TILE_N; r += TILE_THREADS / 4) {
                bool valid = n0 + r < out.n && fetched < k;
                t3v_copy16(to + tile_place(r, chunk), valid ? b + (n0 + r) * ldb + fetched : b, valid);
            }
            fetched += TILE_K;
        }
        t3v_copy_commit();
    };

    float sum[2][6][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 6; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
    for (int s = 0; s < TILE_STAGES - 1; s++) fetch(s);
    for (int64_t tile = 0; tile < tiles; tile++) {
        t3v_copy_wait<TILE_STAGES - 2>();
        __syncthreads(); /* the tile has come for all, and the one before is done with */
        fetch(tile + TILE_STAGES - 1);
        const unsigned char *ta = memory + tile % TILE_STAGES * TILE_BYTES, *tb = ta + TILE_M * TILE_K * 2;
#pragma unroll
        for (int step = 0; step < TILE_K / 16; step++) {
            uint32_t fa[2][4], fb[3][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
                t3v_ldmatrix4(fa[i], ta + tile_place(warp_m + 16 * i + lane % 16, 2 * step + lane / 16));
#pragma unroll
            for (int j = 0; j < 3; j++)
                t3v_ldmatrix4(fb[j], tb + tile_place(warp_n + 16 * j + lane / 16 * 8 + lane % 8,
                                                     2 * step + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 6; j++) t3v_mma(sum[i][j], fa[i], fb[j / 2] + j % 2 * 2);
        }
    }
    t3v_copy_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 6; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                tile_put(out, m0 + warp_m + 16 * i + lane / 4 + e / 2 * 8,
                         n0 + warp_n + 8 * j + lane % 4 * 2 + e % 2, sum[i][j][e]);
}

template <class S>
int tile_run(const S &source, const void *b, int64_t ldb, int64_t k, const tile_out &out, void *stream)
{
    dim3 blocks(rows_blocks(out.m, TILE_M), rows_blocks(out.n, TILE_N));
    return t3v_launch(tile_product<S>, blocks, dim3(TILE_THREADS), TILE_SHARED, stream, source,
                      (const uint16_t *)b, ldb, k, out);
}

#endif
