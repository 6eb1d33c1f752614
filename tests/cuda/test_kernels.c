/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of the CUDA module, under the emulator, against the CPU's: random shapes with tails, both types, data that
 * begin anywhere, sums that are added to. On a card: T3V_CUDA=build/libt3v-cuda.so build/tests/test_kernels */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/attend_op.h"
#include "base/rng.h"
#include "cuda/emulate.h"
#include "device.h"
#include "ops/kernels.h"

enum { MOST = 12 };

/* The emulator's device; with T3V_CUDA set, that of the module it names. */
static const t3v_device *card(void)
{
    const t3v_device *d = t3v_emulated_device();
    if (getenv("T3V_CUDA") && t3v_device_open(T3V_DEVICE_CUDA, &d)) fail_msg("%s", t3v_error_text());
    return d;
}

/* What one call works on: the same numbers for both sides. */
typedef struct job {
    const t3v_kernels *k;
    t3v_arena *arena; /* of the device; NULL: the host's memory */
    uint64_t seed;
    t3v_rng rng; /* of the shapes: the same on both sides */
    int count;
    struct {
        void *p, *host, *own; /* own: to be freed */
        int64_t n;
        t3v_dtype type;
    } b[MOST];
} job;

static int64_t pick(job *j, int64_t low, int64_t high)
{
    return low + (int64_t)(t3v_rng_u32(&j->rng) % (uint32_t)(high - low + 1));
}
static bool coin(job *j) { return pick(j, 0, 1) != 0; }
static t3v_dtype type(job *j) { return coin(j) ? T3V_BF16 : T3V_F32; }

/* n random numbers, where this side's kernels find them; `lead` elements behind an aligned place. */
static void *numbers(job *j, t3v_dtype t, int64_t n, bool aligned)
{
    size_t size = t3v_dtype_size(t), lead = aligned ? 0 : size * (size_t)pick(j, 0, 3);
    float *f = malloc((size_t)(n + 1) * sizeof *f);
    char *host = j->arena ? t3v_arena_take(j->arena, (size_t)n * size + lead + 1, 1)
                          : malloc((size_t)n * size + lead + 1);
    assert_non_null(f);
    assert_non_null(host);
    void *own = j->arena ? NULL : host;
    t3v_normal_fill(f, n, j->seed, (uint64_t)j->count, 0);
    host += lead;
    for (int64_t i = 0; i < n; i++) {
        t3v_bf16 half = t3v_f32_to_bf16(f[i]);
        if (t == T3V_F32) memcpy(host + 4 * i, &f[i], 4);
        else memcpy(host + 2 * i, &half, 2);
    }
    free(f);
    void *p = host;
    if (j->arena) {
        p = t3v_arena_twin(j->arena, host);
        assert_int_equal(card()->push(p, host, (size_t)n * size), T3V_OK);
    }
    assert_true(j->count < MOST);
    j->b[j->count].own = own;
    j->b[j->count].p = p, j->b[j->count].host = host, j->b[j->count].n = n, j->b[j->count++].type = t;
    return p;
}
#define F(n) numbers(j, T3V_F32, n, false)
#define A(t, n) numbers(j, t, n, true)

static double at(const job *j, int i, int64_t k)
{
    const void *p = j->b[i].host;
    return j->b[i].type == T3V_F32 ? (double)((const float *)p)[k]
                                   : (double)t3v_bf16_to_f32(((const t3v_bf16 *)p)[k]);
}

static void run_both(const char *name, void (*fn)(job *), int times)
{
    const t3v_device *d = card();
    for (int t = 0; t < times; t++) {
        t3v_arena arena;
        t3v_emulate_seed((uint64_t)t + 1);
        assert_int_equal(t3v_arena_open_in(&arena, (size_t)1 << 26, &d->space), T3V_OK);
        job side[2] = {{.k = &t3v_kernels_cpu}, {.k = d->kernels, .arena = &arena}};
        for (int s = 0; s < 2; s++) {
            side[s].seed = (uint64_t)t + 1;
            side[s].rng = t3v_rng_make((uint64_t)t + 1, 99);
            fn(&side[s]);
        }
        for (int i = 0; i < side[1].count; i++)
            if (d->pull(side[1].b[i].host, side[1].b[i].p,
                        (size_t)side[1].b[i].n * t3v_dtype_size(side[1].b[i].type)))
                fail_msg("%s, case %d: %s", name, t, t3v_error_text());
        for (int i = 0; i < side[0].count; i++) {
            double most = 1e-30, far = 0;
            int64_t where = 0;
            for (int64_t k = 0; k < side[0].b[i].n; k++) {
                double x = at(&side[0], i, k), y = at(&side[1], i, k);
                if (fabs(x) > most) most = fabs(x);
                if (!(fabs(x - y) <= far)) far = fabs(x - y), where = k;
                if (isnan(x) != isnan(y))
                    fail_msg("%s, case %d: buffer %d [%lld] is %g, expected %g", name, t, i, (long long)k, y,
                             x);
            }
            /* f32 arithmetic in another order; or one rounding to bf16 the other way */
            double limit = side[0].b[i].type == T3V_F32 ? 2e-5 : 1.0 / 128;
            if (far > limit * most)
                fail_msg("%s, case %d: buffer %d [%lld] is %.8g, expected %.8g (largest %g)", name, t, i,
                         (long long)where, at(&side[1], i, where), at(&side[0], i, where), most);
        }
        for (int i = 0; i < side[0].count; i++) free(side[0].b[i].own);
        t3v_arena_close(&arena);
    }
}
#define BOTH(fn, times) run_both(#fn, fn, times)
#define OK(call) assert_int_equal(call, T3V_OK)

/* Widths: multiples of eight, even ones, any. */
static int64_t width(job *j)
{
    int64_t d = pick(j, 1, 40);
    return pick(j, 0, 2) ? 8 * d : d;
}

static void layernorm(job *j)
{
    int64_t n = pick(j, 1, 9), d = width(j);
    t3v_dtype yt = type(j);
    bool same = coin(j), with = coin(j);
    void *x = numbers(j, T3V_F32, n * d, same), *y = numbers(j, yt, n * d, same), *s = A(T3V_F32, d),
         *t = A(T3V_F32, d);
    j->k->rows_layernorm(y, yt, x, with ? s : NULL, with ? t : NULL, coin(j), 1e-6f, n, d);
}

static void layernorm_bwd(job *j)
{
    int64_t n = pick(j, 1, 700), d = pick(j, 1, 3) * 8;
    if (coin(j)) n = 5, d = width(j);
    void *x = F(n * d), *dy = F(n * d), *s = F(d), *dx = F(n * d), *ds = F(d), *dt = F(d);
    OK(j->k->rows_layernorm_bwd(coin(j) ? dx : NULL, coin(j), coin(j) ? ds : NULL, dt, dy, T3V_F32, x, s,
                                coin(j), 1e-6f, n, d));
}

static t3v_rope rope(job *j, int64_t hd, int64_t T, int64_t H, int64_t W)
{
    int64_t n;
    t3v_rope r;
    OK(t3v_rope_tables_size(&n, T, H, W, hd));
    float *tables = calloc((size_t)n, sizeof *tables), *there = A(T3V_F32, n);
    t3v_rope_tables_make(&r, tables, T, H, W, hd, 10000.0);
    if (j->arena) OK(card()->push(there, tables, (size_t)n * sizeof *tables));
    else memcpy(there, tables, (size_t)n * sizeof *tables);
    for (int a = 0; a < 3; a++)
        r.cos[a] = there + (r.cos[a] - tables), r.sin[a] = there + (r.sin[a] - tables);
    free(tables);
    return r;
}

static void qk_norm_rope(job *j)
{
    int64_t hd = 2 * pick(j, 3, 12), heads = pick(j, 1, 4), d = hd * heads, first = pick(j, 0, 20),
            n = pick(j, 1, 9);
    t3v_dtype xt = type(j), yt = type(j);
    t3v_rope r = rope(j, hd, 3, 4, 5);
    bool same = coin(j);
    void *x = numbers(j, xt, n * d, same), *y = numbers(j, yt, n * d, same), *g = A(T3V_F32, d);
    j->k->rows_qk_norm_rope(y, yt, d, x, xt, d, coin(j) ? g : NULL, 1e-6f, coin(j) ? &r : NULL, first, n, d);
}

static void qk_norm_rope_bwd(job *j)
{
    int64_t hd = 2 * pick(j, 3, 12), heads = pick(j, 1, 2), d = hd * heads, first = pick(j, 0, 20),
            n = pick(j, 1, 9);
    t3v_rope r = rope(j, hd, 3, 4, 5);
    bool same = coin(j);
    void *x = numbers(j, T3V_F32, n * d, same), *dy = numbers(j, T3V_F32, n * d, same), *g = A(T3V_F32, d),
         *dx = numbers(j, T3V_F32, n * d, same), *dg = A(T3V_F32, d);
    OK(j->k->rows_qk_norm_rope_bwd(dx, T3V_F32, d, coin(j), dg, dy, T3V_F32, d, x, T3V_F32, d,
                                   coin(j) ? g : NULL, 1e-6f, coin(j) ? &r : NULL, first, n, d));
}

static void rmsnorm(job *j)
{
    int64_t n = pick(j, 1, 9), d = width(j);
    t3v_dtype xt = type(j), yt = type(j);
    void *x = numbers(j, xt, n * d, false), *y = numbers(j, yt, n * d, false), *g = F(d), *dx = F(n * d),
         *dg = F(d), *dy = F(n * d);
    j->k->rows_rmsnorm(y, yt, x, xt, g, 1e-6f, n, d);
    OK(j->k->rows_rmsnorm_bwd(dx, T3V_F32, true, dg, dy, T3V_F32, x, xt, g, 1e-6f, n, d));
}

static void vae_norm(job *j)
{
    int64_t n = pick(j, 1, 11), d = width(j);
    t3v_dtype xt = type(j), yt = type(j);
    bool same = coin(j), silu = coin(j);
    void *x = numbers(j, xt, n * d, same), *y = numbers(j, yt, n * d, same), *g = A(T3V_F32, d),
         *dx = F(n * d), *dg = F(d), *dy = F(n * d);
    j->k->rows_vae_norm(y, yt, x, xt, g, silu, n, d);
    OK(j->k->rows_vae_norm_bwd(dx, T3V_F32, coin(j), coin(j) ? dg : NULL, dy, T3V_F32, x, xt, g, silu, n, d));
}

static void softmax(job *j)
{
    int64_t n = pick(j, 1, 9), d = pick(j, 1, 400), rows = pick(j, 1, 3);
    t3v_dtype yt = type(j);
    void *x = F(n * d), *y = numbers(j, yt, n * d, false), *bias = F(rows * d), *dx = F(n * d),
         *dy = F(n * d);
    j->k->rows_softmax(y, yt, x, T3V_F32, 0.7f, coin(j) ? bias : NULL, rows, n, d);
    j->k->rows_softmax_bwd(dx, T3V_F32, coin(j), dy, T3V_F32, y, yt, 0.7f, n, d);
}

static void gate_residual(job *j)
{
    int64_t n = coin(j) ? pick(j, 1, 9) : pick(j, 500, 1100), d = n > 9 ? 8 : width(j);
    t3v_dtype yt = type(j);
    bool same = coin(j), gated = coin(j);
    void *x = numbers(j, T3V_F32, n * d, same), *y = numbers(j, yt, n * d, same), *g = A(T3V_F32, d),
         *o = numbers(j, T3V_F32, n * d, same), *dx = F(n * d), *dy = F(n * d), *dg = F(d);
    j->k->rows_gate_residual(o, x, gated ? g : NULL, y, yt, n, d);
    OK(j->k->rows_gate_residual_bwd(coin(j) ? dx : NULL, dy, T3V_F32, coin(j), dg, x, gated ? g : NULL, y, yt,
                                    n, d));
}

static void elements(job *j)
{
    int64_t n = pick(j, 1, 3000);
    t3v_dtype at = type(j), bt = type(j), yt = type(j);
    bool same = coin(j);
    void *a = numbers(j, at, n, same), *b = numbers(j, bt, n, same), *y = numbers(j, yt, n, same), *g = F(n),
         *da = F(n), *db = F(n), *e = F(n);
    t3v_rows_fn f = (t3v_rows_fn)pick(j, 0, T3V_ROWS_EXP);
    switch (pick(j, 0, 5)) {
    case 0:
        j->k->rows_act(f, y, yt, a, at, n);
        j->k->rows_act_bwd(f, da, T3V_F32, coin(j), g, T3V_F32, a, at, n);
        return;
    case 1:
        j->k->rows_geglu(y, yt, a, at, b, bt, n);
        j->k->rows_geglu_bwd(coin(j) ? da : NULL, T3V_F32, db, T3V_F32, coin(j), g, T3V_F32, a, at, b, bt, n);
        return;
    case 2: j->k->rows_lincomb(y, yt, 0.3f, a, at, -1.5f, coin(j) ? b : NULL, bt, n); return;
    case 3:
        j->k->rows_convert(y, yt, a, at, n);
        j->k->rows_axpy(da, 0.25f, g, n);
        j->k->rows_add(db, da, g, n);
        return;
    case 4:
        j->k->rows_gelu_erf(da, g, n);
        j->k->rows_gelu_erf_bwd(db, e, g, n);
        return;
    default: {
        t3v_adamw o = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 0.99f, 3};
        float *v = A(T3V_F32, n);
        j->k->rows_lincomb(v, T3V_F32, 0, v, T3V_F32, 0, NULL, T3V_F32, n);
        j->k->rows_adamw(da, db, v, coin(j) && yt == T3V_BF16 ? y : NULL, coin(j) ? e : NULL, g, &o, n);
    }
    }
}

static void sums(job *j)
{
    int64_t n = pick(j, 1, 5000), d = pick(j, 1, 40), rows = pick(j, 1, 1200);
    t3v_dtype xt = type(j);
    float *x = numbers(j, xt, n, false), *v = F(n), *t = F(n), *dv = F(n), *out = F(4), *db = F(d),
          *dy = F(rows * d);
    float found[4] = {(float)j->k->rows_sumsq(x, xt, n),
                      (float)j->k->rows_mse(coin(j) ? dv : NULL, 0.5f, v, t, n),
                      j->k->rows_all_finite(x, xt, n), 0};
    const float bad = coin(j) ? INFINITY : NAN;
    size_t last = (size_t)(n - 1) * sizeof bad;
    if (j->arena) OK(card()->push((char *)v + last, &bad, sizeof bad));
    else memcpy((char *)v + last, &bad, sizeof bad);
    found[3] = j->k->rows_all_finite(v, T3V_F32, n);
    j->k->clear((char *)v + last, sizeof bad);
    assert_true(found[2] == 1 && found[3] == 0);
    if (j->arena) OK(card()->push(out, found, sizeof found));
    else memcpy(out, found, sizeof found);
    OK(j->k->rows_sum(db, dy, T3V_F32, rows, d));
}

static void layouts(job *j)
{
    int64_t n = pick(j, 1, 70), d = pick(j, 1, 70), T = pick(j, 1, 3), H = pick(j, 1, 4), W = pick(j, 1, 5),
            C = width(j);
    t3v_dtype xt = type(j), yt = type(j);
    bool same = coin(j);
    void *x = numbers(j, xt, n * d, false), *y = numbers(j, yt, n * d, false);
    j->k->rows_transpose(y, yt, x, xt, n, d);
    void *small = numbers(j, xt, T * H * W * C, same), *big = numbers(j, xt, 4 * T * H * W * C, same),
         *dx = numbers(j, T3V_F32, T * H * W * C, same), *dy = numbers(j, T3V_F32, 4 * T * H * W * C, same);
    j->k->rows_upsample2x(big, small, xt, T, H, W, C);
    j->k->rows_upsample2x_bwd(dx, T3V_F32, coin(j), dy, T3V_F32, T, H, W, C);
    int64_t step = pick(j, 0, 9) * 4, rows = pick(j, 1, 6);
    char *from = F(rows * 20), *to = F(rows * 20);
    j->k->move_rows(to, 60, from + 4, 40 + step % 20, 32, rows);
    j->k->move(from, from + 16, 32);
    j->k->clear(to, 12);
}

static void patches(job *j)
{
    int64_t C = pick(j, 1, 5), T = pick(j, 1, 3), H = 2 * pick(j, 1, 4), W = 2 * pick(j, 1, 4),
            n = T * H * W / 4, n0 = pick(j, 0, n - 1), n1 = pick(j, n0, n);
    t3v_dtype rt = type(j), lt = type(j);
    t3v_patch_order order = coin(j) ? T3V_PATCH_IN : T3V_PATCH_OUT;
    void *rows = numbers(j, rt, 4 * C * (n1 - n0), false), *latent = numbers(j, lt, C * T * H * W, false);
    if (coin(j)) j->k->rows_patchify(rows, rt, latent, lt, order, coin(j), C, T, H, W, n0, n1);
    else j->k->rows_unpatchify(latent, lt, rows, rt, order, coin(j), C, T, H, W, n0, n1);
}

static void blocks(job *j)
{
    t3v_blocks b = {.ft = pick(j, 1, 2),
                    .fs = pick(j, 1, 2),
                    .t = pick(j, 1, 3),
                    .h = pick(j, 1, 4),
                    .w = pick(j, 1, 4),
                    .c = pick(j, 1, 9),
                    .columns = coin(j)};
    b.m = coin(j) ? 1 : b.ft * (coin(j) ? b.fs : b.fs * b.fs);
    b.frames = b.ft * b.t - pick(j, 0, b.ft - 1);
    int64_t plane = b.h * b.fs * b.w * b.fs * b.c, first = pick(j, 0, b.frames - 1),
            n = pick(j, 1, b.frames - first);
    float *fine = F(b.frames * plane), *coarse = F(b.t * b.h * b.w * b.c * b.m);
    if (coin(j)) j->k->rows_blocks_spread(fine, coarse, &b, 0.5f);
    else j->k->rows_blocks_gather(coarse, fine + first * plane, &b, first, n, 0.25f);
}

static void gemm(job *j)
{
    static const t3v_dtype types[5][3] = {{T3V_F32, T3V_F32, T3V_F32},
                                          {T3V_BF16, T3V_BF16, T3V_F32},
                                          {T3V_BF16, T3V_BF16, T3V_BF16},
                                          {T3V_F32, T3V_F32, T3V_BF16},
                                          {T3V_F32, T3V_BF16, T3V_F32}};
    const t3v_dtype *t = types[pick(j, 0, 4)];
    bool tensor = coin(j); /* what the tensor-core kernel takes */
    if (tensor) t = types[pick(j, 1, 2)];
    int64_t m = pick(j, 1, tensor ? 200 : 40), n = pick(j, 1, tensor ? 120 : 40),
            k = tensor ? 8 * pick(j, 1, 20) : pick(j, 1, 50), batch = tensor ? 1 : pick(j, 1, 3);
    bool at = !tensor && coin(j), bt = tensor || coin(j), bias = coin(j), add = t[2] == T3V_F32 && coin(j);
    t3v_gemm_args g = {.batch = batch,
                       .m = m,
                       .n = n,
                       .k = k,
                       .a_type = t[0],
                       .b_type = t[1],
                       .c_type = t[2],
                       .a_trans = at,
                       .b_trans = bt,
                       .accumulate = add,
                       .act = coin(j) ? T3V_ACT_GELU_TANH : T3V_ACT_NONE};
    int64_t gap = tensor ? 8 * pick(j, 0, 1) : pick(j, 0, 3);
    g.lda = (at ? m : k) + gap, g.ldb = (bt ? k : n) + gap, g.ldc = n + pick(j, 0, 2);
    g.a_batch = g.lda * (at ? k : m), g.b_batch = g.ldb * (bt ? n : k), g.c_batch = g.ldc * m;
    g.a = numbers(j, t[0], batch * g.a_batch, tensor), g.b = numbers(j, t[1], batch * g.b_batch, tensor);
    g.c = numbers(j, t[2], batch * g.c_batch, false);
    g.bias = bias ? F(n) : NULL;
    if (g.act && coin(j)) g.before = numbers(j, t[2], batch * g.c_batch, false);
    OK(j->k->gemm(&g));
}

static void conv(job *j)
{
    t3v_conv_shape s = {.t = pick(j, 1, 4),
                        .h = pick(j, 3, 7),
                        .w = pick(j, 3, 7),
                        .cout = pick(j, 1, 12),
                        .type = type(j),
                        .kt = pick(j, 1, 3),
                        .kh = pick(j, 1, 3),
                        .kw = pick(j, 1, 3),
                        .st = 1,
                        .sh = pick(j, 1, 2)};
    s.sw = s.sh;
    s.cin = coin(j) ? 8 * pick(j, 1, 6) : pick(j, 1, 7);
    s.pt0 = pick(j, 0, s.kt - 1), s.pt1 = s.t + s.pt0 < s.kt ? s.kt - s.t - s.pt0 : 0;
    s.ph0 = pick(j, 0, s.kh - 1), s.ph1 = pick(j, 0, s.kh - 1), s.pw0 = pick(j, 0, s.kw - 1),
    s.pw1 = pick(j, 0, s.kw - 1);
    if (s.t > 1) s.st = pick(j, 1, 2);
    int64_t to, ho, wo, count = s.cout * s.cin * s.kt * s.kh * s.kw;
    OK(t3v_conv_out(&s, &to, &ho, &wo));
    t3v_dtype wt = type(j), yt = type(j);
    int64_t nx = s.t * s.h * s.w * s.cin, ny = to * ho * wo * s.cout;
    void *x = A(s.type, nx), *w = A(wt, count), *bias = F(s.cout), *y = numbers(j, yt, ny, false),
         *sum = F(ny), *dy = A(s.type, ny), *dx = F(nx), *dw = F(count), *db = F(s.cout);
    for (int dir = 0; dir < 2; dir++) { /* packed weights are each side's own */
        size_t bytes;
        OK(j->k->conv_packed_size(&s, (t3v_conv_dir)dir, &bytes));
        char *host = j->arena ? t3v_arena_take(j->arena, bytes, 1)
                              : aligned_alloc(64, (bytes + 63) / 64 * 64);
        assert_non_null(host);
        void *packed = j->arena ? t3v_arena_twin(j->arena, host) : host;
        OK(j->k->conv_pack(&s, (t3v_conv_dir)dir, w, wt, packed));
        if (dir == T3V_CONV_FORWARD) {
            OK(j->k->conv_forward(&s, x, packed, coin(j) ? bias : NULL, y, yt));
            OK(j->k->conv_forward_add(&s, x, packed, bias, sum));
        } else {
            OK(j->k->conv_backward_data(&s, dy, packed, dx, T3V_F32));
        }
        if (!j->arena) free(host);
    }
    OK(j->k->conv_backward_weights(&s, x, dy, dw, db));
}

/* Through the op, so that a device's work lists and scratch are those of a run; the output takes over q. */
static void attention(job *j)
{
    static const char *const plans[] = {"full", "t3:blocks=2x2x2", "t3:blocks=1x3x2", "t3:blocks=3x1x1"};
    t3v_grid grid = {pick(j, 3, 4), pick(j, 4, 8), pick(j, 4, 8)};
    int64_t heads = pick(j, 1, 2), dim = 16 * pick(j, 1, 8), n = grid.t * grid.h * grid.w, d = heads * dim;
    t3v_dtype t = type(j);
    t3v_plan *plan;
    t3v_arena host = {0};
    OK(t3v_plan_make_for(&plan, plans[pick(j, 0, 3)], grid, 1, d, heads));
    if (!j->arena) OK(t3v_arena_open(&host, (size_t)1 << 26));
    t3v_ctx ctx = {.arena = j->arena ? j->arena : &host, .compute = t};
    t3v_tensor x[3];
    for (int i = 0; i < 3; i++)
        x[i] = (t3v_tensor){.data = A(t, n * d), .type = t, .ndim = 2, .shape = {n, d}};
    assert_non_null(
        t3v_attend(&ctx, &plan->layer[0].site[T3V_SITE_SELF], heads, &x[0], &x[1], &x[2], NULL, NULL, NULL));
    if (j->arena) OK(card()->finish());
    t3v_plan_free(plan);
    t3v_arena_close(&host);
}

static void test_attention(void **state)
{
    (void)state;
    BOTH(attention, 10);
}

static void test_norms(void **state)
{
    (void)state;
    BOTH(layernorm, 24);
    BOTH(layernorm_bwd, 16);
    BOTH(qk_norm_rope, 32);
    BOTH(qk_norm_rope_bwd, 24);
    BOTH(rmsnorm, 16);
    BOTH(vae_norm, 24);
    BOTH(softmax, 12);
    BOTH(gate_residual, 16);
}

static void test_elements(void **state)
{
    (void)state;
    BOTH(elements, 60);
    BOTH(sums, 12);
    BOTH(layouts, 24);
    BOTH(patches, 24);
    BOTH(blocks, 40);
}

static void test_products(void **state)
{
    (void)state;
    BOTH(gemm, 60);
    BOTH(conv, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_norms),
                                       cmocka_unit_test(test_elements), cmocka_unit_test(test_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
