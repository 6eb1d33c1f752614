/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products against the definition, and what must not change their rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <omp.h>

#include "base/cpu.h"
#include "dense.h"
#include "ops/gemm/gemm.h"
#include "ops/onednn.h"

typedef struct problem {
    t3v_gemm_args g;
    int64_t c_count;
} problem;

static void open_problem(problem *p, int64_t m, int64_t n, int64_t k, t3v_dtype a, t3v_dtype b, t3v_dtype c,
                         int flags, int64_t gap, int64_t batch)
{
    t3v_gemm_args *g = &p->g;
    *g = (t3v_gemm_args){.batch = batch, .m = m, .n = n, .k = k, .a_type = a, .b_type = b, .c_type = c};
    g->a_trans = flags & 1, g->b_trans = flags & 2, g->accumulate = (flags & 4) && c == T3V_F32;
    g->act = flags & 8 ? T3V_ACT_GELU_TANH : T3V_ACT_NONE;
    int64_t ar = g->a_trans ? k : m, ac = g->a_trans ? m : k, br = g->b_trans ? n : k,
            bc = g->b_trans ? k : n;
    g->lda = ac + gap, g->ldb = bc + gap, g->ldc = n + gap;
    g->a_batch = ar * g->lda + gap, g->b_batch = br * g->ldb + gap, g->c_batch = m * g->ldc + gap;
    void *pa = dense_random(batch * g->a_batch + 1, a, 1), *pb = dense_random(batch * g->b_batch + 1, b, 2);
    for (int64_t q = 0; q < batch && gap; q++) {
        for (int64_t i = 0; i < ar; i++)
            for (int64_t j = ac; j < g->lda; j++) dense_set(pa, a, q * g->a_batch + i * g->lda + j, NAN);
        for (int64_t i = 0; i < br; i++)
            for (int64_t j = bc; j < g->ldb; j++) dense_set(pb, b, q * g->b_batch + i * g->ldb + j, NAN);
    }
    p->c_count = batch * g->c_batch;
    g->a = pa, g->b = pb, g->c = dense_random(p->c_count + 1, c, 3);
    g->bias = flags & 16 ? dense_random(n + 1, T3V_F32, 4) : NULL;
}

static void close_problem(problem *p)
{
    free((void *)(uintptr_t)p->g.a), free((void *)(uintptr_t)p->g.b), free((void *)(uintptr_t)p->g.bias),
        free(p->g.c);
}

static void *absolute(const void *p, t3v_dtype type, int64_t n)
{
    void *out = dense_alloc(n, type);
    for (int64_t i = 0; i < n; i++) dense_set(out, type, i, fabsf(dense_get(p, type, i)));
    return out;
}

/* How many elements of g->c are not what `before` and the operands give; gaps must be untouched.
 * A sum of k terms in f32, in any order, errs by at most k 2^-24 times the sum of magnitudes. */
static int64_t count_bad(const problem *p, const void *before)
{
    t3v_gemm_args want = p->g, size = p->g;
    const t3v_gemm_args *g = &p->g;
    int64_t bad = 0, ac = g->batch * g->a_batch, bc = g->batch * g->b_batch;
    want.c_type = size.c_type = T3V_F32, size.act = T3V_ACT_NONE;
    float *w = dense_alloc(p->c_count, T3V_F32), *s = dense_alloc(p->c_count, T3V_F32);
    for (int64_t i = 0; i < p->c_count; i++)
        w[i] = dense_get(before, g->c_type, i), s[i] = fabsf(dense_get(before, g->c_type, i));
    want.c = w, size.c = s;
    void *aa = absolute(g->a, g->a_type, ac), *ab = absolute(g->b, g->b_type, bc);
    float *abias = g->bias ? absolute(g->bias, T3V_F32, g->n) : NULL;
    size.a = aa, size.b = ab, size.bias = abias;
    t3v_gemm_ref(&want);
    t3v_gemm_ref(&size);
    for (int64_t q = 0; q < g->batch; q++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->ldc; j++) {
                int64_t at = q * g->c_batch + i * g->ldc + j;
                double got = dense_get(g->c, g->c_type, at), ref = w[at];
                if (j >= g->n) {
                    bad += dense_get(before, g->c_type, at) != (float)got;
                    continue;
                }
                double tol = (double)(g->k + 4) * 0x1p-24 * s[at];
                if (g->act) tol = 1.13 * tol + 3e-6 * (1 + fabs(ref));
                if (g->c_type == T3V_BF16) tol += 0x1p-8 * fabs(ref) + 1e-30;
                bad += !(fabs(got - ref) <= tol);
            }
    free(w), free(s), free(aa), free(ab), free(abias);
    return bad;
}

static void *copy_c(const problem *p)
{
    size_t bytes = (size_t)p->c_count * t3v_dtype_size(p->g.c_type);
    void *c = dense_alloc(p->c_count + 1, p->g.c_type);
    memcpy(c, p->g.c, bytes);
    return c;
}

static void run_and_check(int64_t m, int64_t n, int64_t k, t3v_dtype a, t3v_dtype b, t3v_dtype c, int flags,
                          int64_t gap, int64_t batch)
{
    problem p;
    open_problem(&p, m, n, k, a, b, c, flags, gap, batch);
    void *before = copy_c(&p);
    assert_int_equal(t3v_gemm(&p.g), T3V_OK);
    int64_t bad = count_bad(&p, before);
    if (bad)
        print_error("%lld bad of %lld x %lld, k %lld, types %d %d %d, flags %d, gap %lld\n", (long long)bad,
                    (long long)m, (long long)n, (long long)k, a, b, c, flags, (long long)gap);
    assert_int_equal(bad, 0);
    free(before);
    close_problem(&p);
}

static const t3v_dtype types[][3] = {{T3V_F32, T3V_F32, T3V_F32},   {T3V_F32, T3V_F32, T3V_BF16},
                                     {T3V_BF16, T3V_BF16, T3V_F32}, {T3V_BF16, T3V_BF16, T3V_BF16},
                                     {T3V_F32, T3V_BF16, T3V_F32},  {T3V_F32, T3V_BF16, T3V_BF16}};

static void matches_definition(void **state)
{
    (void)state;
    static const int64_t edge[] = {1, 2, 15, 16, 17, 31, 33, 64, 67, 129, 193, 257};
    t3v_rng r = t3v_rng_make(20, 1);
    for (int i = 0; i < 300; i++) {
        int64_t m = edge[t3v_rng_below(&r, 12)], n = edge[t3v_rng_below(&r, 12)],
                k = edge[t3v_rng_below(&r, 12)];
        const t3v_dtype *t = types[i % 6];
        int flags = (int)t3v_rng_below(&r, 32);
        run_and_check(m, n, k, t[0], t[1], t[2], flags, t3v_rng_below(&r, 3) * 5, 1 + t3v_rng_below(&r, 3));
    }
}

static void empty_sizes(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        run_and_check(0, 5, 5, types[i][0], types[i][1], types[i][2], 16, 0, 1);
        run_and_check(5, 0, 5, types[i][0], types[i][1], types[i][2], 0, 0, 1);
        run_and_check(5, 7, 0, types[i][0], types[i][1], types[i][2], 16 + 8 + 4, 2, 2);
    }
}

/* Operands large enough to be cut into tiles (more than 8 MiB). */
static void tiled(void **state)
{
    (void)state;
    if (t3v_cpu() == T3V_ISA_REF) return;
    run_and_check(70, 200, 20011, T3V_F32, T3V_BF16, T3V_F32, 2 + 4 + 16, 0, 1);
    run_and_check(70, 200, 20011, T3V_F32, T3V_BF16, T3V_F32, 0, 3, 1);
    run_and_check(200, 66, 30011, T3V_BF16, T3V_BF16, T3V_BF16, 1 + 2, 3, 1);
    run_and_check(2100, 1030, 7, T3V_F32, T3V_F32, T3V_BF16, 1 + 8, 0, 1);
}

/* Row i of a product is the same bytes with any m that holds it and any number of threads. */
static void rows_stand_alone(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {300, 256, 256}, {131, 77, 1000}, {37, 384, 4099}, {5, 1, 64}, {64, 16, 9000}};
    static const int64_t some[] = {1, 2, 7, 16, 33};
    int threads = omp_get_max_threads();
    for (int z = 0; z < 5; z++)
        for (int i = 0; i < 6; i++)
            for (int flags = 0; flags < 4; flags++)
                for (int64_t gap = 0; gap < 2; gap++) {
                    if (t3v_cpu() == T3V_ISA_REF && (z != 0 || flags)) continue;
                    /* half of the combinations; every pair occurs */
                    if ((z + i + flags) % 2 == gap) continue;
                    problem p;
                    open_problem(&p, sizes[z][0], sizes[z][1], sizes[z][2], types[i][0], types[i][1],
                                 types[i][2], flags | 16, gap * 8, 1);
                    size_t size = t3v_dtype_size(p.g.c_type), bytes = (size_t)p.c_count * size;
                    char *whole = copy_c(&p), *part = copy_c(&p);
                    t3v_gemm_args g = p.g;
                    omp_set_num_threads(1);
                    g.c = whole;
                    assert_int_equal(t3v_gemm(&g), T3V_OK);
                    omp_set_num_threads(2);
                    g.c = part;
                    assert_int_equal(t3v_gemm(&g), T3V_OK);
                    if (memcmp(whole, part, bytes))
                        fail_msg("%lld x %lld x %lld changes with threads (types %d, flags %d, gap %d)",
                                 (long long)g.m, (long long)g.n, (long long)g.k, i, flags, (int)gap);
                    int inside = 0;
#pragma omp parallel num_threads(2)
                    if (omp_get_thread_num() == 1) {
                        memset(part, 0, bytes);
                        inside = (int)t3v_gemm(&g);
                    }
                    assert_int_equal(inside, 0);
                    for (int64_t row = 0; row < g.m; row++)
                        assert_memory_equal(whole + (size_t)(row * g.ldc) * size,
                                            part + (size_t)(row * g.ldc) * size, (size_t)g.n * size);
                    for (int q = 0; q < 5; q++) {
                        int64_t first = 3 * q % g.m, rows = some[q] < g.m - first ? some[q] : g.m - first;
                        t3v_gemm_args s = g;
                        s.m = rows;
                        s.a = (const char *)g.a +
                              (size_t)(g.a_trans ? first : first * g.lda) * t3v_dtype_size(g.a_type);
                        assert_int_equal(t3v_gemm(&s), T3V_OK);
                        for (int64_t row = 0; row < rows; row++)
                            if (memcmp(part + (size_t)(row * g.ldc) * size,
                                       whole + (size_t)((first + row) * g.ldc) * size, (size_t)g.n * size))
                                fail_msg("row %lld of %lld x %lld x %lld changes with m = %lld (types %d, "
                                         "flags %d, gap %d)",
                                         (long long)row, (long long)g.m, (long long)g.n, (long long)g.k,
                                         (long long)rows, i, flags, (int)gap);
                    }
                    omp_set_num_threads(threads);
                    free(whole), free(part);
                    close_problem(&p);
                }
}

static void refuses_bad_arguments(void **state)
{
    (void)state;
    float x[64] = {0};
    t3v_gemm_args g = {
        .batch = 1, .m = 4, .n = 4, .k = 4, .a = x, .b = x, .c = x + 32, .lda = 4, .ldb = 4, .ldc = 4};
    t3v_gemm_args h = g;
    h.lda = 3;
    assert_int_equal(t3v_gemm(&h), T3V_E_ARG);
    h = g, h.a_type = T3V_BF16;
    assert_int_equal(t3v_gemm(&h), T3V_E_DTYPE);
    h = g, h.c_type = T3V_BF16, h.accumulate = true;
    assert_int_equal(t3v_gemm(&h), T3V_E_DTYPE);
    h = g, h.m = -1;
    assert_int_equal(t3v_gemm(&h), T3V_E_ARG);
    h = g, h.b = NULL;
    assert_int_equal(t3v_gemm(&h), T3V_E_ARG);
    h = g, h.m = INT64_MAX / 2;
    assert_int_equal(t3v_gemm(&h), T3V_E_TOO_BIG);
}

/* The checker itself: a kernel that forgets the last row, the last column or the last term, or writes into
 * a gap, must be caught. */
static void checker_catches_faults(void **state)
{
    (void)state;
    for (int fault = 0; fault < 4; fault++) {
        problem p;
        open_problem(&p, 33, 17, 65, T3V_BF16, T3V_BF16, T3V_F32, 2, 4, 1);
        void *before = copy_c(&p);
        t3v_gemm_args g = p.g;
        if (fault == 0) g.m--;
        if (fault == 1) g.n--;
        if (fault == 2) g.k--;
        assert_int_equal(t3v_gemm(&g), T3V_OK);
        if (fault == 3) ((float *)p.g.c)[p.g.n] += 1;
        assert_true(count_bad(&p, before) > 0);
        free(before);
        close_problem(&p);
    }
}

/* What an activation gets may be asked for too: the same bytes as the product without the activation. */
static void before_is_the_plain_product(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 5, 7}, {33, 40, 300}, {250, 70, 64}, {6, 200, 9000}};
    for (int i = 0; i < 4 * 6; i++) {
        const int64_t *z = sizes[i % 4];
        const t3v_dtype *t = types[i / 4];
        problem p;
        open_problem(&p, z[0], z[1], z[2], t[0], t[1], t[2], 2 + 8 + 16 + (i & 1 ? 4 : 0), i % 3, 1);
        const size_t bytes = (size_t)p.c_count * t3v_dtype_size(t[2]);
        void *old = copy_c(&p), *before = copy_c(&p), *want = copy_c(&p);
        t3v_gemm_args g = p.g, plain = p.g;
        g.before = before;
        assert_int_equal(t3v_gemm(&g), T3V_OK);
        assert_int_equal(count_bad(&p, old), 0);
        plain.c = want, plain.act = T3V_ACT_NONE, plain.accumulate = false;
        assert_int_equal(t3v_gemm(&plain), T3V_OK);
        assert_memory_equal(before, want, bytes);
        free(old), free(before), free(want);
        close_problem(&p);
    }
}

static void fast_kernel_is_used(void **state)
{
    (void)state;
    if (t3v_cpu() < T3V_ISA_AVX512BF16) return;
    for (int flags = 0; flags < 4; flags++) {
        run_and_check(64, 96, 128, T3V_BF16, T3V_BF16, T3V_F32, flags, 8, 1);
        assert_non_null(strstr(t3v_dnn_last_impl(), "brg"));
    }
}

static void other_masks(void **state)
{
    (void)state;
    if (dense_is_child()) return;
    assert_true(dense_again_with("ref"));
    assert_true(dense_again_with("avx2"));
    assert_true(dense_again_with("avx512"));
}

/* ---- packed weights ---------------------------------------------------------------------------- */

static const t3v_dtype packed_types[] = {T3V_Q8_0, T3V_Q4_0, T3V_Q4_1, T3V_Q5_0, T3V_Q5_1,    T3V_Q2_K,
                                         T3V_Q3_K, T3V_Q4_K, T3V_Q5_K, T3V_Q6_K, T3V_F8_E4M3, T3V_F8_E5M2};
enum { PACKED_TYPES = sizeof packed_types / sizeof *packed_types };

/* A product with B packed is the product with B expanded to A's type: the same bytes if B is one tile, else sums of other
 * order may differ. Every element is expanded once. */
static void packed_equals_expanded(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{5, 256, 512}, {20, 512, 256}, {3, 4608, 512}, {2, 512, 4608}};
    static const float scale = 0.75f;
    for (int k = 0; k < PACKED_TYPES; k++)
        for (int c = 0; c < 4 * 8; c++) {
            const int64_t *z = sizes[c / 8], m = z[0], n = z[1], d = z[2];
            if (c / 8 >= 2 && k % 5) continue; /* the large ones: some types */
            t3v_dtype a_type = c & 1 ? T3V_BF16 : T3V_F32, c_type = c & 2 ? T3V_BF16 : T3V_F32;
            bool trans = c & 4;
            void *a = dense_random(m * d, a_type, 1), *got = dense_random(m * n, c_type, 3),
                 *want = dense_random(m * n, c_type, 3), *dense = dense_alloc(n * d, a_type);
            float *bias = dense_random(n, T3V_F32, 4);
            unsigned char *b = dense_packed(n * d, packed_types[k], 2);
            assert_int_equal(t3v_convert_scaled(dense, a_type, b, packed_types[k], scale, n * d), T3V_OK);
            t3v_gemm_args g = {.batch = 1,
                               .m = m,
                               .n = n,
                               .k = d,
                               .a = a,
                               .a_type = a_type,
                               .lda = d,
                               .b = b,
                               .b_type = packed_types[k],
                               .b_scale = &scale,
                               .ldb = trans ? d : n,
                               .b_trans = trans,
                               .bias = bias,
                               .c = got,
                               .c_type = c_type,
                               .ldc = n,
                               .accumulate = c_type == T3V_F32};
            int64_t before = t3v_gemm_expanded();
            assert_int_equal(t3v_gemm(&g), T3V_OK);
            assert_int_equal(t3v_gemm_expanded() - before, n * d);
            g.b = dense, g.b_type = a_type, g.b_scale = NULL, g.c = want;
            assert_int_equal(t3v_gemm(&g), T3V_OK);
            bool one_tile = n * d * (int64_t)t3v_dtype_size(a_type) <= 8 << 20;
            if (one_tile) assert_memory_equal(got, want, (size_t)(m * n) * t3v_dtype_size(c_type));
            double error = 0, size = 0;
            for (int64_t i = 0; i < m * n; i++) {
                double x = dense_get(got, c_type, i), y = dense_get(want, c_type, i);
                error += (x - y) * (x - y), size += y * y;
            }
            assert_true(size > 0 && error <= size * (c_type == T3V_BF16 ? 1e-6 : 1e-12));
            free(a), free(got), free(want), free(dense), free(bias), free(b);
        }
}

static void packed_is_the_same_for_any_number_of_threads(void **state)
{
    (void)state;
    enum { M = 20, N = 4608, K = 512 };
    int threads = omp_get_max_threads();
    void *a = dense_random(M * K, T3V_F32, 1), *c[3];
    unsigned char *b = dense_packed(N * K, T3V_Q4_K, 2);
    for (int t = 0; t < 3; t++) {
        omp_set_num_threads(t + 1);
        c[t] = dense_alloc(M * N, T3V_F32);
        t3v_gemm_args g = {.batch = 1,
                           .m = M,
                           .n = N,
                           .k = K,
                           .a = a,
                           .a_type = T3V_F32,
                           .lda = K,
                           .b = b,
                           .b_type = T3V_Q4_K,
                           .ldb = K,
                           .b_trans = true,
                           .c = c[t],
                           .c_type = T3V_F32,
                           .ldc = N};
        assert_int_equal(t3v_gemm(&g), T3V_OK);
        assert_memory_equal(c[t], c[0], (size_t)M * N * 4);
    }
    omp_set_num_threads(threads);
    for (int t = 0; t < 3; t++) free(c[t]);
    free(a), free(b);
}

static void packed_arguments(void **state)
{
    (void)state;
    static const unsigned char zeros[4096];
    float x[512] = {0};
    t3v_gemm_args ok = {.batch = 1,
                        .m = 1,
                        .n = 2,
                        .k = 256,
                        .a = x,
                        .a_type = T3V_F32,
                        .lda = 256,
                        .b = zeros,
                        .b_type = T3V_Q6_K,
                        .ldb = 256,
                        .b_trans = true,
                        .c = x + 256,
                        .c_type = T3V_F32,
                        .ldc = 2};
    assert_int_equal(t3v_gemm(&ok), T3V_OK);
    t3v_gemm_args g = ok;
    g.k = 255;
    assert_int_equal(t3v_gemm(&g), T3V_E_ARG);
    g = ok, g.ldb = 300;
    assert_int_equal(t3v_gemm(&g), T3V_E_ARG);
    g = ok, g.batch = 2;
    assert_int_equal(t3v_gemm(&g), T3V_E_ARG);
    g = ok, g.a_type = T3V_Q6_K;
    assert_int_equal(t3v_gemm(&g), T3V_E_DTYPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checker_catches_faults),
        cmocka_unit_test(matches_definition),
        cmocka_unit_test(empty_sizes),
        cmocka_unit_test(tiled),
        cmocka_unit_test(rows_stand_alone),
        cmocka_unit_test(before_is_the_plain_product),
        cmocka_unit_test(refuses_bad_arguments),
        cmocka_unit_test(packed_equals_expanded),
        cmocka_unit_test(packed_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(packed_arguments),
        cmocka_unit_test(fast_kernel_is_used),
        cmocka_unit_test(other_masks),
    };
    /* Many tiny products: one thread, except where two are the subject. */
    omp_set_num_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
