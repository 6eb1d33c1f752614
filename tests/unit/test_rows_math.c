/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels: the reference against formulas in double and their finite differences, and what holds at every level. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/cpu.h"
#include "base/rng.h"
#include "ops/rows/rows.h"

#define F32 T3V_F32
#define BF16 T3V_BF16

enum { FN = 3, FD = 12, FMAX = FN * FD };

typedef enum form {
    LN_MOD,
    LN_AFFINE,
    QK_ROPE,
    QK_PLAIN,
    QK_BARE,
    VAE,
    VAE_SILU,
    SOFTMAX,
    GATE,
    GEGLU,
    GELU,
    SILU,
    SIGMOID,
    TANH,
    EXP,
    FORMS
} form;

static double sig(double x) { return 1 / (1 + exp(-x)); }
static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* y[FN,FD] of x [FN,FD], a [FD] (or [FN,FD] for two-input forms), b [FD]. Grid 2x2x3, head dim 6, first
 * token 4. */
static void formula(form f, double *y, const double *x, const double *a, const double *b)
{
    for (int r = 0; r < FN; r++) {
        const double *u = x + r * FD;
        double *o = y + r * FD, mean = 0, var = 0, sq = 0, sum = 0;
        for (int j = 0; j < FD; j++) mean += u[j] / FD, sq += u[j] * u[j];
        for (int j = 0; j < FD; j++) var += (u[j] - mean) * (u[j] - mean) / FD;
        for (int j = 0; j < FD; j++) sum += exp(0.7 * u[j] + b[j]);
        for (int j = 0; j < FD; j++) {
            double norm = (u[j] - mean) / sqrt(var + 1e-2), rms = u[j] / sqrt(sq / FD + 1e-2) * a[j];
            double z = u[j] / sqrt(sq) * sqrt(FD) * a[j];
            switch (f) {
            case LN_MOD: o[j] = norm * (1 + a[j]) + b[j]; break;
            case LN_AFFINE: o[j] = norm * a[j] + b[j]; break;
            case QK_PLAIN:
            case QK_ROPE: o[j] = rms; break;
            case QK_BARE: o[j] = u[j]; break;
            case VAE: o[j] = z; break;
            case VAE_SILU: o[j] = z * sig(z); break;
            case SOFTMAX: o[j] = exp(0.7 * u[j] + b[j]) / sum; break;
            case GATE: o[j] = b[j] * u[j]; break;
            case GEGLU: o[j] = gelu(u[j]) * a[r * FD + j]; break;
            case GELU: o[j] = gelu(u[j]); break;
            case SILU: o[j] = u[j] * sig(u[j]); break;
            case SIGMOID: o[j] = sig(u[j]); break;
            case TANH: o[j] = tanh(u[j]); break;
            default: o[j] = exp(u[j]);
            }
        }
        if (f == QK_ROPE || f == QK_BARE) {
            int token = 4 + r, pos[3] = {token / 6, token / 3 % 2, token % 3};
            for (int p = 0; p < FD / 2; p++) { /* head dim 6: one pair per axis, frequency 1 */
                double t = pos[p % 3], e = o[2 * p], g = o[2 * p + 1];
                o[2 * p] = e * cos(t) - g * sin(t);
                o[2 * p + 1] = e * sin(t) + g * cos(t);
            }
        }
    }
}

/* The same through the library: y, and from dy the gradients of x, a, b (zero where not given). */
static void library(form f, float *y, float *dx, float *da, float *db, const float *dy, const float *x,
                    const float *a, const float *b)
{
    float mem[256];
    int64_t size;
    t3v_rope rope;
    assert_int_equal(t3v_rope_tables_size(&size, 2, 2, 3, 6), T3V_OK);
    assert_true(size <= 256);
    t3v_rope_tables_make(&rope, mem, 2, 2, 3, 6, 10000);
    const t3v_rope *use = f == QK_PLAIN ? NULL : &rope;
    switch (f) {
    case LN_MOD:
    case LN_AFFINE:
        t3v_rows_layernorm(y, F32, x, a, b, f == LN_MOD, 1e-2f, FN, FD);
        t3v_rows_layernorm_bwd(dx, false, da, db, dy, F32, x, a, f == LN_MOD, 1e-2f, FN, FD);
        break;
    case QK_ROPE:
    case QK_PLAIN:
    case QK_BARE:
        t3v_rows_qk_norm_rope(y, F32, FD, x, F32, FD, f == QK_BARE ? NULL : a, 1e-2f, use, 4, FN, FD);
        t3v_rows_qk_norm_rope_bwd(dx, F32, FD, false, da, dy, F32, FD, x, F32, FD, f == QK_BARE ? NULL : a,
                                  1e-2f, use, 4, FN, FD);
        break;
    case VAE:
    case VAE_SILU:
        t3v_rows_vae_norm(y, F32, x, F32, a, f == VAE_SILU, FN, FD);
        t3v_rows_vae_norm_bwd(dx, F32, false, da, dy, F32, x, F32, a, f == VAE_SILU, FN, FD);
        break;
    case SOFTMAX:
        t3v_rows_softmax(y, F32, x, F32, 0.7f, b, 1, FN, FD);
        t3v_rows_softmax_bwd(dx, F32, false, dy, F32, y, F32, 0.7f, FN, FD);
        break;
    case GATE: {
        float zero[FMAX] = {0};
        t3v_rows_gate_residual(y, zero, b, x, F32, FN, FD);
        t3v_rows_gate_residual_bwd(NULL, dx, F32, false, db, dy, b, x, F32, FN, FD);
        break;
    }
    case GEGLU:
        t3v_rows_geglu(y, F32, x, F32, a, F32, FMAX);
        t3v_rows_geglu_bwd(dx, F32, da, F32, false, dy, F32, x, F32, a, F32, FMAX);
        break;
    default:
        t3v_rows_act((t3v_rows_fn)(f - GELU), y, F32, x, F32, FMAX);
        t3v_rows_act_bwd((t3v_rows_fn)(f - GELU), dx, F32, false, dy, F32, x, F32, FMAX);
    }
}

static double loss(form f, const double *x, const double *a, const double *b, const float *dy)
{
    double y[FMAX], s = 0;
    formula(f, y, x, a, b);
    for (int i = 0; i < FMAX; i++) s += y[i] * dy[i];
    return s;
}

static void reference_matches_formulas(void **state)
{
    (void)state;
    t3v_cpu_mask(T3V_ISA_REF);
    for (int f = 0; f < FORMS; f++) {
        float x[FMAX], a[FMAX], b[FMAX], dy[FMAX], y[FMAX], g[3][FMAX] = {{0}};
        double v[3][FMAX], want[FMAX];
        t3v_normal_fill(x, FMAX, 11, (uint64_t)f, 0);
        t3v_normal_fill(a, FMAX, 12, (uint64_t)f, 0);
        t3v_normal_fill(b, FMAX, 13, (uint64_t)f, 0);
        t3v_normal_fill(dy, FMAX, 14, (uint64_t)f, 0);
        for (int i = 0; i < FMAX; i++) v[0][i] = x[i], v[1][i] = a[i], v[2][i] = b[i];
        library((form)f, y, g[0], g[1], g[2], dy, x, a, b);
        formula((form)f, want, v[0], v[1], v[2]);
        for (int i = 0; i < FMAX; i++) assert_true(fabs(y[i] - want[i]) < 1e-6 * (1 + fabs(want[i])));
        for (int k = 0; k < 3; k++) {
            bool has[3] = {true, f <= QK_PLAIN || f == VAE || f == VAE_SILU || f == GEGLU,
                           f == LN_MOD || f == LN_AFFINE || f == GATE};
            if (!has[k]) continue;
            for (int i = 0; i < (k && f != GEGLU ? FD : FMAX); i++) {
                double keep = v[k][i], h = 1e-5;
                v[k][i] = keep + h;
                double up = loss((form)f, v[0], v[1], v[2], dy);
                v[k][i] = keep - h;
                double down = loss((form)f, v[0], v[1], v[2], dy);
                v[k][i] = keep;
                double slope = (up - down) / (2 * h);
                if (fabs(g[k][i] - slope) > 2e-6 * (1 + fabs(slope)))
                    fail_msg("form %d, input %d [%d]: gradient %.9g, difference %.9g", f, k, i, g[k][i],
                             slope);
            }
        }
    }
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
}

/* Vector functions against libm in double over the whole range and at special values. */
static void functions_are_accurate(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    assert_non_null(x);
    assert_non_null(y);
    t3v_rng r = t3v_rng_make(3, 3);
    for (int i = 0; i < N; i++) {
        double u = 2 * t3v_rng_uniform(&r) - 1;
        x[i] = (float)(i % 2 ? 87 * u : copysign(pow(10, -30 * fabs(u)) * 20, u));
    }
    for (int level = T3V_ISA_REF; level <= T3V_ISA_AVX512; level++) {
        t3v_cpu_mask((t3v_isa)level);
        if ((int)t3v_cpu() != level) continue;
        for (int f = 0; f < 5; f++) {
            t3v_rows_act((t3v_rows_fn)f, y, F32, x, F32, N);
            double worst = 0;
            for (int i = 0; i < N; i++) {
                double u = x[i], w, arg = 0;
                if (f == T3V_ROWS_GELU_TANH)
                    arg = 1.5957691216057308 * (u + 0.044715 * u * u * u), w = u * sig(arg);
                else if (f == T3V_ROWS_SILU) arg = u, w = u * sig(u);
                else w = f == T3V_ROWS_SIGMOID ? sig(u) : f == T3V_ROWS_TANH ? tanh(u) : exp(u);
                if (fabs(w) < 1e-37) { /* here e^-x overflows */
                    assert_true(fabs(y[i] - w) < 1e-37);
                    continue;
                }
                double e = fabs(y[i] - w) / fabs(w) / (1 + fabs(arg));
                if (e > worst) worst = e;
            }
            print_message("%s fn %d: %.2e\n", t3v_isa_name((t3v_isa)level), f, worst);
            assert_true(worst < 5e-7);
        }
        const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 88.9f, 1000.0f, -1000.0f};
        float got[8];
        t3v_rows_act(T3V_ROWS_EXP, got, F32, special, F32, 8);
        assert_true(isinf(got[0]) && got[1] == 0 && isnan(got[2]) && got[3] == 1 && got[4] == 1);
        assert_true(isinf(got[5]) && isinf(got[6]) && got[7] == 0);
        t3v_rows_act(T3V_ROWS_TANH, got, F32, special, F32, 8);
        assert_true(got[0] == 1 && got[1] == -1 && isnan(got[2]) && got[3] == 0 && signbit(got[4]) &&
                    got[7] == -1);
        t3v_rows_act(T3V_ROWS_GELU_TANH, got, F32, special, F32, 8);
        assert_true(isinf(got[0]) && isnan(got[2]) && got[6] == 1000 && got[7] == 0);
    }
    free(x);
    free(y);
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
}

/* Every level rounds as t3v_f32_to_bf16 does, bit for bit: ties, denormals, infinities, NaN. */
static void bf16_rounding_is_exact(void **state)
{
    (void)state;
    enum { N = 65536 * 3 + 5 };
    float *x = malloc(N * sizeof *x), *back = malloc(N * sizeof *back);
    t3v_bf16 *h = malloc(N * sizeof *h);
    assert_non_null(x);
    assert_non_null(back);
    assert_non_null(h);
    static const uint32_t low[] = {0x8000, 0x7fff, 0x8001};
    for (uint32_t i = 0; i < N; i++) {
        uint32_t u = (i / 3) << 16 | low[i % 3];
        memcpy(&x[i], &u, 4);
    }
    for (int level = T3V_ISA_REF; level <= T3V_ISA_AVX512BF16; level++) {
        t3v_cpu_mask((t3v_isa)level);
        t3v_rows_to_bf16(h, x, N);
        t3v_rows_from_bf16(back, h, N);
        for (int i = 0; i < N; i++) {
            assert_int_equal(h[i], t3v_f32_to_bf16(x[i]));
            float w = t3v_bf16_to_f32(h[i]);
            assert_memory_equal(&back[i], &w, 4);
        }
    }
    free(x);
    free(back);
    free(h);
}

static void not_finite_is_found(void **state)
{
    (void)state;
    enum { N = 70001 };
    float *x = calloc(N, sizeof *x);
    assert_non_null(x);
    for (int level = T3V_ISA_REF; level <= T3V_ISA_AVX512; level++) {
        t3v_cpu_mask((t3v_isa)level);
        static const int where[] = {0, 1, 4095, 4096, 69999, 70000};
        x[5] = -3.4e38f;
        assert_true(t3v_rows_all_finite(x, F32, N));
        assert_true(t3v_rows_all_finite(x, F32, 0));
        for (int i = 0; i < 6; i++) {
            for (int k = 0; k < 3; k++) {
                x[where[i]] = k == 0 ? NAN : k == 1 ? INFINITY : -INFINITY;
                assert_false(t3v_rows_all_finite(x, F32, N));
            }
            x[where[i]] = 1;
        }
    }
    free(x);
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
}

static void rope_tables_are_positions(void **state)
{
    (void)state;
    static float mem[2 * 2 * 44 + 5 * 2 * 42 + 1000 * 2 * 42];
    int64_t size;
    t3v_rope r;
    assert_int_equal(t3v_rope_tables_size(&size, 2, 5, 1000, 128), T3V_OK);
    assert_int_equal(size, (int64_t)(sizeof mem / sizeof *mem));
    t3v_rope_tables_make(&r, mem, 2, 5, 1000, 128, 10000);
    assert_true(r.pairs[0] == 22 && r.pairs[1] == 21 && r.pairs[2] == 21);
    double angle = 999 * pow(10000, -2.0 * 3 / 42);
    const float *c = r.cos[2] + 999 * 42 + 6, *s = r.sin[2] + 999 * 42 + 6;
    assert_true(c[0] == (float)cos(angle) && c[1] == c[0] && s[1] == (float)sin(angle) && s[0] == -s[1]);
    angle = pow(10000, -2.0 * 21 / 44);
    assert_true(r.cos[0][44 + 42] == (float)cos(angle));
    assert_int_equal(t3v_rope_tables_size(&size, 1, 1, 1, 7), T3V_E_ARG);
    assert_int_equal(t3v_rope_tables_size(&size, 0, 1, 1, 8), T3V_E_ARG);
    assert_int_equal(t3v_rope_tables_size(&size, INT64_MAX / 4, 8, 1, 8), T3V_E_TOO_BIG);
}

static void patches_go_both_ways(void **state)
{
    (void)state;
    enum { C = 3, T = 2, H = 4, W = 6, N = T * H * W / 4, ALL = C * T * H * W };
    float latent[ALL], back[ALL], rows[ALL];
    for (int i = 0; i < ALL; i++) latent[i] = (float)i;
    for (int order = 0; order < 2; order++) {
        t3v_patch_order o = order ? T3V_PATCH_OUT : T3V_PATCH_IN;
        for (int i = 0; i < ALL; i++) back[i] = rows[i] = -1;
        t3v_rows_patchify(rows, F32, latent, F32, o, false, C, T, H, W, 0, 5);
        t3v_rows_patchify(rows + 5 * 4 * C, F32, latent, F32, o, false, C, T, H, W, 5, N);
        for (int f = 0; f < T; f++)
            for (int i = 0; i < H / 2; i++)
                for (int j = 0; j < W / 2; j++)
                    for (int c = 0; c < C; c++)
                        for (int kh = 0; kh < 2; kh++)
                            for (int kw = 0; kw < 2; kw++) {
                                int e = order ? (kh * 2 + kw) * C + c : (c * 2 + kh) * 2 + kw;
                                int row = (f * (H / 2) + i) * (W / 2) + j;
                                int cell = ((c * T + f) * H + 2 * i + kh) * W + 2 * j + kw;
                                assert_true(rows[row * 4 * C + e] == (float)cell);
                            }
        t3v_rows_unpatchify(back, F32, rows, F32, o, false, C, T, H, W, 0, 5);
        assert_true(back[ALL - 1] == -1);
        t3v_rows_unpatchify(back, F32, rows + 5 * 4 * C, F32, o, false, C, T, H, W, 5, N);
        assert_memory_equal(back, latent, sizeof back);
        t3v_rows_unpatchify(back, F32, rows, F32, o, true, C, T, H, W, 0, N);
        for (int i = 0; i < ALL; i++) assert_true(back[i] == 2.0f * (float)i);
        t3v_bf16 half[ALL];
        t3v_rows_patchify(half, BF16, latent, F32, o, false, C, T, H, W, 0, N);
        for (int i = 0; i < ALL; i++) assert_int_equal(half[i], t3v_f32_to_bf16(rows[i]));
    }
}

/* <up(x), y> = <x, up_bwd(y)>, and up itself by index. */
static void upsampling_and_its_transpose(void **state)
{
    (void)state;
    enum { T = 2, H = 3, W = 5, C = 7, N = T * H * W * C };
    float x[N], y[4 * N], up[4 * N], dx[N];
    t3v_normal_fill(x, N, 1, 1, 0);
    t3v_normal_fill(y, 4 * N, 1, 2, 0);
    t3v_rows_upsample2x(up, x, F32, T, H, W, C);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2 * H; h++)
            for (int w = 0; w < 2 * W; w++)
                for (int c = 0; c < C; c++)
                    assert_true(up[((t * 2 * H + h) * 2 * W + w) * C + c] ==
                                x[((t * H + h / 2) * W + w / 2) * C + c]);
    t3v_rows_upsample2x_bwd(dx, F32, false, y, F32, T, H, W, C);
    double a = 0, b = 0;
    for (int i = 0; i < 4 * N; i++) a += (double)up[i] * y[i];
    for (int i = 0; i < N; i++) b += (double)x[i] * dx[i];
    assert_true(fabs(a - b) < 1e-4);
}

/* Five steps against the update written out in double. */
static void adamw_follows_the_paper(void **state)
{
    (void)state;
    enum { N = 19 };
    float p[N], m[N] = {0}, v[N] = {0}, g[N], ema[N];
    double dp[N], dm[N] = {0}, dv[N] = {0}, de[N];
    t3v_bf16 half[N];
    t3v_normal_fill(p, N, 2, 1, 0);
    for (int i = 0; i < N; i++) dp[i] = de[i] = ema[i] = p[i];
    t3v_adamw o = {.lr = 0.01f,
                   .beta1 = 0.9f,
                   .beta2 = 0.999f,
                   .eps = 1e-8f,
                   .weight_decay = 0.1f,
                   .grad_scale = 0.25f,
                   .ema_decay = 0.9f};
    for (o.step = 1; o.step <= 5; o.step++) {
        t3v_normal_fill(g, N, 3, (uint64_t)o.step, 0);
        t3v_rows_adamw(p, m, v, half, ema, g, &o, N);
        for (int i = 0; i < N; i++) {
            double e = 0.25 * g[i];
            dm[i] = 0.9 * dm[i] + 0.1 * e;
            dv[i] = 0.999 * dv[i] + 0.001 * e * e;
            dp[i] *= 1 - 0.01 * 0.1;
            dp[i] -= 0.01 * (dm[i] / (1 - pow(0.9, (double)o.step))) /
                     (sqrt(dv[i] / (1 - pow(0.999, (double)o.step))) + 1e-8);
            de[i] = 0.9 * de[i] + 0.1 * dp[i];
            assert_true(fabs(p[i] - dp[i]) < 2e-6 && fabs(ema[i] - de[i]) < 2e-6);
            assert_int_equal(half[i], t3v_f32_to_bf16(p[i]));
        }
    }
}

static void long_column_sums_stay_exact(void **state)
{
    (void)state;
    enum { N = 40000, D = 5 };
    float *x = malloc(N * D * sizeof *x), db[D] = {1, 1, 1, 1, 1};
    assert_non_null(x);
    for (int i = 0; i < N * D; i++) x[i] = 0.1f;
    assert_int_equal(t3v_rows_sum(db, x, F32, N, D), T3V_OK);
    /* 63 roundings in a chunk, then double: 0.015. One F32 accumulator would be off by about 1. */
    for (int j = 0; j < D; j++) assert_true(fabs(db[j] - (1 + (double)0.1f * N)) < 63 * 0x1p-24 * 4001);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_matches_formulas),   cmocka_unit_test(functions_are_accurate),
        cmocka_unit_test(bf16_rounding_is_exact),       cmocka_unit_test(not_finite_is_found),
        cmocka_unit_test(rope_tables_are_positions),    cmocka_unit_test(patches_go_both_ways),
        cmocka_unit_test(upsampling_and_its_transpose), cmocka_unit_test(adamw_follows_the_paper),
        cmocka_unit_test(long_column_sums_stay_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
