/* SPDX-License-Identifier: Apache-2.0 */
/* Products of 8-bit floats, under the emulator: rows as the CPU makes them, to the bit, and results against doubles made of those
 * rows; what would pass with wrong factors, bias or GELU is no test, and is tried. On a card:
 * T3V_CUDA=build/libt3v-cuda.so build/tests/test_fp8 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "cuda/emulate.h"
#include "device.h"
#include "ops/fp8/fp8.h"
#include "pipe/place.h"
#include "tensor/dtype.h"
#include "tensor/quantise.h"

/* The emulator's device; with T3V_CUDA set, that of the module it names. */
static const t3v_device *card(void)
{
    const t3v_device *d = t3v_emulated_device();
    if (getenv("T3V_CUDA") && t3v_device_open(T3V_DEVICE_CUDA, &d)) fail_msg("%s", t3v_error_text());
    return d;
}

/* What tensor cores keep of a sum, as a share of its magnitudes: F32 in any order; on cards some bits less. */
static double sum_error(int64_t k) { return getenv("T3V_CUDA") ? 0x1p-10 : (double)(k + 2) * 0x1p-24; }

/* Memory of the device beside the host's. */
typedef struct pair {
    void *host, *at;
    size_t bytes;
} pair;

static pair room(t3v_arena *a, size_t bytes)
{
    pair p = {t3v_arena_take(a, bytes, 1), NULL, bytes};
    assert_non_null(p.host);
    p.at = t3v_arena_twin(a, p.host);
    memset(p.host, 0xff, bytes);
    assert_int_equal(card()->push(p.at, p.host, bytes), T3V_OK);
    return p;
}

static void push(const pair *p) { assert_int_equal(card()->push(p->at, p->host, p->bytes), T3V_OK); }
static void pull(const pair *p) { assert_int_equal(card()->pull(p->host, p->at, p->bytes), T3V_OK); }

static double value(const void *p, t3v_dtype t, int64_t i)
{
    return t == T3V_F32 ? (double)((const float *)p)[i] : (double)t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]);
}

/* One product and all that belongs to it. */
typedef struct product {
    t3v_arena arena;
    t3v_fp8_args g;
    pair x, w, w_scale, bias, y, q, scale;
    bool one_factor; /* w is a file's: any bytes, one factor for all */
} product;

static void fill(product *p, uint64_t seed, int64_t m, int64_t n, int64_t k, t3v_dtype x_type,
                 t3v_dtype y_type)
{
    assert_int_equal(t3v_arena_open_in(&p->arena, (size_t)1 << 26, &card()->space), T3V_OK);
    size_t xs = t3v_dtype_size(x_type), ys = t3v_dtype_size(y_type);
    p->x = room(&p->arena, (size_t)(m * k) * xs), p->w = room(&p->arena, (size_t)(n * k));
    p->w_scale = room(&p->arena, (size_t)n * 4), p->bias = room(&p->arena, (size_t)n * 4);
    p->y = room(&p->arena, (size_t)(m * n) * ys), p->q = room(&p->arena, (size_t)(m * k));
    p->scale = room(&p->arena, (size_t)m * 4);
    float *v = malloc((size_t)((m + n) * k + 1) * sizeof *v);
    assert_non_null(v);
    t3v_normal_fill(v, m * k, seed, 1, 0);
    for (int64_t i = 0; i < m * k; i++)
        v[i] *= ldexpf(1, (int)(i / k % 5) * 9 - 20); /* rows of other sizes */
    assert_int_equal(t3v_convert(p->x.host, x_type, v, T3V_F32, m * k), T3V_OK);
    t3v_normal_fill(v, n * k, seed, 2, 0);
    for (int64_t i = 0; i < n * k; i++) v[i] *= ldexpf(1, (int)(i / k % 3) * 4 - 5);
    if (p->one_factor) {
        for (int64_t i = 0; i < n * k; i++) ((uint8_t *)p->w.host)[i] = t3v_f32_to_f8_e4m3(v[i] * 9);
        for (int64_t i = 0; i < n; i++) ((float *)p->w_scale.host)[i] = 0.037f;
    } else {
        assert_int_equal(t3v_fp8_rows(p->w.host, p->w_scale.host, v, T3V_F32, 1, n, k), T3V_OK);
    }
    t3v_normal_fill(p->bias.host, n, seed, 3, 0);
    free(v);
    push(&p->x), push(&p->w), push(&p->w_scale), push(&p->bias);
    p->g = (t3v_fp8_args){.m = m,
                          .n = n,
                          .k = k,
                          .x = p->x.at,
                          .x_type = x_type,
                          .w = p->w.at,
                          .w_scale = p->w_scale.at,
                          .bias = p->bias.at,
                          .y = p->y.at,
                          .y_type = y_type,
                          .q = p->q.at,
                          .scale = p->scale.at};
}

static void run(product *p)
{
    if (card()->fp8(&p->g)) fail_msg("%s", t3v_error_text());
    assert_int_equal(card()->finish(), T3V_OK);
    pull(&p->y), pull(&p->q), pull(&p->scale);
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

/* The largest distance of y from the double product of what the rows hold, as a part of what rounding explains. */
static double far(const product *p)
{
    const t3v_fp8_args *g = &p->g;
    const uint8_t *q = p->q.host, *w = p->w.host;
    const float *bias = p->bias.host;
    const double out = g->y_type == T3V_F32 ? 0x1p-23 : 0x1p-8;
    double worst = 0;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, all = 0, b = g->bias ? (double)bias[j] : 0,
                   s = (double)((float *)p->scale.host)[i] * (double)((float *)p->w_scale.host)[j];
            for (int64_t t = 0; t < g->k; t++) {
                double v = (double)t3v_f8_e4m3_to_f32(q[i * g->k + t]) *
                           (double)t3v_f8_e4m3_to_f32(w[j * g->k + t]);
                sum += v, all += fabs(v);
            }
            double want = sum * s + b, limit = all * s * sum_error(g->k) + fabs(sum * s) * out;
            limit += fabs(b) * (getenv("T3V_CUDA") ? 0x1p-8 : 0x1p-23); /* a library takes it in BF16 */
            if (g->act) limit = 1.13 * limit + 1e-6 * fabs(want), want = gelu(want);
            limit += fabs(want) * out + 1e-37;
            double d = fabs(value(p->y.host, g->y_type, i * g->n + j) - want) / limit;
            if (!(d <= worst)) worst = d;
        }
    return worst;
}

static void products(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1, 16, 16}, {5, 48, 64}, {130, 112, 96}, {3, 48, 2304}, {9, 1040, 32}};
    for (int c = 0; c < 20; c++) {
        const int64_t *s = sizes[c % 5];
        product p = {.one_factor = c / 5 % 2 != 0};
        t3v_emulate_seed((uint64_t)c + 1);
        fill(&p, (uint64_t)c, s[0], s[1], s[2], c & 1 ? T3V_F32 : T3V_BF16, c & 2 ? T3V_F32 : T3V_BF16);
        if (c & 4) p.g.act = T3V_ACT_GELU_TANH;
        if (c % 3 == 0) p.g.bias = NULL;
        run(&p);
        double d = far(&p);
        if (!(d <= 1))
            fail_msg("case %d, %lld x %lld x %lld: %g times as far off as rounding explains", c,
                     (long long)s[0], (long long)s[1], (long long)s[2], d);
        t3v_arena_close(&p.arena);
    }
}

/* Each of these would be a broken kernel, and far() has to see it. */
static void wrong_ones_are_seen(void **state)
{
    (void)state;
    for (int how = 0; how < 6; how++) {
        product p = {0};
        fill(&p, 77, 20, 48, 64, T3V_BF16, T3V_BF16);
        p.g.act = how == 4 ? T3V_ACT_GELU_TANH : T3V_ACT_NONE;
        run(&p);
        assert_true(far(&p) <= 1);
        float *rows = p.scale.host, *columns = p.w_scale.host;
        switch (how) {
        case 0: memmove(rows, rows + 1, 19 * sizeof *rows); break;
        case 1: memmove(columns, columns + 1, 47 * sizeof *columns); break;
        case 2: p.g.bias = NULL; break;
        case 3: columns[47] *= 1.02f; break;
        case 4: p.g.act = T3V_ACT_NONE; break;
        case 5: memmove(p.w.host, (uint8_t *)p.w.host + 1, 48 * 64 - 1); break;
        }
        if (!(far(&p) > 1)) fail_msg("fault %d passes as right", how);
        t3v_arena_close(&p.arena);
    }
}

/* The device's rows are the CPU's: of all sizes, zero, tiny, huge, not finite. */
static void rows_are_the_same(void **state)
{
    (void)state;
    enum { M = 12, N = 16 };
    static const int64_t widths[] = {16, 80, 2048, 2064, 4160};
    for (int c = 0; c < 10; c++) {
        int64_t k = widths[c % 5];
        t3v_dtype type = c < 5 ? T3V_F32 : T3V_BF16;
        product p = {0};
        fill(&p, (uint64_t)c, M, N, k, type, T3V_F32);
        float *v = malloc((size_t)(M * k) * sizeof *v);
        assert_non_null(v);
        t3v_normal_fill(v, M * k, 5, (uint64_t)c, 0);
        static const float by[M] = {1,        0, 0x1p-90f, 0x1p-101f, 0x1p-110f, 0x1p100f,
                                    0x1p125f, 1, 1,        1,         1,         448};
        for (int64_t i = 0; i < M * k; i++) {
            v[i] *= by[i / k];
            if (i / k == 10) v[i] *= ldexpf(1, -(int)(i % 24)); /* down to what becomes 0 */
            if (i / k == 11)
                v[i] = (float)(i % 15) * 0x1p-9f * ldexpf(1, (int)(i % 16)); /* middles among them */
        }
        v[7 * k + k - 1] = NAN, v[8 * k + 3] = INFINITY, v[9 * k] = -INFINITY;
        v[11 * k + 1] = 448;
        assert_int_equal(t3v_convert(p.x.host, type, v, T3V_F32, M * k), T3V_OK);
        push(&p.x);
        run(&p);
        uint8_t *q = malloc((size_t)(M * k));
        float scale[M];
        assert_non_null(q);
        assert_int_equal(t3v_fp8_rows(q, scale, p.x.host, type, 1, M, k), T3V_OK);
        for (int i = 0; i < M; i++) {
            float s = ((float *)p.scale.host)[i];
            assert_true(isnan(scale[i]) ? isnan(s) : s == scale[i]);
            assert_int_equal(isnan(s), i >= 7 && i <= 9);
            if (i == 1 || i == 3 || i == 4) assert_true(s == 0 || (i == 3 && s > 0));
            if (memcmp(q + i * k, (uint8_t *)p.q.host + i * k, (size_t)k) != 0)
                fail_msg("case %d: row %d differs", c, i);
            for (int64_t j = 0; j < N; j++)
                assert_int_equal(isnan(((float *)p.y.host)[i * N + j]) != 0, i >= 7 && i <= 9);
        }
        free(q);
        free(v);
        t3v_arena_close(&p.arena);
    }
}

static bool all(const t3v_param *p) { return p->matrix; }

/* Of weights on a device: a file's 8-bit floats stay, others become rows, vectors stay F32. */
static void weights_on_the_device(void **state)
{
    (void)state;
    enum { N = 32, K = 48 };
    static uint8_t stored[N * K], q[N * K], back[N * K];
    static float wide[N * K], scales[N];
    const float by = 0.25f;
    t3v_tensor eight, four, vector;
    t3v_params list = {0};
    t3v_arena arena;
    assert_int_equal(t3v_params_add(&list, &eight, true, 2, (int64_t[]){N, K}, "eight"), T3V_OK);
    assert_int_equal(t3v_params_add(&list, &four, true, 2, (int64_t[]){N, K}, "four"), T3V_OK);
    assert_int_equal(t3v_params_add(&list, &vector, false, 1, (int64_t[]){N}, "vector"), T3V_OK);
    for (int i = 0; i < N * K; i++) stored[i] = (uint8_t)(i * 29);
    t3v_normal_fill(wide, N * K, 3, 0, 0);
    eight.data = stored, eight.type = T3V_F8_E4M3, eight.scale = &by;
    four.data = wide, four.type = T3V_F32;
    vector.data = wide, vector.type = T3V_F32;
    assert_int_equal(t3v_weights_place(&list, T3V_BF16, card(), &arena, NULL, all), T3V_OK);
    assert_int_equal(eight.type, T3V_F8_E4M3);
    assert_int_equal(card()->pull(back, eight.data, sizeof back), T3V_OK);
    assert_memory_equal(back, stored, sizeof back);
    assert_int_equal(card()->pull(scales, eight.row_scale, sizeof scales), T3V_OK);
    for (int i = 0; i < N; i++) assert_true(scales[i] == by);
    float want[N];
    assert_int_equal(t3v_fp8_rows(q, want, wide, T3V_F32, 1, N, K), T3V_OK);
    assert_int_equal(card()->pull(back, four.data, sizeof back), T3V_OK);
    assert_memory_equal(back, q, sizeof back);
    assert_int_equal(card()->pull(scales, four.row_scale, sizeof scales), T3V_OK);
    assert_memory_equal(scales, want, sizeof scales);
    assert_true(!vector.row_scale && vector.type == T3V_F32);
    t3v_arena_close(&arena);
    t3v_params_free(&list);
}

static void refusals(void **state)
{
    (void)state;
    product p = {0};
    fill(&p, 1, 4, 32, 32, T3V_BF16, T3V_F32);
    const t3v_fp8_args good = p.g;
    t3v_fp8_args g = good;
    g.k = 24;
    assert_int_equal(card()->fp8(&g), T3V_E_ARG);
    g = good, g.n = 8;
    assert_int_equal(card()->fp8(&g), T3V_E_ARG);
    g = good, g.q++;
    assert_int_equal(card()->fp8(&g), T3V_E_ARG);
    g = good, g.x_type = T3V_F16;
    assert_int_equal(card()->fp8(&g), T3V_E_DTYPE);
    g = good, g.m = 0;
    assert_int_equal(card()->fp8(&g), T3V_OK);
    t3v_arena_close(&p.arena);
    assert_int_equal(t3v_device_check_fp8(NULL), T3V_E_UNSUPPORTED);
    assert_int_equal(t3v_device_check_fp8(card()), T3V_OK);
    t3v_device old = *card();
    old.fp8 = NULL;
    assert_int_equal(t3v_device_check_fp8(&old), T3V_E_UNSUPPORTED);
    assert_non_null(strstr(t3v_error_text(), "8.9"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products), cmocka_unit_test(wrong_ones_are_seen),
                                       cmocka_unit_test(rows_are_the_same),
                                       cmocka_unit_test(weights_on_the_device), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
