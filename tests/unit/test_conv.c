/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions against the definition, forward and backward, in the shapes a video VAE uses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <omp.h>

#include "base/cpu.h"
#include "dense.h"
#include "ops/conv/conv.h"
#include "ops/onednn.h"

typedef struct problem {
    t3v_conv_shape s;
    int64_t to, ho, wo, nx, ny, nw;
    void *x, *dy; /* s.type */
    float *w, *bias;
} problem;

static void open_problem(problem *p, t3v_conv_shape s)
{
    p->s = s;
    assert_int_equal(t3v_conv_out(&s, &p->to, &p->ho, &p->wo), T3V_OK);
    p->nx = s.t * s.h * s.w * s.cin, p->ny = p->to * p->ho * p->wo * s.cout;
    p->nw = s.cout * s.cin * s.kt * s.kh * s.kw;
    p->x = dense_random(p->nx, s.type, 1), p->dy = dense_random(p->ny, s.type, 2);
    p->w = dense_random(p->nw, T3V_F32, 3), p->bias = dense_random(s.cout, T3V_F32, 4);
    /* The definition takes the weights that the kernels see. */
    for (int64_t i = 0; i < p->nw && s.type == T3V_BF16; i++)
        p->w[i] = t3v_bf16_to_f32(t3v_f32_to_bf16(p->w[i]));
}

static void close_problem(problem *p) { free(p->x), free(p->dy), free(p->w), free(p->bias); }

static void *absolute(const void *p, t3v_dtype type, int64_t n)
{
    void *out = dense_alloc(n, type);
    for (int64_t i = 0; i < n; i++) dense_set(out, type, i, fabsf(dense_get(p, type, i)));
    return out;
}

/* Elements further from `want` than the rounding of `terms` f32 additions of magnitudes summing to `size`. */
static int64_t count_bad(const void *got, t3v_dtype type, const float *want, const float *size, int64_t n,
                         int64_t terms)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        double tol = (double)(terms + 4) * 0x1p-24 * size[i];
        if (type == T3V_BF16) tol += 0x1p-8 * fabs(want[i]) + 1e-30;
        bad += !(fabs((double)dense_get(got, type, i) - want[i]) <= tol);
    }
    return bad;
}

static void *pack(const problem *p, t3v_conv_dir dir)
{
    size_t bytes;
    assert_int_equal(t3v_conv_packed_size(&p->s, dir, &bytes), T3V_OK);
    void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(packed);
    assert_int_equal(t3v_conv_pack(&p->s, dir, p->w, T3V_F32, packed), T3V_OK);
    return packed;
}

static int64_t taps(const problem *p) { return p->s.kt * p->s.kh * p->s.kw; }

static int64_t forward_bad(const problem *p, const t3v_conv_shape *run, t3v_dtype y_type, bool with_bias)
{
    const float *bias = with_bias ? p->bias : NULL;
    void *packed = pack(p, T3V_CONV_FORWARD), *y = dense_alloc(p->ny, y_type);
    float *want = dense_alloc(p->ny, T3V_F32), *size = dense_alloc(p->ny, T3V_F32);
    assert_int_equal(t3v_conv_forward(run, p->x, packed, bias, y, y_type), T3V_OK);
    t3v_conv_forward_ref(&p->s, p->x, p->w, bias, want, T3V_F32);
    void *ax = absolute(p->x, p->s.type, p->nx);
    float *aw = absolute(p->w, T3V_F32, p->nw), *ab = absolute(p->bias, T3V_F32, p->s.cout);
    t3v_conv_forward_ref(&p->s, ax, aw, with_bias ? ab : NULL, size, T3V_F32);
    int64_t bad = count_bad(y, y_type, want, size, p->ny, taps(p) * p->s.cin);
    free(packed), free(y), free(want), free(size), free(ax), free(aw), free(ab);
    return bad;
}

static int64_t backward_data_bad(const problem *p, const t3v_conv_shape *run, t3v_dtype dx_type)
{
    void *packed = pack(p, T3V_CONV_BACKWARD_DATA), *dx = dense_alloc(p->nx, dx_type);
    float *want = dense_alloc(p->nx, T3V_F32), *size = dense_alloc(p->nx, T3V_F32);
    assert_int_equal(t3v_conv_backward_data(run, p->dy, packed, dx, dx_type), T3V_OK);
    t3v_conv_backward_data_ref(&p->s, p->dy, p->w, want, T3V_F32);
    void *ay = absolute(p->dy, p->s.type, p->ny);
    float *aw = absolute(p->w, T3V_F32, p->nw);
    t3v_conv_backward_data_ref(&p->s, ay, aw, size, T3V_F32);
    int64_t bad = count_bad(dx, dx_type, want, size, p->nx, taps(p) * p->s.cout);
    free(packed), free(dx), free(want), free(size), free(ay), free(aw);
    return bad;
}

static int64_t backward_weights_bad(const problem *p, const t3v_conv_shape *run)
{
    float *dw = dense_random(p->nw, T3V_F32, 5), *db = dense_random(p->s.cout, T3V_F32, 6);
    float *want = dense_random(p->nw, T3V_F32, 5), *want_b = dense_random(p->s.cout, T3V_F32, 6);
    float *size = absolute(dw, T3V_F32, p->nw), *size_b = absolute(db, T3V_F32, p->s.cout);
    assert_int_equal(t3v_conv_backward_weights(run, p->x, p->dy, dw, db), T3V_OK);
    t3v_conv_backward_weights_ref(&p->s, p->x, p->dy, want, want_b);
    void *ax = absolute(p->x, p->s.type, p->nx), *ay = absolute(p->dy, p->s.type, p->ny);
    t3v_conv_backward_weights_ref(&p->s, ax, ay, size, size_b);
    int64_t n = p->to * p->ho * p->wo;
    int64_t bad = count_bad(dw, T3V_F32, want, size, p->nw, n) +
                  count_bad(db, T3V_F32, want_b, size_b, p->s.cout, n);
    free(dw), free(db), free(want), free(want_b), free(size), free(size_b), free(ax), free(ay);
    return bad;
}

static t3v_conv_shape shape(int64_t t, int64_t h, int64_t w, int64_t ci, int64_t co, int kt, int k,
                            t3v_dtype type)
{
    return (t3v_conv_shape){.t = t,
                            .h = h,
                            .w = w,
                            .cin = ci,
                            .cout = co,
                            .kt = kt,
                            .kh = k,
                            .kw = k,
                            .st = 1,
                            .sh = 1,
                            .sw = 1,
                            .ph0 = k / 2,
                            .ph1 = k / 2,
                            .pw0 = k / 2,
                            .pw1 = k / 2,
                            .type = type};
}

/* The kinds of convolution of the Wan VAE: 3x3x3, 3x1x1, 3x1x1 with stride 2 in time, 1x3x3 with stride 2 and
 * one row and column of zeros behind, 1x3x3, 1x1x1; then a kernel with padding in time. */
static t3v_conv_shape kind_of(int kind, int64_t h, int64_t w, int64_t ci, int64_t co, t3v_dtype type)
{
    t3v_conv_shape s;
    switch (kind) {
    case 0: return shape(4, h, w, ci, co, 3, 3, type);
    case 1: return shape(5, h, w, ci, co, 3, 1, type);
    case 2:
        s = shape(5, h, w, ci, co, 3, 1, type);
        s.st = 2;
        return s;
    case 3:
        s = shape(2, h, w, ci, co, 1, 3, type);
        s.sh = s.sw = 2, s.ph0 = s.pw0 = 0;
        return s;
    case 4: return shape(1, h, w, ci, co, 1, 3, type);
    case 5: return shape(3, h, w, ci, co, 1, 1, type);
    default:
        s = shape(3, h, w, ci, co, 3, 3, type);
        s.pt0 = 2, s.pt1 = 1, s.sh = 2;
        return s;
    }
}

static const int64_t channels[][2] = {{3, 96},  {96, 3}, {16, 32}, {8, 8},  {32, 16},
                                      {96, 96}, {13, 7}, {1, 5},   {12, 24}};

static bool slow_mask(void) { return t3v_cpu() == T3V_ISA_REF; }

static void matches_definition(void **state)
{
    (void)state;
    for (int c = 0; c < 9; c++)
        for (int kind = 0; kind < 7; kind++)
            for (int type = 0; type < 2; type++) {
                if (slow_mask() && (c == 5 || c < 2)) continue;
                problem p;
                t3v_dtype in = type ? T3V_BF16 : T3V_F32, out = (kind + c + type) % 2 ? T3V_BF16 : T3V_F32;
                open_problem(&p, kind_of(kind, 6 + c % 3, 5 + kind, channels[c][0], channels[c][1], in));
                int64_t a = forward_bad(&p, &p.s, out, kind != 2), b = backward_data_bad(&p, &p.s, out);
                int64_t w = backward_weights_bad(&p, &p.s);
                if (a + b + w)
                    print_error("channels %lld %lld, kind %d, type %d: %lld, %lld, %lld bad\n",
                                (long long)p.s.cin, (long long)p.s.cout, kind, type, (long long)a,
                                (long long)b, (long long)w);
                assert_int_equal(a + b + w, 0);
                close_problem(&p);
            }
}

/* Weights packed at one size serve another. */
static void packed_for_another_size(void **state)
{
    (void)state;
    for (int c = 2; c < 9; c++)
        for (int type = 0; type < 2; type++) {
            problem p, big;
            t3v_dtype in = type ? T3V_BF16 : T3V_F32;
            open_problem(&p, shape(3, 7, 5, channels[c][0], channels[c][1], 3, 3, in));
            open_problem(&big, shape(5, 40, 36, channels[c][0], channels[c][1], 3, 3, in));
            void *packed = pack(&big, T3V_CONV_FORWARD), *own = pack(&p, T3V_CONV_FORWARD);
            float *y = dense_alloc(p.ny, T3V_F32), *z = dense_alloc(p.ny, T3V_F32);
            assert_int_equal(t3v_conv_forward(&p.s, p.x, packed, p.bias, y, T3V_F32), T3V_OK);
            assert_int_equal(t3v_conv_forward(&p.s, p.x, own, p.bias, z, T3V_F32), T3V_OK);
            for (int64_t i = 0; i < p.ny; i++) assert_true(fabsf(y[i] - z[i]) <= 1e-3f * (1 + fabsf(z[i])));
            free(packed), free(own), free(y), free(z);
            close_problem(&p), close_problem(&big);
        }
}

/* One thread, two threads, and one thread of a parallel region give the same bytes. */
static void threads_do_not_matter(void **state)
{
    (void)state;
    int threads = omp_get_max_threads();
    for (int c = 0; c < 6; c++)
        for (int kind = 0; kind < 7; kind++)
            for (int type = 0; type < 2; type++) {
                if (slow_mask() || c == 1 || c == 3) continue;
                problem p;
                t3v_dtype in = type ? T3V_BF16 : T3V_F32, out = kind % 2 ? T3V_BF16 : T3V_F32;
                open_problem(&p, kind_of(kind, 17, 19, channels[c][0], channels[c][1], in));
                size_t size = t3v_dtype_size(out);
                void *fwd = pack(&p, T3V_CONV_FORWARD), *bwd = pack(&p, T3V_CONV_BACKWARD_DATA);
                void *y[3], *dx[3];
                float *dw[3], *db[3];
                for (int run = 0; run < 3; run++) {
                    y[run] = dense_alloc(p.ny, out), dx[run] = dense_alloc(p.nx, out);
                    dw[run] = dense_random(p.nw, T3V_F32, 5), db[run] = dense_random(p.s.cout, T3V_F32, 6);
                    int failed = 0;
                    omp_set_num_threads(run == 0 ? 1 : 2);
#pragma omp parallel num_threads(2) if (run == 2)
                    if (omp_get_thread_num() == (run == 2)) {
                        failed = (int)t3v_conv_forward(&p.s, p.x, fwd, p.bias, y[run], out);
                        if (!failed) failed = (int)t3v_conv_backward_data(&p.s, p.dy, bwd, dx[run], out);
                        if (!failed)
                            failed = (int)t3v_conv_backward_weights(&p.s, p.x, p.dy, dw[run], db[run]);
                    }
                    assert_int_equal(failed, 0);
                    if (memcmp(y[0], y[run], (size_t)p.ny * size))
                        fail_msg("y of channels %lld %lld, kind %d, type %d differs in run %d",
                                 (long long)p.s.cin, (long long)p.s.cout, kind, type, run);
                    if (memcmp(dx[0], dx[run], (size_t)p.nx * size))
                        fail_msg("dx of channels %lld %lld, kind %d, type %d differs in run %d",
                                 (long long)p.s.cin, (long long)p.s.cout, kind, type, run);
                    if (memcmp(dw[0], dw[run], (size_t)p.nw * 4))
                        fail_msg("dw of channels %lld %lld, kind %d, type %d differs in run %d",
                                 (long long)p.s.cin, (long long)p.s.cout, kind, type, run);
                    assert_memory_equal(db[0], db[run], (size_t)p.s.cout * 4);
                }
                for (int run = 0; run < 3; run++) free(y[run]), free(dx[run]), free(dw[run]), free(db[run]);
                free(fwd), free(bwd);
                omp_set_num_threads(threads);
                close_problem(&p);
            }
}

/* Never a plain loop where the CPU can do better. */
static void fast_kernels_are_used(void **state)
{
    (void)state;
    static const int64_t wan[][2] = {{3, 96}, {96, 3}, {16, 384}, {8, 8}, {32, 64}, {384, 384}, {12, 96}};
    if (t3v_cpu() < T3V_ISA_AVX512) return;
    for (int c = 0; c < 7; c++)
        for (int type = 0; type < 2; type++) {
            problem p;
            open_problem(&p, shape(3, 12, 12, wan[c][0], wan[c][1], 3, 3, type ? T3V_BF16 : T3V_F32));
            void *fwd = pack(&p, T3V_CONV_FORWARD), *bwd = pack(&p, T3V_CONV_BACKWARD_DATA);
            float *y = dense_alloc(p.ny, T3V_F32), *dx = dense_alloc(p.nx, T3V_F32);
            float *dw = dense_random(p.nw, T3V_F32, 1);
            for (int call = 0; call < 3; call++) {
                t3v_status st = call == 0   ? t3v_conv_forward(&p.s, p.x, fwd, p.bias, y, T3V_F32)
                                : call == 1 ? t3v_conv_backward_data(&p.s, p.dy, bwd, dx, T3V_F32)
                                            : t3v_conv_backward_weights(&p.s, p.x, p.dy, dw, NULL);
                assert_int_equal(st, T3V_OK);
                const char *impl = t3v_dnn_last_impl();
                if (strncmp(impl, "jit", 3) != 0)
                    fail_msg("channels %lld %lld type %d call %d runs %s", (long long)wan[c][0],
                             (long long)wan[c][1], type, call, impl);
            }
            free(fwd), free(bwd), free(y), free(dx), free(dw);
            close_problem(&p);
        }
}

static void refuses_bad_shapes(void **state)
{
    (void)state;
    t3v_conv_shape s = shape(3, 8, 8, 4, 4, 3, 3, T3V_F32), bad = s;
    bad.h = 0;
    assert_int_equal(t3v_conv_out(&bad, NULL, NULL, NULL), T3V_E_SHAPE);
    bad = s, bad.t = 2;
    assert_int_equal(t3v_conv_out(&bad, NULL, NULL, NULL), T3V_E_SHAPE);
    bad = s, bad.pw1 = 3;
    assert_int_equal(t3v_conv_out(&bad, NULL, NULL, NULL), T3V_E_SHAPE);
    bad = s, bad.type = T3V_F16;
    assert_int_equal(t3v_conv_out(&bad, NULL, NULL, NULL), T3V_E_DTYPE);
    bad = s, bad.w = INT64_MAX / 4;
    assert_int_equal(t3v_conv_out(&bad, NULL, NULL, NULL), T3V_E_TOO_BIG);
    problem p;
    open_problem(&p, s);
    void *packed = pack(&p, T3V_CONV_FORWARD);
    float *y = dense_alloc(p.ny, T3V_F32);
    assert_int_equal(t3v_conv_backward_data(&s, p.dy, packed, y, T3V_F32), T3V_E_ARG);
    bad = s, bad.cin = 5;
    assert_int_equal(t3v_conv_forward(&bad, p.x, packed, NULL, y, T3V_F32), T3V_E_ARG);
    free(packed), free(y);
    close_problem(&p);
}

/* The checker itself: a kernel that ignores the last row, or the last channel, must be caught. */
static void checker_catches_faults(void **state)
{
    (void)state;
    problem p;
    open_problem(&p, shape(3, 9, 10, 8, 8, 3, 3, T3V_BF16));
    assert_int_equal(forward_bad(&p, &p.s, T3V_F32, true), 0);
    int64_t row = p.s.w * p.s.cin;
    t3v_bf16 *x = p.x;
    problem q = p;
    q.x = dense_alloc(p.nx, T3V_BF16);
    float *want = dense_alloc(p.ny, T3V_F32), *size = dense_alloc(p.ny, T3V_F32),
          *got = dense_alloc(p.ny, T3V_F32);
    void *packed = pack(&p, T3V_CONV_FORWARD), *ax = absolute(p.x, T3V_BF16, p.nx);
    float *aw = absolute(p.w, T3V_F32, p.nw);
    t3v_conv_forward_ref(&p.s, p.x, p.w, NULL, want, T3V_F32);
    t3v_conv_forward_ref(&p.s, ax, aw, NULL, size, T3V_F32);
    for (int fault = 0; fault < 2; fault++) {
        for (int64_t i = 0; i < p.nx; i++) {
            bool hidden = fault ? i % p.s.cin == p.s.cin - 1 : i / row % p.s.h == p.s.h - 1;
            ((t3v_bf16 *)q.x)[i] = hidden ? 0 : x[i];
        }
        assert_int_equal(t3v_conv_forward(&p.s, q.x, packed, NULL, got, T3V_F32), T3V_OK);
        assert_true(count_bad(got, T3V_F32, want, size, p.ny, 27 * p.s.cin) > 0);
    }
    free(q.x), free(want), free(size), free(got), free(packed), free(ax), free(aw);
    close_problem(&p);
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
        cmocka_unit_test(checker_catches_faults),
        cmocka_unit_test(matches_definition),
        cmocka_unit_test(packed_for_another_size),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(fast_kernels_are_used),
        cmocka_unit_test(refuses_bad_shapes),
        cmocka_unit_test(other_masks),
    };
    /* Many tiny products: one thread, except where two are the subject. */
    omp_set_num_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
