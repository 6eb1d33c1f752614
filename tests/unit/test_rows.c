/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels: every instruction set against the reference, the reference against formulas in double. */
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
#include "base/threads.h"
#include "ops/rows/rows.h"

#define F32 T3V_F32
#define BF16 T3V_BF16

/* ---- harness: one job is run on the reference and on each level, with the same buffers --------------------
 */

enum { SLOTS = 10, GUARD = 64 };

typedef struct slot {
    unsigned char *base, *init, *want; /* guard, payload, guard; payload before; payload of the reference */
    void *p;
    size_t bytes, lead;
    int64_t count;
    t3v_dtype t;
    bool output;
} slot;

typedef struct job {
    int64_t n, d;
    uint32_t v; /* bits choose types and flags */
    uint64_t seed;
    bool poison; /* a NaN in input 0 */
    double tol;  /* multiples of the F32 epsilon, relative to the largest element */
    double term; /* where terms of this size cancel: relative to it, if larger */
    slot s[SLOTS];
} job;

typedef struct kernel {
    const char *name;
    void (*run)(job *j);
} kernel;

static double element(const void *p, t3v_dtype t, int64_t i)
{
    return t == BF16 ? t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]) : ((const float *)p)[i];
}

static void *buffer(job *j, int i, t3v_dtype t, int64_t count, bool output)
{
    slot *s = &j->s[i];
    if (!s->base) {
        t3v_rng r = t3v_rng_make(j->seed, (uint64_t)i + 1);
        s->t = t;
        s->count = count;
        s->output = output;
        s->bytes = (size_t)count * t3v_dtype_size(t);
        s->lead = GUARD + t3v_dtype_size(t) * (size_t)t3v_rng_below(&r, 16);
        s->base = malloc(s->bytes + s->lead + GUARD);
        s->init = malloc(s->bytes + 1);
        assert_non_null(s->base);
        assert_non_null(s->init);
        memset(s->base, 0xa5, s->bytes + s->lead + GUARD);
        s->p = s->base + s->lead;
        for (int64_t k = 0; k < count; k++) {
            float x = (float)t3v_rng_normal(&r);
            if (t == BF16) ((t3v_bf16 *)s->init)[k] = t3v_f32_to_bf16(x);
            else ((float *)s->init)[k] = x;
        }
        if (j->poison && i == 0 && count > 0) {
            int64_t k = t3v_rng_below(&r, count);
            if (t == BF16) ((t3v_bf16 *)s->init)[k] = 0x7fc0;
            else ((float *)s->init)[k] = NAN;
        }
    }
    memcpy(s->p, s->init, s->bytes);
    return s->p;
}

static void *in(job *j, int i, t3v_dtype t, int64_t count) { return buffer(j, i, t, count, false); }
static void *out(job *j, int i, t3v_dtype t, int64_t count) { return buffer(j, i, t, count, true); }
static t3v_dtype type(const job *j, int bit) { return j->v >> bit & 1 ? BF16 : F32; }
static bool flag(const job *j, int bit) { return j->v >> bit & 1; }

static int guard_faults(const slot *s)
{
    int bad = 0;
    for (size_t k = 0; k < s->lead; k++) bad += s->base[k] != 0xa5;
    for (size_t k = 0; k < GUARD; k++) bad += s->base[s->lead + s->bytes + k] != 0xa5;
    return bad;
}

static bool loud = true;

static int compare(const char *name, const job *j, const slot *s, int index)
{
    double top = j->term;
    for (int64_t k = 0; k < s->count; k++) {
        double w = fabs(element(s->want, s->t, k));
        if (isfinite(w) && w > top) top = w;
    }
    for (int64_t k = 0; k < s->count; k++) {
        double w = element(s->want, s->t, k), g = element(s->p, s->t, k);
        double ok = j->tol * 0x1p-24 * top + (s->t == BF16 ? 0x1p-7 : 0x1p-23) * fabs(w);
        if (isnan(w) != isnan(g) || fabs(g - w) > ok) {
            if (loud)
                print_error("%s %s n=%lld d=%lld v=%x seed=%llu: output %d [%lld] is %.9g, reference %.9g, "
                            "tolerance %.3g\n",
                            name, t3v_isa_name(t3v_cpu()), (long long)j->n, (long long)j->d, j->v,
                            (unsigned long long)j->seed, index, (long long)k, g, w, ok);
            return 1;
        }
    }
    return 0;
}

/* Number of complaints over all levels. */
static int judge(const kernel *k, job *j)
{
    int bad = 0;
    t3v_cpu_mask(T3V_ISA_REF);
    k->run(j);
    for (int i = 0; i < SLOTS; i++) {
        slot *s = &j->s[i];
        if (!s->base) continue;
        bad += guard_faults(s) != 0;
        if (!s->output) continue;
        s->want = malloc(s->bytes + 1);
        assert_non_null(s->want);
        memcpy(s->want, s->p, s->bytes);
    }
    for (int level = T3V_ISA_AVX2; level <= T3V_ISA_AVX512BF16; level++) {
        t3v_cpu_mask((t3v_isa)level);
        if ((int)t3v_cpu() != level) continue;
        k->run(j);
        for (int i = 0; i < SLOTS; i++) {
            slot *s = &j->s[i];
            if (!s->base) continue;
            if (guard_faults(s)) {
                bad++;
                if (loud) print_error("%s: wrote outside of buffer %d\n", k->name, i);
            }
            if (s->output) bad += compare(k->name, j, s, i);
            else bad += memcmp(s->p, s->init, s->bytes) != 0;
        }
    }
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    return bad;
}

static void release(job *j)
{
    for (int i = 0; i < SLOTS; i++) {
        free(j->s[i].base);
        free(j->s[i].init);
        free(j->s[i].want);
    }
}

/* ---- the kernels as jobs
 * ------------------------------------------------------------------------------------ */

static void k_layernorm(job *j)
{
    t3v_rows_layernorm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, F32, j->n * j->d),
                       flag(j, 1) ? in(j, 2, F32, j->d) : NULL, flag(j, 2) ? in(j, 3, F32, j->d) : NULL,
                       flag(j, 3), j->d < 7 ? 1e-2f : 1e-6f, j->n,
                       j->d); /* a few near-equal columns: 1/sqrt(var) is unbounded */
}

static void k_layernorm_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_layernorm_bwd(flag(j, 4) ? out(j, 1, F32, j->n * j->d) : NULL, flag(j, 0),
                                            flag(j, 1) ? out(j, 4, F32, j->d) : NULL,
                                            flag(j, 5) ? out(j, 5, F32, j->d) : NULL,
                                            in(j, 2, type(j, 2), j->n * j->d), type(j, 2),
                                            in(j, 0, F32, j->n * j->d), in(j, 3, F32, j->d), flag(j, 3),
                                            1e-2f, j->n, j->d),
                     T3V_OK);
}

static void k_rmsnorm(job *j)
{
    t3v_rows_rmsnorm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), in(j, 2, F32, j->d), 1e-6f, j->n, j->d);
}

static void k_rmsnorm_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_rmsnorm_bwd(out(j, 1, type(j, 3), j->n * j->d), type(j, 3), flag(j, 2),
                                          out(j, 3, F32, j->d), in(j, 4, type(j, 0), j->n * j->d), type(j, 0),
                                          in(j, 0, type(j, 1), j->n * j->d), type(j, 1), in(j, 2, F32, j->d),
                                          1e-2f, j->n, j->d),
                     T3V_OK);
}

/* j->d becomes the head dim (made even); a grid a little larger than the tokens used. */
static float rope_mem[1 << 16];
static int64_t rope_of(job *j, t3v_rope *r)
{
    int64_t hd = (j->d + 1) / 2 * 2, floats, heads = 1 + (j->v >> 8) % 3;
    assert_int_equal(t3v_rope_tables_size(&floats, j->n / 6 + 2, 2, 3, hd), T3V_OK);
    assert_true(floats <= (int64_t)(sizeof rope_mem / sizeof *rope_mem));
    t3v_rope_tables_make(r, rope_mem, j->n / 6 + 2, 2, 3, hd, 10000);
    return hd * heads;
}

static void k_qk(job *j)
{
    t3v_rope rope;
    int64_t d = rope_of(j, &rope), ldx = d + (flag(j, 4) ? 3 : 0), ldy = d + (flag(j, 5) ? 5 : 0);
    t3v_rows_qk_norm_rope(out(j, 1, type(j, 0), j->n * ldy), type(j, 0), ldy,
                          in(j, 0, type(j, 1), j->n * ldx), type(j, 1), ldx,
                          flag(j, 2) ? in(j, 2, F32, d) : NULL, 1e-6f, flag(j, 3) ? &rope : NULL, 5, j->n, d);
}

static void k_qk_bwd(job *j)
{
    j->term = 1;
    t3v_rope rope;
    int64_t d = rope_of(j, &rope), ldx = d + (flag(j, 4) ? 3 : 0), ldy = d + (flag(j, 5) ? 5 : 0);
    assert_int_equal(t3v_rows_qk_norm_rope_bwd(out(j, 1, type(j, 6), j->n * ldx), type(j, 6), ldx, flag(j, 7),
                                               out(j, 3, F32, d), in(j, 4, type(j, 0), j->n * ldy),
                                               type(j, 0), ldy, in(j, 0, type(j, 1), j->n * ldx), type(j, 1),
                                               ldx, flag(j, 2) ? in(j, 2, F32, d) : NULL, 1e-2f,
                                               flag(j, 3) ? &rope : NULL, 5, j->n, d),
                     T3V_OK);
}

static void k_vae(job *j)
{
    t3v_rows_vae_norm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                      type(j, 1), in(j, 2, F32, j->d), flag(j, 2), j->n, j->d);
}

static void k_vae_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_vae_norm_bwd(out(j, 1, type(j, 3), j->n * j->d), type(j, 3), flag(j, 4),
                                           out(j, 3, F32, j->d), in(j, 4, type(j, 0), j->n * j->d),
                                           type(j, 0), in(j, 0, type(j, 1), j->n * j->d), type(j, 1),
                                           in(j, 2, F32, j->d), flag(j, 2), j->n, j->d),
                     T3V_OK);
}

static void k_softmax(job *j)
{
    int64_t rows = flag(j, 3) ? 1 : 3;
    t3v_rows_softmax(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), 1.7f, flag(j, 2) ? in(j, 2, F32, rows * j->d) : NULL, rows, j->n, j->d);
}

static void k_softmax_in_place(job *j)
{
    void *y = out(j, 1, type(j, 0), j->n * j->d);
    t3v_rows_softmax(y, type(j, 0), y, type(j, 0), -30.0f, NULL, 1, j->n, j->d);
}

static void k_softmax_bwd(job *j)
{
    j->term = 1;
    t3v_rows_softmax_bwd(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), flag(j, 3),
                         in(j, 2, type(j, 1), j->n * j->d), type(j, 1), in(j, 0, type(j, 2), j->n * j->d),
                         type(j, 2), 0.3f, j->n, j->d);
}

static void k_gate(job *j)
{
    float *o = out(j, 1, F32, j->n * j->d);
    t3v_rows_gate_residual(o, flag(j, 2) ? o : in(j, 3, F32, j->n * j->d),
                           flag(j, 1) ? in(j, 2, F32, j->d) : NULL, in(j, 0, type(j, 0), j->n * j->d),
                           type(j, 0), j->n, j->d);
}

static void k_gate_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_gate_residual_bwd(flag(j, 2) ? out(j, 1, F32, j->n * j->d) : NULL,
                                                flag(j, 3) ? out(j, 2, type(j, 1), j->n * j->d) : NULL,
                                                type(j, 1), flag(j, 4),
                                                flag(j, 5) ? out(j, 3, F32, j->d) : NULL,
                                                in(j, 0, F32, j->n * j->d),
                                                flag(j, 6) ? in(j, 4, F32, j->d) : NULL,
                                                in(j, 5, type(j, 0), j->n * j->d), type(j, 0), j->n, j->d),
                     T3V_OK);
}

static void k_act(job *j)
{
    t3v_rows_act((t3v_rows_fn)(j->v >> 4) % 5, out(j, 1, type(j, 0), j->n * j->d), type(j, 0),
                 in(j, 0, type(j, 1), j->n * j->d), type(j, 1), j->n * j->d);
}

static void k_act_bwd(job *j)
{
    t3v_rows_act_bwd((t3v_rows_fn)(j->v >> 4) % 5, out(j, 1, type(j, 0), j->n * j->d), type(j, 0), flag(j, 3),
                     in(j, 2, type(j, 2), j->n * j->d), type(j, 2), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), j->n * j->d);
}

static void k_geglu(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_geglu(out(j, 1, type(j, 0), n), type(j, 0), in(j, 0, type(j, 1), n), type(j, 1),
                   in(j, 2, type(j, 2), n), type(j, 2), n);
}

static void k_geglu_bwd(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_geglu_bwd(out(j, 1, type(j, 0), n), type(j, 0), out(j, 3, type(j, 3), n), type(j, 3), flag(j, 4),
                       in(j, 4, type(j, 5), n), type(j, 5), in(j, 0, type(j, 1), n), type(j, 1),
                       in(j, 2, type(j, 2), n), type(j, 2), n);
}

static void k_lincomb(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_lincomb(out(j, 1, type(j, 0), n), type(j, 0), -1.3f, in(j, 0, type(j, 1), n), type(j, 1), 0.7f,
                     flag(j, 3) ? in(j, 2, type(j, 2), n) : NULL, type(j, 2), n);
}

static void k_sums(job *j)
{
    int64_t n = j->n * j->d;
    float *o = out(j, 1, F32, 3);
    const void *x = in(j, 0, type(j, 0), n);
    o[0] = (float)t3v_rows_sumsq(x, type(j, 0), n);
    o[1] = t3v_rows_all_finite(x, type(j, 0), n);
    o[2] = (float)t3v_rows_mse(flag(j, 1) ? out(j, 2, F32, n) : NULL, 0.5f, in(j, 3, F32, n),
                               in(j, 4, F32, n), n);
}

static void k_adamw(job *j)
{
    int64_t n = j->n * j->d;
    t3v_adamw o = {.lr = 0.01f,
                   .beta1 = 0.9f,
                   .beta2 = 0.95f,
                   .eps = 1e-8f,
                   .weight_decay = 0.1f,
                   .grad_scale = 0.5f,
                   .ema_decay = 0.98f,
                   .step = 3};
    float *v = out(j, 3, F32, n);
    for (int64_t i = 0; i < n; i++) v[i] = v[i] * v[i] + 0.01f;
    t3v_rows_adamw(out(j, 1, F32, n), out(j, 2, F32, n), v, flag(j, 0) ? out(j, 4, BF16, n) : NULL,
                   flag(j, 1) ? out(j, 5, F32, n) : NULL, in(j, 0, F32, n), &o, n);
}

static void k_sum(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_sum(out(j, 1, F32, j->d), in(j, 0, type(j, 0), j->n * j->d), type(j, 0), j->n,
                                  j->d),
                     T3V_OK);
}

static void k_affine(job *j)
{
    t3v_rows_affine(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                    type(j, 1), flag(j, 2) ? in(j, 2, F32, j->d) : NULL,
                    flag(j, 3) ? in(j, 3, F32, j->d) : NULL, j->n, j->d);
}

static void k_affine_planes(job *j)
{
    t3v_rows_affine_planes(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                           type(j, 1), flag(j, 2) ? in(j, 2, F32, j->n) : NULL,
                           flag(j, 3) ? in(j, 3, F32, j->n) : NULL, j->n, j->d);
}

static void k_transpose(job *j)
{
    t3v_rows_transpose(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                       type(j, 1), j->n, j->d);
}

static void k_up(job *j)
{
    int64_t T = 1 + (j->v >> 4) % 2, W = 1 + (j->v >> 5) % 3;
    t3v_rows_upsample2x(out(j, 1, type(j, 0), 4 * T * j->n * W * j->d),
                        in(j, 0, type(j, 0), T * j->n * W * j->d), type(j, 0), T, j->n, W, j->d);
}

static void k_up_bwd(job *j)
{
    int64_t T = 1 + (j->v >> 4) % 2, W = 1 + (j->v >> 5) % 3;
    t3v_rows_upsample2x_bwd(out(j, 1, type(j, 0), T * j->n * W * j->d), type(j, 0), flag(j, 2),
                            in(j, 0, type(j, 1), 4 * T * j->n * W * j->d), type(j, 1), T, j->n, W, j->d);
}

/* Output over input. Both of one type; the chunked backward passes over dy. */
static void k_in_place(job *j)
{
    t3v_rope rope;
    t3v_dtype t = type(j, 0);
    int64_t d = rope_of(j, &rope), all = j->n * d;
    void *a = out(j, 1, t, all), *b = out(j, 2, t, all), *c = out(j, 3, t, all), *e = out(j, 4, t, all);
    float *f = out(j, 5, F32, all), *h = out(j, 6, F32, all);
    const float *g = in(j, 7, F32, d);
    j->term = 1;
    t3v_rows_qk_norm_rope(a, t, d, a, t, d, g, 1e-2f, &rope, 1, j->n, d);
    t3v_rows_vae_norm(b, t, b, t, g, true, j->n, d);
    t3v_rows_act(T3V_ROWS_GELU_TANH, c, t, c, t, all);
    t3v_rows_geglu(c, t, c, t, in(j, 8, t, all), t, all);
    t3v_rows_lincomb(c, t, 0.5f, c, t, 2.0f, c, t, all);
    t3v_rows_affine(c, t, c, t, g, NULL, j->n, d);
    t3v_rows_layernorm(f, F32, f, g, NULL, true, 1e-2f, j->n, d);
    assert_int_equal(t3v_rows_qk_norm_rope_bwd(e, t, d, false, NULL, e, t, d, in(j, 8, t, all), t, d, g,
                                               1e-2f, &rope, 1, j->n, d),
                     T3V_OK);
    assert_int_equal(t3v_rows_layernorm_bwd(h, false, NULL, NULL, h, F32, in(j, 9, F32, all), g, true, 1e-2f,
                                            j->n, d),
                     T3V_OK);
    t3v_rows_act_bwd(T3V_ROWS_SILU, h, F32, false, h, F32, in(j, 9, F32, all), F32, all);
}

static const kernel kernels[] = {
    {"layernorm", k_layernorm},
    {"layernorm_bwd", k_layernorm_bwd},
    {"rmsnorm", k_rmsnorm},
    {"rmsnorm_bwd", k_rmsnorm_bwd},
    {"qk_norm_rope", k_qk},
    {"qk_norm_rope_bwd", k_qk_bwd},
    {"vae_norm", k_vae},
    {"vae_norm_bwd", k_vae_bwd},
    {"softmax", k_softmax},
    {"softmax in place", k_softmax_in_place},
    {"softmax_bwd", k_softmax_bwd},
    {"gate_residual", k_gate},
    {"gate_residual_bwd", k_gate_bwd},
    {"act", k_act},
    {"act_bwd", k_act_bwd},
    {"geglu", k_geglu},
    {"geglu_bwd", k_geglu_bwd},
    {"lincomb", k_lincomb},
    {"sums", k_sums},
    {"adamw", k_adamw},
    {"sum", k_sum},
    {"affine", k_affine},
    {"affine_planes", k_affine_planes},
    {"transpose", k_transpose},
    {"upsample2x", k_up},
    {"upsample2x_bwd", k_up_bwd},
    {"in place", k_in_place},
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* Sums of a few hundred products in F32 lanes, and two roundings of an intermediate: well inside 64 epsilons
 * of the largest element. */
static const double TOLERANCE = 64;

static void levels_match_reference(void **state)
{
    (void)state;
    static const int64_t ns[] = {0, 1, 2, 5, 64, 67, 131},
                         ds[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 127, 257};
    t3v_rng r = t3v_rng_make(1, 0);
    int bad = 0;
    for (int k = 0; k < KERNELS; k++)
        for (int round = 0; round < 60; round++) {
            job j = {.n = ns[t3v_rng_below(&r, 7)],
                     .d = ds[t3v_rng_below(&r, 14)],
                     .v = t3v_rng_u32(&r),
                     .seed = t3v_rng_u32(&r),
                     .poison = round % 5 == 4,
                     .tol = TOLERANCE};
            bad += judge(&kernels[k], &j);
            release(&j);
        }
    assert_int_equal(bad, 0);
}

/* The harness must notice a kernel that forgets the tail, one that writes too far, and one that is a little
 * off. */
static void k_no_tail(job *j)
{
    int64_t n = t3v_cpu() == T3V_ISA_REF ? j->n : j->n / 8 * 8;
    t3v_rows_act(T3V_ROWS_SILU, out(j, 1, F32, j->n), F32, in(j, 0, F32, j->n), F32, n);
}
static void k_too_far(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    if (t3v_cpu() != T3V_ISA_REF) y[j->n] = 0;
}
static void k_inexact(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    if (t3v_cpu() != T3V_ISA_REF) y[0] += 2e-5f;
}
static void k_eats_nan(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    for (int64_t i = 0; t3v_cpu() != T3V_ISA_REF && i < j->n; i++)
        if (isnan(y[i])) y[i] = 0;
}

static void harness_catches_faults(void **state)
{
    (void)state;
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    if (t3v_cpu() == T3V_ISA_REF) skip();
    static const kernel broken[] = {{"no tail", k_no_tail},
                                    {"too far", k_too_far},
                                    {"inexact", k_inexact},
                                    {"eats NaN", k_eats_nan}};
    loud = false;
    for (int k = 0; k < 4; k++) {
        job j = {.n = 37, .d = 1, .seed = 5, .poison = k == 3, .tol = TOLERANCE};
        assert_true(judge(&broken[k], &j) > 0);
        release(&j);
    }
    loud = true;
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    for (int k = 0; k < KERNELS; k++) {
        job j = {.n = 1201, .d = 96, .v = 0xfe, .seed = 9, .tol = TOLERANCE};
        for (int threads = 1; threads <= 5; threads += 2) {
            t3v_threads_set(threads);
            kernels[k].run(&j);
            for (int i = 0; i < SLOTS; i++) {
                slot *s = &j.s[i];
                if (!s->base || !s->output) continue;
                if (threads == 1) {
                    s->want = malloc(s->bytes + 1);
                    assert_non_null(s->want);
                    memcpy(s->want, s->p, s->bytes);
                } else if (memcmp(s->want, s->p, s->bytes) != 0) {
                    fail_msg("%s differs with %d threads", kernels[k].name, threads);
                }
            }
        }
        release(&j);
    }
    t3v_threads_set(0);
}

/* ---- the reference against formulas in double and their finite differences
 * --------------------------------- */

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
        cmocka_unit_test(levels_match_reference),  cmocka_unit_test(harness_catches_faults),
        cmocka_unit_test(threads_do_not_matter),   cmocka_unit_test(reference_matches_formulas),
        cmocka_unit_test(functions_are_accurate),  cmocka_unit_test(bf16_rounding_is_exact),
        cmocka_unit_test(not_finite_is_found),     cmocka_unit_test(rope_tables_are_positions),
        cmocka_unit_test(patches_go_both_ways),    cmocka_unit_test(upsampling_and_its_transpose),
        cmocka_unit_test(adamw_follows_the_paper), cmocka_unit_test(long_column_sums_stay_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
