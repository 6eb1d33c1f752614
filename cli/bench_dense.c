/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench gemm, t3v bench conv: dense products and convolutions in the shapes the models use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "bench.h"
#include "dit/configs.h"
#include "ops/fp8/fp8.h"
#include "ops/int8/int8.h"
#include "ops/kernels.h"
#include "ops/onednn.h"
#include "tensor/dtype.h"
#include "tensor/quantise.h"

/* Where the operands lie: the device's memory, or the host's. */
typedef struct side {
    const t3v_kernels *k;
    t3v_arena arena;
} side;

typedef struct gemm_call {
    const t3v_kernels *k;
    t3v_gemm_args g;
    void *int8_work; /* NULL: not in 8-bit integers */
    const t3v_device *device;
    t3v_fp8_args fp8; /* q NULL: not in 8-bit floats */
} gemm_call;

typedef struct conv_call {
    const t3v_kernels *k;
    t3v_conv_shape s;
    const void *x, *packed;
    void *y;
} conv_call;

static t3v_status do_gemm(void *user)
{
    const gemm_call *c = user;
    const t3v_gemm_args *g = &c->g;
    if (c->fp8.q) return c->device->fp8(&c->fp8);
    if (!c->int8_work) return c->k->gemm(g);
    return t3v_int8_linear(&(t3v_int8_args){.m = g->m,
                                            .n = g->n,
                                            .k = g->k,
                                            .x = g->a,
                                            .x_type = g->a_type,
                                            .w = g->b,
                                            .w_type = g->b_type,
                                            .y = g->c,
                                            .y_type = g->c_type,
                                            .work = c->int8_work});
}

static t3v_status do_conv(void *user)
{
    conv_call *c = user;
    return c->k->conv_forward(&c->s, c->x, c->packed, NULL, c->y, c->s.type);
}

/* Room for operands of `bytes` together. */
static t3v_status side_open(side *s, const t3v_device *device, double bytes)
{
    s->k = device ? device->kernels : &t3v_kernels_cpu;
    if (bytes > 0x1p46) return t3v_fail(T3V_E_TOO_BIG, "operands of %.0f GiB", bytes / 0x1p30);
    return t3v_arena_open_in(&s->arena, (size_t)bytes + (1 << 16), t3v_device_space(device));
}

/* n zeros of `size` bytes each where `s` has its operands, NULL: no memory. */
static void *zeros(side *s, int64_t n, size_t size)
{
    void *p = t3v_arena_twin(&s->arena, t3v_arena_take(&s->arena, (size_t)n, size));
    if (p) s->k->clear(p, (size_t)n * size);
    return p;
}

/* n normal numbers of `type`, the same. */
static void *numbers(side *s, int64_t n, t3v_dtype type, uint64_t seed)
{
    float part[256];
    size_t size = t3v_dtype_size(type);
    const t3v_device *device = t3v_arena_device(&s->arena);
    char *p = t3v_arena_take(&s->arena, (size_t)n, size), *at = t3v_arena_twin(&s->arena, p);
    for (int64_t i = 0; p && i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        t3v_normal_fill(part, m, seed, 0, i);
        if (t3v_convert(p + (size_t)i * size, type, part, T3V_F32, m)) return NULL;
    }
    return !p || (device && device->push(at, p, (size_t)n * size)) ? NULL : at;
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

/* The weight [n, k] of a product as --weight says, of normal numbers in `memory`, which they leave. */
static t3v_status pack(const bench_args *args, t3v_gemm_args *g, void *memory)
{
    int64_t bytes;
    void *packed = t3v_dtype_bytes(args->weight, g->n * g->k, &bytes) ? malloc((size_t)bytes) : NULL;
    if (!packed) return t3v_fail(T3V_E_NOMEM, "no memory for a product");
    t3v_status st = bench_pack(args, packed, memory, g->n, g->k);
    if (!st) memcpy(memory, packed, (size_t)bytes);
    free(packed);
    g->b = memory, g->b_type = args->weight;
    return st;
}

/* The same product in 8-bit floats; its weight [n, k] has been `host`. */
static t3v_status fill_fp8(side *s, gemm_call *c, const void *host)
{
    const t3v_gemm_args *g = &c->g;
    const t3v_device *device = c->device;
    size_t bytes = t3v_fp8_bytes(g->n, g->k);
    char *w = t3v_arena_take(&s->arena, bytes, 1), *at = t3v_arena_twin(&s->arena, w);
    uint8_t *q = zeros(s, g->m * g->k, 1);
    float *scale = zeros(s, g->m, sizeof *scale);
    if (!w || !q || !scale) return t3v_fail(T3V_E_NOMEM, "no memory for a product");
    T3V_TRY(t3v_fp8_rows((uint8_t *)w, (float *)(void *)(w + g->n * g->k), host, g->b_type, 1, g->n, g->k));
    T3V_TRY(device->push(at, w, bytes));
    c->g.b_type = T3V_F8_E4M3;
    c->fp8 = (t3v_fp8_args){.m = g->m,
                            .n = g->n,
                            .k = g->k,
                            .x = g->a,
                            .x_type = g->a_type,
                            .w = (const uint8_t *)at,
                            .w_scale = (const float *)(const void *)(at + g->n * g->k),
                            .y = g->c,
                            .y_type = g->c_type,
                            .q = q,
                            .scale = scale};
    return T3V_OK;
}

/* One product and its line; with --weight or --act in turn with the plain one. */
static int measure_gemm(const bench_args *args, int64_t m, int64_t n, int64_t k, bool grad)
{
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32, out = grad ? T3V_F32 : type;
    t3v_products act = grad ? T3V_PRODUCTS_FLOAT : args->act;
    bool packed = !grad && args->weight != T3V_DTYPE_COUNT, int8 = act == T3V_PRODUCTS_INT8,
         fp8 = act == T3V_PRODUCTS_FP8;
    double size = (double)t3v_dtype_size(type), md = (double)m, nd = (double)n, kd = (double)k;
    size_t work = int8 ? t3v_int8_work(m, k) : 0;
    side s = {0};
    t3v_status st = side_open(&s, args->device,
                              4 * (md * kd + 2 * nd * kd + md * nd + md + nd) + (double)work);
    void *a = st ? NULL : numbers(&s, m * k, type, 1), *b = st ? NULL : numbers(&s, n * k, type, 2),
         *w = st || !packed ? b : numbers(&s, n * k, T3V_F32, 2), *c = st ? NULL : zeros(&s, m * n, 4);
    gemm_call plain = {s.k,
                       {.batch = 1,
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
                        .c_type = out,
                        .ldc = n,
                        .accumulate = grad},
                       .device = args->device},
              call = plain;
    if (int8) call.int8_work = st ? NULL : zeros(&s, (int64_t)work, 1);
    if (!st && (!a || !b || !w || !c || (int8 && !call.int8_work)))
        st = t3v_fail(T3V_E_NOMEM, "no memory for a product");
    if (!st && packed) st = pack(args, &call.g, w);
    if (!st && fp8) st = fill_fp8(&s, &call, s.arena.base + ((unsigned char *)b - s.arena.twin));
    if (!st) st = do_gemm(&call);
    char what[80], extra[80];
    snprintf(what, sizeof what, "gemm%s %lldx%lldx%lld%s%s%s%s", grad ? " gradient" : "", (long long)m,
             (long long)n, (long long)k, packed ? " " : "", packed ? t3v_dtype_name(args->weight) : "",
             act ? " " : "", act ? t3v_products_name(act) : "");
    snprintf(extra, sizeof extra, ",\"weight\":\"%s\",\"act\":\"%s\"", t3v_dtype_name(call.g.b_type),
             t3v_products_name(act));
    bench_result r = {.what = what,
                      .flop = 2 * md * nd * kd,
                      .bytes = size * md * kd + (fp8 ? 1 : size) * nd * kd + (grad ? 8 : size) * md * nd,
                      .type = type,
                      .isa = args->device           ? ""
                             : int8                 ? t3v_int8_isa()
                             : *t3v_dnn_last_impl() ? t3v_dnn_last_impl()
                                                    : t3v_isa_name(T3V_ISA_AVX2),
                      .extra = extra,
                      .plain = packed || int8 ? &plain : NULL};
    int status = st ? cli_fail(st) : bench_measure(args, &r, do_gemm, &call);
    t3v_arena_close(&s.arena);
    return status;
}

static int run_gemm(const bench_args *args)
{
    /* m, n, k: projections and the two halves of the FFN of Wan2.1-1.3B; a small model's; a weight gradient. */
    int64_t sizes[][4] = {
        {1024, 1536, 1536, 0}, {1024, 8960, 1536, 0}, {1024, 1536, 8960, 0},
        {320, 256, 256, 0},    {1280, 512, 256, 0},   {512, 256, 1280, 1},
    };
    int count = 6, status = CLI_OK;
    if (args->device && args->weight != T3V_DTYPE_COUNT)
        return cli_usage("bench", "--weight: packed weights are expanded when they are copied to a GPU");
    if (args->device && args->act == T3V_PRODUCTS_INT8)
        return cli_usage("bench", "--act int8 is computed on the CPU alone");
    if (args->config || args->rows || args->device) { /* those of a model, for a range of tokens */
        t3v_dit_config c;
        int64_t rows = args->rows ? args->rows : args->device ? 8192 : 1024;
        t3v_status st = t3v_dit_config_named(args->config ? args->config : "wan2.1-t2v-1.3b", &c);
        if (st) return cli_fail(st);
        const int64_t own[4][4] = {{rows, c.dim, c.dim, 0},
                                   {rows, c.ffn_dim, c.dim, 0},
                                   {rows, c.dim, c.ffn_dim, 0},
                                   {c.ffn_dim, c.dim, rows, 1}};
        memcpy(sizes, own, sizeof own);
        count = 4;
    }
    for (int i = 0; i < count && status == CLI_OK; i++)
        status = measure_gemm(args, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]);
    return status;
}

/* One convolution of 3x3x3 taps over 4 frames of w x h (6 with those before), and its line. */
static int measure_conv(const bench_args *args, int64_t ci, int64_t co, int64_t w, int64_t h)
{
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    double size = (double)t3v_dtype_size(type), frame = (double)w * (double)h, ic = (double)ci,
           oc = (double)co;
    conv_call c = {.s = {.t = 6,
                         .h = h,
                         .w = w,
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
    side s = {0};
    size_t bytes = 0;
    void *x = NULL, *weights = NULL, *packed = NULL;
    t3v_status st = side_open(&s, args->device,
                              4 * (frame * (6 * ic + 4 * oc) + 4 * 27 * (ic + 64) * (oc + 64)));
    if (!st) st = s.k->conv_packed_size(&c.s, T3V_CONV_FORWARD, &bytes);
    if (!st) {
        x = numbers(&s, 6 * w * h * ci, type, 1), weights = numbers(&s, 27 * ci * co, type, 2);
        packed = zeros(&s, (int64_t)bytes, 1), c.y = zeros(&s, 4 * w * h * co, 4);
        if (!x || !weights || !packed || !c.y) st = t3v_fail(T3V_E_NOMEM, "no memory for a convolution");
    }
    c.k = s.k, c.x = x, c.packed = packed;
    if (!st) st = s.k->conv_pack(&c.s, T3V_CONV_FORWARD, weights, type, packed);
    if (!st) st = do_conv(&c);
    char what[80];
    snprintf(what, sizeof what, "conv3x3x3 %lld-%lld 4x%lldx%lld", (long long)ci, (long long)co, (long long)h,
             (long long)w);
    bench_result r = {.what = what,
                      .flop = 2.0 * 4 * 27 * frame * ic * oc,
                      .bytes = size * (frame * (6 * ic + 4 * oc) + 27 * ic * oc),
                      .type = type,
                      .isa = args->device ? "" : t3v_dnn_last_impl()};
    int status = st ? cli_fail(st) : bench_measure(args, &r, do_conv, &c);
    t3v_arena_close(&s.arena);
    return status;
}

static int run_conv(const bench_args *args)
{
    /* cin, cout, and by what a frame is smaller: stages of the Wan VAE. */
    static const int64_t sizes[][3] = {{3, 96, 1},    {16, 384, 4}, {384, 384, 4},
                                       {192, 192, 2}, {96, 96, 1},  {96, 3, 1}};
    int64_t edge = args->device ? 512 : 128, w = args->width ? args->width : edge,
            h = args->height ? args->height : edge;
    int status = CLI_OK;
    for (int i = 0; i < 6 && status == CLI_OK; i++)
        status = measure_conv(args, sizes[i][0], sizes[i][1], (w + sizes[i][2] - 1) / sizes[i][2],
                              (h + sizes[i][2] - 1) / sizes[i][2]);
    return status;
}

const bench_row bench_gemm = {"gemm", "dense products", run_gemm};
const bench_row bench_conv = {"conv", "3-D convolutions", run_conv};
