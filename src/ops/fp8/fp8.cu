/* SPDX-License-Identifier: Apache-2.0 */
/* 8-bit products on a GPU: rows to 8-bit floats, and what is left to do around the library's product. Contract: ops/fp8/fp8.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/module.h"
#include "cuda/rows.cuh"

namespace
{
enum { STEP = T3V_FP8_STEP };

/* A row for each block. It is read twice; the second time it comes from a cache. */
__global__ void __launch_bounds__(ROWS_THREADS)
    quantise(const rows_in x, uint8_t *q, float *scale, const int64_t d)
{
    const int64_t first = blockIdx.x * d, begin = STEP * (int64_t)threadIdx.x;
    float v[STEP], most = 0;
    for (int64_t i = begin; i < d; i += STEP * ROWS_THREADS) {
        rows_load<8>(x, first + i, v);
        rows_load<8>(x, first + i + 8, v + 8);
#pragma unroll
        for (int e = 0; e < STEP; e++) {
            const float a = fabsf(v[e]);
            most = a > most || a != a ? a : most; /* NaN stays */
        }
    }
    most = rows_most(most);
    const bool finite = most < t3v_bits_float(0x7f800000u), usable = finite && most >= 0x1p-100f;
    if (threadIdx.x == 0) scale[blockIdx.x] = usable ? most / 448 : finite ? 0 : t3v_bits_float(0x7fc00000u);
    const float factor = usable ? 448 / most : 0;
    for (int64_t i = begin; i < d; i += STEP * ROWS_THREADS) {
        rows_load<8>(x, first + i, v);
        rows_load<8>(x, first + i + 8, v + 8);
        uint32_t word[STEP / 4];
#pragma unroll
        for (int w = 0; w < STEP / 4; w++) {
            float p[4];
#pragma unroll
            for (int e = 0; e < 4; e++) p[e] = usable ? __fmul_rn(v[4 * w + e], factor) : 0;
            word[w] = t3v_pack_e4m3(p[0], p[1]) | t3v_pack_e4m3(p[2], p[3]) << 16;
        }
        t3v_store16(q + first + i, make_uint4(word[0], word[1], word[2], word[3]));
    }
}

/* The same numbers in BF16, which has them all. */
__global__ void __launch_bounds__(ROWS_THREADS) expand(uint16_t *to, const uint8_t *q, const int64_t n)
{
    const int64_t i = STEP * ((int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x);
    if (i >= n) return;
    const uint4 u = t3v_load16(q + i);
    const uint32_t word[4] = {u.x, u.y, u.z, u.w};
    uint32_t pair[8];
#pragma unroll
    for (int w = 0; w < 8; w++) {
        const uint32_t two = word[w / 2] >> 16 * (w % 2);
        pair[w] = t3v_pack_bf16(t3v_e4m3_float(two & 0xff), t3v_e4m3_float(two >> 8 & 0xff));
    }
    t3v_store16(to + i, make_uint4(pair[0], pair[1], pair[2], pair[3]));
    t3v_store16(to + i + 8, make_uint4(pair[4], pair[5], pair[6], pair[7]));
}

/* Sums to results, in place: eight of a row for each thread. */
__global__ void __launch_bounds__(ROWS_THREADS)
    finish(const rows_out y, const int64_t n, const float *row_scale, const float *column_scale,
           const float *bias, const bool gelu)
{
    const int64_t row = blockIdx.x, column = 8 * ((int64_t)blockIdx.y * ROWS_THREADS + threadIdx.x);
    if (column >= n) return;
    const float scale = row_scale[row];
    float v[8], by[8], add[8];
    rows_load<8>(rows_in{y.data, y.type}, row * n + column, v);
    rows_load<8>(rows_in{column_scale, T3V_F32}, column, by);
    rows_load_or<8>(bias, column, 0, add);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] = v[e] * scale * by[e] + add[e];
        if (gelu) v[e] = rows_gelu(v[e]);
    }
    rows_store<8>(y, row * n + column, v);
}

t3v_status check(const t3v_fp8_args *g)
{
    const void *const all[] = {g->x, g->w, g->w_scale, g->bias, g->y, g->q, g->scale};
    bool aligned = true;
    for (const void *p : all) aligned = aligned && rows_aligned(p);
    if (g->m < 0 || !t3v_fp8_fits(g->n, g->k) || !aligned)
        return t3v_cuda_fail(
            T3V_E_ARG,
            "a product of 8-bit floats, %lld x %lld x %lld: the last two must be multiples of %d%s",
            (long long)g->m, (long long)g->n, (long long)g->k, STEP,
            aligned ? "" : ", addresses of 16 bytes");
    if ((g->x_type != T3V_F32 && g->x_type != T3V_BF16) || (g->y_type != T3V_F32 && g->y_type != T3V_BF16))
        return t3v_cuda_fail(T3V_E_DTYPE,
                             "a product of 8-bit floats takes and gives F32 or BF16, not %d and %d",
                             (int)g->x_type, (int)g->y_type);
    return T3V_OK;
}

/* The sums by our own product of BF16, where the library has none. */
t3v_status own_sums(const t3v_fp8_args *g)
{
    uint16_t *const a = (uint16_t *)t3v_cuda_work(2 * (size_t)(g->k * (g->m + g->n))), *const b = a +
                                                                                                  g->m * g->k;
    if (!a) return t3v_cuda_fail(T3V_E_NOMEM, "no memory on the device to expand 8-bit floats");
    const struct {
        uint16_t *to;
        const uint8_t *from;
        int64_t n;
    } sides[] = {{a, g->q, g->m * g->k}, {b, g->w, g->n * g->k}};
    for (const auto &s : sides)
        t3v_cuda_keep(t3v_launch(expand, dim3(rows_blocks(s.n, STEP * ROWS_THREADS)), dim3(ROWS_THREADS), 0,
                                 t3v_cuda_stream, s.to, s.from, s.n),
                      "8-bit floats expanded");
    t3v_gemm_args p = {};
    p.batch = 1, p.m = g->m, p.n = p.ldc = g->n, p.k = p.lda = p.ldb = g->k, p.b_trans = true;
    p.a = a, p.b = b, p.c = g->y;
    p.a_type = p.b_type = T3V_BF16, p.c_type = g->y_type;
    return t3v_cuda_gemm_own(&p);
}
} // namespace

extern "C" t3v_status t3v_cuda_fp8_linear(const t3v_fp8_args *g)
{
    t3v_fp8_made made = T3V_FP8_NOTHING;
    t3v_status st = check(g);
    if (st || g->m == 0) return st;
    st = t3v_cuda_status(t3v_launch(quantise, dim3((unsigned)g->m), dim3(ROWS_THREADS), 0, t3v_cuda_stream,
                                    rows_in{g->x, g->x_type}, g->q, g->scale, g->k),
                         "rows to 8-bit floats");
    if (!st) st = t3v_cuda_fp8_product(g, &made);
    if (!st && made == T3V_FP8_NOTHING) st = own_sums(g);
    if (st || made == T3V_FP8_ALL) return st;
    return t3v_cuda_status(t3v_launch(finish, dim3((unsigned)g->m, rows_blocks(g->n, 8 * ROWS_THREADS)),
                                      dim3(ROWS_THREADS), 0, t3v_cuda_stream,
                                      rows_out{g->y, g->y_type, false}, g->n, g->scale, g->w_scale, g->bias,
                                      g->act == T3V_ACT_GELU_TANH),
                           "factors of 8-bit products");
}

t3v_fp8_linear *t3v_cuda_fp8_for(int major, int minor)
{
    const char *as = getenv("T3V_CARD");
    const bool has = major > 8 || (major == 8 && minor >= 9);
    return has && !(as && !strcmp(as, "sm_80")) ? t3v_cuda_fp8_linear : nullptr;
}
