/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers against the definition, against the products they stand for, and what must not change their
 * rows; and the layers that use them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <omp.h>

#include "base/cpu.h"
#include "dense.h"
#include "int8_emulated.h"
#include "ops/int8/int8.h"
#include "ops/ops.h"
#include "tensor/quantise.h"

static const t3v_dtype weight_types[] = {T3V_F32,  T3V_Q8_0, T3V_BF16,    T3V_Q4_K,    T3V_Q4_0, T3V_Q8_0,
                                         T3V_Q4_1, T3V_Q5_0, T3V_Q5_1,    T3V_Q2_K,    T3V_Q3_K, T3V_Q5_K,
                                         T3V_Q6_K, T3V_F32,  T3V_F8_E4M3, T3V_F8_E5M2, T3V_BF16};
enum { WEIGHT_TYPES = sizeof weight_types / sizeof *weight_types };
static const float f8_scale = 0.75f;

typedef struct problem {
    t3v_int8_args g;
    float *x, *w;    /* the operands' values */
    void *memory[6]; /* what is freed */
} problem;

static void *kept(problem *p, void *memory)
{
    int i = 0;
    while (p->memory[i]) i++;
    return p->memory[i] = memory;
}

/* Operands of normal numbers, weights of packed types of random bytes, both `shift` elements (bytes, of packed ones) past
 * an aligned address. */
static void open_problem(problem *p, int64_t m, int64_t n, int64_t k, t3v_dtype x, t3v_dtype w, t3v_dtype y,
                         bool bias, int shift)
{
    *p = (problem){
        .g = {.m = m, .n = n, .k = k, .x_type = x, .w_type = w, .y_type = y, .w_scale = &f8_scale}};
    size_t xs = t3v_dtype_size(x) * (size_t)shift;
    p->g.x = (char *)kept(p, dense_random(m * k + shift + 1, x, 1)) + xs;
    p->x = kept(p, dense_alloc(m * k + 1, T3V_F32)), p->w = kept(p, dense_alloc(n * k + 1, T3V_F32));
    assert_int_equal(t3v_convert(p->x, T3V_F32, p->g.x, x, m * k), T3V_OK);
    if (w == T3V_F32 || w == T3V_BF16) {
        p->g.w = (char *)kept(p, dense_random(n * k + shift + 1, w, 2)) + t3v_dtype_size(w) * (size_t)shift;
    } else {
        int64_t bytes;
        assert_true(t3v_dtype_bytes(w, n * k, &bytes));
        unsigned char *random = dense_packed(n * k, w, 2), *at = kept(p, malloc((size_t)(bytes + shift) + 1));
        assert_non_null(at);
        memcpy(at + shift, random, (size_t)bytes);
        free(random);
        p->g.w = at + shift;
    }
    assert_int_equal(t3v_convert_scaled(p->w, T3V_F32, p->g.w, w, f8_scale, n * k), T3V_OK);
    p->g.bias = bias ? kept(p, dense_random(n + 1, T3V_F32, 4)) : NULL;
    p->g.y = kept(p, dense_random(m * n + 1, y, 3));
}

static void close_problem(problem *p)
{
    for (int i = 0; i < 6; i++) free(p->memory[i]);
}

/* Runs `impl`, NULL: what this CPU takes. */
static t3v_status run_on(const t3v_int8_impl *impl, t3v_int8_args g)
{
    size_t bytes = impl ? t3v__int8_run_work(impl, g.m, g.k) : t3v_int8_work(g.m, g.k);
    g.work = dense_alloc((int64_t)bytes / 4 + 1, T3V_F32);
    t3v_status st = impl ? t3v__int8_run(impl, &g) : t3v_int8_linear(&g);
    free(g.work);
    return st;
}

static t3v_status run_ref(t3v_int8_args g)
{
    g.work = dense_alloc((int64_t)t3v__int8_ref_work(g.m, g.k) / 4 + 1, T3V_F32);
    t3v_status st = t3v__int8_ref(&g);
    free(g.work);
    return st;
}

/* How many elements of g->y are not what the definition gives. Rounding an operand to 8 bits and its magnitudes gives the
 * same magnitudes; Q8_0's own integers are rounded once more for them, which may lose 31 halves of 1 of 127. */
static int64_t count_bad(const problem *p)
{
    const t3v_int8_args *g = &p->g;
    t3v_int8_args want = *g, size = *g;
    int64_t bad = 0, groups = (g->k + T3V_INT8_GROUP - 1) / T3V_INT8_GROUP, count = g->m * g->n;
    float *w = dense_alloc(count + 1, T3V_F32), *s = dense_alloc(count + 1, T3V_F32),
          *ax = dense_alloc(g->m * g->k + 1, T3V_F32), *aw = dense_alloc(g->n * g->k + 1, T3V_F32),
          *ab = dense_alloc(g->n + 1, T3V_F32);
    for (int64_t i = 0; i < g->m * g->k; i++) ax[i] = fabsf(p->x[i]);
    for (int64_t i = 0; i < g->n * g->k; i++) aw[i] = fabsf(p->w[i]);
    for (int64_t j = 0; j < g->n; j++) ab[j] = g->bias ? fabsf(g->bias[j]) : 0;
    want.y = w, size.y = s, want.y_type = size.y_type = size.x_type = size.w_type = T3V_F32;
    size.x = ax, size.w = aw, size.bias = ab;
    assert_int_equal(run_ref(want), T3V_OK);
    assert_int_equal(run_ref(size), T3V_OK);
    for (int64_t i = 0; i < count; i++) {
        double got = dense_get(g->y, g->y_type, i), ref = w[i];
        double tol = (double)(groups + 2) * 0x1p-24 * 1.14 * s[i];
        if (g->y_type == T3V_BF16) tol += 0x1p-8 * fabs(ref) + 1e-30;
        bad += !(fabs(got - ref) <= tol);
    }
    free(w), free(s), free(ax), free(aw), free(ab);
    return bad;
}

static void run_and_check(const t3v_int8_impl *impl, int64_t m, int64_t n, int64_t k, t3v_dtype x,
                          t3v_dtype w, t3v_dtype y, bool bias, int shift)
{
    problem p;
    open_problem(&p, m, n, k, x, w, y, bias, shift);
    float after = dense_get(p.g.y, y, m * n);
    assert_int_equal(run_on(impl, p.g), T3V_OK);
    int64_t bad = count_bad(&p);
    if (bad)
        fail_msg("%lld bad of %lld x %lld, k %lld, %s x %s, shift %d", (long long)bad, (long long)m,
                 (long long)n, (long long)k, t3v_dtype_name(x), t3v_dtype_name(w), shift);
    assert_true(dense_get(p.g.y, y, m * n) == after);
    close_problem(&p);
}

/* Random shapes with tails: primes, one more and one less than panels, blocks and tiles hold. */
static void each_matches_definition(const t3v_int8_impl *impl, int count)
{
    static const int64_t edge[] = {1, 2, 5, 6, 7, 13, 16, 17, 31, 32, 33, 47, 48, 49, 67, 101, 131};
    static const int64_t deep[] = {1, 2, 31, 32, 33, 61, 64, 95, 257, 509, 512, 513, 800};
    t3v_rng r = t3v_rng_make(8, 1);
    for (int i = 0; i < count; i++) {
        int64_t m = edge[t3v_rng_below(&r, 17)], n = edge[t3v_rng_below(&r, 17)],
                k = deep[t3v_rng_below(&r, 13)];
        t3v_dtype w = weight_types[i % WEIGHT_TYPES];
        int64_t block = t3v_dtype_block(w);
        k = (k + block - 1) / block * block;
        run_and_check(impl, m, n, k, i & 1 ? T3V_BF16 : T3V_F32, w, i & 2 ? T3V_BF16 : T3V_F32, i & 4,
                      (int)t3v_rng_below(&r, 4));
    }
}

static void matches_definition(void **state)
{
    (void)state;
    each_matches_definition(NULL, 136);
    if (t3v_cpu() == T3V_ISA_REF) return;
    run_and_check(NULL, 61, 1201, 300, T3V_F32, T3V_F32, T3V_F32, true, 0); /* more than a tile of columns */
    run_and_check(NULL, 13, 97, 12007, T3V_BF16, T3V_BF16, T3V_F32, false, 0); /* of one panel alone */
}

static void emulated_matches_definition(void **state)
{
    (void)state;
    each_matches_definition(&int8_emulated, 34);
}

/* The order of the sum is one for all vector widths. */
static void widths_agree(void **state)
{
    (void)state;
    if (t3v_cpu() == T3V_ISA_REF) return;
    for (int i = 0; i < WEIGHT_TYPES; i++) {
        problem p;
        open_problem(&p, 19, 45, 768, T3V_F32, weight_types[i], T3V_F32, true, 0);
        t3v_int8_args g = p.g;
        g.y = dense_alloc(g.m * g.n, T3V_F32);
        assert_int_equal(run_on(NULL, p.g), T3V_OK);
        assert_int_equal(run_on(&int8_emulated, g), T3V_OK);
        assert_memory_equal(g.y, p.g.y, (size_t)(g.m * g.n) * sizeof(float));
        free(g.y);
        close_problem(&p);
    }
}

/* Half of a group's factor is the most that rounding takes from a number: off the product in double by no more than the
 * header says, and by about 0.7 % of it for normal numbers. */
static void near_the_product(void **state)
{
    (void)state;
    static const t3v_dtype types[] = {T3V_F32, T3V_BF16, T3V_Q8_0, T3V_Q4_K, T3V_Q6_K};
    enum { M = 21, N = 40, K = 1280, G = K / T3V_INT8_GROUP };
    float *normal = dense_random(N * K, T3V_F32, 7);
    for (int t = 0; t < 5; t++) {
        problem p;
        open_problem(&p, M, N, K, T3V_F32, types[t], T3V_F32, false, 0);
        if (t3v_dtype_packed(types[t]))
            assert_int_equal(t3v_quantise((void *)(uintptr_t)p.g.w, types[t], normal, N * K), T3V_OK);
        assert_int_equal(t3v_convert(p.w, T3V_F32, p.g.w, types[t], N * K), T3V_OK);
        assert_int_equal(run_on(NULL, p.g), T3V_OK);
        double off = 0, all = 0;
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                double exact = 0, bound = 0, size = 0;
                for (int g = 0; g < G; g++) {
                    const float *x = p.x + i * K + g * T3V_INT8_GROUP, *w = p.w + j * K + g * T3V_INT8_GROUP;
                    double sx = 0, sw = 0;
                    for (int l = 0; l < T3V_INT8_GROUP; l++)
                        sx = fmax(sx, fabsf(x[l]) / 127.0), sw = fmax(sw, fabsf(w[l]) / 127.0);
                    if (types[t] == T3V_Q8_0) sw = 0;
                    for (int l = 0; l < T3V_INT8_GROUP; l++) {
                        exact += (double)x[l] * w[l];
                        size += (fabs(x[l]) + sx) * (fabs(w[l]) + sw);
                        bound += fabs(w[l]) * sx / 2 + fabs(x[l]) * sw / 2 + sx * sw / 4;
                    }
                }
                double d = ((float *)p.g.y)[i * N + j] - exact;
                assert_true(fabs(d) <= bound * (1 + 0x1p-18) + (G + 2) * 0x1p-24 * size);
                off += d * d, all += exact * exact;
            }
        assert_true(sqrt(off / all) < 1e-2);
        assert_true(sqrt(off / all) > 1e-3); /* it is rounded */
        close_problem(&p);
    }
    free(normal);
}

/* Sums of the largest integers: nothing saturates, also where Q8_0 stores -128. */
static void largest_sums(void **state)
{
    (void)state;
    enum { M = 7, N = 33, K = 640, BLOCK = 34 };
    float x[M * K], y[M * N];
    static uint8_t w[N * K / 32 * BLOCK];
    for (int i = 0; i < M * K; i++) x[i] = i / K % 2 ? -127 : 127; /* factor 1 */
    for (int b = 0; b < N * K / 32; b++) {
        w[b * BLOCK] = 0, w[b * BLOCK + 1] = 0x3c; /* 1 */
        memset(w + b * BLOCK + 2, b / (K / 32) % 2 ? 127 : 128, 32);
    }
    t3v_int8_args g = {M, N, K, x, T3V_F32, w, T3V_Q8_0, NULL, NULL, y, T3V_F32, NULL};
    for (int e = 0; e < 2; e++) {
        memset(y, 0xff, sizeof y);
        assert_int_equal(run_on(e ? &int8_emulated : NULL, g), T3V_OK);
        for (int i = 0; i < M * N; i++)
            assert_true(y[i] == (i / N % 2 ? -127.0f : 127.0f) * (i % N % 2 ? 127.0f : -128.0f) * K);
    }
}

/* Row i is the same bytes with any m that holds it and any number of threads. */
static void rows_stand_alone(void **state)
{
    (void)state;
    int threads = omp_get_max_threads();
    for (int t = 0; t < 4; t++) {
        problem p;
        open_problem(&p, 131, 77, 768, t & 1 ? T3V_BF16 : T3V_F32, weight_types[t], T3V_F32, true, 0);
        t3v_int8_args g = p.g;
        size_t row = (size_t)g.n * sizeof(float);
        char *whole = p.g.y, *part = dense_alloc(g.m * g.n, T3V_F32);
        omp_set_num_threads(1);
        assert_int_equal(run_on(NULL, g), T3V_OK);
        omp_set_num_threads(3);
        g.y = part;
        assert_int_equal(run_on(NULL, g), T3V_OK);
        assert_memory_equal(whole, part, (size_t)g.m * row);
        omp_set_num_threads(threads);
        for (int64_t first = 0; first < p.g.m; first += 29) {
            g.m = 1 + first % 17;
            g.x = (const char *)p.g.x + (size_t)(first * g.k) * t3v_dtype_size(g.x_type);
            assert_int_equal(run_on(NULL, g), T3V_OK);
            assert_memory_equal(whole + (size_t)first * row, part, (size_t)g.m * row);
        }
        free(part);
        close_problem(&p);
    }
}

/* A number that is not finite shows in its row of x, or in its column of w, and nowhere else; zeros and numbers that no
 * factor can be made of give the bias. */
static void special_numbers(void **state)
{
    (void)state;
    enum { M = 14, N = 37, K = 100 };
    for (int e = 0; e < 2; e++) {
        const t3v_int8_impl *impl = e ? &int8_emulated : NULL;
        problem p;
        open_problem(&p, M, N, K, T3V_F32, T3V_F32, T3V_F32, true, 0);
        float *x = (float *)(uintptr_t)p.g.x, *w = (float *)(uintptr_t)p.g.w, *y = p.g.y;
        x[3 * K + 99] = NAN, x[8 * K + 40] = -INFINITY, w[20 * K + 1] = INFINITY;
        for (int l = 0; l < K; l++) x[5 * K + l] = l % 2 ? 0x1p-140f : -0.0f;
        assert_int_equal(run_on(impl, p.g), T3V_OK);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                if (i == 3 || i == 8 || j == 20) assert_true(isnan(y[i * N + j]));
                else if (i == 5) assert_true(y[i * N + j] == p.g.bias[j]);
                else assert_true(isfinite(y[i * N + j]));
            }
        close_problem(&p);
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    problem p;
    open_problem(&p, 5, 7, 0, T3V_F32, T3V_F32, T3V_F32, true, 0);
    assert_int_equal(run_on(NULL, p.g), T3V_OK);
    for (int i = 0; i < 35; i++) assert_true(((float *)p.g.y)[i] == p.g.bias[i % 7]);
    float before = ((float *)p.g.y)[0];
    p.g.m = 0;
    assert_int_equal(run_on(NULL, p.g), T3V_OK);
    p.g.m = 5, p.g.n = 0;
    assert_int_equal(run_on(NULL, p.g), T3V_OK);
    assert_true(((float *)p.g.y)[0] == before);
    close_problem(&p);
}

static void refuses_bad_arguments(void **state)
{
    (void)state;
    float x[64] = {0};
    t3v_int8_args g = {2, 2, 8, x, T3V_F32, x + 16, T3V_F32, NULL, NULL, x + 32, T3V_F32, NULL};
    assert_int_equal(run_on(NULL, g), T3V_OK);
    t3v_int8_args h = g;
    h.m = -1;
    assert_int_equal(run_on(NULL, h), T3V_E_ARG);
    h = g, h.x_type = T3V_Q8_0;
    assert_int_equal(run_on(NULL, h), T3V_E_DTYPE);
    h = g, h.w_type = T3V_I8;
    assert_int_equal(run_on(NULL, h), T3V_E_DTYPE);
    h = g, h.y_type = T3V_F16;
    assert_int_equal(run_on(NULL, h), T3V_E_DTYPE);
    h = g, h.w_type = T3V_Q8_0;
    assert_int_equal(run_on(NULL, h), T3V_E_ARG); /* rows of 8 */
    h = g, h.w = NULL;
    assert_int_equal(run_on(NULL, h), T3V_E_ARG);
    h = g, h.work = NULL;
    assert_int_equal(t3v_int8_linear(&h), T3V_E_ARG);
    h = g, h.k = INT64_MAX / 8, h.work = x;
    assert_int_equal(t3v_int8_linear(&h), T3V_E_TOO_BIG);
    assert_true(t3v_int8_work(INT64_MAX / 4, 1000) == 0);
}

static void short_product(t3v_int8_panels x, int64_t xs, t3v_int8_panels w, int64_t ws, int64_t groups,
                          float *c)
{
    int8_emulated.product(x, xs, w, ws, groups, c);
    /* one integer of one group counts twice */
    for (int l = 0; l < int8_emulated.cols; l++) {
        int8_t b;
        memcpy(&b, w.unit + l, 1);
        c[l] += x.factor[0] * w.factor[l] * (float)(int8_t)(*(uint8_t *)x.unit ^ 0x80) * (float)b;
    }
}

static void biased_pack(const t3v_int8_lines *w, int64_t first, t3v_int8_panels to)
{
    int8_emulated.pack_w(w, first, to);
    to.start[0]++; /* off by one unit of the last place */
}

static void other_factor(const t3v_int8_lines *x, int64_t first, t3v_int8_panels to)
{
    int8_emulated.pack_x(x, first, to);
    to.factor[int8_emulated.rows] = to.factor[0];
}

/* The checker itself: kernels with small faults are caught. */
static void checker_catches_faults(void **state)
{
    (void)state;
    for (int fault = 0; fault < 6; fault++) {
        problem p;
        open_problem(&p, 13, 37, 160, T3V_F32, T3V_F32, T3V_F32, true, 0);
        t3v_int8_impl broken = int8_emulated;
        t3v_int8_args g = p.g;
        if (fault == 0) broken.product = short_product;
        if (fault == 1) broken.pack_w = biased_pack;
        if (fault == 2) broken.pack_x = other_factor;
        if (fault == 3) g.m--;
        if (fault == 4) g.bias = NULL;
        assert_int_equal(run_on(&broken, g), T3V_OK);
        assert_true((count_bad(&p) > 0) == (fault < 5));
        close_problem(&p);
    }
}

/* ---- layers ---- */

static void layers(void **state)
{
    (void)state;
    enum { M = 50, N = 48, K = 96, RANK = 4 };
    static t3v_arena arena;
    t3v_tape tape = {0};
    assert_int_equal(t3v_arena_open(&arena, (size_t)64 << 20), T3V_OK);
    float *x = dense_random(M * K, T3V_F32, 1), *w = dense_random(N * K, T3V_F32, 2),
          *bias = dense_random(N, T3V_F32, 3), *a = dense_random(RANK * K, T3V_F32, 4),
          *b = dense_random(N * RANK, T3V_F32, 5), want[M * N], update[M * N];
    t3v_lora_pair pair = {.a = {.data = a, .type = T3V_F32, .ndim = 2, .shape = {RANK, K}},
                          .b = {.data = b, .type = T3V_F32, .ndim = 2, .shape = {N, RANK}},
                          .strength = 0.5f};
    t3v_weight layer = {.w = {.data = w, .type = T3V_F32, .ndim = 2, .shape = {N, K}},
                        .bias = {.data = bias, .type = T3V_F32, .ndim = 1, .shape = {N}}};
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32, .int8 = true};
    t3v_tensor *in = t3v_wrap(&ctx, x, T3V_F32, T3V_SHAPE(M, K));
    t3v_int8_args g = {M, N, K, x, T3V_F32, w, T3V_F32, NULL, bias, want, T3V_F32, NULL};
    assert_int_equal(run_on(NULL, g), T3V_OK);

    /* a layer of tokens has the integers' product, another one has not */
    t3v_tensor *y = t3v_linear_tokens(&ctx, &layer, in, T3V_F32);
    assert_non_null(y);
    assert_memory_equal(y->data, want, sizeof want);
    t3v_tensor *other = t3v_linear(&ctx, &layer, in, T3V_F32);
    assert_true(memcmp(other->data, want, sizeof want) != 0);
    ctx.int8 = false;
    y = t3v_linear_tokens(&ctx, &layer, in, T3V_F32);
    assert_memory_equal(y->data, other->data, sizeof want);

    /* updates are added as ever */
    layer.lora = &pair, layer.loras = 1;
    y = t3v_linear(&ctx, &layer, in, T3V_F32);
    for (int i = 0; i < M * N; i++) update[i] = ((float *)y->data)[i] - ((float *)other->data)[i];
    ctx.int8 = true;
    y = t3v_linear_tokens(&ctx, &layer, in, T3V_F32);
    for (int i = 0; i < M * N; i++) {
        float got = ((float *)y->data)[i], sum = want[i] + update[i];
        assert_true(fabsf(got - sum) <= 0x1p-20f * (fabsf(want[i]) + fabsf(update[i]) + fabsf(sum)));
    }

    /* what is counted is what is taken */
    t3v_arena count;
    assert_int_equal(t3v_arena_count_in(&count, NULL), T3V_OK);
    t3v_ctx counting = {.arena = &count, .compute = T3V_F32, .int8 = true};
    t3v_linear_tokens(&counting, &layer, t3v_new(&counting, T3V_F32, T3V_SHAPE(M, K)), T3V_F32);
    assert_int_equal(counting.status, T3V_OK);
    assert_true(count.peak >= t3v_int8_work(M, K) + sizeof want);
    t3v_arena_close(&count);

    ctx.tape = &tape;
    assert_null(t3v_linear_tokens(&ctx, &layer, in, T3V_F32));
    assert_int_equal(ctx.status, T3V_E_UNSUPPORTED);
    assert_non_null(strstr(t3v_error_text(), "--act int8"));
    free(x), free(w), free(bias), free(a), free(b);
    t3v_arena_close(&arena);
}

static void other_masks(void **state)
{
    (void)state;
    if (dense_is_child()) return;
    assert_true(dense_again_with("ref"));
    assert_true(dense_again_with("avx2"));
    assert_true(dense_again_with("avx512"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_definition),
        cmocka_unit_test(emulated_matches_definition),
        cmocka_unit_test(widths_agree),
        cmocka_unit_test(near_the_product),
        cmocka_unit_test(largest_sums),
        cmocka_unit_test(rows_stand_alone),
        cmocka_unit_test(special_numbers),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(refuses_bad_arguments),
        cmocka_unit_test(checker_catches_faults),
        cmocka_unit_test(layers),
        cmocka_unit_test(other_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
