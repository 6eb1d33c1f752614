/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench gemm, t3v bench conv: dense products and convolutions in the shapes the models use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "bench.h"
#include "ops/conv/conv.h"
#include "ops/gemm/gemm.h"
#include "ops/onednn.h"
#include "tensor/dtype.h"
#include "tensor/quantise.h"

typedef struct conv_call {
    t3v_conv_shape s;
    const void *x, *packed;
    void *y;
} conv_call;

static t3v_status do_gemm(void *user) { return t3v_gemm(user); }

static t3v_status do_conv(void *user)
{
    conv_call *c = user;
    return t3v_conv_forward(&c->s, c->x, c->packed, NULL, c->y, c->s.type);
}

/* n normal numbers of `type`, or NULL. */
static void *numbers(int64_t n, t3v_dtype type, uint64_t seed)
{
    float part[256];
    void *p = malloc((size_t)n * t3v_dtype_size(type));
    for (int64_t i = 0; p && i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        t3v_normal_fill(part, m, seed, 0, i);
        if (t3v_convert((char *)p + (size_t)i * t3v_dtype_size(type), type, part, T3V_F32, m)) break;
    }
    return p;
}

t3v_status bench_pack(const bench_args *args, void *dst, const float *src, int64_t rows, int64_t n)
{
    int64_t bytes;
    if (!t3v_dtype_bytes(args->weight, n, &bytes))
        return t3v_fail(T3V_E_ARG, "--weight %s: rows of %lld are not whole blocks of %lld",
                        t3v_dtype_name(args->weight), (long long)n, (long long)t3v_dtype_block(args->weight));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        uint8_t *row = (uint8_t *)dst + i * bytes;
        if (args->weight != T3V_F8_E4M3) (void)t3v_quantise(row, args->weight, src + i * n, n);
        else
            for (int64_t j = 0; j < n; j++) row[j] = t3v_f32_to_f8_e4m3(src[i * n + j]);
    }
    return T3V_OK;
}

/* The weight [n, k] of a product as --weight says; F32 normal numbers become it in place. */
static t3v_status pack(const bench_args *args, t3v_gemm_args *g, void *b)
{
    int64_t bytes;
    void *packed = t3v_dtype_bytes(args->weight, g->n * g->k, &bytes) ? malloc((size_t)bytes) : NULL;
    if (!packed) return t3v_fail(T3V_E_NOMEM, "no memory for a product");
    t3v_status st = bench_pack(args, packed, b, g->n, g->k);
    if (!st) memcpy(b, packed, (size_t)bytes);
    free(packed);
    g->b_type = args->weight;
    return st;
}

static int run_gemm(const bench_args *args)
{
    /* m, n, k: projections and the two halves of the FFN of Wan2.1-1.3B; a small model's; a weight gradient. */
    static const int64_t sizes[][4] = {
        {1024, 1536, 1536, 0}, {1024, 8960, 1536, 0}, {1024, 1536, 8960, 0},
        {320, 256, 256, 0},    {1280, 512, 256, 0},   {512, 256, 1280, 1},
    };
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    int status = CLI_OK;
    for (int i = 0; i < 6 && status == CLI_OK; i++) {
        int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        bool grad = sizes[i][3];
        bool packed = !grad && args->weight != T3V_DTYPE_COUNT;
        void *a = numbers(m * k, type, 1), *b = numbers(n * k, packed ? T3V_F32 : type, 2),
             *c = calloc((size_t)(m * n), 4);
        t3v_gemm_args g = {.batch = 1,
                           .m = m,
                           .n = n,
                           .k = k,
                           .a = a,
                           .a_type = type,
                           .lda = grad ? m : k,
                           .a_trans = grad,
                           .b = b,
                           .b_type = type,
                           .ldb = grad ? n : k,
                           .b_trans = !grad,
                           .c = c,
                           .c_type = grad ? T3V_F32 : type,
                           .ldc = n,
                           .accumulate = grad};
        t3v_status st = a && b && c ? T3V_OK : t3v_fail(T3V_E_NOMEM, "no memory for a product");
        if (!st && packed) st = pack(args, &g, b);
        if (!st) st = t3v_gemm(&g);
        char what[64];
        snprintf(what, sizeof what, "gemm%s %lldx%lldx%lld%s%s", grad ? " gradient" : "", (long long)m,
                 (long long)n, (long long)k, packed ? " " : "", packed ? t3v_dtype_name(args->weight) : "");
        bench_result r = {what, 2.0 * (double)m * (double)n * (double)k, type, t3v_dnn_last_impl(), NULL};
        status = st ? cli_fail(st) : bench_measure(args, &r, do_gemm, &g);
        free(a), free(b), free(c);
    }
    return status;
}

static int run_conv(const bench_args *args)
{
    /* cin, cout, edge of the frame: stages of the Wan VAE. */
    static const int64_t sizes[][3] = {{3, 96, 128},   {16, 384, 32}, {384, 384, 32},
                                       {192, 192, 64}, {96, 96, 128}, {96, 3, 128}};
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    int status = CLI_OK;
    for (int i = 0; i < 6 && status == CLI_OK; i++) {
        int64_t ci = sizes[i][0], co = sizes[i][1], e = sizes[i][2];
        conv_call c = {.s = {.t = 6,
                             .h = e,
                             .w = e,
                             .cin = ci,
                             .cout = co,
                             .kt = 3,
                             .kh = 3,
                             .kw = 3,
                             .st = 1,
                             .sh = 1,
                             .sw = 1,
                             .ph0 = 1,
                             .ph1 = 1,
                             .pw0 = 1,
                             .pw1 = 1,
                             .type = type}};
        size_t bytes = 0;
        t3v_status st = t3v_conv_packed_size(&c.s, T3V_CONV_FORWARD, &bytes);
        void *x = numbers(6 * e * e * ci, type, 1), *w = numbers(27 * ci * co, type, 2);
        void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
        c.x = x, c.packed = packed, c.y = malloc((size_t)(4 * e * e * co) * 4);
        if (!st && (!x || !w || !packed || !c.y)) st = t3v_fail(T3V_E_NOMEM, "no memory for a convolution");
        if (!st) st = t3v_conv_pack(&c.s, T3V_CONV_FORWARD, w, type, packed);
        if (!st) st = do_conv(&c);
        char what[64];
        snprintf(what, sizeof what, "conv3x3x3 %lld-%lld 4x%lldx%lld", (long long)ci, (long long)co,
                 (long long)e, (long long)e);
        bench_result r = {what, 2.0 * 4 * 27 * (double)(e * e * ci * co), type, t3v_dnn_last_impl(), NULL};
        status = st ? cli_fail(st) : bench_measure(args, &r, do_conv, &c);
        free(x), free(w), free(packed), free(c.y);
    }
    return status;
}

const bench_row bench_gemm = {"gemm", "dense products", run_gemm, false};
const bench_row bench_conv = {"conv", "3-D convolutions", run_conv, false};
